//! The engine that all handles share: L1, the ledger, the tiers, the journal, the regions. Not here: what is done with
//! them.

use std::any::TypeId;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use pubsub_manager::Journal;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::beside::Beside;
use crate::coherence::Watch;
use crate::config::{Config, MAX_REGIONS, RegionOptions};
use crate::counters::{Count, Counters};
use crate::error::CacheError;
use crate::key::Key;
use crate::l1::{L1, Slot};
use crate::ledger::Ledger;
use crate::region::{PendingFlag, Region, Settled, check_name};
use crate::stats::Window;
use crate::tier::{Guarded, TierKey};

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: Config,
    /// Tells this manager's own notices in the journal from those of others.
    pub(crate) instance: u64,
    pub(crate) l1: L1,
    pub(crate) ledger: Ledger,
    pub(crate) beside: Beside,
    pub(crate) watch: Watch,
    pub(crate) counters: Arc<Counters>,
    pub(crate) l2: Option<Arc<Guarded>>,
    pub(crate) l3: Option<Arc<Guarded>>,
    /// L3 once more, where it is ours.
    #[cfg(feature = "postgres")]
    pub(crate) own_l3: Option<Arc<crate::tier::PostgresTier>>,
    pub(crate) journal: Option<Journal>,
    pub(crate) runtime: Handle,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    pub(crate) window: Mutex<Window>,
    pub(crate) latency: crate::metrics::Latency,
    pub(crate) everything: Arc<PendingFlag>,
    l3_budget: Budget,
    regions: RwLock<Regions>,
}

#[derive(Debug, Default)]
pub(crate) struct Regions {
    by_name: HashMap<String, Arc<Region>>,
    by_id: Vec<Arc<Region>>,
}

/// The parts that [`Core::new`] puts together.
pub(crate) struct Parts {
    pub(crate) watch: Watch,
    pub(crate) l2: Option<Arc<Guarded>>,
    pub(crate) l3: Option<Arc<Guarded>>,
    #[cfg(feature = "postgres")]
    pub(crate) own_l3: Option<Arc<crate::tier::PostgresTier>>,
    pub(crate) journal: Option<Journal>,
    pub(crate) runtime: Handle,
    pub(crate) counters: Arc<Counters>,
}

