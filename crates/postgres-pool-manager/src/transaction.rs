//! Whole transactions that are run again when the server asks for it. The closure decides what is in one.

use crate::{
    Error, PostgresPoolManager, TransactionError, TransactionOptions, Tx,
    conn::{Verdict, verdict},
    error::is_serialization_failure,
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
    /// pause, within the deadline and the retry budget of the pool; so it is, up to three times, when the connection
    /// was lost before COMMIT was sent, as it is at a failover. What the closure does outside the transaction has to
    /// bear being repeated. Whether to retry is decided by what the server said, not by the closure's error.
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
            let mut losses = 0;
            loop {
                let session = self.write_at(taken_at).within(options.deadline).await?;
                let (error, end) = match Tx::begin(self.clone(), session, options).await {
                    Ok(tx) => match attempt(tx, &mut closure).await {
                        Ok(value) => return Ok(value),
                        Err(failed) => failed,
                    },
                    Err(e) if is_lost(&e) => (e.into(), End::Lost),
                    Err(e) => (e.into(), End::Final),
                };
                losses += u32::from(end == End::Lost);
                let again = end != End::Final && losses <= LOSSES;
                let pause = backoff.next_delay();
                if !again || retry_until.remaining() <= pause || !self.retries().try_withdraw() {
                    return Err(error);
                }
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// Times that a transaction is run again because its connection was lost: once is a failover, more may be its own doing.
const LOSSES: u32 = 3;

/// How an attempt ended that did not commit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// For good.
    Final,
    /// The server asks for another attempt.
    Conflict,
    /// The connection was lost before COMMIT was sent.
    Lost,
}

async fn attempt<T, E>(
    mut tx: Tx,
    closure: &mut (impl for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send),
) -> Result<T, (TransactionError<E>, End)> {
    match closure(&mut tx).await {
        Ok(value) => match tx.commit().await {
            Ok(_token) => Ok(value),
            Err(e) => {
                let end = match &e {
                    e if is_lost(e) => End::Lost,
                    Error::RolledBack { .. } if e.is_retryable() => End::Conflict,
                    _ => End::Final,
                };
                Err((TransactionError::Database(e), end))
            }
        },
        Err(e) => {
            let end = match tx.failure() {
                _ if tx.lost() => End::Lost,
                Some(code) if is_serialization_failure(code) => End::Conflict,
                _ => End::Final,
            };
            // Unconfirmed, it is rolled back all the same.
            let _ = tx.rollback().await;
            Err((TransactionError::Closure(e), end))
        }
    }
}

/// Whether the connection was lost and nothing committed.
fn is_lost(e: &Error) -> bool {
    match e {
        Error::PrimaryChanged { .. } => true,
        Error::Query(e) | Error::RolledBack { source: Some(e), .. } => verdict(e, true) == Verdict::Broken,
        _ => false,
    }
}
