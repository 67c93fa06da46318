//! Keys whose loaded value was handed out, while L2 has not accepted it: not yet, or never, because it gave no answer or
//! the claim was lost during the load. The value may be newer than what a tier has or is about to get, and whoever saw
//! it should not see the older one. So what the tiers have of such a key counts only if its load began later; otherwise
//! whoever has a loader loads the key once more.
//!
//! It compares times of several processes, as far as they know the server's: a quarter of a second is added to be safe.
//! Nothing that the crate promises rests on it. Not here: invalidations (`ledger`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;
use quick_cache::DefaultHashBuilder;

use crate::key::Key;

/// Milliseconds.
const SLACK: u64 = 250;
/// Milliseconds: as long as an invalidation may be on its way, unless it fails and is repeated.
const KEPT: u64 = 2000;

/// See the module's text. Times are milliseconds of the coarse clock.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    /// Loads that began earlier are outdated.
    keys: RwLock<HashMap<Key, u64, DefaultHashBuilder>>,
    count: AtomicUsize,
    most: usize,
}

impl Beside {
    /// Beyond `most` keys no more are noted.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, ..Self::default() }
    }

    /// A load of `key` ends at `now`. Returns what [`forget`](Self::forget) has to show.
    pub(crate) fn note(&self, key: &Key, now: u64) -> u64 {
        let mut keys = self.keys.write();
        if keys.len() < self.most || keys.contains_key(key) {
            keys.insert(key.clone(), now + SLACK);
        }
        self.count.store(keys.len(), Ordering::SeqCst);
        now + SLACK
    }

    /// L2 has accepted it, unless another load was noted since.
    pub(crate) fn forget(&self, key: &Key, noted: u64) {
        let mut keys = self.keys.write();
        if keys.get(key) == Some(&noted) {
            keys.remove(key);
        }
        self.count.store(keys.len(), Ordering::SeqCst);
    }

    /// Whether a value of a tier, whose load began at `loaded_at`, may be older than what was handed out.
    pub(crate) fn outdates(&self, key: &Key, loaded_at: u64) -> bool {
        self.count.load(Ordering::SeqCst) > 0
            && self.keys.read().get(key).is_some_and(|until| loaded_at < *until)
    }

    pub(crate) fn sweep(&self, now: u64) {
        if self.count.load(Ordering::SeqCst) > 0 {
            let mut keys = self.keys.write();
            keys.retain(|_, until| now < *until + KEPT);
            self.count.store(keys.len(), Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_loads_are_outdated_for_a_while() {
        let (beside, key) = (Beside::new(1), Key::new(0, "k").unwrap());
        assert!(!beside.outdates(&key, 0));
        let first = beside.note(&key, 9_000);
        beside.note(&key, 10_000);
        beside.forget(&key, first);
        beside.note(&Key::new(0, "no room").unwrap(), 10_000);
        assert!(beside.outdates(&key, 10_249) && !beside.outdates(&key, 10_250));
        assert!(!beside.outdates(&Key::new(0, "no room").unwrap(), 0));
        beside.sweep(12_249);
        assert!(beside.outdates(&key, 10_249));
        beside.sweep(12_250);
        assert!(!beside.outdates(&key, 10_249));
    }
}
