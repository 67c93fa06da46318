//! The manager: builds the engine from its parts, opens regions, answers for the whole. Not here: reads and writes
//! of values (`cache`, `load`, `invalidate`).

use std::any::TypeId;
use std::sync::Arc;
use std::time::Duration;

use pubsub_manager::Journal;
use resilience::clock::CoarseClock;
use resilience::{Breaker, BreakerStatus, Deadline};

use crate::answer::{BoxError, CacheValue, ClearScope, Hit, Invalidated, LoadCtx, Loaded};
use crate::cache::Cache;
use crate::coherence::{Coherence, Watch};
use crate::config::{Config, RegionOptions};
use crate::core::{Core, Parts};
use crate::counters::{Count, Counters};
use crate::error::CacheError;
use crate::region::Region;
use crate::stats::CacheStats;
use crate::tier::{Guarded, Tier};
use crate::{follow, metrics};

/// The region of the plain face.
const DEFAULT: &str = "default";

/// What a manager is built on. Nothing of it is required: without Redis it is L1 and L3, without both L1 alone.
#[derive(Debug, Default)]
pub struct Deps {
    /// L2.
    #[cfg(feature = "redis")]
    pub redis: Option<redis_link::RedisLink>,
    /// L3. Its database is migrated with [`migrations`](crate::migrations); until it is, L3 is left out.
    #[cfg(feature = "postgres")]
    pub postgres: Option<postgres_pool_manager::PostgresPoolManager>,
    /// How processes hear of each other's invalidations. Without it, and without L2, this process is taken to be the
    /// only one; without it but with L2, L1 serves nothing older than `disconnected_max_age`.
    pub journal: Option<Journal>,
    /// A tier of one's own in place of Redis.
    pub l2: Option<Arc<dyn Tier>>,
    /// A tier of one's own in place of Postgres.
    pub l3: Option<Arc<dyn Tier>>,
}

/// How a tier is doing.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TierStatus {
    /// `l2` or `l3`.
    pub tier: &'static str,
    /// Its breaker.
    pub breaker: BreakerStatus,
}

/// How the manager is doing.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CacheStatus {
    /// Whether every level works and the process is current. A cache that is not healthy still answers.
    pub healthy: bool,
    /// What this process knows of the invalidations of others.
    pub coherence: Coherence,
    /// The tiers in use.
    pub tiers: Vec<TierStatus>,
    /// Keys whose invalidation has not been delivered yet.
    pub pending_invalidations: usize,
}

/// The cache of a process; cloning shares it, and the last handle of any kind ends it. See the [crate's text](crate).
#[derive(Debug, Clone)]
pub struct CacheManager {
    core: Arc<Core>,
    default: Arc<Region>,
}

impl Config {
    /// Builds a manager and starts its background tasks on the current runtime. Asks no server for anything.
    ///
    /// # Errors
    /// [`CacheError::Settings`] with every problem.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn build(self, deps: Deps) -> Result<CacheManager, CacheError> {
        self.validate().map_err(CacheError::Settings)?;
        let runtime = tokio::runtime::Handle::current();
        let counters = Arc::new(Counters::new());
        let guard = |tier: Arc<dyn Tier>, limit, errors| {
            Arc::new(Guarded::new(tier, limit, Arc::clone(&counters), errors))
        };
        let l2 = deps.l2_tier(&self).map(|tier| guard(tier, self.l2_timeout, Count::L2Error));
        #[cfg(feature = "postgres")]
        let own_l3 = deps.own_l3(&self);
        #[cfg(feature = "postgres")]
        let l3 = own_l3.clone().map(|tier| tier as Arc<dyn Tier>).or_else(|| deps.l3.clone());
        #[cfg(not(feature = "postgres"))]
        let l3 = deps.l3.clone();
        let l3 = l3.filter(|_| self.l3_enabled).map(|tier| guard(tier, self.l3_timeout, Count::L3Error));
        let reader = deps.journal.as_ref().map(|journal| journal.reader(None));
        let deaf = reader.is_none() && l2.is_some();
        let view = reader.as_ref().map(pubsub_manager::JournalReader::view);
        let watch = Watch::new(view, deaf, self.disconnected_max_age, CoarseClock::system());
        let parts = Parts {
            watch,
            l2,
            l3,
            #[cfg(feature = "postgres")]
            own_l3,
            journal: deps.journal,
            runtime,
            counters,
        };
        let core = Arc::new(Core::new(self, parts));
        let default = core.open(DEFAULT, &RegionOptions::default(), None)?;
        metrics::register(&core);
        follow::start(&core, reader);
        Ok(CacheManager { core, default })
    }
}

impl Deps {
    fn l2_tier(&self, _config: &Config) -> Option<Arc<dyn Tier>> {
        #[cfg(feature = "redis")]
        if let (None, Some(link)) = (&self.l2, &self.redis) {
            return Some(Arc::new(crate::tier::RedisTier::new(link.clone(), _config.load_lease)));
        }
        self.l2.clone()
    }

    #[cfg(feature = "postgres")]
    fn own_l3(&self, config: &Config) -> Option<Arc<crate::tier::PostgresTier>> {
        let pool = self.postgres.as_ref().filter(|_| config.l3_enabled && self.l3.is_none())?;
        Some(Arc::new(crate::tier::PostgresTier::new(pool.clone(), config.hard_timeout)))
    }
}

