//! The clock of leases: monotonic and counting suspended time. It is not tokio's clock, so paused time does not
//! govern it; pure cores take its instants as arguments.

use rustix::time::{ClockId, clock_gettime};
use std::{
    ops::{Add, Sub},
    time::Duration,
};

#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: ClockId = ClockId::Boottime;
// Elsewhere the monotonic clock; on macOS it, too, counts suspended time.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: ClockId = ClockId::Monotonic;

/// Reads the lease clock: some 20–70 ns, no state.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeaseClock;

impl LeaseClock {
    /// Now. Never goes back, and a laptop's lid or a suspended virtual machine does not stop it.
    #[must_use]
    pub fn now() -> LeaseInstant {
        let time = clock_gettime(CLOCK);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
        LeaseInstant(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
    }
}

/// A moment on the lease clock, in nanoseconds since boot; means nothing on another machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseInstant(u64);

impl LeaseInstant {
    /// The moment `nanos` nanoseconds after boot; for tests and for atomics that hold one.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since boot.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time since `earlier`; zero if that is later.
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Time from now until this moment; zero when it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.saturating_since(LeaseClock::now())
    }
}

impl Add<Duration> for LeaseInstant {
    type Output = Self;

    /// Saturates at the end of time.
    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for LeaseInstant {
    type Output = Self;

    /// Saturates at boot.
    fn sub(self, rhs: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests;
