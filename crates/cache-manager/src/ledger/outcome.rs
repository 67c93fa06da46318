//! What the ledger answers. Not here: how it decides.

use std::sync::Arc;
use std::time::Instant;

use crate::flight::Flight;
use crate::l1::Slot;

/// What a caller that missed does next.
#[derive(Debug)]
pub(crate) enum Join {
    /// Somebody stored the value meanwhile.
    Ready(Slot),
    /// Wait for this load.
    Wait(Arc<Flight>),
    /// Run this load.
    Lead(Led),
}

/// A load that the caller has to run.
#[derive(Debug)]
pub(crate) struct Led {
    /// The load, listed.
    pub(crate) flight: Arc<Flight>,
    /// Whether the tiers must be left alone.
    pub(crate) bypass: bool,
    /// What began before this is void, and must not be handed to those who join the load.
    pub(crate) fence: u64,
}

/// Where a read of the tiers begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begun {
    pub(crate) start: u64,
    pub(crate) at: Instant,
    /// Whether the tiers must be left alone.
    pub(crate) bypass: bool,
}

/// What became of a value that was to be stored in L1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    /// Stored, or what L1 has is newer in L2's order.
    Done,
    /// This process does not know whether it is current (a gap of the journal came in between): in L1 at most as a last
    /// resort, while the tiers, which have guards of their own, may take it.
    Unverified,
    /// Another read or load of the key was answered meanwhile, and which is newer is unknown: not stored in L1.
    Overtaken,
    /// An invalidation is newer: stored nowhere.
    Fenced,
}

/// The invalidation that [`Ledger::fence`] noted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fenced {
    pub(crate) at: u64,
    /// Whether there was no room to list it: then the region has to be delivered.
    pub(crate) overflow: bool,
}

/// How a load ended.
#[derive(Debug)]
pub(crate) struct Landing {
    pub(crate) fill: Fill,
    /// What those who wait for it get instead: what L1 has.
    pub(crate) instead: Option<Slot>,
}
