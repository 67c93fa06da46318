//! One server's process: our own child, in a group of its own and reaped by a thread, or that of a container, which
//! the engine reaps; signalled together with its children. Not here: what the process is for, and ending it when we
//! die (`watchdog`).

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::procfs;

/// A process whose end a thread waits for; as a child it is a zombie at no time that matters.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    /// Names the process, and never another one that got its number, if its number is not ours to give back.
    handle: Option<OwnedFd>,
    state: Mutex<Option<String>>,
    ended: Condvar,
}

impl Process {
    /// Spawns in a process group of its own: a Ctrl-C at the terminal is not for the servers.
    pub(crate) fn spawn(mut command: Command) -> io::Result<Arc<Self>> {
        Self::adopt(command.process_group(0).spawn()?)
    }

    /// Takes over a child spawned elsewhere (its pipes are the caller's to take first).
    pub(crate) fn adopt(mut child: Child) -> io::Result<Arc<Self>> {
        let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else {
            return Err(io::Error::other("a child without a process id"));
        };
        Self::start(pid, None, move |process| {
            // Wait without reaping, then reap under the lock: whoever signals under the lock signals this process,
            // never another one that got its number.
            while let Err(rustix::io::Errno::INTR) =
                waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
            {}
            let mut state = process.lock();
            *state = Some(child.wait().map_or_else(|error| error.to_string(), |status| status.to_string()));
            process.ended.notify_all();
        })
    }

    /// Watches over a process that somebody else will reap. `None` if there is none of this number, or not the one
    /// that is meant, which `is_meant` is asked once the number cannot pass to another.
    #[cfg(all(feature = "containers", target_os = "linux"))]
    pub(crate) fn watch(pid: u32, is_meant: impl FnOnce() -> bool) -> Option<io::Result<Arc<Self>>> {
        use rustix::event::{PollFd, PollFlags, poll};
        use rustix::process::{PidfdFlags, pidfd_open};

        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
        let handle = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(rustix::io::Errno::SRCH) => return None,
            Err(other) => return Some(Err(other.into())),
        };
        if !is_meant() {
            return None;
        }
        Some(Self::start(pid, Some(handle), |process| {
            if let Some(handle) = &process.handle {
                while let Err(rustix::io::Errno::INTR) = poll(&mut [PollFd::new(handle, PollFlags::IN)], None)
                {
                }
            }
            *process.lock() = Some("ended".into());
            process.ended.notify_all();
        }))
    }

    /// One that has ended already.
    #[cfg(all(feature = "containers", target_os = "linux"))]
    pub(crate) fn ended(status: String) -> io::Result<Arc<Self>> {
        // A number that no process has: systems count to some four million.
        let pid = Pid::from_raw(i32::MAX).ok_or_else(|| io::Error::other("not a process id"))?;
        Ok(Arc::new(Self { pid, handle: None, state: Mutex::new(Some(status)), ended: Condvar::new() }))
    }

    fn start(
        pid: Pid,
        handle: Option<OwnedFd>,
        wait: impl FnOnce(&Self) + Send + 'static,
    ) -> io::Result<Arc<Self>> {
        let process = Arc::new(Self { pid, handle, state: Mutex::new(None), ended: Condvar::new() });
        let waited_for = Arc::clone(&process);
        let thread = std::thread::Builder::new().name("local-stack-reaper".into()).stack_size(64 * 1024);
        thread.spawn(move || wait(&waited_for))?;
        Ok(process)
    }

    pub(crate) fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// The exit status in words, once it has ended.
    pub(crate) fn exit_status(&self) -> Option<String> {
        self.lock().clone()
    }

    /// Waits for the end, at most this long; true if it came.
    pub(crate) fn wait_ended(&self, within: Duration) -> bool {
        let until = Instant::now() + within;
        let mut state = self.lock();
        while state.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Sends a signal to the process alone; false if it has ended.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        let state = self.lock();
        state.is_none() && self.send(signal).is_ok()
    }

    fn send(&self, signal: Signal) -> rustix::io::Result<()> {
        #[cfg(target_os = "linux")]
        if let Some(handle) = &self.handle {
            return rustix::process::pidfd_send_signal(handle, signal);
        }
        kill_process(self.pid, signal)
    }

    /// Stops the process and every child of it. The parent goes first and is waited for: a stopped parent neither
    /// forks nor reaps, so the list of children is complete and their numbers stay theirs.
    pub(crate) fn stop_tree(&self) -> bool {
        if !self.signal(Signal::STOP) {
            return false;
        }
        let until = Instant::now() + Duration::from_secs(2);
        while procfs::stat(self.id()).is_some_and(|stat| !stat.is_halted()) && Instant::now() < until {
            self.wait_ended(Duration::from_millis(1));
        }
        for child in procfs::children_of(self.id()) {
            signal_pid(child, Signal::STOP);
        }
        true
    }

    /// Lets a stopped tree run on, children first.
    pub(crate) fn continue_tree(&self) -> bool {
        for child in procfs::children_of(self.id()) {
            signal_pid(child, Signal::CONT);
        }
        self.signal(Signal::CONT)
    }

    /// Kills the whole tree at once (SIGKILL) and waits until none of it runs.
    pub(crate) fn kill_tree(&self) {
        self.stop_tree();
        let children = procfs::children_of(self.id());
        for child in &children {
            signal_pid(*child, Signal::KILL);
        }
        self.signal(Signal::KILL);
        self.wait_ended(Duration::from_secs(5));
        let until = Instant::now() + Duration::from_secs(2);
        while children.iter().any(|child| procfs::is_running(*child)) && Instant::now() < until {
            crate::pause(Duration::from_millis(1));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn signal_pid(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // A child that ended meanwhile is what was wanted.
        let _ = kill_process(pid, signal);
    }
}

/// The last lines of a log, for an error message.
pub(crate) fn tail(log: &Path) -> String {
    let text =
        std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
