//! Which server serves a session. It trusts what the prober last saw, and probes nothing itself.

use crate::{
    ReadToken,
    config::{Balance, Config},
    door::Cluster,
    error::Error,
    events::Events,
    explain::RouteReason,
    host::Host,
    lag::LagRing,
    lease::Lease,
    pool::Pool,
    stats::HostStatus,
};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use resilience::Deadline;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// Between two looks that a caller asks for while the new primary is not found.
const PACE: Duration = Duration::from_millis(50);

/// Where a session is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Primary,
    Read,
    ReadAfter(ReadToken),
}

/// The servers by their present roles. A change makes a new one.
#[derive(Clone, Debug)]
pub(crate) struct Servers {
    pub(crate) primary: Arc<Host>,
    pub(crate) replicas: Vec<Arc<Host>>,
}

impl Servers {
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Host>> {
        std::iter::once(&self.primary).chain(&self.replicas)
    }
}

/// The server whose turn it is (`None`: the primary), why, and its connection if that wants a check first.
#[derive(Debug)]
pub(crate) struct Turn {
    host: Option<Arc<Host>>,
    reason: RouteReason,
    tried: Option<Lease>,
}

/// The servers and the choice among them.
#[derive(Debug)]
pub(crate) struct Router {
    pub(crate) config: Arc<Config>,
    pub(crate) events: Events,
    pub(crate) servers: ArcSwap<Servers>,
    /// All reads to the primary, by order.
    pub(crate) force_primary: AtomicBool,
    /// The same, because every replica is far behind.
    pub(crate) forced_by_lag: AtomicBool,
    /// The primary's positions; shared with the probers.
    pub(crate) ring: Mutex<LagRing>,
    /// The cluster that all servers are of; every pool's door knows it too.
    pub(crate) cluster: Arc<Cluster>,
    /// The newest history that a primary was seen in; 0: none.
    pub(crate) timeline: AtomicU32,
    /// Told after every look at a server.
    pub(crate) looked: Notify,
    /// Held while roles, bans and servers are changed.
    pub(crate) changing: Mutex<()>,
    turn: Mutex<()>,
}

impl Router {
    pub(crate) fn new(config: Arc<Config>, events: Events, servers: Servers) -> Self {
        // Ten minutes of samples.
        let samples = (600_000 / config.probe_interval.as_millis().clamp(1, 600_000)) as usize;
        Self {
            config,
            events,
            force_primary: AtomicBool::new(false),
            forced_by_lag: AtomicBool::new(false),
            ring: Mutex::new(LagRing::new(samples.max(2))),
            cluster: Arc::clone(&servers.primary.pool.door.cluster),
            servers: ArcSwap::from_pointee(servers),
            timeline: AtomicU32::new(0),
            looked: Notify::new(),
            changing: Mutex::new(()),
            turn: Mutex::new(()),
        }
    }

    pub(crate) fn acquire_deadline(&self) -> Deadline {
        Deadline::after(self.config.acquire_timeout)
    }

    /// An idle connection of the server whose turn it is, fit for use; else what it takes to get one.
    #[inline]
    pub(crate) fn try_lease(&self, route: &Route) -> Result<(Lease, RouteReason), Turn> {
        let (host, reason) = match self.choose(route) {
            Ok(host) => (Some(host), RouteReason::Replica),
            Err(reason) => (None, reason),
        };
        let tried = match &host {
            Some(host) => host.pool.try_lease(),
            // First a moment's wait for a replica, though the primary has one idle.
            None if reason == RouteReason::TokenAhead && self.may_catch_up(route) => None,
            None => self.servers.load().primary.pool.try_lease(),
        };
        match tried {
            Some(lease)
                if !lease.wants_check()
                    && fits(route, host.as_deref(), &lease)
                    && (host.is_some() || self.is_current(route)) =>
            {
                Ok((lease, reason))
            }
            tried => Err(Turn { host, reason, tried }),
        }
    }

