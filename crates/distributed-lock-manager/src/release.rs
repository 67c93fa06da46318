//! Giving a lock back, now or in the background, and undoing an acquire of unknown outcome. Repeated until answered or
//! until the lease has ended by itself.

use crate::{LockError, backend::Request, hold::Hold, manager::Inner};
use resilience::{
    Backoff, BackoffConfig, Deadline,
    clock::{LeaseClock, LeaseInstant},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::oneshot;

/// An undone acquire is undone once more after this.
const ONCE_MORE: Duration = Duration::from_secs(1);

/// Releases in a task of its own, so that a caller who goes away does not leave half of it.
pub(crate) async fn now(hold: Arc<Hold>) -> Result<(), LockError> {
    let (reply, answer) = oneshot::channel();
    let (inner, lost) = (Arc::clone(&hold.inner), hold.lost_error());
    inner.spawn(async move {
        // The first answer is the caller's; further attempts are ours.
        let mut reply = Some(reply);
        let first = |result: Result<bool, LockError>| {
            if let Some(reply) = reply.take() {
                let _gone = reply.send(result);
            }
        };
        give_back(&hold, first).await;
    });
    match answer.await {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err(lost),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(LockError::Shutdown),
    }
}

/// Releases without anybody waiting for it.
pub(crate) fn in_background(hold: Arc<Hold>) {
    hold.stop_renewing();
    let inner = Arc::clone(&hold.inner);
    inner.spawn(async move { give_back(&hold, |_| {}).await });
}

async fn give_back(hold: &Hold, first: impl FnMut(Result<bool, LockError>)) {
    // Renewal first: a renewal after the release would find nothing, but why ask.
    hold.stop_renewing();
    let until = LeaseClock::now() + hold.remaining();
    let released = until_answered(&hold.inner, &hold.request, until, first).await;
    if released == Some(false) {
        hold.lose();
    }
    hold.end(released == Some(true));
}

/// Undoes an acquire that may have happened; it was sent at `sent`.
pub(crate) fn compensate(inner: &Arc<Inner>, request: Request, sent: LeaseInstant) {
    let until = sent + request.lease;
    let owner = Arc::clone(inner);
    inner.spawn(async move {
        let released = until_answered(&owner, &request, until, |_| {}).await;
        // The acquire may be on its way still, on another connection than the release.
        if released != Some(true) && until.remaining() > ONCE_MORE {
            tokio::select! {
                () = tokio::time::sleep(ONCE_MORE) => {}
                () = owner.stopped() => {}
            }
            until_answered(&owner, &request, until, |_| {}).await;
        }
    });
}

/// Whether the store has given the lock back while it was still this acquisition's; `None`: nobody knows.
async fn until_answered(
    inner: &Inner,
    request: &Request,
    until: LeaseInstant,
    mut each: impl FnMut(Result<bool, LockError>),
) -> Option<bool> {
    let mut backoff = Backoff::new(BackoffConfig::default());
    let backend = inner.backend_even_after_shutdown().ok()?;
    let mut perhaps_done = false;
    loop {
        let result = backend.release(request, Deadline::after(inner.config.attempt_timeout)).await;
        let answered = result.as_ref().ok().copied();
        if let Err(error) = &result {
            perhaps_done |= matches!(error, LockError::Unknown { .. });
            tracing::debug!(name = %request.name, %error, "a lock could not be given back yet");
        }
        each(result);
        if let Some(released) = answered {
            // Gone by somebody else's doing, or by an attempt of ours that got no answer.
            return (released || !perhaps_done).then_some(released);
        }
        let delay = backoff.next_delay();
        if until.remaining() <= delay || inner.is_stopped() {
            return None;
        }
        tokio::time::sleep(delay).await;
    }
}
