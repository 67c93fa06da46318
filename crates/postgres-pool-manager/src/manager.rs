//! The face of the crate: routes, numbers, run-time changes, shutdown. What it hands out works by itself.

use crate::{
    Acquire, Config, Error, HostStatus, PoolState, PoolStats, Primary, ReadToken, Replica, ReplicaEndpoint,
    Schema, Status,
    commit::{POSITION, position},
    conn::text,
    connect,
    core::Phase,
    error::Problem,
    metrics,
    pool::Pool,
    probe,
    router::{Host, Route, Router},
    stats::{HostState, HostStats, Role},
};
use parking_lot::Mutex;
use resilience::{Deadline, RetryBudget};
use sqlx::Executor;
use std::{
    panic::Location,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{runtime::Handle, time::Instant};

/// Bounded, role-aware, cancellation-proof Postgres connections. Cloning is cheap and shares everything; the
/// last clone's drop closes the pool.
#[derive(Clone, Debug)]
pub struct PostgresPoolManager {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    router: Arc<Router>,
    schema: Schema,
    handle: Handle,
    retries: RetryBudget,
    sampling: AtomicBool,
    /// Held while what applies to every server is changed, so that one that is being added does not miss it.
    changing: Mutex<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        for pool in self.router.pools() {
            pool.close();
        }
    }
}

impl PostgresPoolManager {
    pub(crate) async fn connect(config: Config) -> Result<Self, Error> {
        config.validate().map_err(Error::Invalid)?;
        let (config, handle) = (Arc::new(config), Handle::current());
        let schema = Schema::new(&config.schema)?;
        let primary = new_pool(&config.primary.name, &config.primary.url, Role::Primary, &config, &handle)?;
        let mut replicas = Vec::new();
        for replica in &config.replicas {
            let pool = new_pool(&replica.name, &replica.url, Role::Replica, &config, &handle)?;
            replicas.push(Host::new(pool, replica.weight));
        }
        let router = Arc::new(Router::new(config, primary, replicas));
        // A tenth of the transactions, and some when there are few.
        let (retries, sampling) = (RetryBudget::new(0.1, 10.0, 100), AtomicBool::new(false));
        let changing = Mutex::new(());
        // Before the first attempt: whatever ends this early, its drop closes every pool.
        let manager = Self { inner: Arc::new(Inner { router, schema, handle, retries, sampling, changing }) };
        let (router, config) = (manager.router(), manager.config());
        let replicas = router.replicas.load_full();
        let firsts = futures_util::future::join_all(replicas.iter().map(|host| first_attempt(&host.pool)));
        let (first, firsts) = tokio::join!(first_attempt(&router.primary), firsts);
        match first {
            Err(Error::Connect { failure, .. }) if config.lazy_connect && failure.is_transient() => {}
            result => result?,
        }
        for result in firsts {
            match result {
                Err(Error::Connect { failure, .. }) if failure.is_transient() => {}
                result => result?,
            }
        }
        manager.inner.handle.spawn(Arc::clone(&router.primary).keep_up());
        for host in replicas.iter() {
            manager.look_after(host);
        }
        metrics::observe(&manager.inner.router);
        Ok(manager)
    }

