//! The face of the crate: routes, numbers, run-time changes, shutdown. What it hands out works by itself.

use crate::{
    Acquire, Config, ConnectFailure, Endpoint, Error, HostStatus, PoolState, PoolStats, Primary, ReadToken,
    Replica, ReplicaEndpoint, Schema, Status,
    budget::Budget,
    commit::{POSITION, position},
    conn::text,
    connect::{first_attempt, new_pool},
    core::Phase,
    events::{EventStream, Events},
    host::Host,
    metrics,
    pool::Pool,
    probe,
    router::{Route, Router, Servers},
    stats::{HostState, HostStats, Role},
};
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
    /// Whether the servers are looked at: with one there is nothing to choose.
    watching: AtomicBool,
    budget: Option<Arc<Budget>>,
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
        let (config, events, handle) = (Arc::new(config), Events::new(), Handle::current());
        let schema = Schema::new(&config.schema)?;
        let cluster = Arc::default();
        let Endpoint { name, url } = &config.primary;
        let primary = new_pool(name, url, Role::Primary, &config, &events, &handle, &cluster)?;
        let mut replicas = Vec::new();
        for replica in &config.replicas {
            let ReplicaEndpoint { name, url, weight } = replica;
            let pool = new_pool(name, url, Role::Replica, &config, &events, &handle, &cluster)?;
            replicas.push(Host::new(pool, *weight));
        }
        let servers = Servers { primary: Host::new(primary, 1), replicas };
        let router = Arc::new(Router::new(config, events, servers));
        // A tenth of the transactions, and some when there are few.
        let (retries, watching) = (RetryBudget::new(0.1, 10.0, 100), AtomicBool::new(false));
        // Before the first attempt: whatever ends this early, its drop closes every pool.
        let budget = Budget::new(&router);
        let manager = Self { inner: Arc::new(Inner { router, schema, handle, retries, watching, budget }) };
        manager.find_primary().await;
        if let Some(budget) = &manager.inner.budget {
            // Before the pools' first connections: they are opened on the lease.
            let (keeper, looked) = budget.start(&manager.inner.router, manager.schema()).await;
            tolerable(manager.config(), looked)?;
            manager.inner.handle.spawn(keeper.keep());
        }
        manager.first_attempts().await?;
        let servers = manager.router().servers.load_full();
        servers.all().for_each(|host| manager.look_after(host));
        if !servers.replicas.is_empty() {
            manager.watch_all();
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
        let (state, reason) = match router.primary().phase() {
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
        Status {
            state,
            reason,
            hosts,
            force_primary_reads: router.force_primary.load(Relaxed),
            force_primary_reads_automatic: router.forced_by_lag.load(Relaxed),
            pool,
        }
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

    /// What changes from now on, by order or by itself.
    #[must_use]
    pub fn events(&self) -> EventStream {
        self.router().events.listen()
    }

    /// Hands out nothing any more, waits up to `grace` for the sessions in use, and says how many are still out;
    /// those close as they come back. Calling it again waits again.
    pub async fn shutdown(&self, grace: Duration) -> u32 {
        let deadline = Deadline::after(grace);
        let pools = {
            let _changing = self.router().changing.lock();
            let pools = self.router().pools();
            pools.iter().for_each(|pool| pool.close());
            pools
        };
        let mut out = 0;
        for pool in &pools {
            out += pool.drained(deadline).await;
        }
        if let Some(budget) = self.budget() {
            budget.left(deadline).await;
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

    pub(crate) fn budget(&self) -> Option<&Arc<Budget>> {
        self.inner.budget.as_ref()
    }

    pub(crate) fn retries(&self) -> &RetryBudget {
        &self.inner.retries
    }

    /// One look at every server, so that a promotion while nobody was here is known before the first attempt.
    async fn find_primary(&self) {
        let servers = self.router().servers.load_full();
        if !servers.replicas.is_empty() {
            let look =
                async |host: &Arc<Host>| (Arc::clone(host), probe::look_once(host, self.router()).await);
            self.router().seen(&futures_util::future::join_all(servers.all().map(look)).await);
        }
    }

    /// Opens each pool's first connection, so that a wrong setting is an error here.
    async fn first_attempts(&self) -> Result<(), Error> {
        let servers = self.router().servers.load_full();
        let firsts =
            futures_util::future::join_all(servers.replicas.iter().map(|host| first_attempt(&host.pool)));
        let (first, firsts) = tokio::join!(first_attempt(&servers.primary.pool), firsts);
        tolerable(self.config(), first)?;
        for (result, host) in firsts.into_iter().zip(&servers.replicas) {
            match result {
                Err(Error::Connect { failure, .. }) if failure.is_transient() => {}
                // A former primary that came back: it is told as an event, and not used.
                Err(Error::Connect { failure: ConnectFailure::NotReplica, .. }) if self.is_former(host) => {}
                result => result?,
            }
        }
        Ok(())
    }

    fn is_former(&self, host: &Host) -> bool {
        let (view, router) = (*host.view.lock(), self.router());
        router.cluster.differs(view.server.system_id).is_none()
            && (1..router.timeline.load(Relaxed)).contains(&view.timeline)
    }

    pub(crate) fn look_after(&self, host: &Arc<Host>) {
        self.inner.handle.spawn(Arc::clone(&host.pool).keep_up());
        if self.inner.watching.load(Relaxed) {
            self.inner.handle.spawn(probe::watch(Arc::clone(host), Arc::clone(&self.inner.router)));
        }
    }

    /// Begins to look at the servers, if that is not done yet.
    pub(crate) fn watch_all(&self) {
        if !self.inner.watching.swap(true, Relaxed) {
            for host in self.router().servers.load().all() {
                self.inner.handle.spawn(probe::watch(Arc::clone(host), Arc::clone(&self.inner.router)));
            }
        }
    }

    pub(crate) fn new_pool(
        &self,
        name: &str,
        url: &secrecy::SecretString,
        role: Role,
    ) -> Result<Arc<Pool>, Error> {
        let Router { config, events, .. } = self.router();
        new_pool(name, url, role, config, events, &self.inner.handle, &self.router().cluster)
    }
}

/// What `connect` makes of the first contact with the primary.
fn tolerable(config: &Config, result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(Error::Connect { failure, .. }) if config.lazy_connect && failure.is_transient() => Ok(()),
        result => result,
    }
}
