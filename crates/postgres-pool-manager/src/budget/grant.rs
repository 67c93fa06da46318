//! Between a share and the pools: what they have open and need, and the limit that a share is to each of them, less what
//! is beside it.

use super::Claim;
use crate::pool::Pool;
use std::sync::{Arc, atomic::Ordering::Relaxed};

/// The prober's connection to each server.
const PROBER: u32 = 1;

/// What this instance has and needs at a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Local {
    pub(super) open: u32,
    wants: u32,
    most: u32,
    /// Callers wait, and the share is what keeps them waiting.
    pub(super) held_back: bool,
}

impl Local {
    pub(super) const fn claim(self) -> Claim {
        Claim { share: 0, wants: self.wants, most: self.most }
    }

    /// Of the server that is used most: the budget is each server's.
    pub(super) fn of(pools: &[Arc<Pool>]) -> Self {
        let most_of = |number: fn(&Pool) -> u32| pools.iter().map(|pool| number(pool)).max().unwrap_or(0);
        Self {
            open: most_of(|pool| {
                let counts = pool.counts();
                counts.in_use + counts.idle + counts.connecting + pool.beside()
            }),
            wants: most_of(|pool| {
                let (counts, limits) = (pool.counts(), pool.limits());
                let busy = counts.in_use.saturating_add(counts.waiting);
                let spare = (counts.in_use / 4).max(1);
                busy.saturating_add(spare).max(limits.min_idle).min(limits.wanted()) + pool.beside()
            }),
            most: most_of(|pool| pool.limits().wanted() + pool.beside()),
            held_back: pools.iter().any(|pool| {
                let (counts, limits) = (pool.counts(), pool.limits());
                let total = counts.in_use + counts.idle + counts.connecting;
                counts.waiting > 0 && total >= limits.cap && limits.cap < limits.wanted()
            }),
        }
    }
}

impl Pool {
    /// Connections to this server beside the pool: probers, the keeper, the migrator, direct ones.
    pub(crate) fn beside(&self) -> u32 {
        PROBER + self.door.beside.load(Relaxed)
    }

    /// No more connections to this server than `share` from now on, those beside the pool included.
    pub(crate) fn grant(self: &Arc<Self>, share: u32) {
        self.door.share.store(share, Relaxed);
        self.fit();
    }

    /// What is beside the pool has changed.
    pub(crate) fn fit(self: &Arc<Self>) {
        let share = self.door.share.load(Relaxed);
        if share != u32::MAX {
            self.cap(share.saturating_sub(self.beside()));
        }
    }
}
