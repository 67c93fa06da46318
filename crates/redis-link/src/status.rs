//! What a link tells about itself, for health and metrics. A snapshot; it asks the server nothing.

use crate::{
    Topology,
    generation::Node,
    link::{LinkState, Shared},
    server_info::{Capabilities, Version},
};
use serde::{Serialize, Serializer};
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime},
};

/// Whether the link has a living generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionState {
    /// Yes.
    Connected,
    /// No; the supervisor tries to open one.
    Disconnected,
    /// No, and never again.
    Shutdown,
}

/// A link at one moment.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct LinkStatus {
    /// Connected or not.
    pub state: ConnectionState,
    /// Since when.
    pub since: SystemTime,
    /// What the last attempt or the last generation ended with; stays after a recovery.
    pub last_error: Option<String>,
    /// `standalone`, `sentinel` or `cluster`.
    pub topology: &'static str,
    /// Number of the current or last generation, counted from 1; 0 before the first.
    pub generation: u64,
    /// Epoch of the current or last generation; on a cluster the largest of its masters'.
    pub epoch: Option<u32>,
    /// Replication id of the current or last generation; on a cluster the first master's.
    pub replid: Option<String>,
    /// The master's address, or what stands in the settings while none is known.
    pub master: String,
    /// The server's version; on a cluster the oldest.
    #[serde(serialize_with = "version")]
    pub version: Option<Version>,
    /// 3, or 2 where the server or what stands before it knows no other.
    pub protocol: u8,
    /// `state` is connected, on a cluster to every master.
    pub master_connected: bool,
    /// The masters, each with its connections.
    pub masters: Vec<MasterStatus>,
    /// Replicas that answer and follow their master, of those that are known.
    pub replicas_connected: usize,
    /// Replicas that are known: from the settings, the Sentinels or the cluster.
    pub replicas: usize,
    /// Open connections to the masters in the current generation.
    pub connections: usize,
    /// Failed attempts to connect and generations that ended unasked, since the link was made.
    pub connection_errors: u64,
    /// Calls that failed, since the link was made.
    pub errors: CallErrors,
    /// Calls under way.
    pub in_flight: usize,
    /// How far the server clock may be off.
    pub clock_uncertainty: Option<Duration>,
    /// When our own certificate ends.
    pub client_certificate_expires: Option<SystemTime>,
}

/// A master and the connections to it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct MasterStatus {
    /// Host and port.
    pub endpoint: String,
    /// Whether there are connections. If not, the rest is empty.
    pub connected: bool,
    /// Epoch of its data.
    pub epoch: Option<u32>,
    /// Replication id of its data.
    pub replid: Option<String>,
    /// The server process's own id.
    pub run_id: Option<String>,
    /// What the server can do, its version among it.
    pub capabilities: Option<Capabilities>,
    /// On a cluster: how many slots it serves.
    pub slots: Option<usize>,
    /// Open connections.
    pub connections: usize,
    /// Calls under way.
    pub in_flight: usize,
    /// When its certificate ends; `None` without TLS.
    pub certificate_expires: Option<SystemTime>,
}

/// Calls that failed, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CallErrors {
    /// [`Error::Timeout`](crate::Error::Timeout).
    pub timeout: u64,
    /// [`Error::Unknown`](crate::Error::Unknown).
    pub unknown: u64,
    /// [`Error::Unavailable`](crate::Error::Unavailable).
    pub unavailable: u64,
    /// [`Error::Epoch`](crate::Error::Epoch).
    pub epoch: u64,
    /// [`Error::Overloaded`](crate::Error::Overloaded).
    pub overloaded: u64,
    /// Everything that the server answered with an error, redirections of a cluster among it.
    pub refused: u64,
}

/// The counters behind [`CallErrors`]; errors are rare, so plain ones.
#[derive(Debug, Default)]
pub(crate) struct ErrorCounters {
    timeout: AtomicU64,
    unknown: AtomicU64,
    unavailable: AtomicU64,
    epoch: AtomicU64,
    overloaded: AtomicU64,
    refused: AtomicU64,
}

