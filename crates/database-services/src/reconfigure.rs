//! New settings on running services: validate, build what changed beside what runs, check its health, swap, drain
//! the old. A new part that is not healthy is taken down again, and the old settings stay in force.
//!
//! What changes how: `DATABASE_POOL_SIZE`, `DATABASE_MAX_OVERFLOW` and `CACHE_L1_SIZE` in place; any other Postgres
//! setting makes a new pool and cache; a Redis setting new links, locks, channels, journal and cache; a cache setting
//! a new cache. Settings of the process (HTTP, log, health, security) need a restart, and the report says so.
//!
//! Redis must answer for its own settings; while it is down, those of Postgres and the cache can be changed all the same.
//!
//! Not yet: the contents of L1 and the regions' options do not move to a new cache.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cache_manager::ClearScope;
use resilience::Deadline;
use serde::Serialize;

use crate::links::Links;
use crate::parts::{self, Messages, Parts, Started};
use crate::settings::{Group, Settings};
use crate::{DatabaseServices, Error, ReconfigureError, ServiceState, configs};

/// What a reconfigure did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ReconfigureReport {
    /// Names of the settings that differ.
    pub changed: Vec<&'static str>,
    /// Components that were built anew; the old ones are being drained.
    pub rebuilt: Vec<&'static str>,
    /// Components that were changed while they ran.
    pub adjusted: Vec<&'static str>,
    /// Components that were carried over untouched.
    pub carried_over: Vec<&'static str>,
    /// Changed settings that take effect at the next start only.
    pub needs_restart: Vec<&'static str>,
    /// How long it took until the new ones served, in ms.
    pub took_ms: u64,
}

/// How long a new part may take to prove itself.
const PROOF: Duration = Duration::from_secs(10);

/// Requests that took their handle just before the swap still have to begin, and loads under way to end, before the
/// old parts refuse them. At most half of the grace.
const LINGER: Duration = Duration::from_millis(500);

/// Changed in place.
const TUNABLE: &[&str] = &[
    "DATABASE_POOL_SIZE",
    "DATABASE_MAX_OVERFLOW",
    "DATABASE_MAX_CONNECTIONS",
    "DATABASE_AUTO_MIGRATE",
    "CACHE_L1_SIZE",
];

/// What has to be built anew.
#[derive(Clone, Copy, Debug)]
struct Plan {
    database: bool,
    redis: bool,
    cache: bool,
    locks: bool,
}

