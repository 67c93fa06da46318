//! Whole transactions that are run again when the server asks for it. The closure decides what is in one.

use crate::{
    Error, PostgresPoolManager, TransactionError, TransactionOptions, Tx, error::is_serialization_failure,
};
use futures_core::future::BoxFuture;
use resilience::{Backoff, BackoffConfig};
use std::time::Duration;

impl PostgresPoolManager {
    /// Opens a transaction on the primary.
    ///
    /// Cancel safety: a transaction that was begun is rolled back in the background.
    ///
    /// # Errors
    /// No connection within the deadline, or BEGIN failed.
    #[track_caller]
    pub fn begin(&self, options: TransactionOptions) -> impl Future<Output = Result<Tx, Error>> + Send + '_ {
        let acquire = self.write();
        async move {
            let session = acquire.within(options.deadline).await?;
            Tx::begin(self.clone(), session, options).await
        }
    }

    /// Runs `closure` in a transaction: commits on `Ok`, rolls back on `Err`, panic or drop.
    ///
    /// When the server reports 40001 (serialization failure) or 40P01 (deadlock) for any statement or for COMMIT,
    /// the whole closure is run again, with a new transaction and without the hooks of the last, after a jittered
    /// pause, within the deadline and the retry budget of the pool. What the closure does outside the transaction
    /// has to bear being repeated. Whether to retry is decided by what the server said, not by the closure's error.
    ///
    /// Cancel safety: as [`Tx`]; dropped while COMMIT is under way, see [`Tx::commit`].
    ///
    /// # Errors
    /// The closure's own, or the pool's; [`Error::OutcomeUnknown`] is never retried.
    #[track_caller]
    pub fn transaction<'a, T, E, F>(
        &'a self,
        options: TransactionOptions,
        mut closure: F,
    ) -> impl Future<Output = Result<T, TransactionError<E>>> + Send + 'a
    where
        F: for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send + 'a,
        T: Send + 'a,
        E: Send + 'a,
    {
        let taken_at = std::panic::Location::caller();
        async move {
            let retry_until = options.deadline.unwrap_or_else(|| self.router().acquire_deadline());
            let mut backoff = Backoff::new(BackoffConfig {
                base: Duration::from_millis(5),
                max: Duration::from_millis(500),
                ..BackoffConfig::default()
            });
            self.retries().deposit();
            loop {
                let session = self.write_at(taken_at).within(options.deadline).await?;
                let mut tx = Tx::begin(self.clone(), session, options).await?;
                let (error, again) = match closure(&mut tx).await {
                    Ok(value) => match tx.commit().await {
                        Ok(_token) => return Ok(value),
                        Err(e) => {
                            let again = matches!(e, Error::RolledBack { .. }) && e.is_retryable();
                            (TransactionError::Database(e), again)
                        }
                    },
                    Err(e) => {
                        let again = tx.failure().is_some_and(is_serialization_failure);
                        // Unconfirmed, it is rolled back all the same.
                        let _ = tx.rollback().await;
                        (TransactionError::Closure(e), again)
                    }
                };
                let pause = backoff.next_delay();
                if !again || retry_until.remaining() <= pause || !self.retries().try_withdraw() {
                    return Err(error);
                }
                tokio::time::sleep(pause).await;
            }
        }
    }
}
