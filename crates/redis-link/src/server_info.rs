//! What `INFO` says about a server, and what follows from its version. It asks nothing itself.

use crate::{Endpoint, Error};
use serde::{Serialize, Serializer};
use std::fmt;

/// A server's version, as Redis counts (Valkey reports the Redis version that it is compatible with).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// First number.
    pub major: u16,
    /// Second number.
    pub minor: u16,
    /// Third number.
    pub patch: u16,
}

impl Version {
    /// The oldest supported one.
    pub const MINIMUM: Self = Self { major: 6, minor: 2, patch: 0 };
    const SEVEN: Self = Self { major: 7, minor: 0, patch: 0 };

    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.trim().split('.').map(|part| part.parse().ok());
        let major = numbers.next()??;
        let minor = numbers.next().flatten().unwrap_or(0);
        let patch = numbers.next().flatten().unwrap_or(0);
        Some(Self { major, minor, patch })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// What the connected server can do, found out when a generation opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Capabilities {
    /// The server's version.
    #[serde(serialize_with = "as_text")]
    pub version: Version,
    /// Valkey, not Redis.
    pub valkey: bool,
    /// A script may call INFO, so fenced scripts also see a changed replication id (7.0).
    pub info_in_scripts: bool,
    /// Sharded publish and subscribe (7.0).
    pub sharded_pubsub: bool,
    /// What the server does when its memory is full, for example `noeviction`; empty if it does not say.
    pub maxmemory_policy: String,
    /// Bytes it may use, 0 for no limit.
    pub maxmemory: u64,
}

fn as_text<S: Serializer>(version: &Version, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(version)
}

/// The fields of `INFO` that matter here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerInfo {
    pub(crate) run_id: String,
    pub(crate) role: String,
    pub(crate) replid: String,
    pub(crate) loading: bool,
    pub(crate) master_link_up: bool,
    pub(crate) capabilities: Capabilities,
}

impl ServerInfo {
    /// Parses the reply to `INFO`; `None` if it is not one.
    pub(crate) fn parse(info: &str) -> Option<Self> {
        let field = |name: &str| {
            let mut lines = info.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        let version = Version::parse(field("redis_version")?)?;
        Some(Self {
            run_id: field("run_id")?.to_owned(),
            role: field("role")?.to_owned(),
            replid: field("master_replid")?.to_owned(),
            loading: field("loading").is_some_and(|loading| loading != "0"),
            master_link_up: field("master_link_status") == Some("up"),
            capabilities: Capabilities {
                version,
                valkey: field("valkey_version").is_some(),
                info_in_scripts: version >= Version::SEVEN,
                sharded_pubsub: version >= Version::SEVEN,
                maxmemory_policy: field("maxmemory_policy").unwrap_or_default().to_owned(),
                maxmemory: field("maxmemory").and_then(|bytes| bytes.parse().ok()).unwrap_or(0),
            },
        })
    }
}

impl ServerInfo {
    /// Whether the server knows sharded channels.
    pub(crate) fn check_sharded(&self, operation: &'static str, endpoint: &Endpoint) -> Result<(), Error> {
        if self.capabilities.sharded_pubsub {
            return Ok(());
        }
        let (endpoint, version) = (endpoint.to_string(), self.capabilities.version.to_string());
        Err(Error::Unsupported { operation, endpoint, version, minimum: "7.0" })
    }
}

/// Role and replication id, from `INFO replication` alone.
pub(crate) fn replication(info: &str) -> (Option<&str>, Option<&str>) {
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    (field("role:"), field("master_replid:"))
}

#[cfg(test)]
mod tests;
