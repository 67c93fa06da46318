//! Numbers and states as operators see them. Snapshots only; nothing here counts.

use serde::Serialize;

/// The pool at one moment. The top level is the sum over all servers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PoolStats {
    /// Connections in use, those being cleaned included.
    pub active_connections: u32,
    /// Connections ready to be handed out.
    pub idle: u32,
    /// The size set.
    pub pool_size: u32,
    /// The overflow set.
    pub overflow: u32,
    /// active / (size + overflow).
    pub utilization: f64,
    /// Callers waiting.
    pub connection_queue_size: u32,
    /// Connections being opened.
    pub connecting: u32,
    /// Connections open beyond `pool_size`.
    pub overflow_in_use: u32,
    /// size + overflow.
    pub max_connections: u32,
    /// Sessions handed out since the start.
    pub acquired_total: u64,
    /// Acquisitions that ran into their deadline.
    pub acquire_timeouts_total: u64,
    /// Connections opened.
    pub opened_total: u64,
    /// Connections given up because they were broken or not clean in time.
    pub discarded_total: u64,
    /// Failed attempts to connect, failed checks and connections lost in use.
    pub connection_errors_total: u64,
    /// Sessions held beyond the leak threshold now.
    pub leaks: u32,
    /// The same for each server; empty inside itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostStats>,
}

impl PoolStats {
    pub(crate) fn sum(hosts: Vec<HostStats>) -> Self {
        let mut all = Self::default();
        for HostStats { pool, .. } in &hosts {
            all.active_connections += pool.active_connections;
            all.idle += pool.idle;
            all.pool_size += pool.pool_size;
            all.overflow += pool.overflow;
            all.connection_queue_size += pool.connection_queue_size;
            all.connecting += pool.connecting;
            all.overflow_in_use += pool.overflow_in_use;
            all.max_connections += pool.max_connections;
            all.acquired_total += pool.acquired_total;
            all.acquire_timeouts_total += pool.acquire_timeouts_total;
            all.opened_total += pool.opened_total;
            all.discarded_total += pool.discarded_total;
            all.connection_errors_total += pool.connection_errors_total;
            all.leaks += pool.leaks;
        }
        all.utilization = f64::from(all.active_connections) / f64::from(all.max_connections.max(1));
        all.hosts = hosts;
        all
    }
}

/// One server's share of [`PoolStats`].
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct HostStats {
    /// The server's name.
    pub name: String,
    /// Its pool.
    #[serde(flatten)]
    pub pool: PoolStats,
}

/// What a server is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Role {
    /// Reads and writes.
    Primary,
    /// Reads.
    Replica,
}

/// Whether a server gets traffic, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HostState {
    /// It serves.
    Up,
    /// Not probed yet.
    Unknown,
    /// Beyond the lag limit, or of unknown lag.
    Lagging,
    /// No answer.
    Unreachable,
    /// It takes writes though it is listed as a replica.
    Writable,
    /// It answers, and is out for a while because it failed again and again.
    Banned,
    /// It takes no writes though it is the primary.
    Standby,
    /// It belongs to another cluster than the primary.
    OtherCluster,
    /// Taken out by hand.
    Drained,
}

/// A server in the load balancer's view.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct HostStatus {
    /// Its name.
    pub name: String,
    /// Host name, address or socket directory.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Its role.
    pub role: Role,
    /// Its share of the reads; the primary's is 0 while a replica serves, else 1.
    pub weight: i32,
    /// Its state.
    pub state: HostState,
    /// Upper bound of its lag, the one that routing uses; `None`: unknown.
    pub lag_seconds: Option<f64>,
    /// Lower bound of its lag; `None`: unknown.
    pub lag_lower_seconds: Option<f64>,
    /// Log bytes not replayed yet; `None`: unknown.
    pub lag_bytes: Option<u64>,
    /// Sessions handed out since the start.
    pub requests: u64,
    /// The latest failure to connect, while connecting fails.
    pub last_error: Option<String>,
}

/// The pool's state as one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PoolState {
    /// Everything serves.
    Connected,
    /// The primary serves, something else does not (a replica, or callers queue at a full pool).
    Degraded,
    /// The primary cannot be connected to.
    Disconnected,
    /// Suspended by an operator.
    Suspended,
    /// Shut down.
    Closed,
}

/// State, reason and numbers, for probes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// The state.
    pub state: PoolState,
    /// Why, unless `Connected`.
    pub reason: Option<String>,
    /// Every server.
    pub hosts: Vec<HostStatus>,
    /// Whether all reads go to the primary by order.
    pub force_primary_reads: bool,
    /// Whether they do because every replica is far behind.
    pub force_primary_reads_automatic: bool,
    /// The numbers.
    pub pool: PoolStats,
}
