//! The words of the journal: ids, events, states. No behaviour beyond reading and printing them.

use bytes::Bytes;
use std::{fmt, time::Duration};

/// Where an entry stands: the epoch of the store it was written under, then a number without holes.
///
/// Ordered: a later entry has a greater id, also across a loss of the store, because epochs only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JournalId {
    /// Epoch of the store at the append.
    pub epoch: u32,
    /// 1 for the first entry of an epoch, then one more each.
    pub sequence: u64,
}

impl JournalId {
    /// An id from its parts.
    #[must_use]
    pub const fn new(epoch: u32, sequence: u64) -> Self {
        Self { epoch, sequence }
    }

    /// Whether `self` is the very next entry after `earlier`.
    #[must_use]
    pub const fn follows(self, earlier: Self) -> bool {
        self.epoch == earlier.epoch && self.sequence == earlier.sequence + 1
    }

    /// The id as one number of the same order: 24 bits of epoch over 40 bits of sequence. For atomics and for
    /// versions in envelopes. A sequence beyond 2^40 (a million a second for twelve days) saturates.
    #[must_use]
    pub const fn packed(self) -> u64 {
        let sequence = if self.sequence > SEQUENCE_MASK { SEQUENCE_MASK } else { self.sequence };
        ((self.epoch as u64) << SEQUENCE_BITS) | sequence
    }

    /// The reverse of [`packed`](Self::packed).
    #[must_use]
    pub const fn from_packed(packed: u64) -> Self {
        Self { epoch: (packed >> SEQUENCE_BITS) as u32, sequence: packed & SEQUENCE_MASK }
    }
}

const SEQUENCE_BITS: u32 = 40;
const SEQUENCE_MASK: u64 = (1 << SEQUENCE_BITS) - 1;

impl fmt::Display for JournalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.sequence)
    }
}

/// A random number that names one publisher for as long as it lives: one [`Journal`](crate::Journal), or one
/// [`PubSubManager`](crate::PubSubManager).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublisherId(pub u64);

impl fmt::Display for PublisherId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl PublisherId {
    pub(crate) fn random() -> Self {
        Self(rand::random())
    }
}

/// What a [`JournalReader`](crate::JournalReader) hands out, in the order of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JournalEvent {
    /// An entry; the reader's position is now its id.
    Entry(JournalEntry),
    /// Entries before `resumes_after` may have been missed: what they would have said is unknown.
    Gap {
        /// What was noticed.
        cause: JournalGap,
        /// The reader's position now; every later entry is greater.
        resumes_after: JournalId,
    },
    /// Nothing new, and the journal is alive.
    Heartbeat {
        /// The heartbeat's own id: heartbeats are entries without content.
        id: JournalId,
    },
}

/// One entry of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalEntry {
    /// Its place.
    pub id: JournalId,
    /// Who appended it; compare with [`Journal::publisher`](crate::Journal::publisher) to know one's own.
    pub publisher: PublisherId,
    /// What was appended.
    pub payload: Bytes,
}

/// Why entries may have been missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum JournalGap {
    /// The reader starts here; what came before was never its business. Always the first event of a reader
    /// without a starting id.
    Opened,
    /// The next id was not the last one plus one: entries were trimmed away before they were read.
    Missed {
        /// How many.
        count: u64,
    },
    /// The store lost or may have lost something: restart, failover, flush.
    EpochChanged,
    /// The store's last id is below the reader's: it was rolled back.
    RolledBack,
    /// The journal is gone from the store.
    Missing,
    /// An entry that this version cannot read.
    Unreadable,
}

/// How much a reader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JournalState {
    /// Everything appended up to at most one second ago has been handed out and worked off.
    Current,
    /// Connected, entries are coming in, and the end has not been reached yet.
    CatchingUp {
        /// For how long not current.
        since: Duration,
    },
    /// Nothing was heard for a second.
    Disconnected {
        /// For how long nothing was heard: everything appended since then is unknown.
        since: Duration,
    },
}

impl JournalState {
    /// Whether this is [`JournalState::Current`].
    #[must_use]
    pub const fn is_current(self) -> bool {
        matches!(self, Self::Current)
    }

    /// For how long not current; zero when current.
    #[must_use]
    pub const fn since(self) -> Duration {
        match self {
            Self::Current => Duration::ZERO,
            Self::CatchingUp { since } | Self::Disconnected { since } => since,
        }
    }
}