impl CacheManager {
    /// A region with values of type `V`; the first opening in the process decides its options.
    ///
    /// # Errors
    /// [`CacheError::RegionName`], [`CacheError::RegionType`], [`CacheError::TooManyRegions`], [`CacheError::Ttl`].
    #[expect(clippy::needless_pass_by_value, reason = "options are written at the call")]
    pub fn region<V: CacheValue>(&self, name: &str, options: RegionOptions) -> Result<Cache<V>, CacheError> {
        let holds = (name != DEFAULT).then(|| (TypeId::of::<V>(), std::any::type_name::<V>()));
        let region = self.core.open(name, &options, holds)?;
        Ok(Cache::new(Arc::clone(&self.core), region))
    }

    /// The region `default`, which holds values of any type.
    fn plain<V: CacheValue>(&self) -> Cache<V> {
        Cache::new(Arc::clone(&self.core), Arc::clone(&self.default))
    }

    /// [`Cache::get`] of the region `default`.
    ///
    /// # Errors
    /// As [`Cache::get`].
    pub async fn get<V: CacheValue>(&self, key: &str) -> Result<Option<Arc<V>>, CacheError> {
        self.plain::<V>().get(key).await
    }

    /// [`Cache::set`] of the region `default`; `None` takes its time to live.
    ///
    /// # Errors
    /// As [`Cache::set_with_ttl`].
    pub async fn set<V: CacheValue>(
        &self,
        key: &str,
        value: V,
        ttl: Option<Duration>,
    ) -> Result<Invalidated, CacheError> {
        let cache = self.plain::<V>();
        match ttl {
            Some(ttl) => cache.set_with_ttl(key, value, ttl).await,
            None => cache.set(key, value).await,
        }
    }

    /// [`Cache::remove`] of the region `default`.
    ///
    /// # Errors
    /// As [`Cache::invalidate`].
    pub async fn remove(&self, key: &str) -> Result<Invalidated, CacheError> {
        self.plain::<()>().invalidate(key).await
    }

    /// [`Cache::get_or_load`] of the region `default`.
    ///
    /// # Errors
    /// As [`Cache::get_or_load`].
    pub async fn get_or_load<V, F, Fut, E>(&self, key: &str, loader: F) -> Result<Hit<V>, CacheError>
    where
        V: CacheValue,
        F: FnOnce(LoadCtx<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Loaded<V>, E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        self.plain::<V>().get_or_load(key, loader).await
    }

    /// Forgets everything: in this process's L1 alone, or in every level and process.
    ///
    /// # Errors
    /// As [`Cache::invalidate`].
    pub async fn clear(&self, scope: ClearScope) -> Result<Invalidated, CacheError> {
        match scope {
            ClearScope::L1 => {
                for region in self.core.regions() {
                    self.core.l1.remove_region(region.id);
                }
                Ok(Invalidated::Applied)
            }
            ClearScope::All => self.core.clear_everything().await,
        }
    }

    /// Figures since the manager was built.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        CacheStats::of(&self.core)
    }

    /// How the manager is doing, without asking anybody.
    #[must_use]
    pub fn status(&self) -> CacheStatus {
        let tiers = [("l2", &self.core.l2), ("l3", &self.core.l3)];
        CacheStatus {
            healthy: self.core.healthy(),
            coherence: self.core.watch.state(),
            tiers: tiers
                .into_iter()
                .filter_map(|(tier, guarded)| {
                    guarded.as_ref().map(|g| TierStatus { tier, breaker: g.status() })
                })
                .collect(),
            pending_invalidations: self.core.ledger.pending(),
        }
    }

    /// What this process knows of the invalidations of others.
    #[must_use]
    pub fn coherence(&self) -> Coherence {
        self.core.watch.state()
    }

    /// The breakers of the tiers, to be shown and reset: `cache_l2`, `cache_l3`.
    #[must_use]
    pub fn breakers(&self) -> Vec<(&'static str, Breaker)> {
        let tiers = [("cache_l2", &self.core.l2), ("cache_l3", &self.core.l3)];
        tiers
            .into_iter()
            .filter_map(|(name, tier)| tier.as_ref().map(|t| (name, t.breaker().clone())))
            .collect()
    }

    /// Asks the tiers for an answer.
    ///
    /// Cancel safety: safe.
    ///
    /// # Errors
    /// [`CacheError::Unhealthy`] with the first tier that does not answer; reads still work, with the levels left.
    pub async fn health_check(&self, deadline: Deadline) -> Result<Duration, CacheError> {
        let began = std::time::Instant::now();
        for (tier, guarded) in [("l2", &self.core.l2), ("l3", &self.core.l3)] {
            if let Some(guarded) = guarded {
                let answer = guarded.ping(deadline).await;
                answer.map_err(|e| CacheError::Unhealthy { tier, reason: e.to_string() })?;
            }
        }
        Ok(began.elapsed())
    }

    /// Changes how many entries L1 holds, while it runs. At least 1.
    pub fn resize_l1(&self, entries: usize) {
        self.core.l1.resize(entries.max(1));
    }

    /// Delivers what is pending, ends the background tasks, waits up to `grace` for loads under way. Misses fail with
    /// [`CacheError::Shutdown`] from then on.
    ///
    /// Cancel safety: safe; the tasks end anyway.
    pub async fn shutdown(&self, grace: Duration) {
        let end = async {
            // Others should not have to wait for expiry because this process ends.
            self.core.redeliver().await;
            self.core.stop.cancel();
            self.core.tasks.close();
            self.core.tasks.wait().await;
        };
        let _ = tokio::time::timeout(grace, end).await;
        self.core.stop.cancel();
    }
}

impl Core {
    /// Whether every level works and the process is current.
    pub(crate) fn healthy(&self) -> bool {
        let closed = |tier: &Arc<Guarded>| tier.breaker().state() == resilience::BreakerState::Closed;
        let tiers = [&self.l2, &self.l3].into_iter().flatten();
        self.watch.state().is_current() && !self.l3_missing() && tiers.into_iter().all(closed)
    }
}
