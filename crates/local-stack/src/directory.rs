//! The private directory of one stack, its files, and the cache of prepared data directories. Not here: its end,
//! which is the watchdog's.

use std::fs::{self, DirBuilder, File};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use crate::account::Account;
use crate::error::Error;
use crate::launcher::Launcher;
use crate::watchdog;

const PREFIX: &str = "local-stack-";
const LOCK: &str = "lock";
/// A cluster is a thousand small files and a database three hundred more. Where many stacks come and go, a disk's file
/// system takes seconds to create them (ext4 looks for an inode that was not deleted lately), memory none.
const MEMORY: &str = "/dev/shm";
/// Plenty: with these a few stacks of some hundred megabytes each take nothing from anybody. Containers usually have 64
/// MB there, and then the temporary directory is used.
const FREE_IN_MEMORY: u64 = 4 << 30;
const FREE_OF_MEMORY: u64 = 8 << 30;
/// Kept logs and stale caches of failed runs older than this are removed in passing.
const KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// `sockaddr_un` holds 108 bytes; our longest socket name below the directory is some 40.
const PATH_LIMIT: usize = 62;

/// A stack's directory: `postgres-0`, `redis-0`, … are the servers' working directories, `logs` their logs.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    account: Option<Account>,
    launcher: Launcher,
    /// Locked for as long as we live, for [`sweep`].
    _lock: File,
}

/// A name for a new one, below `LOCAL_STACK_DIR`, memory if there is plenty and no disk is asked for, or the temporary
/// directory. It is the watchdog that makes it: then there is no moment at which it is there and nobody would remove it.
pub(crate) fn name(account: Option<Account>, durable: bool) -> Result<PathBuf, Error> {
    use rand::Rng as _;
    let base = match std::env::var_os("LOCAL_STACK_DIR") {
        Some(directory) => PathBuf::from(directory),
        None if !durable && memory_is_plenty() => PathBuf::from(MEMORY),
        None => std::env::temp_dir(),
    };
    let base = base.canonicalize().map_err(Error::file("find", &base))?;
    if account.is_some() {
        reachable(&base)?;
    }
    let random: String =
        rand::rng().sample_iter(rand::distr::Alphanumeric).take(10).map(char::from).collect();
    let path = base.join(format!("{PREFIX}{random}"));
    if path.as_os_str().len() > PATH_LIMIT {
        return Err(Error::Directory { path: base, reason: "its path is too long for a socket".into() });
    }
    Ok(path)
}

impl Directory {
    /// Takes possession of a directory that the watchdog has made.
    pub(crate) fn adopt(path: PathBuf, account: Option<Account>, launcher: Launcher) -> Result<Self, Error> {
        let directory = Self { _lock: lock(&path)?, path, account, launcher };
        directory.make("logs")?;
        directory.launcher.furnish(&directory)?;
        Ok(directory)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn account(&self) -> Option<Account> {
        self.account
    }

    /// What runs the programs that work in here.
    pub(crate) fn launcher(&self) -> &Launcher {
        &self.launcher
    }

    /// Makes a directory of this name, mode 0700, owned by the servers' user.
    pub(crate) fn make(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.path.join(name);
        make(&path, self.account)?;
        Ok(path)
    }

    /// Writes a file that only the servers' user may read.
    pub(crate) fn write(&self, path: &Path, text: &str) -> Result<(), Error> {
        write(path, text, self.account)
    }

    /// The log of the server of this name.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.path.join("logs").join(format!("{name}.log"))
    }

    /// Leaves the logs when the rest is removed.
    pub(crate) fn keep_logs(&self) -> PathBuf {
        // Where even this cannot be written, the disk's own error has been reported already.
        let _ = fs::write(self.path.join("keep-logs"), "");
        self.path.join("logs")
    }

    /// Copies a prepared data directory to `to`, owned by the servers' user.
    pub(crate) fn copy_tree(&self, from: &Path, to: &Path) -> Result<(), Error> {
        copy_tree(from, to, self.account)
    }
}

/// Makes a directory, mode 0700, and gives it to this user.
pub(crate) fn make(path: &Path, account: Option<Account>) -> Result<(), Error> {
    DirBuilder::new().mode(0o700).create(path).map_err(Error::file("create", path))?;
    give(path, account)
}

