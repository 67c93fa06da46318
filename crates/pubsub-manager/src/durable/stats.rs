//! What this process did on durable channels, counted. What the fleet did stands in the store, by group.

use crate::Error;
use serde::Serialize;
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Counts since the manager was built, over all durable channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DurableStats {
    /// Messages that the store accepted.
    pub published: u64,
    /// Messages that were not published, with certainty.
    pub publish_failed: u64,
    /// Messages of which it is not known.
    pub publish_unknown: u64,
    /// Messages taken from the store, repeated ones among them.
    pub delivered: u64,
    /// Repeated ones.
    pub redelivered: u64,
    /// Acknowledged.
    pub acknowledged: u64,
    /// Given back to be delivered again.
    pub retried: u64,
    /// Made dead letters.
    pub dead_lettered: u64,
    /// Those of them that could not be decoded.
    pub undecodable: u64,
    /// Deliveries that somebody else was given meanwhile.
    pub superseded: u64,
    /// Losses told.
    pub losses: u64,
    /// Consumers now.
    pub consumers: u64,
    /// From publish to receive, first deliveries only.
    pub latency: DurableLatency,
}

/// Upper bounds of the buckets of [`DurableLatency`] in milliseconds; one more bucket has none.
const BOUNDS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 10_000, 60_000];

/// How long after it was stored a message was taken, both by the store's clock, which tells milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DurableLatency {
    /// Messages in each bucket; see [`bounds`](Self::bounds).
    pub buckets: [u64; BOUNDS.len() + 1],
    /// The sum, in milliseconds.
    pub total_millis: u64,
}

impl DurableLatency {
    /// The buckets' upper bounds, in milliseconds, inclusive; the last bucket has none.
    #[must_use]
    pub const fn bounds() -> &'static [u64] {
        &BOUNDS
    }

    /// The bound that the share `quantile` (0 to 1) of all messages keeps; `None` without messages, or beyond the last bound.
    #[must_use]
    pub fn at_most(&self, quantile: f64) -> Option<Duration> {
        let all: u64 = self.buckets.iter().sum();
        let mut seen = 0;
        for (count, bound) in self.buckets.iter().zip(BOUNDS) {
            seen += count;
            if all > 0 && seen as f64 >= all as f64 * quantile {
                return Some(Duration::from_millis(bound));
            }
        }
        None
    }
}

#[derive(Debug, Default)]
pub(crate) struct DurableCounts {
    published: AtomicU64,
    publish_failed: AtomicU64,
    publish_unknown: AtomicU64,
    delivered: AtomicU64,
    redelivered: AtomicU64,
    pub(super) acknowledged: AtomicU64,
    pub(super) retried: AtomicU64,
    pub(super) dead_lettered: AtomicU64,
    pub(super) undecodable: AtomicU64,
    pub(super) superseded: AtomicU64,
    pub(super) losses: AtomicU64,
    pub(super) consumers: AtomicU64,
    buckets: [AtomicU64; BOUNDS.len() + 1],
    total_millis: AtomicU64,
}

impl DurableCounts {
    pub(super) fn appended(&self, records: u64, error: Option<&Error>) {
        let count = match error {
            None => &self.published,
            Some(error) if error.may_have_happened() => &self.publish_unknown,
            Some(_) => &self.publish_failed,
        };
        count.fetch_add(records, Relaxed);
    }

    /// `millis`: how long after it was stored.
    pub(super) fn delivered(&self, deliveries: u32, millis: u64) {
        self.delivered.fetch_add(1, Relaxed);
        if deliveries > 1 {
            self.redelivered.fetch_add(1, Relaxed);
            return;
        }
        let bucket = BOUNDS.partition_point(|bound| *bound < millis);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.total_millis.fetch_add(millis, Relaxed);
    }

    pub(crate) fn stats(&self) -> DurableStats {
        DurableStats {
            published: self.published.load(Relaxed),
            publish_failed: self.publish_failed.load(Relaxed),
            publish_unknown: self.publish_unknown.load(Relaxed),
            delivered: self.delivered.load(Relaxed),
            redelivered: self.redelivered.load(Relaxed),
            acknowledged: self.acknowledged.load(Relaxed),
            retried: self.retried.load(Relaxed),
            dead_lettered: self.dead_lettered.load(Relaxed),
            undecodable: self.undecodable.load(Relaxed),
            superseded: self.superseded.load(Relaxed),
            losses: self.losses.load(Relaxed),
            consumers: self.consumers.load(Relaxed),
            latency: DurableLatency {
                buckets: std::array::from_fn(|index| self.buckets[index].load(Relaxed)),
                total_millis: self.total_millis.load(Relaxed),
            },
        }
    }
}
