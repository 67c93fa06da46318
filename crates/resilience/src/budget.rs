//! Retries as a bounded share of calls (the token scheme of Finagle's retry budget). It decides, and never
//! retries or waits by itself.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};
use tokio::time::Instant;

/// One token, in the unit of the balance.
const TOKEN: f64 = 1000.0;

/// Tokens for retries: every call deposits a share of one, time adds a few, a retry withdraws one.
///
/// Lock-free; a deposit is one atomic update.
#[derive(Debug)]
pub struct RetryBudget {
    deposit: u64,
    per_second: f64,
    max: u64,
    balance: AtomicU64,
    started: Instant,
    /// Microseconds after `started` up to which time has been credited.
    credited: AtomicU64,
}

impl RetryBudget {
    /// `ratio`: retries allowed per call (0.1 = one in ten). `min_per_second`: retries allowed whatever the
    /// traffic. `max`: tokens that can be saved up, also the initial balance.
    #[must_use]
    pub fn new(ratio: f64, min_per_second: f64, max: u32) -> Self {
        let max = u64::from(max) * (TOKEN as u64);
        Self {
            deposit: (ratio.max(0.0) * TOKEN).round() as u64,
            per_second: min_per_second.max(0.0) * TOKEN,
            max,
            balance: AtomicU64::new(max),
            started: Instant::now(),
            credited: AtomicU64::new(0),
        }
    }

    /// A first attempt was made.
    pub fn deposit(&self) {
        self.add(self.deposit);
    }

    /// Takes a token for a retry; `false`: do not retry, hand the error on.
    pub fn try_withdraw(&self) -> bool {
        self.credit_time();
        let take = |balance: u64| balance.checked_sub(TOKEN as u64);
        self.balance.fetch_update(Relaxed, Relaxed, take).is_ok()
    }

    fn add(&self, amount: u64) {
        let put = |balance: u64| (balance < self.max).then(|| balance.saturating_add(amount).min(self.max));
        // `Err` only says that the balance is full.
        let _ = self.balance.fetch_update(Relaxed, Relaxed, put);
    }

    fn credit_time(&self) {
        let now = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let before = self.credited.load(Relaxed);
        let amount = Duration::from_micros(now.saturating_sub(before)).as_secs_f64() * self.per_second;
        // Credited in whole tokens' thousandths only, else frequent calls would round time away.
        if amount >= 1.0 && self.credited.compare_exchange(before, now, Relaxed, Relaxed).is_ok() {
            self.add(amount as u64);
        }
    }
}

#[cfg(test)]
mod tests;
