//! Counters that cost about a nanosecond: each thread owns a stripe and adds to it without a locked instruction.
//! Not here: names and meaning of the figures (`stats`).

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

const STRIPES: usize = 64;
const SHARED: usize = STRIPES - 1;

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug)]
        #[repr(usize)]
        pub(crate) enum Count { $($(#[$doc])* $name),* }
        const COUNTS: usize = [$(Count::$name),*].len();
    };
}

counts! {
    /// Requests answered by L1, L2, L3, by a load, by nothing.
    L1Hit, L2Hit, L3Hit, Loaded, Nothing,
    /// Requests answered with a stale value (beside their level).
    Stale,
    /// Requests that failed.
    Failed,
    /// L1 entries that were found expired, or not current.
    L1Expired, L1Unverified,
    /// Tier reads.
    L2Read, L2Error, L3Read, L3Error,
    /// Entries in a tier that could not be decoded.
    Undecodable,
    /// Loads.
    LoadOk, LoadError,
    /// Fills of L1 refused because an invalidation was newer.
    FillFenced,
    /// Fills of the tiers.
    L2Fill, L2FillRefused, L3Fill, L3FillRefused, L3FillDropped,
    /// Writes.
    SetOk, SetError, DeleteOk, DeleteError, ClearOk, ClearError,
    /// Invalidations of others applied here; gaps in the journal.
    Remote, Gaps,
    /// Sampled nanoseconds and samples a level.
    L1Nanos, L1Samples, L2Nanos, L2Samples, L3Nanos, L3Samples, LoadNanos, LoadSamples,
}

#[repr(align(128))]
struct Stripe([AtomicU64; COUNTS]);

/// All counters of one manager.
pub(crate) struct Counters(Box<[Stripe]>);

impl std::fmt::Debug for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counters").finish_non_exhaustive()
    }
}

/// The calling thread's stripe.
#[derive(Clone, Copy)]
pub(crate) struct Mine<'a> {
    stripe: &'a Stripe,
    alone: bool,
}

impl Counters {
    pub(crate) fn new() -> Self {
        Self((0..STRIPES).map(|_| Stripe(std::array::from_fn(|_| AtomicU64::new(0)))).collect())
    }

    #[inline]
    pub(crate) fn mine(&self) -> Mine<'_> {
        let slot = SLOT.try_with(|slot| slot.get()).unwrap_or(SHARED);
        Mine { stripe: &self.0[slot], alone: slot != SHARED }
    }

    #[inline]
    pub(crate) fn count(&self, what: Count) {
        self.mine().add(what, 1);
    }

    pub(crate) fn total(&self, what: Count) -> u64 {
        self.0.iter().map(|stripe| stripe.0[what as usize].load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn took(&self, nanos: Count, samples: Count, elapsed: Duration) {
        let mine = self.mine();
        mine.add(nanos, u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX));
        mine.add(samples, 1);
    }
}

impl Mine<'_> {
    /// Only the owning thread writes its stripe, so load and store suffice; the shared last one needs the addition.
    #[inline]
    pub(crate) fn add(self, what: Count, by: u64) {
        let cell = &self.stripe.0[what as usize];
        if self.alone {
            cell.store(cell.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
        } else {
            cell.fetch_add(by, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(crate) fn seen(self, what: Count) -> u64 {
        self.stripe.0[what as usize].load(Ordering::Relaxed)
    }
}

/// Stripe numbers that no living thread owns. The lock orders the last write of one owner before the first of the
/// next.
static FREE: Mutex<(Vec<usize>, usize)> = Mutex::new((Vec::new(), 0));

struct Owned(Cell<usize>);

impl Owned {
    #[inline]
    fn get(&self) -> usize {
        self.0.get()
    }

    fn take() -> Self {
        let mut free = FREE.lock();
        let slot = free.0.pop().unwrap_or_else(|| {
            let next = free.1.min(SHARED);
            free.1 = next + 1;
            next
        });
        Self(Cell::new(slot))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if self.0.get() != SHARED {
            FREE.lock().0.push(self.0.get());
        }
    }
}

thread_local! {
    static SLOT: Owned = Owned::take();
}
