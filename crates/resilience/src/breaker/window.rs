//! A sliding window of ten one-second buckets. It forgets by time alone, never by number of calls.

use std::time::Duration;

/// Buckets of one second each.
const BUCKETS: usize = 10;

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// Which second it counts; an older one means that the bucket is out of date.
    second: u64,
    totals: Totals,
}

/// Counts over the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) calls: u64,
    pub(super) failures: u64,
    pub(super) slow: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Window([Bucket; BUCKETS]);

impl Window {
    pub(super) fn record(&mut self, now: Duration, failed: bool, slow: bool) {
        let second = now.as_secs();
        let bucket = &mut self.0[(second % BUCKETS as u64) as usize];
        if bucket.second != second {
            *bucket = Bucket { second, totals: Totals::default() };
        }
        bucket.totals.calls += 1;
        bucket.totals.failures += u64::from(failed);
        bucket.totals.slow += u64::from(slow);
    }

    /// The current second and the nine before it.
    pub(super) fn totals(&self, now: Duration) -> Totals {
        let current = now.as_secs();
        let mut sum = Totals::default();
        for bucket in &self.0 {
            if bucket.second <= current && current - bucket.second < BUCKETS as u64 {
                sum.calls += bucket.totals.calls;
                sum.failures += bucket.totals.failures;
                sum.slow += bucket.totals.slow;
            }
        }
        sum
    }
}
