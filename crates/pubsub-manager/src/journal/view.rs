//! What a reader's consumer has worked off, readable from any thread in a few nanoseconds. It decides nothing.

use super::{JournalId, JournalState};
use resilience::clock::{CoarseClock, CoarseInstant};
use std::{
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

/// "Never" for the two moments below.
const NEVER: u64 = u64::MAX;

/// The position and freshness of one [`JournalReader`](crate::JournalReader); cheap to clone and to ask.
///
/// It moves when the consumer comes back for the next event: calling
/// [`JournalReader::next`](crate::JournalReader::next) says that the event before has been worked off.
#[derive(Clone, Debug)]
pub struct JournalView(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    clock: CoarseClock,
    opened: CoarseInstant,
    limit: Duration,
    applied: AtomicU64,
    proven: AtomicU64,
    heard: AtomicU64,
}

impl JournalView {
    pub(crate) fn new(clock: CoarseClock, limit: Duration) -> Self {
        let opened = clock.now();
        let moment = || AtomicU64::new(NEVER);
        let (proven, heard) = (moment(), moment());
        Self(Arc::new(Shared { clock, opened, limit, applied: AtomicU64::new(0), proven, heard }))
    }

    /// Id of the last event worked off; epoch 0 before the first one.
    #[must_use]
    pub fn applied(&self) -> JournalId {
        JournalId::from_packed(self.0.applied.load(Acquire))
    }

    /// How much is known at this moment.
    #[must_use]
    pub fn state(&self) -> JournalState {
        let now = self.0.clock.now();
        let age = |moment: &AtomicU64| match moment.load(Acquire) {
            NEVER => None,
            at => Some(now.saturating_since(CoarseInstant::from_millis(at))),
        };
        let proven = age(&self.0.proven);
        if proven.is_some_and(|age| age <= self.0.limit) {
            return JournalState::Current;
        }
        let since = proven.unwrap_or_else(|| now.saturating_since(self.0.opened));
        if age(&self.0.heard).is_some_and(|age| age <= self.0.limit) {
            JournalState::CatchingUp { since }
        } else {
            JournalState::Disconnected { since }
        }
    }

    pub(crate) fn now(&self) -> CoarseInstant {
        self.0.clock.now()
    }

    pub(crate) fn heard(&self, at: CoarseInstant) {
        self.0.heard.store(at.as_millis(), Release);
    }

    /// How long ago an entry was received; `None` before the first one.
    pub(crate) fn silence(&self) -> Option<Duration> {
        match self.0.heard.load(Relaxed) {
            NEVER => None,
            at => Some(self.now().saturating_since(CoarseInstant::from_millis(at))),
        }
    }

    pub(crate) fn worked_off(&self, id: JournalId, proof: Option<CoarseInstant>) {
        self.0.applied.store(id.packed(), Release);
        if let Some(at) = proof {
            self.0.proven.store(at.as_millis(), Release);
        }
    }
}
