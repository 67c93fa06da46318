//! Where the servers are said to be: addresses and how they are laid out. Which of them is the master at this moment is
//! the [finder](crate::finder)'s to find out.

use secrecy::SecretString;
use serde::Deserialize;
use std::fmt;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Endpoint {
    /// Host and port.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// As servers name each other: `host:port`, the host without brackets even if it is an IPv6 address.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        Some(Self::new(host, port.parse().ok()?))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// How the servers are laid out.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Topology {
    /// One master at a known address, with replicas that are watched for the status only.
    Standalone {
        /// The master; an address that moves on failover is fine.
        master: Endpoint,
        /// Its replicas.
        #[serde(default)]
        replicas: Vec<Endpoint>,
    },
    /// One master, which the Sentinels name.
    Sentinel(SentinelTopology),
    /// A Redis Cluster.
    Cluster {
        /// Some of its nodes; the others are asked for. Three in different places are enough.
        seeds: Vec<Endpoint>,
    },
}

/// What watches over the master.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SentinelTopology {
    /// The master's name in the Sentinels' configuration.
    pub master_name: String,
    /// The Sentinels, all that are known: of different answers the one of the latest failover counts.
    pub sentinels: Vec<Endpoint>,
    /// ACL user at the Sentinels. Default: their `default` user.
    #[serde(default)]
    pub username: Option<String>,
    /// Password at the Sentinels, which is not the servers' own. Default: none.
    #[serde(default)]
    pub password: Option<SecretString>,
    /// The Sentinels speak TLS if the servers do. Default true.
    #[serde(default = "yes")]
    pub tls: bool,
}

const fn yes() -> bool {
    true
}

impl Topology {
    /// A master without replicas.
    #[must_use]
    pub const fn standalone(master: Endpoint) -> Self {
        Self::Standalone { master, replicas: Vec::new() }
    }

    /// A master that Sentinels without a password name.
    #[must_use]
    pub fn sentinel(master_name: impl Into<String>, sentinels: Vec<Endpoint>) -> Self {
        let master_name = master_name.into();
        Self::Sentinel(SentinelTopology { master_name, sentinels, username: None, password: None, tls: true })
    }

    /// A cluster that some of its nodes lead to.
    #[must_use]
    pub const fn cluster(seeds: Vec<Endpoint>) -> Self {
        Self::Cluster { seeds }
    }

    pub(crate) const fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster { .. })
    }

    /// The addresses that stand in the settings.
    pub(crate) fn endpoints(&self) -> Vec<&Endpoint> {
        match self {
            Self::Standalone { master, replicas } => std::iter::once(master).chain(replicas).collect(),
            Self::Sentinel(sentinel) => sentinel.sentinels.iter().collect(),
            Self::Cluster { seeds } => seeds.iter().collect(),
        }
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standalone { master, .. } => write!(f, "{master}"),
            Self::Sentinel(sentinel) => write!(f, "the master {}", sentinel.master_name),
            Self::Cluster { seeds } => match seeds.first() {
                Some(seed) => write!(f, "the cluster at {seed}"),
                None => f.write_str("a cluster"),
            },
        }
    }
}
