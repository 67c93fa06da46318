//! Growing, jittered delays between attempts. It does not sleep and does not count what a retry costs.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How delays grow: `base × factor^n`, at most `max`, less a random share of up to `jitter`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackoffConfig {
    /// The first delay. Default 50 ms: a restarting server is noticed quickly.
    pub base: Duration,
    /// No delay is longer. Default 1 s: nobody waits long after the recovery.
    pub max: Duration,
    /// Growth per attempt, at least 1. Default 2.
    pub factor: f64,
    /// Share of a delay that is random, 0 to 1. Default 0.5: keeps a fleet from retrying in step and still
    /// waits half the nominal delay.
    pub jitter: f64,
}

impl Default for BackoffConfig {
    fn default() -> Self {
        Self { base: Duration::from_millis(50), max: Duration::from_secs(1), factor: 2.0, jitter: 0.5 }
    }
}

impl BackoffConfig {
    /// The delay after `attempts` earlier ones, for a random `unit` in `[0, 1]`. Pure; values outside their
    /// documented range are clamped into it.
    #[must_use]
    pub fn delay(&self, attempts: u32, unit: f64) -> Duration {
        let growth = self.factor.max(1.0).powi(i32::try_from(attempts).unwrap_or(i32::MAX));
        let nominal = (self.base.as_secs_f64() * growth).min(self.max.as_secs_f64());
        let kept = 1.0 - self.jitter.clamp(0.0, 1.0) * unit.clamp(0.0, 1.0);
        // `min` above also turns an infinite growth into `max`; only NaN (0 × infinity) is left.
        Duration::try_from_secs_f64(nominal * kept).unwrap_or(self.max)
    }
}

/// The delays of one sequence of attempts.
#[derive(Clone, Debug)]
pub struct Backoff {
    config: BackoffConfig,
    attempts: u32,
}

impl Backoff {
    /// A fresh sequence.
    #[must_use]
    pub const fn new(config: BackoffConfig) -> Self {
        Self { config, attempts: 0 }
    }

    /// How long to wait before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.config.delay(self.attempts, rand::random());
        self.attempts = self.attempts.saturating_add(1);
        delay
    }

    /// Starts again at the base delay: an attempt succeeded.
    pub const fn reset(&mut self) {
        self.attempts = 0;
    }

    /// Delays handed out since the start or the last reset.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }
}

#[cfg(test)]
mod tests;
