//! A clock whose read is one load of a mostly cached line. It is not exact: a reading is at most some 2 ms old
//! while its thread gets to run.

use super::LeaseClock;
use std::{
    ops::Add,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// How often the thread looks at the exact clock; with scheduling this keeps readings within 2 ms.
const TICK: Duration = Duration::from_millis(1);

/// Milliseconds since the process first asked, kept by a thread of its own, or moved by hand in tests.
///
/// Cloning shares the time. Suspended time counts, as entries age meanwhile.
#[derive(Clone, Debug)]
pub struct CoarseClock(Arc<Cell>);

/// On lines of its own, so that neither reference counts nor neighbours slow the readers down.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Cell(AtomicU64);

impl CoarseClock {
    /// The process's clock; the first call starts its thread (`coarse-clock`), which lives as long as the
    /// process.
    ///
    /// # Panics
    /// If the operating system cannot create that thread: a clock that stands still would let nothing expire.
    #[must_use]
    pub fn system() -> Self {
        static SYSTEM: OnceLock<CoarseClock> = OnceLock::new();
        SYSTEM.get_or_init(Self::start).clone()
    }

    /// A clock at zero that only [`advance`](Self::advance) moves.
    #[must_use]
    pub fn virtual_time() -> Self {
        Self(Arc::default())
    }

    /// Now.
    #[inline]
    #[must_use]
    pub fn now(&self) -> CoarseInstant {
        CoarseInstant(self.0.0.load(Relaxed))
    }

    /// Moves a virtual clock on. On the system's clock it does nothing.
    pub fn advance(&self, by: Duration) {
        if !Arc::ptr_eq(&self.0, &Self::system().0) {
            self.0.0.fetch_add(millis(by), Relaxed);
        }
    }

    fn start() -> Self {
        let cell = Arc::new(Cell::default());
        let kept = Arc::clone(&cell);
        let started = LeaseClock::now();
        let run = move || {
            loop {
                // Nobody unparks this thread; a sleep, said so that a spurious wake-up is plainly harmless.
                std::thread::park_timeout(TICK);
                kept.0.store(millis(LeaseClock::now().saturating_since(started)), Relaxed);
            }
        };
        match std::thread::Builder::new().name("coarse-clock".to_owned()).spawn(run) {
            Ok(_detached) => Self(cell),
            Err(error) => panic!("cannot start the thread of the coarse clock: {error}"),
        }
    }
}

/// A moment on a [`CoarseClock`], in whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoarseInstant(u64);

impl CoarseInstant {
    /// The moment `millis` after the clock's zero.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the clock's zero.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Time since `earlier`; zero if that is later.
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for CoarseInstant {
    type Output = Self;

    /// Saturates at the end of time; below a millisecond it rounds down.
    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(millis(rhs)))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
