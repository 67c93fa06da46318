//! The breaker's settings and why they are what they are. Nothing here changes while a breaker runs.

use crate::BackoffConfig;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Settings of a [`Breaker`](crate::Breaker).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerConfig {
    /// Calls in the window before its rates mean anything, at least 1. Default 20.
    pub minimum_calls: u64,
    /// Share of failed calls that opens it, above 0 up to 1. Default 0.5.
    pub failure_rate: f64,
    /// Share of slow calls that opens it, above 0 up to 1. Default 0.8: a dependency that is slow for a part of
    /// its calls is still worth calling.
    pub slow_rate: f64,
    /// A call that took longer is slow. Default 1 s.
    pub slow_after: Duration,
    /// Waits before trying again. Default 5 s doubling to 60 s with a jitter of 0.2, so that a fleet does not try
    /// at the same moment and the first trial comes after 4 to 5 s.
    pub open: BackoffConfig,
    /// Trial calls of one half-open cycle, at least 1. Default 3.
    pub half_open_permits: u32,
    /// A half-open cycle is given up after this. Default 10 s.
    pub half_open_max: Duration,
    /// Changes of state that are remembered. Default 64.
    pub history: usize,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            minimum_calls: 20,
            failure_rate: 0.5,
            slow_rate: 0.8,
            slow_after: Duration::from_secs(1),
            open: BackoffConfig {
                base: Duration::from_secs(5),
                max: Duration::from_secs(60),
                factor: 2.0,
                jitter: 0.2,
            },
            half_open_permits: 3,
            half_open_max: Duration::from_secs(10),
            history: 64,
        }
    }
}

impl BreakerConfig {
    /// The same with every value inside its documented range.
    pub(super) fn clamped(mut self) -> Self {
        self.minimum_calls = self.minimum_calls.max(1);
        self.half_open_permits = self.half_open_permits.max(1);
        for rate in [&mut self.failure_rate, &mut self.slow_rate] {
            *rate = if rate.is_nan() { 1.0 } else { rate.clamp(f64::MIN_POSITIVE, 1.0) };
        }
        self
    }
}
