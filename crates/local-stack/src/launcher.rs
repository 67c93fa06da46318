//! Where a server's program comes from: this machine, or an image that a container engine runs. That is all the
//! difference between the two providers; ports, files, faults and the watchdog are the same. Not here: what the
//! program is told (`postgres`, `redis`).

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use crate::account::Account;
use crate::containers::Containers;
use crate::directory::Directory;
use crate::error::Error;
use crate::find::{
    PgBouncerBinary, PostgresBinaries, RedisBinary, find_pgbouncer, find_postgres, find_redis,
};
use crate::images::Images;
use crate::process::{self, Process};

/// One program to run: in its own directory (by which the watchdog knows it), as the servers' user, its words added to
/// its log, and without the variables that would steer it or its replication from outside.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job<'a> {
    /// A path on this machine, or in an image a bare name.
    pub(crate) program: &'a Path,
    pub(crate) arguments: &'a [String],
    pub(crate) home: &'a Path,
    pub(crate) log: &'a Path,
    pub(crate) account: Option<Account>,
}

/// Runs programs for one stack. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Launcher {
    containers: Option<Containers>,
}

impl Launcher {
    /// Programs of this machine.
    pub(crate) fn native() -> Self {
        Self { containers: None }
    }

    /// Programs of images. Fails where there is no engine of this machine.
    pub(crate) fn containers(images: &Images) -> Result<Self, Error> {
        Ok(Self { containers: Some(Containers::of(images)?) })
    }

    /// Postgres, found on this machine or in its image, which is pulled if it is not here.
    pub(crate) fn find_postgres(&self) -> Result<PostgresBinaries, Error> {
        self.containers.as_ref().map_or_else(find_postgres, Containers::postgres)
    }

    /// As [`find_postgres`](Self::find_postgres).
    pub(crate) fn find_redis(&self) -> Result<RedisBinary, Error> {
        self.containers.as_ref().map_or_else(find_redis, Containers::redis)
    }

    /// As [`find_postgres`](Self::find_postgres).
    pub(crate) fn find_pgbouncer(&self) -> Result<PgBouncerBinary, Error> {
        self.containers.as_ref().map_or_else(find_pgbouncer, Containers::pgbouncer)
    }

    /// Puts into a new stack's directory what programs will need there besides their own files.
    pub(crate) fn furnish(&self, directory: &Directory) -> Result<(), Error> {
        self.containers.as_ref().map_or(Ok(()), |containers| containers.furnish(directory))
    }

    /// Starts a server.
    pub(crate) fn spawn(&self, job: Job<'_>) -> Result<Arc<Process>, Error> {
        if let Some(containers) = &self.containers {
            return containers.spawn(job);
        }
        command(job)
            .and_then(Process::spawn)
            .map_err(|source| Error::Spawn { program: job.program.into(), source })
    }

    /// Runs a program to its end, for which there is no time limit. A failure carries the end of its log.
    pub(crate) fn run(&self, job: Job<'_>) -> Result<(), Error> {
        let status = match &self.containers {
            Some(containers) => containers.run(job)?,
            None => {
                let status = command(job).and_then(|mut command| command.status());
                let status = status.map_err(|source| Error::Spawn { program: job.program.into(), source })?;
                (!status.success()).then(|| status.to_string())
            }
        };
        let failed = |status| Error::Program {
            program: job.program.display().to_string(),
            status,
            stderr: process::tail(job.log),
        };
        status.map_or(Ok(()), |status| Err(failed(status)))
    }
}

fn command(job: Job<'_>) -> std::io::Result<Command> {
    let log = File::options().create(true).append(true).open(job.log)?;
    let mut command = Command::new(job.program);
    command.args(job.arguments).current_dir(job.home).env("LC_ALL", "C").env("HOME", job.home);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    if let Some(account) = job.account {
        command.uid(account.uid).gid(account.gid);
    }
    Ok(command)
}
