//! When a lease ends, as its holder has to see it: the pure rule behind `remaining`, `lost` and renewal. Time is an
//! argument; it does no I/O.

use resilience::clock::LeaseInstant;
use std::time::Duration;

/// Shortest lease: below this the store's and the network's own delays would eat it.
pub(crate) const MIN_LEASE: Duration = Duration::from_millis(100);
/// Longest lease: a dead holder blocks everybody for that long.
pub(crate) const MAX_LEASE: Duration = Duration::from_secs(24 * 3600);

/// What two clocks may differ by over `lease`: 1 % and 2 ms.
fn drift(lease: Duration) -> Duration {
    lease / 100 + Duration::from_millis(2)
}

/// How long before the nominal end the holder is told, at least.
pub(crate) fn least_grace(lease: Duration) -> Duration {
    (lease / 10).max(Duration::from_millis(50))
}

/// The holder's view of its lease.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease {
    lease: Duration,
    grace: Duration,
    /// When the last successful acquire or renewal was *sent*: the store counted from then or later.
    sent: LeaseInstant,
    /// Told once, true for ever.
    lost: bool,
}

impl Lease {
    /// `sent` is when the acquire was sent. A grace below the least, or one that would leave less than half of the
    /// lease, is moved to that bound.
    pub(crate) fn new(sent: LeaseInstant, lease: Duration, grace: Option<Duration>) -> Self {
        let least = least_grace(lease);
        let grace = grace.unwrap_or(least).min(lease / 2).max(least);
        Self { lease, grace, sent, lost: false }
    }

    /// The moment from which somebody else may hold the lock.
    pub(crate) fn nominal_end(&self) -> LeaseInstant {
        self.sent + (self.lease - drift(self.lease))
    }

    /// The moment at which the holder is told that it has lost the lock.
    pub(crate) fn warning(&self) -> LeaseInstant {
        self.nominal_end() - self.grace
    }

    /// When to renew: a third of the lease after the last success.
    pub(crate) fn renewal(&self) -> LeaseInstant {
        self.sent + self.lease / 3
    }

    /// Time until the nominal end; zero once lost.
    pub(crate) fn remaining(&self, now: LeaseInstant) -> Duration {
        if self.lost { Duration::ZERO } else { self.nominal_end().saturating_since(now) }
    }

    /// The store has confirmed a renewal that was sent at `sent`. What is lost stays lost: the holder may have stopped.
    pub(crate) fn renewed(&mut self, sent: LeaseInstant) {
        if !self.lost {
            self.sent = self.sent.max(sent);
        }
    }

    /// The store says that the lock is somebody else's or nobody's.
    pub(crate) fn lose(&mut self) {
        self.lost = true;
    }

    /// Whether the holder must consider the lock lost.
    pub(crate) fn is_lost(&mut self, now: LeaseInstant) -> bool {
        self.lost |= now >= self.warning();
        self.lost
    }
}

#[cfg(test)]
mod tests;
