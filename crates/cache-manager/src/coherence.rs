//! Whether this process hears what others invalidate. Not here: applying what it hears (`follow`).
//!
//! L1 entries are served while the journal proved, no longer than `disconnected_max_age` ago, that nothing is
//! missing. An entry read after that proof is as good as a proof of its own age: it is served until *its* read is
//! that old. So while the journal is silent L1 turns into a cache with a time to live of `disconnected_max_age`:
//! no value is served longer after another process invalidated it, and a long outage does not send every single
//! read to the database.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pubsub_manager::{JournalState, JournalView};
use resilience::clock::CoarseClock;

/// How much this process knows of the invalidations of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Coherence {
    /// There is no journal: this process is taken to be the only one.
    Local,
    /// Everything invalidated up to a second ago has been applied here.
    Current,
    /// The journal is being read, but its end has not been reached.
    CatchingUp {
        /// For how long not current.
        since: Duration,
    },
    /// The journal cannot be heard.
    Disconnected {
        /// For how long not current.
        since: Duration,
    },
}

impl Coherence {
    /// Whether nothing is missing: `Local` or `Current`.
    #[must_use]
    pub const fn is_current(self) -> bool {
        matches!(self, Self::Local | Self::Current)
    }
}

const ALWAYS: u64 = u64::MAX;

/// The state that every hit compares with.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Watch {
    /// Milliseconds of the coarse clock until which entries are served whenever they were read.
    serve_until: AtomicU64,
    max_age: u64,
    clock: CoarseClock,
    view: Option<JournalView>,
    /// Without a journal though others may be there.
    deaf: bool,
}

impl Watch {
    /// `deaf`: others may invalidate, but there is no journal to hear it from.
    pub(crate) fn new(view: Option<JournalView>, deaf: bool, max_age: Duration, clock: CoarseClock) -> Self {
        let local = view.is_none() && !deaf;
        let max_age = u64::try_from(max_age.as_millis()).unwrap_or(ALWAYS);
        Self { serve_until: AtomicU64::new(if local { ALWAYS } else { 0 }), max_age, clock, view, deaf }
    }

    /// Milliseconds of the coarse clock.
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        self.clock.now().as_millis()
    }

    /// Whether an entry that was read at `read_at` may be served at `now`.
    #[inline]
    pub(crate) fn serves(&self, now: u64, read_at: u64) -> bool {
        now <= self.serve_until.load(Ordering::Acquire) || now <= read_at.saturating_add(self.max_age)
    }

    /// Nothing was missing at `at`, and everything until then has been applied.
    pub(crate) fn proven(&self, at: u64) {
        self.serve_until.fetch_max(at.saturating_add(self.max_age), Ordering::AcqRel);
    }

    pub(crate) fn state(&self) -> Coherence {
        match &self.view {
            None if self.deaf => Coherence::Disconnected { since: Duration::from_millis(self.now()) },
            None => Coherence::Local,
            Some(view) => match view.state() {
                JournalState::Current => Coherence::Current,
                JournalState::CatchingUp { since } => Coherence::CatchingUp { since },
                JournalState::Disconnected { since } => Coherence::Disconnected { since },
                _ => Coherence::Disconnected { since: Duration::ZERO },
            },
        }
    }
}
