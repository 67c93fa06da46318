//! The modes a service runs in: how big L1 is, how eagerly it is warmed, how fast answers are meant to be.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What kind of service this is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ManagerMode {
    /// Serves tools to agents: 2,000 L1 entries, aggressive warming, answers within 200 ms.
    McpServer,
    /// Busy and redundant: 2,500 L1 entries, the most aggressive warming, answers within 100 ms.
    HighAvailability,
    /// The usual asynchronous service: 1,000 L1 entries, standard warming, answers within 500 ms.
    #[default]
    AsyncModern,
    /// Administrative jobs: 500 L1 entries, no warming, answers within a second.
    Admin,
}

/// How a mode warms its cache.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Warming {
    /// Time between two cycles.
    pub interval: Duration,
    /// Accesses an hour that make a key worth it.
    pub threshold: f64,
    /// Keys a cycle.
    pub batch: u32,
}

impl ManagerMode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::McpServer, Self::HighAvailability, Self::AsyncModern, Self::Admin];

    /// Its name in settings, metrics and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::McpServer => "mcp_server",
            Self::HighAvailability => "high_availability",
            Self::AsyncModern => "async_modern",
            Self::Admin => "admin",
        }
    }

    /// Entries in L1 unless `CACHE_L1_SIZE` says otherwise.
    pub const fn l1_entries(self) -> u64 {
        match self {
            Self::McpServer => 2_000,
            Self::HighAvailability => 2_500,
            Self::AsyncModern => 1_000,
            Self::Admin => 500,
        }
    }

    /// How the cache is warmed unless the `UCM_WARMING_…` settings say otherwise; `None`: not at all.
    pub const fn warming(self) -> Option<Warming> {
        let (seconds, threshold, batch) = match self {
            Self::McpServer => (120, 1.0, 100),
            Self::HighAvailability => (60, 0.5, 100),
            Self::AsyncModern => (300, 2.0, 50),
            Self::Admin => return None,
        };
        Some(Warming { interval: Duration::from_secs(seconds), threshold, batch })
    }

    /// The p95 that answers are meant to stay under.
    pub const fn response_target(self) -> Duration {
        Duration::from_millis(match self {
            Self::McpServer => 200,
            Self::HighAvailability => 100,
            Self::AsyncModern => 500,
            Self::Admin => 1_000,
        })
    }
}

impl fmt::Display for ManagerMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// There is no mode of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a mode: use mcp_server, high_availability, async_modern or admin")]
pub struct UnknownMode(pub String);

impl FromStr for ManagerMode {
    type Err = UnknownMode;

    fn from_str(name: &str) -> Result<Self, UnknownMode> {
        let wanted = name.to_ascii_lowercase().replace('-', "_");
        Self::ALL.into_iter().find(|mode| mode.name() == wanted).ok_or_else(|| UnknownMode(name.to_owned()))
    }
}
