//! What a store has to offer to hold locks. It knows nothing of waiting, renewal or guards.

use crate::{LockError, Wakes};
use async_trait::async_trait;
use resilience::Deadline;
use serde::Serialize;
use std::{fmt, sync::Arc, time::Duration};

/// A random number that names one acquisition for ever.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AcquisitionId(pub [u8; 16]);

impl AcquisitionId {
    pub(crate) fn random() -> Self {
        Self(rand::random())
    }
}

impl fmt::Debug for AcquisitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// One attempt to acquire.
#[derive(Clone, Debug)]
pub struct Request {
    /// The lock.
    pub name: Arc<str>,
    /// The acquisition; the same one asked again gets the same answer.
    pub id: AcquisitionId,
    /// A label for people: who.
    pub holder: Arc<str>,
    /// For how long.
    pub lease: Duration,
}

/// The answer to an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It is the caller's.
    Granted {
        /// Greater than every token given for this name before.
        token: u64,
    },
    /// It is somebody else's.
    Held {
        /// What is left of that lease.
        remaining: Duration,
        /// The holder's label.
        holder: String,
    },
}

/// A store of locks.
///
/// Implementations of ours: [`MemoryLockBackend`](crate::MemoryLockBackend) and, with feature `redis`,
/// [`RedisLockBackend`](crate::RedisLockBackend).
#[async_trait]
pub trait LockBackend: fmt::Debug + Send + Sync + 'static {
    /// A word for status, such as `redis`.
    fn name(&self) -> &'static str;

    /// Names the set of locks: tokens of one lock are comparable within one scope.
    fn scope(&self) -> &str;

    /// Called once by the manager: from now on tell `wakes` about every released lock.
    fn attach(&self, wakes: Wakes);

    /// Whether a release is heard of at this moment. While it is not, waiters ask once a second; when that changes,
    /// [`Wakes::wake_all`] has to follow.
    fn hears_releases(&self) -> bool {
        true
    }

    /// One attempt, idempotent by its id.
    ///
    /// Cancel safety: dropped, it may or may not have happened.
    ///
    /// # Errors
    /// [`LockError::Unknown`]: it may have happened. Any other: it did not.
    async fn acquire(&self, request: &Request, deadline: Deadline) -> Result<Attempt, LockError>;

    /// Makes the lease last `request.lease` from now; `false`: the lock is not this acquisition's any more.
    ///
    /// # Errors
    /// [`LockError::Unknown`], [`LockError::Unavailable`].
    async fn renew(&self, request: &Request, deadline: Deadline) -> Result<bool, LockError>;

    /// Gives the lock back and wakes whoever waits; `false`: it was not this acquisition's any more.
    ///
    /// # Errors
    /// [`LockError::Unknown`], [`LockError::Unavailable`].
    async fn release(&self, request: &Request, deadline: Deadline) -> Result<bool, LockError>;

    /// Whether it works, without asking the server.
    fn status(&self) -> BackendStatus;

    /// Asks the server, and says how long the answer took.
    ///
    /// # Errors
    /// Any error means that acquiring would fail now.
    async fn health_check(&self, deadline: Deadline) -> Result<Duration, LockError>;
}

/// Whether a backend works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackendStatus {
    /// Whether it is connected.
    pub connected: bool,
    /// If not, why.
    pub reason: Option<String>,
    /// Something that an operator should change, although it works now.
    pub warning: Option<String>,
}
