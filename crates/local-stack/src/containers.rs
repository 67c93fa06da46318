//! Servers in containers. A container is here nothing but where a server's program comes from: it shares this machine's
//! network, its memory segments and, at the same path and as the same user, the stack's directory. So ports, sockets,
//! configuration, certificates and logs are where a native server has them, a server has one address inside and outside
//! (which published ports cannot give, and which replication, Sentinel and Cluster tell each other and their clients),
//! and its processes are visible by their working directory, which is all that the watchdog and the faults need.
//!
//! Containers are removed by the engine when their process ends, whoever ended it. Not here: talking to the engine
//! (`engine`), ending anything.

mod engine;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::account::Account;
use crate::directory::Directory;
use crate::error::Error;
use crate::find::{PgBouncerBinary, PostgresBinaries, RedisBinary};
use crate::images::Images;
use crate::launcher::Job;
use crate::process::Process;

/// The shell adds the program's words to its log, which is what a native server does with its own, and becomes it.
const SERVE: &str = r#"log=$1; shift; exec "$@" >>"$log" 2>&1"#;
/// The same for one whose exit status is of interest. The engine's own record of it goes with the container.
const RUN: &str = r#"log=$1; shift; "$@" >>"$log" 2>&1; echo $? >"$log.status""#;
/// In the stack's directory: `initdb` wants its user to have a name, and the image knows only its own users.
const USERS: &str = "passwd";
/// How long a started process may take to show up in `/proc` with its working directory; it takes a millisecond.
const SHOWN: Duration = Duration::from_secs(2);

/// Runs the programs of images.
#[derive(Debug, Clone)]
pub(crate) struct Containers {
    images: Arc<Images>,
}

impl Containers {
    /// Fails where no engine answers, or one that cannot see this machine's directories.
    pub(crate) fn of(images: &Images) -> Result<Self, Error> {
        engine::check()?;
        engine::sweep();
        Ok(Self { images: Arc::new(images.clone()) })
    }

    /// Bare names for the image's `PATH`; the version is the image's, so that another image is another cached `initdb`.
    pub(crate) fn postgres(&self) -> Result<PostgresBinaries, Error> {
        Ok(PostgresBinaries { directory: PathBuf::new(), version: self.present("postgres")? })
    }

    pub(crate) fn redis(&self) -> Result<RedisBinary, Error> {
        let server = "redis-server";
        Ok(RedisBinary { version: self.present(server)?, server: server.into() })
    }

    pub(crate) fn pgbouncer(&self) -> Result<PgBouncerBinary, Error> {
        let server = "pgbouncer";
        Ok(PgBouncerBinary { version: self.present(server)?, server: server.into() })
    }

    fn present(&self, program: &str) -> Result<String, Error> {
        let (image, variable) = self.images.of(Path::new(program));
        let id = engine::image_id(image, variable)?;
        let id = id.rsplit_once(':').map_or(id.as_str(), |(_, id)| id);
        Ok(format!("image-{}", id.get(..16).unwrap_or(id)))
    }

    pub(crate) fn furnish(&self, directory: &Directory) -> Result<(), Error> {
        let Account { uid, gid } = user(directory.account());
        let home = directory.path().display();
        let users = format!("root:x:0:0:root:/root:/bin/sh\npostgres:x:{uid}:{gid}::{home}:/bin/sh\n");
        directory.write(&directory.path().join(USERS), &users)
    }

    pub(crate) fn spawn(&self, job: Job<'_>) -> Result<Arc<Process>, Error> {
        self.start(job, SERVE)
    }

    /// The exit status in words if it is not success.
    pub(crate) fn run(&self, job: Job<'_>) -> Result<Option<String>, Error> {
        let process = self.start(job, RUN)?;
        while !process.wait_ended(Duration::from_secs(60)) {}
        let status = std::fs::read_to_string(format!("{}.status", job.log.display())).unwrap_or_default();
        Ok(match status.trim() {
            "0" => None,
            "" => Some("ended by a signal".into()),
            code => Some(format!("exit status: {code}")),
        })
    }

    fn start(&self, job: Job<'_>, script: &str) -> Result<Arc<Process>, Error> {
        let root = job.home.parent().unwrap_or(job.home);
        let Account { uid, gid } = user(job.account);
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let (image, _) = self.images.of(job.program);
        let mut command = vec!["-c".into(), script.into(), "sh".into(), text(job.log), text(job.program)];
        command.extend(job.arguments.iter().cloned());
        let failed =
            |reason: String| Error::Container { program: text(job.program), image: image.into(), reason };
        let container = engine::start(engine::Request {
            image: image.into(),
            command,
            user: format!("{uid}:{gid}"),
            home: text(job.home),
            root: text(root),
            users: text(&root.join(USERS)),
        })
        .map_err(failed)?;
        let until = Instant::now() + SHOWN;
        while let Some((container, pid)) = container.as_ref().and_then(|it| Some((it, it.pid()?))) {
            if let Some(process) = Process::watch(pid, || works_in(pid, job.home)) {
                return process.map_err(|source| Error::Spawn { program: job.program.into(), source });
            }
            if Instant::now() > until {
                container.remove();
                let reason = "its process is not visible from here, so the engine runs in another machine, a virtual \
                    one, or beside the container that we are in; use an engine of this machine or \
                    LOCAL_STACK_PROVIDER=native";
                return Err(failed(reason.into()));
            }
            crate::pause(Duration::from_millis(1));
        }
        Process::ended("ended at once".into())
            .map_err(|source| Error::Spawn { program: job.program.into(), source })
    }
}

/// The user that servers run as: the one of native servers, or we ourselves.
fn user(account: Option<Account>) -> Account {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    account.unwrap_or(Account { uid, gid })
}

/// Whether it is the process that we mean: the number might be another machine's.
fn works_in(pid: u32, home: &Path) -> bool {
    let place = |path: &Path| std::fs::metadata(path).map(|data| (data.dev(), data.ino())).ok();
    let here = place(home);
    here.is_some() && here == place(Path::new(&format!("/proc/{pid}/cwd")))
}
