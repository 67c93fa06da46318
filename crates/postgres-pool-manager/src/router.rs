//! Which server serves a session. It trusts what the prober last saw, and probes nothing itself.

use crate::{
    ReadToken,
    config::Config,
    error::Error,
    lag::LagRing,
    lease::Lease,
    pool::Pool,
    probe::View,
    stats::{HostState, HostStatus, Role},
};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use resilience::Deadline;
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI32, AtomicI64, Ordering::Relaxed},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Where a session is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Primary,
    Read,
    ReadAfter(ReadToken),
}

/// A replica in the balancer.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) pool: Arc<Pool>,
    pub(crate) weight: AtomicI32,
    pub(crate) drained: AtomicBool,
    /// What the last probe saw.
    pub(crate) view: Mutex<View>,
    pub(crate) stop: CancellationToken,
    /// Its balance in the smooth weighted round robin; changed under [`Router::turn`].
    turn: AtomicI64,
}

/// The server whose turn it is (`None`: the primary), and its connection if that wants a check first.
#[derive(Debug)]
pub(crate) struct Turn {
    host: Option<Arc<Host>>,
    tried: Option<Lease>,
}

/// The servers and the choice among them.
#[derive(Debug)]
pub(crate) struct Router {
    pub(crate) config: Arc<Config>,
    pub(crate) primary: Arc<Pool>,
    pub(crate) replicas: ArcSwap<Vec<Arc<Host>>>,
    pub(crate) force_primary: AtomicBool,
    /// The primary's positions; shared with the probers.
    pub(crate) ring: Arc<Mutex<LagRing>>,
    turn: Mutex<()>,
}

impl Host {
    pub(crate) fn new(pool: Arc<Pool>, weight: i32) -> Arc<Self> {
        Arc::new(Self {
            pool,
            weight: AtomicI32::new(weight),
            drained: AtomicBool::new(false),
            view: Mutex::new(View::default()),
            stop: CancellationToken::new(),
            turn: AtomicI64::new(0),
        })
    }

    /// Whether it may serve a read. With a token: only if it was seen to have replayed it.
    fn serves(&self, token: Option<&ReadToken>) -> bool {
        self.pool.serving.load(Relaxed)
            && !self.drained.load(Relaxed)
            && self.weight.load(Relaxed) > 0
            && token.is_none_or(|token| self.view.lock().satisfies(token))
    }

    /// A restart may have set replay back since the probe: then the connection is to another run of the server. And
    /// what was seen when the host was chosen may have changed while the caller waited.
    fn still_satisfies(&self, token: &ReadToken, lease: &Lease) -> bool {
        let (view, server) = (self.view.lock(), lease.conn_ref().server);
        view.server == server && view.satisfies(token)
    }

    pub(crate) fn status(&self) -> HostStatus {
        let view = *self.view.lock();
        let state = if self.drained.load(Relaxed) { HostState::Drained } else { view.state };
        let mut status = host_status(&self.pool, self.weight.load(Relaxed), state);
        status.lag_seconds = view.upper_now().map(|d| d.as_secs_f64());
        status.lag_lower_seconds = view.lag.map(|lag| lag.lower.as_secs_f64());
        status.lag_bytes = view.lag.map(|lag| lag.bytes);
        status
    }
}

impl Router {
    pub(crate) fn new(config: Arc<Config>, primary: Arc<Pool>, replicas: Vec<Arc<Host>>) -> Self {
        // Ten minutes of samples.
        let samples = (600_000 / config.probe_interval.as_millis().clamp(1, 600_000)) as usize;
        Self {
            config,
            primary,
            replicas: ArcSwap::from_pointee(replicas),
            force_primary: AtomicBool::new(false),
            ring: Arc::new(Mutex::new(LagRing::new(samples.max(2)))),
            turn: Mutex::new(()),
        }
    }

    pub(crate) fn acquire_deadline(&self) -> Deadline {
        Deadline::after(self.config.acquire_timeout)
    }

