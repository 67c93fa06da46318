//! The process that outlives us: it waits for the end of a pipe whose other end only we hold, then ends the servers
//! and removes their directory. Drop, panic, Ctrl-C and `kill -9` of us or of our process group all end the pipe, so
//! this one mechanism serves all of them. Not here: ending a single server (`server`).
//!
//! It is a shell script (`watchdog.sh`) because that needs no binary of ours and no `fork` in our process. It runs in
//! a session of its own, ignores the terminal's signals, and as the servers' user. The pipe is close-on-exec: no
//! server and no other child of ours keeps it open.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::account::Account;
use crate::error::Error;
use crate::find::on_path;
use crate::process::Process;

const SCRIPT: &str = include_str!("watchdog.sh");

/// Our end of the pipe. Dropping it ends the stack, within five seconds and without waiting.
#[derive(Debug)]
pub(crate) struct Watchdog {
    pipe: Mutex<Option<ChildStdin>>,
    process: Arc<Process>,
}

impl Watchdog {
    /// Starts one, and lets it make the directory. To be called before anything else is put there.
    pub(crate) fn start(directory: &Path, account: Option<Account>) -> Result<Self, Error> {
        let failed = |source| Error::Spawn { program: "/bin/sh".into(), source };
        let mut command = command(directory, "guard", account);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let (pipe, said, complaint) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let watchdog = Self { pipe: Mutex::new(pipe), process: Process::adopt(child).map_err(failed)? };
        let mut line = String::new();
        let told = said.map(|said| BufReader::new(said).read_line(&mut line));
        if !matches!(told, Some(Ok(_))) || line != "ready\n" {
            let mut reason = String::new();
            let _ = complaint.map(|mut complaint| complaint.read_to_string(&mut reason));
            let path = directory.parent().unwrap_or(directory).to_owned();
            return Err(Error::Directory { path, reason: reason.trim().to_owned() });
        }
        Ok(watchdog)
    }

    /// Ends the stack and waits until nothing of it is left; false if that took longer than five seconds.
    pub(crate) fn end(&self) -> bool {
        drop(self.pipe.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.process.wait_ended(Duration::from_secs(5))
    }
}

/// Clears up a directory whose owner and watchdog were killed: the same script with nothing to wait for.
pub(crate) fn sweep(directory: &Path, account: Option<Account>) {
    let mut command = command(directory, "sweep", account);
    if let Ok(child) = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
        drop(Process::adopt(child));
    }
}

fn command(directory: &Path, job: &str, account: Option<Account>) -> Command {
    // `setsid` is part of every Linux's base system. Without it a process group of its own, with the signals ignored,
    // still survives everything but a kill of the whole session.
    let mut command = match on_path("setsid") {
        Some(setsid) => {
            let mut command = Command::new(setsid);
            command.arg("/bin/sh");
            command
        }
        None => {
            let mut command = Command::new("/bin/sh");
            command.process_group(0);
            command
        }
    };
    command.args(["-c", SCRIPT, "local-stack-watchdog"]).arg(directory).arg(job).current_dir("/");
    if let Some(account) = account {
        command.uid(account.uid).gid(account.gid);
    }
    command
}
