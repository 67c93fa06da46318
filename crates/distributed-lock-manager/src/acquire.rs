//! One acquire: asks the store, waits in line, hands over the guard. Whoever called may have gone meanwhile.

use crate::{
    Attempt, LockError, LockGuard, LockOptions,
    backend::Request,
    hold::Hold,
    lease::Lease,
    manager::Inner,
    queue::{Place, Signal},
    release,
};
use resilience::{
    Deadline,
    clock::{LeaseClock, LeaseInstant},
};
use std::{sync::Arc, time::Duration};
use tokio::{sync::oneshot, time::Instant};

/// Pause before the store is asked again after it could not be reached.
const UNAVAILABLE_PAUSE: Duration = Duration::from_millis(100);
/// While wakes cannot be heard the store is asked so often.
const DEAF_PAUSE: Duration = Duration::from_secs(1);
/// A lease that ended a moment ago may not be free yet by the store's clock.
const AFTER_LEASE: Duration = Duration::from_millis(2);

/// One acquire, in a task of its own: whoever drops the caller's future does not stop it half-way.
pub(crate) struct Acquiring {
    inner: Arc<Inner>,
    request: Request,
    wait: Duration,
    options: LockOptions,
    started: Instant,
    held_by: Option<String>,
}

/// How one question to the store went.
enum Answer {
    Granted(LockGuard),
    Held(Duration),
    Unreachable(LockError),
}

impl Acquiring {
    pub(crate) fn new(inner: Arc<Inner>, request: Request, options: LockOptions) -> Self {
        let wait = options.wait.unwrap_or(inner.config.default_wait);
        Self { inner, request, wait, options, started: Instant::now(), held_by: None }
    }

    pub(crate) async fn run(mut self, mut reply: oneshot::Sender<Result<LockGuard, LockError>>) {
        let inner = Arc::clone(&self.inner);
        let result = self.acquire(&mut reply).await;
        match (result, reply.is_closed()) {
            (None, _) | (Some(Err(_)), true) => inner.counts.cancelled(),
            // A guard that nobody takes any more is dropped, and so released.
            (Some(result), _) => drop(reply.send(result)),
        }
    }

    /// `None`: the caller has gone.
    async fn acquire(
        &mut self,
        reply: &mut oneshot::Sender<Result<LockGuard, LockError>>,
    ) -> Option<Result<LockGuard, LockError>> {
        if self.wait.is_zero() {
            return Some(match self.ask().await {
                Err(error) | Ok(Answer::Unreachable(error)) => Err(error),
                Ok(Answer::Granted(guard)) => Ok(guard),
                Ok(Answer::Held(remaining)) => {
                    self.inner.counts.contended();
                    let (name, holder) =
                        (self.request.name.to_string(), self.held_by.take().unwrap_or_default());
                    Err(LockError::Busy { name, holder, remaining })
                }
            });
        }
        let (place, first) = match self.inner.queues.join(&self.request.name) {
            Ok(joined) => joined,
            Err(error) => return Some(Err(error)),
        };
        if !first {
            self.inner.counts.contended();
        }
        self.wait_in_line(place, first, reply).await
    }

    async fn wait_in_line(
        &mut self,
        place: Place,
        first: bool,
        reply: &mut oneshot::Sender<Result<LockGuard, LockError>>,
    ) -> Option<Result<LockGuard, LockError>> {
        let deadline = Deadline::after(self.wait);
        let inner = Arc::clone(&self.inner);
        let mut counted = !first;
        let mut unreachable = None;
        // Until when not to ask unless told; `None` for whoever is not the first.
        let mut ask_at = first.then(Instant::now);
        let mut deaf = false;
        loop {
            if ask_at.is_some_and(|at| at <= Instant::now()) {
                match self.ask().await {
                    Err(error) => return Some(Err(error)),
                    Ok(Answer::Granted(guard)) => {
                        place.leave_as_holder(Instant::now() + guard.remaining() + AFTER_LEASE);
                        return Some(Ok(guard));
                    }
                    Ok(Answer::Held(remaining)) => {
                        unreachable = None;
                        if !std::mem::replace(&mut counted, true) {
                            self.inner.counts.contended();
                        }
                        ask_at = Some(Instant::now() + remaining + AFTER_LEASE);
                        deaf = self.is_deaf();
                    }
                    Ok(Answer::Unreachable(error)) => {
                        unreachable = Some(error);
                        ask_at = Some(Instant::now() + UNAVAILABLE_PAUSE);
                    }
                }
            }
            if deadline.is_expired() {
                return Some(Err(unreachable.unwrap_or_else(|| self.timed_out())));
            }
            let look = Instant::now() + DEAF_PAUSE;
            let until = [ask_at.map(|at| at.min(look)), deadline.instant()].into_iter().flatten().min();
            tokio::select! {
                told = place.told() => ask_at = Some(match told {
                    Signal::HeldUntil(until) => until,
                    Signal::Retry | Signal::None => Instant::now(),
                }),
                () = sleep_until(until) => {
                    // Not at the first sign: the store's own connection may just be breaking as well, and would leave
                    // the question unanswered.
                    let was_deaf = std::mem::replace(&mut deaf, self.is_deaf());
                    if was_deaf && deaf {
                        ask_at = ask_at.map(|_| Instant::now());
                    }
                }
                () = reply.closed() => return None,
                () = inner.stopped() => return Some(Err(LockError::Shutdown)),
            }
        }
    }

    /// Whether a release would not be heard.
    fn is_deaf(&self) -> bool {
        !self.inner.backend_even_after_shutdown().is_ok_and(|backend| backend.hears_releases())
    }

    /// Asks the store once. What may have happened without an answer is undone in the background.
    async fn ask(&mut self) -> Result<Answer, LockError> {
        let backend = self.inner.backend()?;
        let sent = LeaseClock::now();
        match backend.acquire(&self.request, Deadline::after(self.inner.config.attempt_timeout)).await {
            Ok(Attempt::Granted { token }) => Ok(self.granted(token, sent)),
            Ok(Attempt::Held { remaining, holder }) => {
                self.held_by = Some(holder);
                Ok(Answer::Held(remaining))
            }
            Err(error @ LockError::Unavailable { .. }) => Ok(Answer::Unreachable(error)),
            Err(error) => {
                if matches!(error, LockError::Unknown { .. }) {
                    release::compensate(&self.inner, self.request.clone(), LeaseClock::now());
                }
                Err(error)
            }
        }
    }

    fn granted(&self, token: u64, sent: LeaseInstant) -> Answer {
        self.inner.counts.acquired();
        let lease = Lease::new(sent, self.request.lease, self.options.grace);
        let hold = Hold::new(Arc::clone(&self.inner), self.request.clone(), token, lease);
        Answer::Granted(LockGuard::new(hold, self.options.renew))
    }

    fn timed_out(&mut self) -> LockError {
        LockError::Timeout {
            name: self.request.name.to_string(),
            waited: self.started.elapsed(),
            holder: self.held_by.take(),
        }
    }
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
