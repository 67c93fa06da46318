//! The breaker's rules as a pure state machine: time and randomness come in as arguments. No lock, no clock.

use super::{
    BreakerConfig,
    window::{Totals, Window},
};
use serde::Serialize;
use std::{collections::VecDeque, fmt, time::Duration};

/// The states, in the field's standard terms: *closed* lets calls pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Calls pass and are counted.
    Closed,
    /// No call passes until a back-off is over.
    Open,
    /// A few trial calls pass.
    HalfOpen,
    /// No call passes until an operator resets it.
    ForcedOpen,
    /// Calls pass, nothing is counted.
    Disabled,
}

impl fmt::Display for BreakerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
            Self::ForcedOpen => "forced open",
            Self::Disabled => "disabled",
        })
    }
}

/// Why a breaker changed its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TransitionCause {
    /// Too many calls of the window failed.
    FailureRate,
    /// Too many calls of the window were slow.
    SlowRate,
    /// The back-off is over and a call came.
    WaitOver,
    /// A trial call failed, or too many of them were slow.
    TrialFailed,
    /// Trial calls did not come back in time.
    TrialTimedOut,
    /// A full set of trial calls succeeded, or all of the few that came in time.
    TrialPassed,
    /// Reset, forced open or disabled by hand.
    Operator,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Success,
    Failure,
    Ignored,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) state: BreakerState,
    pub(super) retry_after: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) sequence: u64,
    pub(super) from: BreakerState,
    pub(super) to: BreakerState,
    pub(super) cause: TransitionCause,
    pub(super) at: Duration,
}

/// Trial calls of one half-open cycle.
#[derive(Clone, Copy, Debug, Default)]
struct Trial {
    out: u32,
    succeeded: u32,
    slow: u32,
}

#[derive(Debug)]
pub(super) struct Machine {
    config: BreakerConfig,
    state: BreakerState,
    /// When the current state, or the current half-open cycle, began.
    since: Duration,
    /// When an open breaker may be tried.
    until: Duration,
    /// Grows with every state and half-open cycle; a permit of an earlier one no longer counts.
    cycle: u64,
    window: Window,
    trial: Trial,
    /// Opened so many times without closing in between.
    attempts: u32,
    opened_at: Option<Duration>,
    /// Failures that opened it, and failed trials since.
    failures_open: u64,
    last_failure: Option<Duration>,
    last_recovery: Option<Duration>,
    times_opened: u64,
    refused: u64,
    sequence: u64,
    history: VecDeque<Step>,
}

impl Machine {
    pub(super) fn new(config: BreakerConfig) -> Self {
        Self {
            config: config.clamped(),
            state: BreakerState::Closed,
            since: Duration::ZERO,
            until: Duration::ZERO,
            cycle: 0,
            window: Window::default(),
            trial: Trial::default(),
            attempts: 0,
            opened_at: None,
            failures_open: 0,
            last_failure: None,
            last_recovery: None,
            times_opened: 0,
            refused: 0,
            sequence: 0,
            history: VecDeque::new(),
        }
    }

    /// Admits a call, answering the cycle it belongs to.
    pub(super) fn acquire(&mut self, now: Duration, unit: f64) -> Result<u64, Refusal> {
        self.tick(now, unit);
        if self.state == BreakerState::Open && now >= self.until {
            self.enter(now, BreakerState::HalfOpen, TransitionCause::WaitOver);
        }
        let passes = match self.state {
            BreakerState::Closed | BreakerState::Disabled => true,
            BreakerState::HalfOpen => self.trial.out + self.trial.succeeded < self.config.half_open_permits,
            BreakerState::Open | BreakerState::ForcedOpen => false,
        };
        if !passes {
            self.refused += 1;
            return Err(Refusal { state: self.state, retry_after: self.retry_after(now) });
        }
        if self.state == BreakerState::HalfOpen {
            self.trial.out += 1;
        }
        Ok(self.cycle)
    }

    /// Takes in how a call of `cycle` went.
    pub(super) fn record(&mut self, now: Duration, cycle: u64, outcome: Outcome, took: Duration, unit: f64) {
        self.tick(now, unit);
        if outcome == Outcome::Failure {
            self.last_failure = Some(now);
        }
        if cycle != self.cycle {
            return;
        }
        let slow = took > self.config.slow_after;
        match (self.state, outcome) {
            (BreakerState::Closed, Outcome::Success | Outcome::Failure) => {
                self.window.record(now, outcome == Outcome::Failure, slow);
                self.judge_window(now, unit);
            }
            (BreakerState::HalfOpen, outcome) => self.judge_trial(now, outcome, slow, unit),
            _ => {}
        }
    }