    /// As [`Pool::lease`]; what a replica cannot give, the primary does.
    pub(crate) async fn lease(
        &self,
        route: Route,
        turn: Turn,
        deadline: Deadline,
    ) -> Result<(Lease, RouteReason), Error> {
        let Turn { mut host, mut reason, mut tried } = turn;
        if let (Route::ReadAfter(token), RouteReason::TokenAhead) = (&route, reason) {
            drop(tried.take());
            host = self.caught_up(token, deadline).await;
        }
        if let Some(host) = host {
            let lease = match host.pool.lease(tried.take(), deadline).await {
                // It was removed meanwhile, or is full.
                Err(Error::Closed | Error::QueueFull { .. }) => None,
                result => result?,
            };
            if let Some(lease) = lease.filter(|lease| fits(&route, Some(&host), lease)) {
                return Ok((lease, RouteReason::Replica));
            }
            reason = RouteReason::ReplicaGaveUp;
        }
        if !self.is_current(&route) {
            // Nobody else is to wait for a connection because of this wait.
            drop(tried.take());
            self.current(&route, deadline).await?;
        }
        Ok((self.primary_lease(tried, deadline).await?, reason))
    }

    /// Whether the primary known here is of the token's history or a later one: else it was replaced, and somebody
    /// else noticed it first.
    fn is_current(&self, route: &Route) -> bool {
        match route {
            Route::ReadAfter(token) => {
                let known = self.timeline.load(Relaxed);
                known == 0 || !token.is_newer_than(self.cluster.id(), known)
            }
            _ => true,
        }
    }

    fn may_catch_up(&self, route: &Route) -> bool {
        let Route::ReadAfter(token) = route else { return false };
        self.servers.load().replicas.iter().any(|host| host.may_catch_up(token))
    }

    /// Waits until it is.
    async fn current(&self, route: &Route, deadline: Deadline) -> Result<(), Error> {
        let started = Instant::now();
        loop {
            let looked = self.looked.notified();
            tokio::pin!(looked);
            looked.as_mut().enable();
            if self.is_current(route) {
                return Ok(());
            }
            self.servers.load().all().for_each(|host| host.pool.look_now.notify_one());
            if deadline.run(looked).await.is_err() {
                // What is known as the primary here lacks what was written before the token.
                return Err(self.primary().timeout(started));
            }
            // Each look tells everybody, who would ask for the next at once.
            tokio::time::sleep(deadline.remaining().min(PACE)).await;
        }
    }

    /// Of whichever server is the primary, also if that changes meanwhile.
    async fn primary_lease(&self, mut tried: Option<Lease>, deadline: Deadline) -> Result<Lease, Error> {
        loop {
            let primary = self.primary();
            let own = tried.take().filter(|lease| Arc::ptr_eq(&lease.pool, &primary));
            match primary.lease(own, deadline).await {
                Ok(Some(lease)) if !lease.conn_ref().slot.is_evicted() => return Ok(lease),
                Ok(_) => {}
                // Closed it may be because it was removed after it was replaced.
                Err(e) if Arc::ptr_eq(&primary, &self.primary()) => return Err(e),
                Err(e @ Error::AcquireTimeout { .. }) => return Err(e),
                // Sent away, because another one is the primary now.
                Err(_) => {}
            }
        }
    }

    /// Waits briefly for a replica to replay the token: the prober looks at once, and one look serves everybody
    /// who waits. A replica that was waited for in vain is not waited for again before it has come that far.
    async fn caught_up(&self, token: &ReadToken, deadline: Deadline) -> Option<Arc<Host>> {
        let servers = self.servers.load_full();
        let near: Vec<_> = servers.replicas.iter().filter(|host| host.may_catch_up(token)).collect();
        near.first()?;
        let limit = deadline.capped(self.config.read_after_wait);
        loop {
            let looked = self.looked.notified();
            tokio::pin!(looked);
            looked.as_mut().enable();
            if let Ok(host) = self.choose(&Route::ReadAfter(*token)) {
                return Some(host);
            }
            near.iter().for_each(|host| host.pool.look_now.notify_one());
            if limit.run(looked).await.is_err() {
                // A token comes from outside: no further than the primary itself was seen to be.
                let lsn = token.lsn().min(servers.primary.view.lock().position);
                for host in near {
                    host.missed.fetch_max(lsn, Relaxed);
                }
                return None;
            }
        }
    }