    /// A session of the primary.
    #[track_caller]
    pub fn write(&self) -> Acquire<'_> {
        self.write_at(Location::caller())
    }

    /// A session for reading: of a replica that answers and is near enough, by weight; else of the primary.
    #[track_caller]
    pub fn read(&self) -> Acquire<'_> {
        Acquire::new(self, Route::Read, Location::caller())
    }

    /// A session that sees what was written before `token` was given: of a replica known to have replayed it,
    /// else of the primary.
    #[track_caller]
    pub fn read_after(&self, token: &ReadToken) -> Acquire<'_> {
        Acquire::new(self, Route::ReadAfter(*token), Location::caller())
    }

    /// An executor that runs each statement on the primary.
    #[track_caller]
    #[must_use]
    pub fn primary(&self) -> Primary {
        Primary::new(self.clone(), Location::caller())
    }

    /// An executor that runs each statement as [`read`](Self::read) would, and repeats it on the primary if the
    /// replica is lost under it.
    #[track_caller]
    #[must_use]
    pub fn replica(&self) -> Replica {
        Replica::new(self.clone(), None, Location::caller())
    }

    /// As [`replica`](Self::replica), for statements that have to see what was written before `token`.
    #[track_caller]
    #[must_use]
    pub fn replica_after(&self, token: &ReadToken) -> Replica {
        Replica::new(self.clone(), Some(*token), Location::caller())
    }

    /// The primary's position now: reads with it see everything committed so far. One round trip; a COMMIT
    /// gives its own token without one.
    ///
    /// # Errors
    /// No session within `acquire_timeout`, or the statement failed.
    pub async fn read_token(&self) -> Result<ReadToken, Error> {
        let mut session = self.write().await?;
        let row = (&mut session).fetch_one(POSITION).await?;
        let synchronous = text(&row, "synchronous").as_deref() != Some("off");
        let system_id = session.lease().conn_ref().server.system_id;
        let place = position(&row, synchronous);
        Ok(place.map_or(ReadToken::PRIMARY_ONLY, |(timeline, lsn)| ReadToken::new(system_id, timeline, lsn)))
    }

    /// The numbers at this moment.
    #[must_use]
    pub fn pool_stats(&self) -> PoolStats {
        let pools = self.router().pools();
        let hosts: Vec<_> =
            pools.iter().map(|p| HostStats { name: p.name.clone(), pool: p.stats() }).collect();
        PoolStats::sum(hosts)
    }

    /// The state at this moment, from what is known; it asks nobody.
    #[must_use]
    pub fn status(&self) -> Status {
        let (router, hosts, pool) = (self.router(), self.router().hosts(), self.pool_stats());
        let down = hosts.iter().find(|host| host.role == Role::Primary && host.state != HostState::Up);
        let impaired = hosts.iter().find(|host| !matches!(host.state, HostState::Up | HostState::Drained));
        let (state, reason) = match router.primary.phase() {
            Phase::Closed => (PoolState::Closed, Some("shut down".to_owned())),
            Phase::Suspended => (PoolState::Suspended, Some("suspended".to_owned())),
            Phase::Open => match (down, impaired) {
                (Some(host), _) => (PoolState::Disconnected, host.last_error.clone()),
                (None, Some(host)) => {
                    let why = host.last_error.as_deref().unwrap_or("its lag is unknown or beyond the limit");
                    (PoolState::Degraded, Some(format!("replica {} is {:?}: {why}", host.name, host.state)))
                }
                (None, None) if pool.connection_queue_size > pool.max_connections => {
                    let reason = format!("{} callers wait for a connection", pool.connection_queue_size);
                    (PoolState::Degraded, Some(reason))
                }
                (None, None) => (PoolState::Connected, None),
            },
        };
        Status { state, reason, hosts, force_primary_reads: router.force_primary.load(Relaxed), pool }
    }

    /// Acquires a session of the primary and runs a statement; how long that took.
    ///
    /// # Errors
    /// Either failed, or `deadline` passed.
    pub async fn health_check(&self, deadline: Deadline) -> Result<Duration, Error> {
        let started = Instant::now();
        let mut session = self.write().deadline(deadline).await?;
        (&mut session).execute("SELECT 1").await?;
        Ok(started.elapsed())
    }

    /// Whether `other` is a handle on this very pool.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// The schema of the system's own tables.
    #[must_use]
    pub fn schema(&self) -> &Schema {
        &self.inner.schema
    }

    /// The settings that it was built with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.router().config
    }

    /// Every server as the balancer sees it.
    #[must_use]
    pub fn load_balancer(&self) -> Vec<HostStatus> {
        self.router().hosts()
    }

    /// New size and overflow for every server's pool, at once and in both directions. A shrink closes idle
    /// connections now and those in use as they come back.
    ///
    /// # Errors
    /// A size of 0, or a sum above 10,000.
    pub fn resize(&self, size: u32, max_overflow: u32) -> Result<(), Error> {
        let wanted = Config { size, max_overflow, min_idle: 0, ..self.config().clone() };
        wanted.validate().map_err(Error::Invalid)?;
        let _changing = self.inner.changing.lock();
        for pool in self.router().pools() {
            pool.resize(size, max_overflow);
        }
        tracing::info!(size, max_overflow, "pool resized");
        Ok(())
    }

    /// Sends all reads to the primary, or lets them go to replicas again.
    pub fn force_primary_reads(&self, on: bool) {
        self.router().force_primary.store(on, Relaxed);
        tracing::info!(on, "force_primary_reads");
    }

    /// Adds a replica, with the sizes in force and suspended like the others; it serves after its first good probe.
    ///
    /// # Errors
    /// Its address, name or weight is unusable; [`Error::Closed`] after a shutdown.
    pub fn add_replica(&self, replica: &ReplicaEndpoint) -> Result<(), Error> {
        let _changing = self.inner.changing.lock();
        let mut wanted = self.config().clone();
        let present = self.router().replicas.load();
        wanted.replicas = vec![replica.clone()];
        wanted.validate().map_err(Error::Invalid)?;
        if present.iter().any(|host| host.pool.name == replica.name) {
            let message = format!("there is a replica named {:?} already", replica.name);
            return Err(Error::Invalid(vec![Problem { setting: "replicas".into(), message }]));
        }
        let config = &self.router().config;
        let pool = new_pool(&replica.name, &replica.url, Role::Replica, config, &self.inner.handle)?;
        let (limits, phase) = (self.router().primary.limits(), self.router().primary.phase());
        pool.resize(limits.size, limits.overflow);
        match phase {
            Phase::Open => {}
            Phase::Suspended => pool.suspend(),
            Phase::Closed => return Err(Error::Closed),
        }
        let host = Host::new(pool, replica.weight);
        self.look_after(&host);
        let hosts = present.iter().cloned().chain([host]).collect::<Vec<_>>();
        self.router().replicas.store(Arc::new(hosts));
        Ok(())
    }

    /// Gives a replica no more reads, or gives it reads again. Sessions in use are not disturbed.
    ///
    /// # Errors
    /// No replica of this name.
    pub fn drain_replica(&self, name: &str, drained: bool) -> Result<(), Error> {
        self.router().replica(name)?.drained.store(drained, Relaxed);
        Ok(())
    }

    /// Changes a replica's share of the reads; negative counts as 0.
    ///
    /// # Errors
    /// No replica of this name.
    pub fn set_replica_weight(&self, name: &str, weight: i32) -> Result<(), Error> {
        self.router().replica(name)?.weight.store(weight.max(0), Relaxed);
        Ok(())
    }

    /// Removes a replica; sessions in use are closed as they come back.
    ///
    /// # Errors
    /// No replica of this name.
    pub fn remove_replica(&self, name: &str) -> Result<(), Error> {
        let _changing = self.inner.changing.lock();
        let host = self.router().replica(name)?;
        let present = self.router().replicas.load();
        let others = present.iter().filter(|other| !Arc::ptr_eq(other, &host)).cloned().collect::<Vec<_>>();
        self.router().replicas.store(Arc::new(others));
        host.stop.cancel();
        host.pool.close();
        Ok(())
    }

    /// Hands out no sessions until [`resume`](Self::resume); callers wait, up to their deadlines.
    pub fn suspend(&self) {
        let _changing = self.inner.changing.lock();
        self.router().pools().iter().for_each(|pool| pool.suspend());
    }

    /// Ends a suspension.
    pub fn resume(&self) {
        let _changing = self.inner.changing.lock();
        self.router().pools().iter().for_each(|pool| pool.resume());
    }

    /// Hands out nothing any more, waits up to `grace` for the sessions in use, and says how many are still out;
    /// those close as they come back. Calling it again waits again.
    pub async fn shutdown(&self, grace: Duration) -> u32 {
        let deadline = Deadline::after(grace);
        let pools = {
            let _changing = self.inner.changing.lock();
            let pools = self.router().pools();
            pools.iter().for_each(|pool| pool.close());
            pools
        };
        let mut out = 0;
        for pool in &pools {
            out += pool.drained(deadline).await;
        }
        out
    }

    pub(crate) fn write_at(&self, taken_at: &'static Location<'static>) -> Acquire<'_> {
        Acquire::new(self, Route::Primary, taken_at)
    }

    pub(crate) fn router(&self) -> &Router {
        &self.inner.router
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.inner.handle
    }

    pub(crate) fn retries(&self) -> &RetryBudget {
        &self.inner.retries
    }

    /// Looks after a replica from now on.
    fn look_after(&self, host: &Arc<Host>) {
        let router = self.router();
        self.inner.handle.spawn(Arc::clone(&host.pool).keep_up());
        if !self.inner.sampling.swap(true, Relaxed) {
            self.inner
                .handle
                .spawn(probe::sample_primary(Arc::clone(&router.primary), Arc::clone(&router.ring)));
        }
        let (ring, config) = (Arc::clone(&router.ring), Arc::clone(&router.config));
        self.inner.handle.spawn(probe::watch_replica(Arc::clone(host), ring, config));
    }
}

fn new_pool(
    name: &str,
    url: &secrecy::SecretString,
    role: Role,
    config: &Arc<Config>,
    handle: &Handle,
) -> Result<Arc<Pool>, Error> {
    let options = connect::options(url, config).map_err(|e| {
        Error::Invalid(vec![Problem { setting: format!("{name}.url"), message: e.to_string() }])
    })?;
    Ok(Pool::new(name, role, options, Arc::clone(config), handle.clone()))
}

/// Opens the pool's first connection here, so that a wrong setting is an error of `connect`.
async fn first_attempt(pool: &Arc<Pool>) -> Result<(), Error> {
    let Some(place) = pool.reserve() else { return Ok(()) };
    match connect::open(pool).await {
        Ok(conn) => {
            place.succeeded(conn);
            Ok(())
        }
        Err(e) => {
            pool.failed(connect::describe(&e));
            Err(e)
        }
    }
}
