//! The store's time as seen from here. It asks nobody: whoever owns a connection feeds it with observations.

use super::{LeaseClock, LeaseInstant};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Assumed drift between two machines' clocks: 100 µs a second, ample for quartz.
const DRIFT_PER_SECOND: f64 = 100e-6;
/// Stands for "no observation yet" in the offset.
const UNKNOWN: i64 = i64::MIN;

/// Offset between the server's clock and this machine's, ± half the round trip that measured it.
///
/// Cloning shares the observations. A reading is one atomic load and a read of the lease clock; it may step when a
/// better observation arrives, so it serves for stored expiry and not for order.
#[derive(Clone, Debug, Default)]
pub struct ServerClock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Server time minus lease clock in microseconds, or [`UNKNOWN`].
    offset: AtomicI64,
    last: Mutex<Option<Observation>>,
}

impl Default for Inner {
    fn default() -> Self {
        Self { offset: AtomicI64::new(UNKNOWN), last: Mutex::new(None) }
    }
}

#[derive(Clone, Copy, Debug)]
struct Observation {
    offset: i64,
    half_round_trip: Duration,
    at: LeaseInstant,
}

impl Observation {
    fn uncertainty(&self, now: LeaseInstant) -> Duration {
        self.half_round_trip + now.saturating_since(self.at).mul_f64(DRIFT_PER_SECOND)
    }

    fn agrees_with(&self, other: &Self, now: LeaseInstant) -> bool {
        let apart = Duration::from_micros(self.offset.abs_diff(other.offset));
        apart <= self.uncertainty(now) + other.uncertainty(now)
    }
}

impl ServerClock {
    /// A clock without observations: it answers with this machine's time until the first one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The server said `server_unix_micros` in answer to a request sent at `sent`, answered at `received`.
    ///
    /// Kept if it is at least as certain as what is known (whose certainty fades with age), or contradicts it:
    /// then the server's clock was stepped.
    pub fn observe(&self, server_unix_micros: u64, sent: LeaseInstant, received: LeaseInstant) {
        let half_round_trip = received.saturating_since(sent) / 2;
        let middle = micros(sent + half_round_trip);
        let server = i64::try_from(server_unix_micros).unwrap_or(i64::MAX);
        let new = Observation { offset: server.saturating_sub(middle), half_round_trip, at: received };
        let mut last = self.0.last.lock();
        let keep_old = last.is_some_and(|old| {
            old.uncertainty(received) < new.half_round_trip && old.agrees_with(&new, received)
        });
        if !keep_old {
            *last = Some(new);
            self.0.offset.store(new.offset, Relaxed);
        }
    }

    /// Forgets every observation: the server is another one.
    pub fn reset(&self) {
        let mut last = self.0.last.lock();
        *last = None;
        self.0.offset.store(UNKNOWN, Relaxed);
    }

    /// The server's time in milliseconds since 1970; this machine's own while nothing was observed.
    #[must_use]
    pub fn now_unix_millis(&self) -> u64 {
        self.now_unix_micros() / 1000
    }

    /// The server's time in microseconds since 1970; this machine's own while nothing was observed.
    #[must_use]
    pub fn now_unix_micros(&self) -> u64 {
        match self.0.offset.load(Relaxed) {
            UNKNOWN => {
                let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                u64::try_from(wall.as_micros()).unwrap_or(u64::MAX)
            }
            offset => {
                let now = micros(LeaseClock::now()).saturating_add(offset);
                u64::try_from(now).unwrap_or(0)
            }
        }
    }

    /// How far [`now_unix_millis`](Self::now_unix_millis) may be off: half the round trip of the observation in
    /// use, plus drift since then. `None` while nothing was observed.
    #[must_use]
    pub fn uncertainty(&self) -> Option<Duration> {
        let last = *self.0.last.lock();
        last.map(|observation| observation.uncertainty(LeaseClock::now()))
    }

    /// How old the observation in use is. `None` while nothing was observed.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let last = *self.0.last.lock();
        last.map(|observation| LeaseClock::now().saturating_since(observation.at))
    }
}

fn micros(instant: LeaseInstant) -> i64 {
    i64::try_from(instant.as_nanos() / 1000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
