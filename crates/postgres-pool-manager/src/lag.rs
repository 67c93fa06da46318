//! How far a replica is behind, in time: positions of the primary with the moments before which they were
//! reached. Pure; it measures nothing itself.

use std::{collections::VecDeque, time::Duration};
use tokio::time::Instant;

/// Samples of the primary's log position, oldest first. Positions never go back: another history starts afresh.
#[derive(Debug)]
pub(crate) struct LagRing {
    samples: VecDeque<(Instant, u64)>,
    capacity: usize,
}

/// What is known of a replica's lag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lag {
    /// It is at most this far behind; `None`: unknown.
    pub(crate) upper: Option<Duration>,
    /// It is at least this far behind.
    pub(crate) lower: Duration,
    pub(crate) bytes: u64,
}

impl LagRing {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { samples: VecDeque::with_capacity(capacity), capacity }
    }

    /// `before`: an instant before the position was asked for, so that the lag is never underestimated.
    pub(crate) fn push(&mut self, before: Instant, lsn: u64) {
        if self.samples.back().is_some_and(|(_, last)| *last > lsn) {
            self.clear();
        }
        if self.samples.len() == self.capacity {
            self.samples.pop_front();
        }
        self.samples.push_back((before, lsn));
    }

    pub(crate) fn clear(&mut self) {
        self.samples.clear();
    }

    /// When the primary was last sampled.
    pub(crate) fn newest(&self) -> Option<Instant> {
        self.samples.back().map(|(at, _)| *at)
    }

    /// The lag at `now` of a replica that has replayed up to `replayed`: between the age of the oldest sample
    /// that it lacks and that of the newest which it has.
    pub(crate) fn lag(&self, now: Instant, replayed: u64) -> Lag {
        let has = self.samples.partition_point(|(_, lsn)| *lsn <= replayed);
        let age = |at: usize| self.samples.get(at).map(|(then, _)| now.saturating_duration_since(*then));
        Lag {
            upper: has.checked_sub(1).and_then(age),
            lower: age(has).unwrap_or_default(),
            bytes: self.samples.back().map_or(0, |(_, lsn)| lsn.saturating_sub(replayed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_lies_between_the_samples() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut ring = LagRing::new(4);
        assert_eq!(
            ring.lag(start, 5),
            Lag { upper: None, lower: Duration::ZERO, bytes: 0 },
            "unknown is not zero"
        );
        for (n, lsn) in [(0, 10), (1, 20), (2, 20), (3, 30)] {
            ring.push(start + second * n, lsn);
        }
        let now = start + second * 5;
        assert_eq!(ring.lag(now, 30), Lag { upper: Some(second * 2), lower: Duration::ZERO, bytes: 0 });
        assert_eq!(ring.lag(now, 29), Lag { upper: Some(second * 3), lower: second * 2, bytes: 1 });
        assert_eq!(ring.lag(now, 10), Lag { upper: Some(second * 5), lower: second * 4, bytes: 20 });
        assert_eq!(ring.lag(now, 9).upper, None, "older than every sample");
        ring.push(now, 40);
        assert_eq!(ring.lag(now, 19).upper, None, "the oldest sample is gone");
        ring.push(now, 3);
        assert_eq!(ring.lag(now, 30).bytes, 0, "another history");
    }
}
