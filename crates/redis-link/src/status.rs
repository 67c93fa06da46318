//! What a link tells about itself, for health and metrics. A snapshot; it asks the server nothing.

use crate::server_info::Version;
use serde::{Serialize, Serializer};
use std::time::{Duration, SystemTime};

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
    /// Number of the current or last generation, counted from 1; 0 before the first.
    pub generation: u64,
    /// Epoch of the current or last generation.
    pub epoch: Option<u32>,
    /// Replication id of the current or last generation.
    pub replid: Option<String>,
    /// The master's address.
    pub master: String,
    /// The server's version.
    #[serde(serialize_with = "version")]
    pub version: Option<Version>,
    /// `state` is connected.
    pub master_connected: bool,
    /// Replicas that answer and follow their master, of those configured.
    pub replicas_connected: usize,
    /// Replicas configured.
    pub replicas: usize,
    /// Open connections to the master in the current generation.
    pub connections: usize,
    /// Failed attempts to connect and generations that ended unasked, since the link was made.
    pub connection_errors: u64,
    /// Calls under way.
    pub in_flight: usize,
    /// How far the server clock may be off.
    pub clock_uncertainty: Option<Duration>,
}

fn version<S: Serializer>(version: &Option<Version>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&version.map(|version| version.to_string()).unwrap_or_default())
}
