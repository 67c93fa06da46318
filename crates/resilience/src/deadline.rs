//! The one time limit of an operation. Not a timer: nothing runs until [`Deadline::run`] is polled.

use std::{future::Future, time::Duration};
use tokio::time::Instant;

/// The moment by which an operation has to have answered, or [`never`](Deadline::never).
///
/// Made once at the edge of an operation and handed down by value. Follows tokio's clock, hence paused time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

/// The deadline passed before the operation had finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the deadline has passed")]
#[non_exhaustive]
pub struct DeadlineExceeded;

impl Deadline {
    /// `timeout` from now; a time-out too long to be represented is [`never`](Self::never).
    #[must_use]
    pub fn after(timeout: Duration) -> Self {
        Self(Instant::now().checked_add(timeout))
    }

    /// At `instant`.
    #[must_use]
    pub const fn at(instant: Instant) -> Self {
        Self(Some(instant))
    }

    /// No limit. For tests and for background work that something else ends.
    #[must_use]
    pub const fn never() -> Self {
        Self(None)
    }

    /// What is left; zero when expired, [`Duration::MAX`] when there is no limit.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.0.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()))
    }

    /// The instant, `None` when there is no limit.
    #[must_use]
    pub const fn instant(&self) -> Option<Instant> {
        self.0
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.0.is_some_and(|at| at <= Instant::now())
    }

    /// The earlier of the two.
    #[must_use]
    pub fn earlier(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(a), Some(b)) => Self(Some(a.min(b))),
            (a, b) => Self(a.or(b)),
        }
    }

    /// This deadline, but at most `limit` from now: for one phase of a longer operation.
    #[must_use]
    pub fn capped(self, limit: Duration) -> Self {
        self.earlier(Self::after(limit))
    }

    /// Runs `future` until the deadline; an expired deadline does not start it.
    ///
    /// Cancel safety: that of `future`; on expiry `future` is dropped.
    ///
    /// # Errors
    /// [`DeadlineExceeded`] when the deadline passes first.
    pub async fn run<F: Future>(self, future: F) -> Result<F::Output, DeadlineExceeded> {
        match self.0 {
            None => Ok(future.await),
            Some(at) if at <= Instant::now() => Err(DeadlineExceeded),
            Some(at) => tokio::time::timeout_at(at, future).await.map_err(|_| DeadlineExceeded),
        }
    }
}

#[cfg(test)]
mod tests;
