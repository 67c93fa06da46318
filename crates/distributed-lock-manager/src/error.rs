//! What can go wrong with a lock, each in its own variant: a caller must be able to tell "somebody has it" from
//! "nobody knows".

use std::{sync::Arc, time::Duration};

/// Why a lock was not acquired, not kept, or not used.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Somebody else holds it, and the caller did not want to wait.
    #[error("the lock {name:?} is held by {holder:?} for at least {remaining:?} more")]
    Busy {
        /// The lock.
        name: String,
        /// The holder's label.
        holder: String,
        /// What is left of its lease; it may be renewed.
        remaining: Duration,
    },
    /// Somebody else held it during the whole wait.
    #[error("the lock {name:?} could not be acquired within {waited:?}; {} holds it", holder.as_deref().unwrap_or("somebody"))]
    Timeout {
        /// The lock.
        name: String,
        /// How long was waited.
        waited: Duration,
        /// The holder's label, if it was heard of.
        holder: Option<String>,
    },
    /// The lease is over or about to end, or the lock was taken away: the holder must stop.
    #[error("the lock {name:?} is lost")]
    Lost {
        /// The lock.
        name: String,
    },
    /// No answer came: the store may or may not have done it. After an acquire a compensating release is under way.
    #[error("{operation} of the lock {name:?}: no answer came; it may have happened")]
    Unknown {
        /// `acquire`, `renew` or `release`.
        operation: &'static str,
        /// The lock.
        name: String,
    },
    /// There is no backend, or it cannot be reached now. Nothing was done.
    #[error("locks are unavailable: {reason}")]
    Unavailable {
        /// Why, in words.
        reason: String,
    },
    /// A holder with a later token has already written: this transaction was refused.
    #[error("token {token} of the lock {name:?} is stale: a later holder has written")]
    Stale {
        /// The lock.
        name: String,
        /// The token that was refused.
        token: u64,
    },
    /// A name or a setting outside its limits.
    #[error("invalid {what}: {reason}")]
    Invalid {
        /// Which value.
        what: &'static str,
        /// The limit.
        reason: String,
    },
    /// More waiters than [`Config::max_waiters`](crate::Config::max_waiters).
    #[error("more than {limit} acquires are waiting in this process")]
    TooManyWaiters {
        /// The limit.
        limit: usize,
    },
    /// The store refused or failed in another way.
    #[error("{operation} of the lock {name:?} failed in the store")]
    Backend {
        /// `acquire`, `renew` or `release`.
        operation: &'static str,
        /// The lock.
        name: String,
        /// What the store said.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The manager has been shut down.
    #[error("the lock manager is shut down")]
    Shutdown,
}

impl LockError {
    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Busy { .. }
            | Self::Timeout { .. }
            | Self::Lost { .. }
            | Self::Unknown { .. }
            | Self::Unavailable { .. }
            | Self::TooManyWaiters { .. } => true,
            Self::Stale { .. } | Self::Invalid { .. } | Self::Backend { .. } | Self::Shutdown => false,
        }
    }
}
