//! Installing the servers on Debian and Ubuntu, as root, by apt: quietly, told beforehand, and so that the packages
//! start no server and create no cluster. Never touches a server that runs. Elsewhere: an error with the one line.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::account::is_root;
use crate::error::Error;
use crate::find::{Found, PgBouncerBinary, Servers, find_pgbouncer, find_servers, on_path};
use crate::procfs;

/// Lists older than this are fetched again: the archive drops superseded versions after some days.
const LISTS_MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);
const POLICY: &str = "/usr/sbin/policy-rc.d";
const CLUSTERS: &str = "/etc/postgresql-common/createcluster.conf";
const LISTS: &str = "/var/lib/apt/lists";

/// The one line that installs the missing servers on this machine.
pub(crate) fn install_line(missing: &[&str]) -> String {
    let packages = |postgres: &str, redis: &str| {
        let names = missing.iter().map(|name| match *name {
            "postgres" => postgres,
            "redis-server" => redis,
            other => other,
        });
        names.collect::<Vec<_>>().join(" ")
    };
    let sudo = if is_root() { "" } else { "sudo " };
    if on_path("apt-get").is_some() {
        format!(
            "{sudo}sh -c 'apt-get update && apt-get install -y {}'",
            packages("postgresql", "redis-server")
        )
    } else if on_path("dnf").is_some() {
        format!("{sudo}dnf install -y {}", packages("postgresql-server postgresql-contrib", "redis"))
    } else if on_path("apk").is_some() {
        format!("{sudo}apk add {}", packages("postgresql", "redis"))
    } else if on_path("pacman").is_some() {
        format!("{sudo}pacman -S --noconfirm {}", packages("postgresql", "redis"))
    } else if on_path("brew").is_some() {
        format!("brew install {}", packages("postgresql", "redis"))
    } else {
        format!("(your system's package manager) install {}", packages("postgresql", "redis"))
    }
}

/// Finds Postgres and Redis, or installs what is missing. `report` is told in a sentence what is about to happen before
/// anything is changed.
///
/// Needs Debian or Ubuntu and root; otherwise the error carries the line to run. Blocks for as long as apt takes. A
/// file that keeps the packages from starting servers is put in place meanwhile and taken away in every case; a
/// leftover of a killed install is recognised and removed by the next.
pub fn install_servers(mut report: impl FnMut(&str)) -> Result<Servers, Error> {
    let (what, install_line) = match find_servers()? {
        Found::All(servers) => return Ok(servers),
        Found::Missing { what, install_line } => (what, install_line),
    };
    install(&what, &install_line, &mut report)?;
    match find_servers()? {
        Found::All(servers) => {
            report(&format!("installed {servers}"));
            Ok(servers)
        }
        Found::Missing { what, .. } => Err(not_found(&what, install_line)),
    }
}

/// Finds PgBouncer, or installs it, as [`install_servers`] does with the others; it is not among them, for only a stack
/// that asks for it needs it.
pub fn install_pgbouncer(mut report: impl FnMut(&str)) -> Result<PgBouncerBinary, Error> {
    let install_line = match find_pgbouncer() {
        Err(Error::Missing { install_line, .. }) => install_line,
        other => return other,
    };
    install(&["pgbouncer"], &install_line, &mut report)?;
    match find_pgbouncer() {
        Err(Error::Missing { .. }) => Err(not_found(&["pgbouncer"], install_line)),
        other => {
            let binary = other?;
            report(&format!("installed PgBouncer {} at {}", binary.version, binary.server.display()));
            Ok(binary)
        }
    }
}

fn not_found(what: &[&str], install_line: String) -> Error {
    Error::Install { reason: format!("apt succeeded, yet {} is not found", what.join(", ")), install_line }
}

fn install(what: &[&str], install_line: &str, report: &mut dyn FnMut(&str)) -> Result<(), Error> {
    let refuse = |reason: &str| Error::Install { reason: reason.into(), install_line: install_line.into() };
    if on_path("apt-get").is_none() || !Path::new("/etc/debian_version").exists() {
        return Err(refuse("only Debian and Ubuntu are installed on by themselves"));
    }
    if !is_root() {
        return Err(refuse("installing needs root"));
    }
    let packages: Vec<&str> =
        what.iter().map(|name| if *name == "postgres" { "postgresql" } else { *name }).collect();
    report(&format!(
        "installing {} by apt-get (no server of the packages is started, no cluster is created)",
        packages.join(" and ")
    ));
    {
        let _policy = Policy::put_in_place(Path::new(POLICY))?;
        no_default_cluster(Path::new(CLUSTERS))?;
        let fetched = lists_are_stale();
        if fetched {
            report("fetching the package lists (apt-get update)");
            apt(&["update"], install_line)?;
        }
        let install: Vec<&str> =
            ["install", "--yes", "--no-install-recommends"].into_iter().chain(packages).collect();
        if let Err(first) = apt(&install, install_line) {
            // Lists that looked fresh may name versions that the archive no longer has.
            if fetched {
                return Err(first);
            }
            report("fetching the package lists (apt-get update)");
            apt(&["update"], install_line)?;
            apt(&install, install_line)?;
        }
    }
    leave_out_of_boot(what);
    Ok(())
}