impl Drop for Core {
    /// Ends the background tasks, which hold the engine weakly; loads under way keep it.
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Core {
    pub(crate) fn new(config: Config, parts: Parts) -> Self {
        Self {
            instance: rand::random(),
            l1: L1::new(config.l1_entries),
            ledger: Ledger::new(&config),
            beside: Beside::new(config.max_fences),
            watch: parts.watch,
            counters: parts.counters,
            l2: parts.l2,
            l3: parts.l3,
            #[cfg(feature = "postgres")]
            own_l3: parts.own_l3,
            journal: parts.journal,
            runtime: parts.runtime,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            window: Mutex::new(Window::default()),
            latency: crate::metrics::Latency::new(),
            everything: Arc::default(),
            l3_budget: Budget::new(config.l3_writes_per_s),
            regions: RwLock::default(),
            config,
        }
    }

    /// Opens a region, or finds it; its first opening decides its options and type.
    pub(crate) fn open(
        &self,
        name: &str,
        options: &RegionOptions,
        holds: Option<(TypeId, &'static str)>,
    ) -> Result<Arc<Region>, CacheError> {
        check_name(name)?;
        let settled = Settled::of(&self.config, options)?;
        let mut regions = self.regions.write();
        if let Some(region) = regions.by_name.get(name) {
            return match (region.holds, holds) {
                (Some((held, holds)), Some((asked, asks))) if held != asked => {
                    Err(CacheError::RegionType { region: name.to_owned(), holds, asked: asks })
                }
                _ => Ok(Arc::clone(region)),
            };
        }
        if regions.by_id.len() >= MAX_REGIONS {
            return Err(CacheError::TooManyRegions { region: name.to_owned(), limit: MAX_REGIONS });
        }
        let id = u32::try_from(regions.by_id.len()).unwrap_or(u32::MAX);
        let region = Arc::new(Region::new(id, name, settled, holds, Arc::clone(&self.everything)));
        regions.by_id.push(Arc::clone(&region));
        regions.by_name.insert(name.to_owned(), Arc::clone(&region));
        Ok(region)
    }

    pub(crate) fn region_named(&self, name: &str) -> Option<Arc<Region>> {
        self.regions.read().by_name.get(name).cloned()
    }

    pub(crate) fn region_of(&self, key: &Key) -> Option<Arc<Region>> {
        self.regions.read().by_id.get(key.region as usize).cloned()
    }

    pub(crate) fn regions(&self) -> Vec<Arc<Region>> {
        self.regions.read().by_id.clone()
    }

    /// L2, where the region uses it.
    pub(crate) fn l2_of(&self, region: &Region) -> Option<&Guarded> {
        self.l2.as_deref().filter(|_| !region.options.skip_l2)
    }

    /// L3, where the region uses it.
    pub(crate) fn l3_of(&self, region: &Region) -> Option<&Guarded> {
        self.l3.as_deref().filter(|_| !region.options.skip_l3)
    }

    /// L3, where it is likely to save time: a load costs several reads of L3, or that is not known yet.
    pub(crate) fn l3_worth(&self, region: &Region) -> Option<&Guarded> {
        let l3 = self.l3_of(region).filter(|_| !self.l3_missing())?;
        match (region.load_cost().known(), l3.cost().known()) {
            (Some(load), Some(read))
                if load.as_secs_f64() < read.as_secs_f64() * self.config.l3_admission =>
            {
                None
            }
            _ => Some(l3),
        }
    }

    /// Whether L3 is known to have no tables. Invalidations go to it nevertheless: another process may have made them.
    pub(crate) fn l3_missing(&self) -> bool {
        #[cfg(feature = "postgres")]
        return self.own_l3.as_ref().is_some_and(|l3| l3.is_missing());
        #[cfg(not(feature = "postgres"))]
        false
    }

    /// Whether L3 may be filled at this moment; a refusal is counted.
    pub(crate) fn l3_may_fill(&self) -> bool {
        let allowed = self.l3_budget.take();
        if !allowed {
            self.counters.count(Count::L3FillDropped);
        }
        allowed
    }

    /// Whether anybody but L1 has to hear of invalidations of this region.
    pub(crate) fn shares(&self, region: &Region) -> bool {
        self.journal.is_some() || self.l2_of(region).is_some() || self.l3_of(region).is_some()
    }

    /// Whether an L1 entry may be served at `now`.
    #[inline]
    pub(crate) fn servable(&self, region: &Region, slot: &Slot, now: u64) -> bool {
        slot.start >= region.soft_floor() && now < slot.fresh_until && self.watch.serves(now, slot.read_at)
    }

    /// Whether an entry that may not be served may still be the last resort.
    pub(crate) fn keepable(&self, region: &Region, slot: &Slot, now: u64) -> bool {
        slot.start >= region.hard_floor() && now < slot.keep_until
    }

    pub(crate) fn is_shut_down(&self) -> bool {
        self.stop.is_cancelled()
    }
}

/// The key as tiers know it.
pub(crate) fn tier_key(region: &Region, key: &Key) -> TierKey {
    TierKey { region: Arc::clone(&region.name), key: Arc::clone(&key.text) }
}

/// So many a second, with a second's worth saved up at most.
#[derive(Debug)]
struct Budget {
    opened: Instant,
    per_second: u64,
    /// Thousandths spent since the opening, never far behind what was given out.
    spent: AtomicU64,
}

impl Budget {
    fn new(per_second: u32) -> Self {
        Self { opened: Instant::now(), per_second: u64::from(per_second), spent: AtomicU64::new(0) }
    }

    fn take(&self) -> bool {
        let given = (self.opened.elapsed() + Duration::from_secs(1)).as_millis();
        let given = u64::try_from(given).unwrap_or(u64::MAX).saturating_mul(self.per_second);
        let floor = given.saturating_sub(self.per_second * 1000);
        self.spent
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |spent| {
                let next = spent.max(floor) + 1000;
                (next <= given).then_some(next)
            })
            .is_ok()
    }
}