    /// An idle connection of the server whose turn it is, fit for use; else what it takes to get one.
    #[inline]
    pub(crate) fn try_lease(&self, route: &Route) -> Result<Lease, Turn> {
        let host = match route {
            Route::Primary => None,
            Route::Read => self.choose(None),
            Route::ReadAfter(token) => self.choose(Some(token)),
        };
        match host.as_ref().map_or(&self.primary, |host| &host.pool).try_lease() {
            Some(lease) if !lease.wants_check() && fits(route, host.as_deref(), &lease) => Ok(lease),
            tried => Err(Turn { host, tried }),
        }
    }

    /// As [`Pool::lease`]; what a replica cannot give, the primary does.
    pub(crate) async fn lease(&self, route: Route, turn: Turn, deadline: Deadline) -> Result<Lease, Error> {
        let mut tried = turn.tried;
        if let Some(host) = turn.host {
            let lease = match host.pool.lease(tried.take(), deadline).await {
                // It was removed meanwhile, or is full.
                Err(Error::Closed | Error::QueueFull { .. }) => None,
                result => result?,
            };
            if let Some(lease) = lease.filter(|lease| fits(&route, Some(&host), lease)) {
                return Ok(lease);
            }
        }
        self.primary.lease(tried, deadline).await?.ok_or(Error::Closed)
    }

    /// Smooth weighted round robin over the replicas that serve; `None`: the primary.
    fn choose(&self, token: Option<&ReadToken>) -> Option<Arc<Host>> {
        let replicas = self.replicas.load();
        if replicas.is_empty() || self.force_primary.load(Relaxed) {
            return None;
        }
        let mut serving = replicas.iter().filter(|host| host.serves(token));
        let first = serving.next()?;
        let Some(second) = serving.next() else { return Some(Arc::clone(first)) };
        let _turn = self.turn.lock();
        let (mut total, mut best) = (0, first);
        for host in [first, second].into_iter().chain(serving) {
            let weight = i64::from(host.weight.load(Relaxed));
            total += weight;
            let turn = host.turn.load(Relaxed) + weight;
            host.turn.store(turn, Relaxed);
            if turn > best.turn.load(Relaxed) {
                best = host;
            }
        }
        best.turn.fetch_sub(total, Relaxed);
        Some(Arc::clone(best))
    }

    pub(crate) fn replica(&self, name: &str) -> Result<Arc<Host>, Error> {
        let found = self.replicas.load().iter().find(|host| host.pool.name == name).cloned();
        found.ok_or_else(|| Error::UnknownHost(name.to_owned()))
    }

    pub(crate) fn pools(&self) -> Vec<Arc<Pool>> {
        let replicas = self.replicas.load();
        std::iter::once(&self.primary).chain(replicas.iter().map(|host| &host.pool)).cloned().collect()
    }

    pub(crate) fn hosts(&self) -> Vec<HostStatus> {
        let replicas = self.replicas.load();
        let reads =
            i32::from(!replicas.iter().any(|host| host.serves(None)) || self.force_primary.load(Relaxed));
        let state = if self.primary.is_down() { HostState::Unreachable } else { HostState::Up };
        let primary = host_status(&self.primary, reads, state);
        std::iter::once(primary).chain(replicas.iter().map(|host| host.status())).collect()
    }
}

/// Whether a connection shows what the route asks for.
fn fits(route: &Route, host: Option<&Host>, lease: &Lease) -> bool {
    match (route, host) {
        (Route::ReadAfter(token), Some(host)) => host.still_satisfies(token, lease),
        _ => true,
    }
}

fn host_status(pool: &Pool, weight: i32, state: HostState) -> HostStatus {
    let socket = pool.options.get_socket().map(|path| path.display().to_string());
    HostStatus {
        name: pool.name.clone(),
        host: socket.unwrap_or_else(|| pool.options.get_host().to_owned()),
        port: pool.options.get_port(),
        role: pool.role,
        weight,
        state,
        lag_seconds: (pool.role == Role::Primary).then_some(0.0),
        lag_lower_seconds: (pool.role == Role::Primary).then_some(0.0),
        lag_bytes: (pool.role == Role::Primary).then_some(0),
        requests: pool.counts().acquired,
        last_error: pool.last_error(),
    }
}

impl View {
    /// The upper bound, grown by the time since it was measured.
    fn upper_now(&self) -> Option<std::time::Duration> {
        let (lag, at) = (self.lag?, self.at?);
        lag.upper.map(|upper| upper + Instant::now().saturating_duration_since(at))
    }
}
