//! `DatabaseServices`: one handle to everything, its life (created, running, stopped), its accessors. Building and
//! ending the parts is `parts`' job.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use access_control::{RateLimiter, SecurityContext};
use arc_swap::ArcSwapOption;
use cache_manager::CacheManager;
use distributed_lock_manager::DistributedLockManager;
use health_manager::HealthManager;
use postgres_pool_manager::{MigrateOptions, MigrationReport, PostgresPoolManager};
use pubsub_manager::{Outbox, PubSubManager};
use redis_link::RedisLink;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::parts::{self, Parts};
use crate::settings::Settings;
use crate::{Error, ManagerMode, configs, metrics, probes};

/// Database, cache, locks, pub/sub and health of a service, as one handle. Cheap to clone.
///
/// Accessors resolve at the call: after a [`reconfigure`](Self::reconfigure) they hand out the new component, while
/// handles taken before stay with the old one until it is drained. So take them at use, not at start.
#[derive(Clone, Debug)]
pub struct DatabaseServices {
    pub(crate) inner: Arc<Inner>,
}

/// Where the services are in their life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceState {
    /// Made; nothing is open.
    Created,
    /// Initialized.
    Running,
    /// Being drained.
    Stopping,
    /// Drained.
    Stopped,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) mode: ManagerMode,
    pub(crate) context: SecurityContext,
    limiter: RateLimiter,
    health: HealthManager,
    created: Instant,
    /// What to start with, until there are parts.
    initial: Settings,
    state: AtomicU8,
    /// The one indirection through which handles resolve.
    pub(crate) parts: ArcSwapOption<Parts>,
    /// One of initialize, reconfigure, shutdown at a time.
    pub(crate) life: tokio::sync::Mutex<()>,
    /// Ends an initialize or reconfigure under way when a shutdown comes.
    pub(crate) stop: CancellationToken,
    /// Where the parts live: a shutdown from outside of a runtime drains there.
    runtime: OnceLock<Handle>,
    /// Old parts being drained after a reconfigure.
    pub(crate) draining: TaskTracker,
}

/// Fresh services in `mode`; nothing is opened before [`initialize`](DatabaseServices::initialize).
///
/// # Errors
/// Settings that a component refuses.
pub fn create_database_services(
    mode: ManagerMode,
    settings: Settings,
    security_context: SecurityContext,
) -> Result<DatabaseServices, Error> {
    configs::check(mode, &settings)?;
    let health = configs::health(&settings).build();
    let health = health.map_err(|e| Error::Component { component: "health", message: e.to_string() })?;
    let inner = Arc::new(Inner {
        mode,
        context: security_context,
        limiter: RateLimiter::new(configs::rates(&settings)),
        health,
        created: Instant::now(),
        initial: settings,
        state: AtomicU8::new(ServiceState::Created as u8),
        parts: ArcSwapOption::empty(),
        life: tokio::sync::Mutex::default(),
        stop: CancellationToken::new(),
        runtime: OnceLock::new(),
        draining: TaskTracker::new(),
    });
    metrics::register(&inner);
    Ok(DatabaseServices { inner })
}

impl Inner {
    pub(crate) const fn health(&self) -> &HealthManager {
        &self.health
    }
}

impl DatabaseServices {
    /// Brings the parts up in the order in which they need each other: Postgres, its schema, Redis, pub/sub and
    /// journal, cache, locks, health. Concurrent calls wait for one; a call on running services does nothing.
    ///
    /// Redis that cannot be reached is no error: the services run degraded and say so loudly.
    ///
    /// Cancel safety: dropped midway, what was opened is closed, and it can be called again.
    ///
    /// # Errors
    /// The first part that does not come up; those before it have been ended again.
    pub async fn initialize(&self) -> Result<(), Error> {
        let runtime = Handle::try_current().map_err(|_outside| Error::NoRuntime)?;
        let _life = self.inner.life.lock().await;
        match self.state() {
            ServiceState::Created => {}
            ServiceState::Running => return Ok(()),
            ServiceState::Stopping | ServiceState::Stopped => return Err(Error::Shutdown),
        }
        let _again = self.inner.runtime.set(runtime);
        let start = Box::pin(Parts::start(self.inner.mode, &self.inner.initial));
        let parts = tokio::select! {
            biased;
            () = self.inner.stop.cancelled() => return Err(Error::Shutdown),
            parts = start => parts?,
        };
        for note in parts.settings.notes() {
            tracing::warn!(setting = note.setting, source = %note.source, "{}", note.message);
        }
        self.inner.parts.store(Some(Arc::new(parts.clone())));
        if let Err(error) = probes::start(&self.inner) {
            self.inner.parts.store(None);
            parts.shutdown(parts::soon()).await;
            return Err(error);
        }
        self.set_state(ServiceState::Running);
        tracing::info!(mode = %self.inner.mode, version = Self::version(), "database services are running");
        Ok(())
    }

    /// Drains everything in reverse order, within `grace` altogether: health probes, locks, cache, pub/sub, Redis,
    /// Postgres. Ends an initialize or a reconfigure under way. Every call, also a concurrent one, returns when all is
    /// ended, or when its own grace is over.
    ///
    /// Works outside of a runtime too: then the drain runs on the one that the services were initialized on.
    ///
    /// Cancel safety: the drain goes on in the background.
    pub async fn shutdown(&self, grace: Duration) {
        self.inner.stop.cancel();
        let Some(runtime) = Handle::try_current().ok().or_else(|| self.inner.runtime.get().cloned()) else {
            self.set_state(ServiceState::Stopped); // Never initialized: there is nothing to end.
            return;
        };
        let services = self.clone();
        let end = Instant::now() + grace;
        // An error: the runtime is ending, and the parts with it.
        let _panicked = runtime.spawn(async move { services.drain(end.into()).await }).await;
    }