    /// The replica to read from; `Err`: the primary, and why.
    pub(crate) fn choose(&self, route: &Route) -> Result<Arc<Host>, RouteReason> {
        let token = match route {
            Route::Primary => return Err(RouteReason::Write),
            Route::Read => None,
            Route::ReadAfter(token) => Some(token),
        };
        let servers = self.servers.load();
        let replicas = &servers.replicas;
        if replicas.is_empty() {
            return Err(RouteReason::NoReplicas);
        }
        if self.forced() {
            return Err(RouteReason::Forced);
        }
        let mut serving = replicas.iter().filter(|host| host.serves(token));
        let Some(first) = serving.next() else {
            let behind = token.is_some() && replicas.iter().any(|host| host.serves(None));
            return Err(if behind { RouteReason::TokenAhead } else { RouteReason::NoneServes });
        };
        let Some(second) = serving.next() else { return Ok(Arc::clone(first)) };
        let serving = [first, second].into_iter().chain(serving);
        Ok(Arc::clone(match self.config.balance {
            Balance::RoundRobin => self.next_in_turn(serving, first),
            Balance::LeastOutstanding => least_outstanding(serving, first),
        }))
    }

    /// Smooth weighted round robin, as nginx does it.
    fn next_in_turn<'h>(
        &self,
        serving: impl Iterator<Item = &'h Arc<Host>>,
        first: &'h Arc<Host>,
    ) -> &'h Arc<Host> {
        let _turn = self.turn.lock();
        let (mut total, mut best) = (0, first);
        for host in serving {
            let weight = i64::from(host.weight.load(Relaxed));
            total += weight;
            let turn = host.turn.load(Relaxed) + weight;
            host.turn.store(turn, Relaxed);
            if turn > best.turn.load(Relaxed) {
                best = host;
            }
        }
        best.turn.fetch_sub(total, Relaxed);
        best
    }

    pub(crate) fn forced(&self) -> bool {
        self.force_primary.load(Relaxed) || self.forced_by_lag.load(Relaxed)
    }

    pub(crate) fn primary(&self) -> Arc<Pool> {
        Arc::clone(&self.servers.load().primary.pool)
    }

    pub(crate) fn replica(&self, name: &str) -> Result<Arc<Host>, Error> {
        let found = self.servers.load().replicas.iter().find(|host| host.pool.name == name).cloned();
        found.ok_or_else(|| Error::UnknownHost(name.to_owned()))
    }

    pub(crate) fn pools(&self) -> Vec<Arc<Pool>> {
        self.servers.load().all().map(|host| Arc::clone(&host.pool)).collect()
    }

    pub(crate) fn hosts(&self) -> Vec<HostStatus> {
        let servers = self.servers.load();
        let reads = i32::from(!servers.replicas.iter().any(|host| host.serves(None)) || self.forced());
        let mut all: Vec<_> = servers.all().map(|host| host.status()).collect();
        // The primary's share: all of the reads, or none.
        all[0].weight = reads;
        all
    }
}

/// The one with the fewest sessions out or waited for, in proportion to its weight.
fn least_outstanding<'h>(
    serving: impl Iterator<Item = &'h Arc<Host>>,
    first: &'h Arc<Host>,
) -> &'h Arc<Host> {
    let load = |host: &Arc<Host>| {
        let counts = host.pool.counts();
        f64::from(counts.in_use + counts.waiting + 1) / f64::from(host.weight.load(Relaxed).max(1))
    };
    serving.map(|host| (load(host), host)).min_by(|a, b| a.0.total_cmp(&b.0)).map_or(first, |(_, host)| host)
}

/// Whether a connection shows what the route asks for.
fn fits(route: &Route, host: Option<&Host>, lease: &Lease) -> bool {
    match (route, host) {
        (Route::ReadAfter(token), Some(host)) => host.still_satisfies(token, lease),
        _ => !lease.conn_ref().slot.is_evicted(),
    }
}
