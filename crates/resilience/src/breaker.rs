//! The circuit breaker as callers use it: a lock and tokio's clock around the pure rules of `machine`. It starts no
//! task and no timer: what is due happens at the next call or look.

mod config;
mod machine;
mod window;

pub use config::BreakerConfig;
pub use machine::{BreakerState, TransitionCause};

use machine::{Machine, Outcome, Refusal};
use parking_lot::Mutex;
use serde::Serialize;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::time::Instant;

/// A circuit breaker; clones share it.
///
/// Ask with [`try_acquire`](Self::try_acquire) before a call, tell the [`Permit`] how it went.
#[derive(Clone, Debug)]
pub struct Breaker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The machine's time is the duration since this.
    origin: Instant,
    machine: Mutex<Machine>,
}

/// The breaker lets no call pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the circuit breaker is {state}")]
#[non_exhaustive]
pub struct BreakerOpen {
    /// When to try again at the earliest; `None` when only an operator ends it (forced open).
    pub retry_after: Option<Duration>,
    /// Open, half-open (all trial permits are out) or forced open.
    pub state: BreakerState,
}

/// What a breaker is doing, for health and operators.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct BreakerStatus {
    /// The state; an open breaker whose wait is over stays open until a call tries it.
    pub state: BreakerState,
    /// While closed: failures in the sliding window. Else: those that opened it plus failed trials since.
    pub failure_count: u64,
    /// Calls in the sliding window.
    pub calls: u64,
    /// Slow calls in the sliding window.
    pub slow_calls: u64,
    /// When a call last failed.
    pub last_failure_time: Option<SystemTime>,
    /// When it left the closed state, `None` while closed or disabled.
    pub opened_at: Option<SystemTime>,
    /// When to try again at the earliest, if it lets no call pass now and time will change that.
    pub retry_after: Option<Duration>,
    /// How long the last outage lasted: from leaving the closed state until calls passed again.
    pub last_recovery: Option<Duration>,
    /// Times it opened since it was made.
    pub times_opened: u64,
    /// Calls refused since it was made.
    pub refused: u64,
}

/// One change of state.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Transition {
    /// Counts from 1 without a hole, so that a reader of the bounded history sees what it missed.
    pub sequence: u64,
    /// Before.
    pub from: BreakerState,
    /// After.
    pub to: BreakerState,
    /// Why.
    pub cause: TransitionCause,
    /// When, by this machine's wall clock as of the call.
    pub at: SystemTime,
}

impl Breaker {
    /// A closed breaker. Settings outside their documented range are clamped into it.
    #[must_use]
    pub fn new(config: BreakerConfig) -> Self {
        Self(Arc::new(Inner { origin: Instant::now(), machine: Mutex::new(Machine::new(config)) }))
    }

    /// Asks to make one call. Never waits.
    ///
    /// # Errors
    /// [`BreakerOpen`] when the call must not be made.
    pub fn try_acquire(&self) -> Result<Permit, BreakerOpen> {
        let now = self.now();
        let admitted = self.0.machine.lock().acquire(now, rand::random());
        match admitted {
            Ok(cycle) => Ok(Permit { breaker: self.clone(), cycle, acquired: now, told: false }),
            Err(Refusal { state, retry_after }) => Err(BreakerOpen { retry_after, state }),
        }
    }

    /// The state, after what time has changed.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        let now = self.now();
        let mut machine = self.0.machine.lock();
        machine.tick(now, rand::random());
        machine.state()
    }

    /// Everything about it at this moment.
    #[must_use]
    pub fn status(&self) -> BreakerStatus {
        let now = self.now();
        let mut machine = self.0.machine.lock();
        machine.tick(now, rand::random());
        let totals = machine.totals(now);
        BreakerStatus {
            state: machine.state(),
            failure_count: machine.failure_count(now),
            calls: totals.calls,
            slow_calls: totals.slow,
            last_failure_time: machine.last_failure().map(|at| wall_clock(now, at)),
            opened_at: machine.opened_at().map(|at| wall_clock(now, at)),
            retry_after: machine.retry_after(now),
            last_recovery: machine.last_recovery(),
            times_opened: machine.times_opened(),
            refused: machine.refused(),
        }
    }

    /// The latest changes of state, oldest first, at most [`BreakerConfig::history`].
    #[must_use]
    pub fn history(&self) -> Vec<Transition> {
        let now = self.now();
        let machine = self.0.machine.lock();
        let public = |step: &machine::Step| Transition {
            sequence: step.sequence,
            from: step.from,
            to: step.to,
            cause: step.cause,
            at: wall_clock(now, step.at),
        };
        machine.history().map(public).collect()
    }

    /// Closes it with an empty window, from any state: an operator knows better.
    pub fn reset(&self) {
        let now = self.now();
        self.0.machine.lock().reset(now);
    }

    /// Refuses every call until [`reset`](Self::reset).
    pub fn force_open(&self) {
        let now = self.now();
        self.0.machine.lock().force_open(now);
    }

    /// Lets every call pass and counts nothing until [`reset`](Self::reset).
    pub fn disable(&self) {
        let now = self.now();
        self.0.machine.lock().disable(now);
    }

    fn now(&self) -> Duration {
        self.0.origin.elapsed()
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self::new(BreakerConfig::default())
    }
}

/// Leave to make one call. Dropped without a word it counts as cancelled: neither success nor failure.
///
/// Its age when told is the duration of the call; a success that took longer than
/// [`BreakerConfig::slow_after`] is a slow call.
#[derive(Debug)]
#[must_use = "a permit that is dropped at once counts as a cancelled call"]
pub struct Permit {
    breaker: Breaker,
    cycle: u64,
    acquired: Duration,
    told: bool,
}

impl Permit {
    /// The call did what it should.
    pub fn success(mut self) {
        self.tell(Outcome::Success);
    }

    /// The dependency failed the call: an error, a time-out, a lost connection.
    pub fn failure(mut self) {
        self.tell(Outcome::Failure);
    }

    /// The call says nothing about the dependency, for example the caller's own mistake.
    pub fn ignored(mut self) {
        self.tell(Outcome::Ignored);
    }

    fn tell(&mut self, outcome: Outcome) {
        self.told = true;
        let now = self.breaker.now();
        let took = now.saturating_sub(self.acquired);
        self.breaker.0.machine.lock().record(now, self.cycle, outcome, took, rand::random());
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.told {
            self.tell(Outcome::Ignored);
        }
    }
}

fn wall_clock(now: Duration, at: Duration) -> SystemTime {
    let wall = SystemTime::now();
    wall.checked_sub(now.saturating_sub(at)).unwrap_or(wall)
}

#[cfg(test)]
mod tests;