/// Writes a file that only this user may read, ours if there is none.
pub(crate) fn write(path: &Path, text: &str, account: Option<Account>) -> Result<(), Error> {
    let mut file = File::options();
    let file = file.write(true).create(true).truncate(true).mode(0o600).open(path);
    let mut file = file.map_err(Error::file("write", path))?;
    file.write_all(text.as_bytes()).map_err(Error::file("write", path))?;
    // One that was there already keeps its mode when it is opened.
    file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(Error::file("protect", path))?;
    give(path, account)
}

fn give(path: &Path, account: Option<Account>) -> Result<(), Error> {
    match account {
        Some(Account { uid, gid }) => {
            chown(path, Some(uid), Some(gid)).map_err(Error::file("give to the servers' user", path))
        }
        None => Ok(()),
    }
}

// Locked before it gets its name, so that nobody sees it free.
fn lock(directory: &Path) -> Result<File, Error> {
    let (path, unnamed) = (directory.join(LOCK), directory.join("unlocked"));
    let file = File::create(&unnamed).map_err(Error::file("create", &unnamed))?;
    let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
    locked.map_err(std::io::Error::from).map_err(Error::file("lock", &unnamed))?;
    fs::rename(&unnamed, &path).map_err(Error::file("rename", &unnamed))?;
    Ok(file)
}

/// Copies a directory of plain files and directories, private to its owner.
pub(crate) fn copy_tree(from: &Path, to: &Path, account: Option<Account>) -> Result<(), Error> {
    if !to.exists() {
        make(to, account)?;
    }
    for entry in fs::read_dir(from).map_err(Error::file("read", from))? {
        let entry = entry.map_err(Error::file("read", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().map_err(Error::file("read", &source))?.is_dir() {
            copy_tree(&source, &target, account)?;
        } else {
            fs::copy(&source, &target).map_err(Error::file("write", &target))?;
            give(&target, account)?;
        }
    }
    Ok(())
}

/// The cache directory: `LOCAL_STACK_CACHE_DIR`, `XDG_CACHE_HOME/local-stack`, `HOME/.cache/local-stack`, or none.
pub(crate) fn cache() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let directory = absolute("LOCAL_STACK_CACHE_DIR")
        .or_else(|| Some(absolute("XDG_CACHE_HOME")?.join("local-stack")))
        .or_else(|| Some(absolute("HOME")?.join(".cache/local-stack")))?;
    DirBuilder::new().recursive(true).mode(0o700).create(&directory).ok()?;
    Some(directory)
}

/// Clears up after stacks whose owner and watchdog were both killed (the whole container, say), and old kept logs.
pub(crate) fn sweep(directory: &Directory) {
    let Some(base) = directory.path.parent() else { return };
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let path = entry.path();
        let ours =
            entry.file_name().to_string_lossy().starts_with(PREFIX) && path.is_dir() && !path.is_symlink();
        if !ours || path == directory.path || owner(&path) != owner(&directory.path) {
            continue;
        }
        let old = || fs::metadata(&path).and_then(|data| data.modified()).is_ok_and(|at| is_older(at, KEPT));
        let kept = path.join("keep-logs");
        match File::open(path.join(LOCK)) {
            Ok(lock) if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() => {}
            Ok(_) if !kept.exists() || old() => {
                let _ = fs::remove_file(kept);
                watchdog::sweep(&path, directory.account);
            }
            Err(_) if old() => watchdog::sweep(&path, directory.account),
            _ => {}
        }
    }
}

fn memory_is_plenty() -> bool {
    let available = fs::read_to_string("/proc/meminfo").ok().and_then(|info| {
        let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok()
    });
    let free = rustix::fs::statvfs(MEMORY).map_or(0, |volume| volume.f_bavail * volume.f_frsize);
    let everybodys = fs::metadata(MEMORY).is_ok_and(|data| data.permissions().mode() & 0o1777 == 0o1777);
    everybodys && free >= FREE_IN_MEMORY && available.unwrap_or(0) * 1024 >= FREE_OF_MEMORY
}

fn owner(path: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(path).ok().map(|data| data.uid())
}

fn is_older(at: std::time::SystemTime, age: Duration) -> bool {
    at.elapsed().is_ok_and(|elapsed| elapsed > age)
}

// Another user than ours must be able to pass through every directory above.
fn reachable(base: &Path) -> Result<(), Error> {
    for directory in base.ancestors() {
        let data = fs::metadata(directory).map_err(Error::file("look at", directory))?;
        if data.permissions().mode() & 0o001 == 0 {
            let reason = format!("the servers' unprivileged user may not pass {}", directory.display());
            return Err(Error::Directory { path: base.into(), reason });
        }
    }
    Ok(())
}
