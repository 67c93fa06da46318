//! The staleness check: for every key the version that a read begun now must at least return.
//!
//! `stale_reads` counts three clauses: (a) older than an invalidation of the same process that had returned before
//! the read began, (b) older than one of another process that returned longer ago than a bound, (c) older than what
//! the same reader had seen. A floor that comes into force late makes (b) laxer, never wrong; it is counted.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::measure::monotonic_nanos;
use crate::protocol::{Floor, Stale};

/// So much later than due a floor counts as late.
const LATE: Duration = Duration::from_millis(100);

/// The floors of all keys in one process.
#[derive(Debug)]
pub(crate) struct Floors {
    own: Box<[AtomicU32]>,
    others: Box<[AtomicU32]>,
    /// Floors of other processes that are not in force yet, in order of arrival.
    pending: Mutex<VecDeque<(u64, Floor)>>,
    bound: AtomicU64,
    late: AtomicU64,
}

/// The floors of one key, read before the read that they judge.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    own: u32,
    others: u32,
}

impl Floors {
    pub(crate) fn new(rows: u32) -> Self {
        let zeros = || (0..rows).map(|_| AtomicU32::new(0)).collect();
        Self {
            own: zeros(),
            others: zeros(),
            pending: Mutex::default(),
            bound: AtomicU64::new(0),
            late: AtomicU64::new(0),
        }
    }

    pub(crate) fn set_bound(&self, bound: Duration) {
        self.bound.store(bound.as_nanos() as u64, Ordering::Relaxed);
    }

    /// This process' own update of `key` is complete.
    pub(crate) fn raise(&self, key: u32, version: u32) -> Floor {
        self.own[key as usize].fetch_max(version, Ordering::SeqCst);
        Floor { key, version, at: monotonic_nanos() }
    }

    pub(crate) fn arrived(&self, floor: Floor) {
        let due = floor.at + self.bound.load(Ordering::Relaxed);
        let mut pending = self.pending.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        pending.push_back((due, floor));
    }

    /// Puts in force what has become due; called every few milliseconds. (Floors come in the order of their times but
    /// for microseconds, so the first that is not due ends it.)
    pub(crate) fn advance(&self) {
        let now = monotonic_nanos();
        let mut pending = self.pending.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        while let Some((due, floor)) = pending.front().filter(|(due, _)| *due <= now) {
            if now - due > LATE.as_nanos() as u64 {
                self.late.fetch_add(1, Ordering::Relaxed);
            }
            self.others[floor.key as usize].fetch_max(floor.version, Ordering::SeqCst);
            pending.pop_front();
        }
    }

    pub(crate) fn expected(&self, key: u32) -> Expected {
        let get = |floors: &[AtomicU32]| floors[key as usize].load(Ordering::SeqCst);
        Expected { own: get(&self.own), others: get(&self.others) }
    }

    pub(crate) fn take_late(&self) -> u64 {
        self.late.swap(0, Ordering::Relaxed)
    }
}

impl Expected {
    /// Judges one read; `seen` is what this reader saw of the key last.
    pub(crate) fn judge(self, version: u32, seen: &mut u32, stale: &mut Stale) {
        if version >= self.own && version >= self.others && version >= *seen {
            *seen = version;
            return;
        }
        stale.same_process += u64::from(version < self.own);
        stale.other_process += u64::from(version < self.others);
        stale.went_back += u64::from(version < *seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_clause_is_caught_and_a_current_read_is_not() {
        let floors = Floors::new(2);
        floors.set_bound(Duration::ZERO);
        let mut stale = Stale::default();
        let mut seen = 0;
        floors.expected(1).judge(3, &mut seen, &mut stale);
        assert_eq!((stale.total(), seen), (0, 3));
        floors.expected(1).judge(2, &mut seen, &mut stale);
        assert_eq!((stale.went_back, stale.total()), (1, 1));
        floors.raise(1, 5);
        floors.expected(1).judge(4, &mut seen, &mut stale);
        assert_eq!((stale.same_process, stale.total()), (1, 2));
        floors.arrived(Floor { key: 1, version: 6, at: 0 });
        floors.advance();
        floors.expected(1).judge(5, &mut seen, &mut stale);
        assert_eq!((stale.other_process, stale.total()), (1, 3));
        assert_eq!(floors.take_late(), 1);
    }

    #[test]
    fn another_process_floor_waits_for_its_bound() {
        let floors = Floors::new(1);
        floors.set_bound(Duration::from_secs(3600));
        floors.arrived(Floor { key: 0, version: 9, at: monotonic_nanos() });
        floors.advance();
        let mut stale = Stale::default();
        floors.expected(0).judge(1, &mut 0, &mut stale);
        assert_eq!(stale.total(), 0);
    }
}
