//! L1: one map for the process, holding values and not bytes, of whatever type each region has. Not here: whether an
//! entry may be served (`coherence`, `region`) and whether it may be stored (`ledger`).

use std::any::Any;
use std::sync::Arc;

use quick_cache::sync::Cache;

use crate::key::{Key, KeyRef};

/// A value of any region's type.
pub(crate) type AnyValue = Arc<dyn Any + Send + Sync>;

/// An entry. All moments are milliseconds of the coarse clock; `start` is a position of the ledger.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    /// The value; `None` is a known absence.
    pub(crate) value: Option<AnyValue>,
    /// The ledger's position when the load, or the read of L2 or L3, that brought this value began.
    pub(crate) start: u64,
    /// Order of this value among values of the same key from L2; 0 where L2 had no part in it.
    pub(crate) version: u64,
    /// When the load or read began.
    pub(crate) read_at: u64,
    /// When the value was loaded from its source, as far as known.
    pub(crate) loaded_at: u64,
    /// Served without a question until then.
    pub(crate) fresh_until: u64,
    /// Served when loading fails or is slow until then.
    pub(crate) keep_until: u64,
}

/// The map.
#[derive(Debug)]
pub(crate) struct L1(Cache<Key, Slot>);

impl L1 {
    pub(crate) fn new(entries: usize) -> Self {
        Self(Cache::new(entries))
    }

    #[inline]
    pub(crate) fn get(&self, key: KeyRef<'_>) -> Option<Slot> {
        self.0.get(&key)
    }

    /// As [`get`](Self::get), without counting as a use for eviction.
    pub(crate) fn look(&self, key: KeyRef<'_>) -> Option<Slot> {
        self.0.peek(&key)
    }

    pub(crate) fn insert(&self, key: Key, slot: Slot) {
        self.0.insert(key, slot);
    }

    pub(crate) fn remove(&self, key: &Key) {
        self.0.remove(key);
    }

    pub(crate) fn remove_region(&self, region: u32) {
        self.0.retain(|key, _| key.region != region);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn capacity(&self) -> usize {
        usize::try_from(self.0.capacity()).unwrap_or(usize::MAX)
    }

    pub(crate) fn resize(&self, entries: usize) {
        self.0.set_capacity(entries as u64);
    }
}