impl ErrorCounters {
    pub(crate) fn count(&self, error: &crate::Error) {
        use crate::Error;
        let counter = match error {
            Error::Timeout { .. } => &self.timeout,
            Error::Unknown { .. } => &self.unknown,
            Error::Unavailable { .. } => &self.unavailable,
            Error::Epoch { .. } => &self.epoch,
            Error::Overloaded => &self.overloaded,
            _ => &self.refused,
        };
        counter.fetch_add(1, Relaxed);
    }

    fn read(&self) -> CallErrors {
        CallErrors {
            timeout: self.timeout.load(Relaxed),
            unknown: self.unknown.load(Relaxed),
            unavailable: self.unavailable.load(Relaxed),
            epoch: self.epoch.load(Relaxed),
            overloaded: self.overloaded.load(Relaxed),
            refused: self.refused.load(Relaxed),
        }
    }
}

fn version<S: Serializer>(version: &Option<Version>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&version.map(|version| version.to_string()).unwrap_or_default())
}

impl Shared {
    pub(crate) fn status(&self) -> LinkStatus {
        let facts = self.facts.lock().clone();
        let current = self.current.load_full();
        let state = match &*self.state.borrow() {
            LinkState::Connected(generation) if generation.is_alive() => ConnectionState::Connected,
            LinkState::Shutdown => ConnectionState::Shutdown,
            _ => ConnectionState::Disconnected,
        };
        let masters = self.masters();
        let topology = &self.opener.config.topology;
        let all = !masters.is_empty() && masters.iter().all(|master| master.connected);
        LinkStatus {
            state,
            since: facts.since,
            last_error: facts.last_error,
            topology: match topology {
                Topology::Standalone { .. } => "standalone",
                Topology::Sentinel(_) => "sentinel",
                Topology::Cluster { .. } => "cluster",
            },
            generation: facts.generation,
            epoch: facts.epoch,
            replid: facts.replid,
            master: masters.first().map_or_else(|| topology.to_string(), |master| master.endpoint.clone()),
            version: facts.version,
            protocol: if self.opener.speaks_resp2() { 2 } else { 3 },
            master_connected: state == ConnectionState::Connected && all,
            replicas_connected: self.replicas_connected(),
            replicas: self.layout.load().as_ref().map_or(0, |layout| layout.replicas.len()),
            connections: masters.iter().map(|master| master.connections).sum(),
            connection_errors: self.connection_errors(),
            errors: self.opener.errors.read(),
            in_flight: current.as_ref().map_or(0, |generation| generation.in_flight()),
            clock_uncertainty: self.clock.uncertainty(),
            client_certificate_expires: self.opener.ours_expires(),
            masters,
        }
    }

    fn masters(&self) -> Vec<MasterStatus> {
        let current = self.current.load_full();
        let layout = match &current {
            Some(generation) => Some(generation.layout().clone()),
            None => self.layout.load_full(),
        };
        let Some(layout) = layout else { return Vec::new() };
        let of = |(index, endpoint): (usize, &crate::Endpoint)| {
            let node = current.as_ref().and_then(|generation| generation.all_nodes().get(index)?.as_ref());
            let node = node.filter(|node| node.is_alive());
            let info = node.map(|node| node.info());
            MasterStatus {
                endpoint: endpoint.to_string(),
                connected: node.is_some(),
                epoch: node.map(|node| node.epoch()),
                replid: info.map(|info| info.replid.clone()),
                run_id: info.map(|info| info.run_id.clone()),
                capabilities: info.map(|info| info.capabilities.clone()),
                slots: layout.slots.as_ref().map(|_| layout.slots_of(index).count()),
                connections: node.map_or(0, |node| node.connections()),
                in_flight: node.map_or(0, |node| Node::in_flight(node)),
                certificate_expires: node.and_then(|node| node.first_wire().certificate_expires()),
            }
        };
        layout.masters.iter().enumerate().map(of).collect()
    }
}