impl Plan {
    fn of(changed: &[(&'static str, Group)]) -> Self {
        let touches = |group| changed.iter().any(|(name, g)| *g == group && !TUNABLE.contains(name));
        let (database, redis) = (touches(Group::Postgres), touches(Group::Redis));
        Self {
            database,
            redis,
            cache: database || redis || touches(Group::Cache),
            locks: redis || touches(Group::Locks),
        }
    }

    /// Channels are where the links lead, or in the database where there are none.
    fn bus(self, old: &Parts) -> bool {
        self.redis || (self.database && old.links.is_none())
    }

    fn rebuilt(self, old: &Parts) -> impl Iterator<Item = (&'static str, bool)> {
        let [database, redis, cache, locks] = [self.database, self.redis, self.cache, self.locks];
        [
            ("database", database),
            ("redis", redis),
            ("pubsub", self.bus(old)),
            ("cache", cache),
            ("locks", locks),
        ]
        .into_iter()
    }
}

impl DatabaseServices {
    /// Takes over new settings without a restart. Requests under way go on with the old parts, which are drained
    /// within `DATABASE_SERVICES_SHUTDOWN_GRACE` after the swap; one at a time. A [`shutdown`](Self::shutdown) ends one
    /// that is under way.
    ///
    /// Cancel safety: dropped before the swap, nothing has changed; the swap itself has no await.
    ///
    /// # Errors
    /// [`ReconfigureError`]: the old settings are in force as before, and the error says why.
    pub async fn reconfigure(&self, settings: Settings) -> Result<ReconfigureReport, ReconfigureError> {
        let _life = self.inner.life.lock().await;
        let started = Instant::now();
        let changed = self.settings().changed(&settings);
        let names: Vec<_> = changed.iter().map(|(name, _)| *name).collect();
        let kept = |cause| ReconfigureError { changed: names.clone(), cause: Box::new(cause) };
        let old = self.try_parts().map_err(&kept)?;
        if self.state() != ServiceState::Running {
            return Err(kept(Error::Shutdown));
        }
        configs::check(self.inner.mode, &settings).map_err(&kept)?;
        let plan = Plan::of(&changed);
        let mut fresh = Started::default();
        let build = Box::pin(self.build(plan, &settings, &old, &mut fresh));
        let built = tokio::select! {
            biased;
            // A shutdown does not wait for a migration.
            () = self.inner.stop.cancelled() => Err(Error::Shutdown),
            built = build => built,
        };
        let new = match built {
            Ok(new) => new,
            Err(error) => {
                tracing::error!(error = crate::error::told(&error), settings = ?names, "reconfigure refused, the settings in force are kept");
                fresh.unwind(parts::soon()).await;
                return Err(kept(error));
            }
        };
        let mut report = match self.adjust(plan, &settings, &old) {
            Ok(report) => report,
            Err(error) => {
                fresh.unwind(parts::soon()).await;
                return Err(kept(error));
            }
        };
        self.inner.parts.store(Some(Arc::new(new.clone())));
        new.epochs.use_pool(new.database.clone());
        crate::probes::register_breakers(&self.inner, &new);
        self.drain_replaced(plan, &old, &new, settings.shutdown_grace);
        for (name, rebuilt) in plan.rebuilt(&old) {
            if rebuilt {
                report.rebuilt.push(name);
            } else if !report.adjusted.contains(&name) {
                report.carried_over.push(name);
            }
        }
        let process = |g: &Group| matches!(g, Group::Service | Group::Health | Group::Security);
        report.needs_restart = changed.iter().filter(|(_, g)| process(g)).map(|(name, _)| *name).collect();
        report.changed = names;
        report.took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(changed = ?report.changed, rebuilt = ?report.rebuilt, "reconfigured");
        Ok(report)
    }

    /// New parts beside the old ones, each healthy.
    async fn build(
        &self,
        plan: Plan,
        settings: &Settings,
        old: &Parts,
        fresh: &mut Started,
    ) -> Result<Parts, Error> {
        let mode = self.inner.mode;
        let deadline = Deadline::after(PROOF);
        let mut new = Parts { settings: settings.clone(), ..old.clone() };
        if plan.database {
            new.database = parts::open_database(mode, settings).await?;
            fresh.database = Some(new.database.clone());
            parts::prepare_schema(&new.database, settings).await?;
            let proof = new.database.health_check(deadline).await;
            proof.map_err(|e| unhealthy("database", &e))?;
            new.epochs = Arc::new(crate::epochs::PostgresEpochs::new(new.database.clone()));
        }
        if plan.database && !plan.redis {
            // The links stay, and ask the new database from the swap on.
            new.epochs = Arc::clone(&old.epochs);
        }
        if plan.redis {
            new.links = Links::open(settings, &new.epochs).await?;
            fresh.links.clone_from(&new.links);
            for (_, link) in new.links.iter().flat_map(Links::all) {
                link.ready(deadline).await.map_err(|e| unhealthy("redis", &e))?;
            }
        }
        if plan.bus(old) {
            new.bus = Messages::open(new.links.as_ref(), &new.database)?;
            fresh.bus = Some(new.bus.clone());
            new.bus.pubsub.health_check(deadline).await.map_err(|e| unhealthy("pubsub", &e))?;
        }
        if plan.database || plan.bus(old) {
            new.outbox = parts::open_outbox(&new.database, &new.bus)?;
            fresh.outbox = Some(new.outbox.clone());
        }
        if plan.cache {
            new.cache = parts::open_cache(mode, settings, &new.database, new.links.as_ref(), &new.bus)?;
            fresh.cache = Some(new.cache.clone());
            if let Err(error) = new.cache.health_check(deadline).await {
                // With the links carried over, a level that does not answer the old cache either is no fault of the new
                // settings, and no reason to refuse them.
                if plan.redis || old.cache.health_check(deadline).await.is_ok() {
                    return Err(unhealthy("cache", &error));
                }
                tracing::warn!(%error, "the new cache is as degraded as the one that it replaces");
            }
            if new.links.as_ref().is_some_and(|links| links.coordination.status().master_connected) {
                parts::become_current(&new.cache).await;
            }
        }
        if plan.locks {
            new.locks = parts::open_locks(settings, new.links.as_ref())?;
            fresh.locks = Some(new.locks.clone());
            if new.links.is_some() {
                new.locks.health_check(deadline).await.map_err(|e| unhealthy("locks", &e))?;
            }
        }
        Ok(new)
    }

    /// What changes in place, on parts that are carried over; last of all, since it needs no way back.
    fn adjust(&self, plan: Plan, settings: &Settings, old: &Parts) -> Result<ReconfigureReport, Error> {
        let mut report = ReconfigureReport::default();
        let sizes = |s: &Settings| (s.database_pool_size, s.database_max_overflow);
        if !plan.database && sizes(&old.settings) != sizes(settings) {
            let resized = old.database.resize(settings.database_pool_size, settings.database_max_overflow);
            resized.map_err(|e| unhealthy("database", &e))?;
            report.adjusted.push("database");
        }
        let l1 = |s: &Settings| configs::l1_entries(self.inner.mode, s);
        if !plan.cache && l1(&old.settings) != l1(settings) {
            old.cache.resize_l1(l1(settings));
            report.adjusted.push("cache");
        }
        Ok(report)
    }

    /// Ends what was replaced, newest first, in the background.
    fn drain_replaced(&self, plan: Plan, old: &Parts, new: &Parts, grace: Duration) {
        // Without a journal the two caches do not hear each other. What the old one invalidated while it was drained
        // the new one may have read before.
        let deaf = (plan.cache && new.bus.journal.is_none()).then(|| new.cache.clone());
        let old = Started {
            database: plan.database.then(|| old.database.clone()),
            links: if plan.redis { old.links.clone() } else { None },
            bus: plan.bus(old).then(|| old.bus.clone()),
            outbox: (plan.database || plan.bus(old)).then(|| old.outbox.clone()),
            cache: plan.cache.then(|| old.cache.clone()),
            locks: plan.locks.then(|| old.locks.clone()),
        };
        let end = tokio::time::Instant::now() + grace;
        let stop = self.inner.stop.clone();
        self.inner.draining.spawn(async move {
            let _stopped = tokio::time::timeout(LINGER.min(grace / 2), stop.cancelled()).await;
            old.unwind(end).await;
            if let Some(cache) = deaf {
                let _infallible = cache.clear(ClearScope::L1).await;
            }
        });
    }
}

fn unhealthy(component: &'static str, error: &dyn std::error::Error) -> Error {
    Error::Unhealthy { component, reason: crate::error::told(error) }
}