    /// What time alone changes: a half-open cycle ends after its maximum.
    pub(super) fn tick(&mut self, now: Duration, unit: f64) {
        let expired = now.saturating_sub(self.since) >= self.config.half_open_max;
        if self.state != BreakerState::HalfOpen || !expired {
            return;
        }
        if self.trial.out > 0 {
            // Trials that hang for so long are as good as failed.
            self.open(now, TransitionCause::TrialTimedOut, u64::from(self.trial.out), unit);
        } else if self.trial.succeeded > 0 {
            // Too few calls come for a full set: those that did decide.
            self.decide(now, unit);
        } else {
            // Nobody was calling: those that come now get a fresh set.
            self.since = now;
            self.cycle += 1;
            self.trial = Trial::default();
        }
    }

    pub(super) fn reset(&mut self, now: Duration) {
        self.close(now, TransitionCause::Operator);
    }

    pub(super) fn force_open(&mut self, now: Duration) {
        self.opened_at.get_or_insert(now);
        self.enter(now, BreakerState::ForcedOpen, TransitionCause::Operator);
    }

    pub(super) fn disable(&mut self, now: Duration) {
        self.forget_outage();
        self.enter(now, BreakerState::Disabled, TransitionCause::Operator);
    }

    fn judge_window(&mut self, now: Duration, unit: f64) {
        let totals = self.window.totals(now);
        if totals.calls < self.config.minimum_calls {
            return;
        }
        let calls = totals.calls as f64;
        if totals.failures as f64 >= self.config.failure_rate * calls {
            self.open(now, TransitionCause::FailureRate, totals.failures, unit);
        } else if totals.slow as f64 >= self.config.slow_rate * calls {
            self.open(now, TransitionCause::SlowRate, totals.failures, unit);
        }
    }

    fn judge_trial(&mut self, now: Duration, outcome: Outcome, slow: bool, unit: f64) {
        self.trial.out = self.trial.out.saturating_sub(1);
        match outcome {
            Outcome::Ignored => return,
            Outcome::Failure => return self.open(now, TransitionCause::TrialFailed, 1, unit),
            Outcome::Success => {}
        }
        self.trial.succeeded += 1;
        self.trial.slow += u32::from(slow);
        if self.trial.succeeded >= self.config.half_open_permits {
            self.decide(now, unit);
        }
    }

    /// By the trials that came back, none of which failed.
    fn decide(&mut self, now: Duration, unit: f64) {
        if f64::from(self.trial.slow) >= self.config.slow_rate * f64::from(self.trial.succeeded) {
            self.open(now, TransitionCause::TrialFailed, 0, unit);
        } else {
            self.close(now, TransitionCause::TrialPassed);
        }
    }

    fn open(&mut self, now: Duration, cause: TransitionCause, failures: u64, unit: f64) {
        self.opened_at.get_or_insert(now);
        self.failures_open += failures;
        self.times_opened += 1;
        self.until = now + self.config.open.delay(self.attempts, unit);
        self.attempts = self.attempts.saturating_add(1);
        self.enter(now, BreakerState::Open, cause);
    }

    fn close(&mut self, now: Duration, cause: TransitionCause) {
        if let Some(opened) = self.opened_at {
            self.last_recovery = Some(now.saturating_sub(opened));
        }
        self.forget_outage();
        self.enter(now, BreakerState::Closed, cause);
    }

    fn forget_outage(&mut self) {
        self.opened_at = None;
        self.failures_open = 0;
        self.attempts = 0;
    }

    fn enter(&mut self, now: Duration, to: BreakerState, cause: TransitionCause) {
        self.sequence += 1;
        if self.history.len() >= self.config.history {
            self.history.pop_front();
        }
        if self.config.history > 0 {
            self.history.push_back(Step { sequence: self.sequence, from: self.state, to, cause, at: now });
        }
        self.state = to;
        self.since = now;
        self.cycle += 1;
        self.window = Window::default();
        self.trial = Trial::default();
    }
}

/// What there is to see.
impl Machine {
    pub(super) fn state(&self) -> BreakerState {
        self.state
    }

    pub(super) fn totals(&self, now: Duration) -> Totals {
        self.window.totals(now)
    }

    pub(super) fn failure_count(&self, now: Duration) -> u64 {
        match self.state {
            BreakerState::Closed => self.window.totals(now).failures,
            _ => self.failures_open,
        }
    }

    pub(super) fn retry_after(&self, now: Duration) -> Option<Duration> {
        let trials_taken = self.trial.out + self.trial.succeeded >= self.config.half_open_permits;
        match self.state {
            BreakerState::Open => Some(self.until.saturating_sub(now)),
            BreakerState::HalfOpen if trials_taken => {
                Some((self.since + self.config.half_open_max).saturating_sub(now))
            }
            _ => None,
        }
    }

    pub(super) fn last_failure(&self) -> Option<Duration> {
        self.last_failure
    }

    pub(super) fn opened_at(&self) -> Option<Duration> {
        self.opened_at
    }

    pub(super) fn last_recovery(&self) -> Option<Duration> {
        self.last_recovery
    }

    pub(super) fn times_opened(&self) -> u64 {
        self.times_opened
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    pub(super) fn history(&self) -> impl Iterator<Item = &Step> {
        self.history.iter()
    }
}
