//! The guard: a lock in the holder's hand. Dropping it gives the lock back in the background.

use crate::{LockError, Token, hold::Hold, release};
use std::{future::Future, sync::Arc, time::Duration};
use tokio_util::task::task_tracker::TaskTrackerToken;

/// A lock that is held.
///
/// Dropping it is cheap and does no I/O: the release is spawned on the runtime on which the manager was built. Where that
/// runtime is gone, the lease ends by itself. To know that the lock is free, call [`release`](Self::release).
#[derive(Debug)]
#[must_use = "dropping the guard releases the lock"]
pub struct LockGuard {
    hold: Option<Arc<Hold>>,
    /// The same, for access without a branch that cannot happen.
    shared: Arc<Hold>,
    /// The manager's shutdown waits for the guard.
    _waited_for: TaskTrackerToken,
}

impl LockGuard {
    pub(crate) fn new(hold: Hold, renew: bool) -> Self {
        let shared = Arc::new(hold);
        if renew {
            shared.inner.spawn_untracked(Arc::clone(&shared).keep_renewing());
        }
        let _waited_for = shared.inner.waited_for();
        Self { hold: Some(Arc::clone(&shared)), shared, _waited_for }
    }

    /// The lock's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.request.name
    }

    /// The fencing token: greater than that of every earlier holder of this lock. Send it with every write, and have the
    /// written side refuse a smaller one than it has seen.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.shared.token
    }

    /// The token's parts.
    #[must_use]
    pub fn token_parts(&self) -> Token {
        Token::from_u64(self.shared.token)
    }

    /// Time until the nominal end of the lease, computed now; zero once lost.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.shared.remaining()
    }

    /// Whether the holder has to stop now. Once `true`, always `true`.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.shared.is_lost()
    }

    /// `Err` where [`is_lost`](Self::is_lost).
    ///
    /// # Errors
    /// [`LockError::Lost`].
    pub fn check(&self) -> Result<(), LockError> {
        if self.is_lost() { Err(self.shared.lost_error()) } else { Ok(()) }
    }

    /// Completes when the holder has to stop: the store said that the lock is gone, or the lease ends in
    /// [`LockOptions::grace`](crate::LockOptions::grace), because no renewal succeeded. It does not depend on any call
    /// that may hang. May be awaited from several places.
    ///
    /// Cancel safety: safe.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + Sync + 'static {
        let hold = Arc::clone(&self.shared);
        async move { hold.lost().await }
    }

    /// Gives the lock back and wakes a waiter. When this returns `Ok`, the lock was held until now.
    ///
    /// Cancel safety: dropped, the release goes on in the background.
    ///
    /// # Errors
    /// [`LockError::Lost`]: the lock was not ours any more. [`LockError::Unknown`], [`LockError::Unavailable`]: the release
    /// is repeated in the background until the lease has ended.
    pub async fn release(mut self) -> Result<(), LockError> {
        let Some(hold) = self.hold.take() else { return Ok(()) };
        release::now(hold).await
    }

    /// The set of locks within which tokens are comparable.
    #[cfg(feature = "postgres")]
    pub(crate) fn scope(&self) -> &str {
        self.shared.inner.scope()
    }

    pub(crate) fn hold(&self) -> &Hold {
        &self.shared
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        if let Some(hold) = self.hold.take() {
            release::in_background(hold);
        }
    }
}
