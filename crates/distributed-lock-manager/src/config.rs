//! Settings of the manager and options of one acquire. Values only: nothing here reads the environment.

use crate::{
    DistributedLockManager, LockBackend, LockError,
    lease::{MAX_LEASE, MIN_LEASE},
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

/// Longest name of a lock in bytes.
const MAX_NAME: usize = 512;
/// Longest holder's label in bytes.
const MAX_HOLDER: usize = 128;

/// Settings of a [`DistributedLockManager`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Lease of an acquire that names none. Default 30 s: a dead holder blocks nobody for longer, and a renewal every
    /// 10 s costs nothing.
    pub default_lease: Duration,
    /// Wait of an acquire that names none. Default 10 s.
    pub default_wait: Duration,
    /// Limit of one question to the store; after that its outcome is unknown. Default 1 s.
    pub attempt_timeout: Duration,
    /// Who holds the locks of this process, for people. Default `pid <process id>`. At most 128 bytes.
    pub holder: String,
    /// Acquires of this process that may wait at a time. Default 10,000.
    pub max_waiters: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            default_lease: Duration::from_secs(30),
            default_wait: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(1),
            holder: format!("pid {}", std::process::id()),
            max_waiters: 10_000,
        }
    }
}

/// One thing wrong with a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field.
    pub setting: &'static str,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Config {
    /// Checks everything at once.
    ///
    /// # Errors
    /// All problems found.
    pub fn validate(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        if let Err(LockError::Invalid { reason, .. }) = check_lease(self.default_lease) {
            problems.push(Problem { setting: "default_lease", message: reason });
        }
        if self.attempt_timeout < Duration::from_millis(10) || self.attempt_timeout > Duration::from_secs(60)
        {
            let message = format!("{:?} is outside 10 ms to 60 s", self.attempt_timeout);
            problems.push(Problem { setting: "attempt_timeout", message });
        }
        if self.holder.len() > MAX_HOLDER || self.holder.chars().any(char::is_control) {
            let message = format!("has to have at most {MAX_HOLDER} bytes and no control characters");
            problems.push(Problem { setting: "holder", message });
        }
        if self.max_waiters == 0 {
            problems.push(Problem { setting: "max_waiters", message: "has to be at least 1".into() });
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// A manager over `backend`, with its tasks on the current runtime. Without a backend it works, and every call on
    /// it answers [`LockError::Unavailable`].
    ///
    /// # Errors
    /// [`LockError::Invalid`] with all problems of the settings; [`LockError::Unavailable`] outside a tokio runtime.
    pub fn build(self, backend: Option<Arc<dyn LockBackend>>) -> Result<DistributedLockManager, LockError> {
        self.validate().map_err(|problems| {
            let each = problems.iter().map(|problem| format!("{}: {}", problem.setting, problem.message));
            LockError::Invalid { what: "settings", reason: each.collect::<Vec<_>>().join("; ") }
        })?;
        DistributedLockManager::start(self, backend)
    }
}

/// How to acquire a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockOptions {
    /// How long to wait for it; zero asks once. Default [`Config::default_wait`].
    pub wait: Option<Duration>,
    /// How long a dead holder blocks others: 100 ms to 24 h. Default [`Config::default_lease`].
    pub lease: Option<Duration>,
    /// Renew every third of the lease for as long as the guard lives. Default `true`.
    pub renew: bool,
    /// How long before the lease's nominal end the holder is told: at least, and by default, a tenth of the lease or
    /// 50 ms, whichever is more; at most half of the lease.
    pub grace: Option<Duration>,
}

impl Default for LockOptions {
    fn default() -> Self {
        Self { wait: None, lease: None, renew: true, grace: None }
    }
}

impl LockOptions {
    /// With this wait.
    #[must_use]
    pub const fn wait(mut self, wait: Duration) -> Self {
        self.wait = Some(wait);
        self
    }

    /// With this lease.
    #[must_use]
    pub const fn lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    /// Renewed or not.
    #[must_use]
    pub const fn renew(mut self, renew: bool) -> Self {
        self.renew = renew;
        self
    }

    /// With this grace.
    #[must_use]
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }
}

pub(crate) fn check_name(name: &str) -> Result<(), LockError> {
    let reason = if name.is_empty() {
        "it is empty".to_owned()
    } else if name.len() > MAX_NAME {
        format!("it has {} bytes; at most {MAX_NAME} are allowed", name.len())
    } else if name.chars().any(char::is_control) {
        "it has control characters".to_owned()
    } else {
        return Ok(());
    };
    Err(LockError::Invalid { what: "lock name", reason })
}

pub(crate) fn check_lease(lease: Duration) -> Result<(), LockError> {
    if (MIN_LEASE..=MAX_LEASE).contains(&lease) {
        return Ok(());
    }
    Err(LockError::Invalid { what: "lease", reason: format!("{lease:?} is outside 100 ms to 24 h") })
}