    /// Everything by one end, whatever still holds on.
    async fn drain(&self, end: tokio::time::Instant) {
        // Who holds it was told to stop. Should it not hear, the parts are ended under its hands.
        let _life = tokio::time::timeout_at(end, self.inner.life.lock()).await;
        if self.state() == ServiceState::Stopped {
            return;
        }
        self.set_state(ServiceState::Stopping);
        let _late = tokio::time::timeout_at(end, self.inner.health.shutdown()).await;
        if let Some(parts) = self.inner.parts.load_full() {
            parts.shutdown(end).await;
        }
        self.inner.draining.close();
        let _late = tokio::time::timeout_at(end, self.inner.draining.wait()).await;
        self.set_state(ServiceState::Stopped);
        tracing::info!(mode = %self.inner.mode, "database services are stopped");
    }

    /// Where the services are in their life.
    pub fn state(&self) -> ServiceState {
        match self.inner.state.load(Ordering::Acquire) {
            0 => ServiceState::Created,
            1 => ServiceState::Running,
            2 => ServiceState::Stopping,
            _ => ServiceState::Stopped,
        }
    }

    fn set_state(&self, state: ServiceState) {
        self.inner.state.store(state as u8, Ordering::Release);
    }

    /// Whether [`initialize`](Self::initialize) has succeeded, so that the accessors work. Stays true after a shutdown.
    pub fn is_initialized(&self) -> bool {
        self.inner.parts.load().is_some()
    }

    /// The Postgres pool.
    ///
    /// # Panics
    /// Before [`initialize`](Self::initialize).
    pub fn database(&self) -> PostgresPoolManager {
        self.parts().database.clone()
    }

    /// The cache.
    ///
    /// # Panics
    /// Before [`initialize`](Self::initialize).
    pub fn cache(&self) -> CacheManager {
        self.parts().cache.clone()
    }

    /// The locks; without Redis every call on them answers `Unavailable`.
    ///
    /// # Panics
    /// Before [`initialize`](Self::initialize).
    pub fn lock_manager(&self) -> DistributedLockManager {
        self.parts().locks.clone()
    }

    /// Channels; without Redis they live in the database, and there are no durable ones.
    ///
    /// # Panics
    /// Before [`initialize`](Self::initialize).
    pub fn pubsub(&self) -> PubSubManager {
        self.parts().bus.pubsub.clone()
    }

    /// The outbox of the database: messages of committed transactions on their way to their channels.
    ///
    /// # Panics
    /// Before [`initialize`](Self::initialize).
    pub fn outbox(&self) -> Outbox {
        self.parts().outbox.clone()
    }

    /// The link to the cache's Redis; `None`: none is configured.
    ///
    /// # Panics
    /// Before [`initialize`](Self::initialize).
    pub fn redis(&self) -> Option<RedisLink> {
        self.parts().links.as_ref().map(|links| links.cache.clone())
    }

    /// The link to the Redis of locks, journal and channels (the cache's, unless another is configured).
    ///
    /// # Panics
    /// Before [`initialize`](Self::initialize).
    pub fn coordination(&self) -> Option<RedisLink> {
        self.parts().links.as_ref().map(|links| links.coordination.clone())
    }

    /// Probes, groups, breakers. Works before initialize; probes run after it.
    pub fn health_manager(&self) -> HealthManager {
        self.inner.health.clone()
    }

    /// Who these services act as.
    pub fn security_context(&self) -> SecurityContext {
        self.inner.context.clone()
    }

    /// The rate limiter of this process, with the tiers' rates.
    pub fn rate_limiter(&self) -> RateLimiter {
        self.inner.limiter.clone()
    }

    /// The settings in force.
    pub fn settings(&self) -> Settings {
        self.inner
            .parts
            .load()
            .as_ref()
            .map_or_else(|| self.inner.initial.clone(), |parts| parts.settings.clone())
    }

    /// The mode.
    pub fn mode(&self) -> ManagerMode {
        self.inner.mode
    }

    /// Since these services were created.
    pub fn uptime(&self) -> Duration {
        self.inner.created.elapsed()
    }

    /// The version of this library.
    pub const fn version() -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    /// Runs the migrations of all parts, forward only, one migrator at a time; on services that are not initialized
    /// with a connection of its own.
    ///
    /// Cancel safety: each migration is one transaction; what was committed stays.
    ///
    /// # Errors
    /// Postgres cannot be used, or a migration failed.
    pub async fn migrate(&self, options: MigrateOptions) -> Result<MigrationReport, Error> {
        if let Some(parts) = self.inner.parts.load_full() {
            return parts::migrate(&parts.database, options).await;
        }
        let database = parts::open_database(self.inner.mode, &self.inner.initial).await?;
        let report = parts::migrate(&database, options).await;
        database.shutdown(parts::UNWIND).await;
        report
    }

    pub(crate) fn try_parts(&self) -> Result<Arc<Parts>, Error> {
        self.inner.parts.load_full().ok_or(Error::NotInitialized)
    }

    fn parts(&self) -> Arc<Parts> {
        match self.try_parts() {
            Ok(parts) => parts,
            Err(error) => panic!("{error}"),
        }
    }
}
