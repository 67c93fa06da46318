//! What ends the wait for an answer beside the answer: the time is up, or the connection may not be used any more. It
//! runs nothing and cleans nothing.
//!
//! A timer for every statement would cost more than all else that the pool does for one. Most limits are far away, so
//! such a statement has none until the pool's maintenance finds that its end is near, and wakes it to set one.

use crate::{pool::Pool, slot::Slot};
use futures_util::FutureExt;
use std::{
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep};

/// What is further away has no timer yet; two of the maintenance's rounds.
const NEAR: Duration = Duration::from_secs(1);

/// Why no answer is waited for any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    TimedOut,
    /// The connection was taken from whoever waits; the slot says why.
    Lost,
}

/// The limits of one wait.
#[derive(Debug)]
pub(crate) struct Watch<'s> {
    slot: &'s Slot,
    at: Instant,
    far: bool,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<'s> Watch<'s> {
    pub(crate) fn new(slot: &'s Slot, pool: &Pool, now: Instant, at: Instant) -> Self {
        let left = at.saturating_duration_since(now);
        let far = left > 2 * NEAR;
        if far {
            slot.wake_at(pool.clock.now() + (left - NEAR));
        }
        Self { slot, at, far, sleep: None }
    }

    /// Asked whenever there is no answer yet.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.slot.register(cx);
        if self.slot.is_lost() {
            return Poll::Ready(End::Lost);
        }
        if self.far && !self.slot.was_woken() {
            return Poll::Pending;
        }
        let at = self.at;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        // Pending too when the task has used its turn up, which rows without a pause do every time.
        if sleep.poll_unpin(cx).is_pending() && Instant::now() < at {
            return Poll::Pending;
        }
        Poll::Ready(End::TimedOut)
    }

    /// The answer, or why there is none.
    pub(crate) async fn over<T>(mut self, work: impl Future<Output = T>) -> Result<T, End> {
        let mut work = pin!(work);
        std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(Ok(answer)),
            Poll::Pending => self.poll_end(cx).map(Err),
        })
        .await
    }
}