// The packages also ask for a start at every boot. What was installed for tests is not wanted then; `disable` touches
// nothing that runs, and where there is no systemd there is nothing to ask.
fn leave_out_of_boot(installed: &[&str]) {
    let units = installed.iter().map(|name| if *name == "postgres" { "postgresql" } else { *name });
    let mut systemctl = Command::new("systemctl");
    systemctl.args(["--quiet", "disable"]).args(units);
    let _ = systemctl.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

fn apt(arguments: &[&str], install_line: &str) -> Result<(), Error> {
    let program = |source| Error::Spawn { program: "apt-get".into(), source };
    // A file, not a pipe: should we be killed, dpkg must not die of our absence half-way.
    let mut said = tempfile::tempfile().map_err(Error::file("create a file in", std::env::temp_dir()))?;
    let status = Command::new("apt-get")
        // Another apt may be running (unattended upgrades): wait for its lock rather than fail.
        .args([
            "--quiet=2",
            "-o",
            "DPkg::Lock::Timeout=120",
            "-o",
            "Acquire::Retries=3",
            "-o",
            "Dpkg::Use-Pty=0",
        ])
        .args(["-o", "Dpkg::Options::=--force-confold"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env(INSTALLING, "1")
        // A Ctrl-C ends us but not a half-done installation, which would need repair by hand.
        .process_group(0)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(said.try_clone().map_err(program)?)
        .stderr(said.try_clone().map_err(program)?)
        .status()
        .map_err(program)?;
    if status.success() {
        return Ok(());
    }
    let mut text = Vec::new();
    let _ = said.rewind().and_then(|()| said.read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut lines: Vec<&str> =
        text.lines().filter(|line| line.starts_with("E:") || line.contains("rror")).collect();
    lines.truncate(6);
    Err(Error::Install {
        reason: format!("apt-get {} failed ({status}): {}", arguments.join(" "), lines.join("; ")),
        install_line: install_line.into(),
    })
}

fn lists_are_stale() -> bool {
    let newest = fs::read_dir(LISTS).into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name();
        let list =
            name.to_string_lossy().contains("_Packages") || name.to_string_lossy().ends_with("InRelease");
        if list { entry.metadata().ok()?.modified().ok() } else { None }
    });
    // The files carry the archive's dates; when we fetched them last is the directory's own.
    match (newest.max(), fs::metadata(LISTS).and_then(|data| data.modified())) {
        (Some(_), Ok(fetched)) => fetched.elapsed().is_ok_and(|age| age > LISTS_MAX_AGE),
        _ => true,
    }
}

// Debian's packaging asks this file before it creates the cluster `main`, which would also claim port 5432 at boot.
fn no_default_cluster(file: &Path) -> Result<(), Error> {
    if file.exists() {
        // The machine has postgresql-common already, and its owner's choice stands.
        return Ok(());
    }
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory).map_err(Error::file("create", directory))?;
    }
    fs::write(file, "# Written before the package was installed: test servers need no cluster of the system.\ncreate_main_cluster = false\n")
        .map_err(Error::file("write", file))
}

const MARK: &str = "# local-stack: in place while it installs packages\n";
/// Set for our apt and what it runs, so that the policy still holds for it when we are killed meanwhile.
const INSTALLING: &str = "LOCAL_STACK_INSTALLING";

// Should we be killed before it is taken away, it takes itself away at the next install of anything.
fn policy_script(aside: &Path) -> String {
    let (pid, aside) = (std::process::id(), aside.display());
    let born = procfs::stat(pid).map_or(0, |stat| stat.born);
    format!(
        "#!/bin/sh\n{MARK}\
         if [ -n \"${INSTALLING}\" ] || grep -q ' {born} ' /proc/{pid}/stat 2>/dev/null; then exit 101; fi\n\
         if [ -e '{aside}' ]; then mv '{aside}' \"$0\" && exec \"$0\" \"$@\"; fi\n\
         rm -f \"$0\"\nexit 0\n"
    )
}

/// `policy-rc.d` answering "no" (101) to every start of a service, as long as this value lives.
#[derive(Debug)]
struct Policy {
    file: PathBuf,
    aside: Option<PathBuf>,
}

impl Policy {
    fn put_in_place(file: &Path) -> Result<Self, Error> {
        let aside = file.with_extension("d.local-stack-saved");
        if fs::read_to_string(file).is_ok_and(|text| text.contains(MARK)) {
            // Left by an install that was killed.
            fs::remove_file(file).map_err(Error::file("remove", file))?;
        }
        let saved = match (file.exists(), aside.exists()) {
            (true, _) => {
                fs::rename(file, &aside).map_err(Error::file("rename", file))?;
                true
            }
            (false, saved) => saved,
        };
        let policy = Self { file: file.into(), aside: saved.then(|| aside.clone()) };
        let mut written = File::options()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(file)
            .map_err(Error::file("create", file))?;
        written
            .write_all(policy_script(&aside).as_bytes())
            .and_then(|()| written.set_permissions(fs::Permissions::from_mode(0o755)))
            .map_err(Error::file("write", file))?;
        Ok(policy)
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
        if let Some(aside) = &self.aside {
            let _ = fs::rename(aside, &self.file);
        }
    }
}

#[cfg(test)]
mod tests;
