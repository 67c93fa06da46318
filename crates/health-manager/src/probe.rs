//! What a probe is and what it answers. It does not say how or when probes are run.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use resilience::Deadline;
use serde::{Deserialize, Serialize};

/// How well something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// All is well.
    Healthy,
    /// It works, with less than it should have.
    Degraded,
    /// Not probed yet.
    Unknown,
    /// It does not work.
    Unhealthy,
}

impl Status {
    /// All, in order of badness.
    pub const ALL: [Self; 4] = [Self::Healthy, Self::Degraded, Self::Unknown, Self::Unhealthy];

    /// Its name in JSON, metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unknown => "unknown",
            Self::Unhealthy => "unhealthy",
        }
    }

    /// Healthy or degraded: requests can be served.
    pub const fn is_serving(self) -> bool {
        matches!(self, Self::Healthy | Self::Degraded)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A question that several probes answer together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// Is this process to be restarted? Never depends on anything outside the process.
    Liveness,
    /// Can it take requests now?
    Readiness,
    /// Has it been able to take requests once?
    Startup,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
            Self::Startup => "startup",
        })
    }
}

/// Where a probe looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// At this process alone.
    Process,
    /// At something outside: a server, a disk, another service.
    Outside,
}

/// Something that can say how well it is.
#[async_trait]
pub trait Probe: Send + Sync + fmt::Debug {
    /// Looks once. The run is dropped at the deadline (and then counts as failed), so it is cancel safe; a panic
    /// counts as failed too.
    async fn check(&self, deadline: Deadline) -> ProbeReport;
}

/// What a probe answers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProbeReport {
    /// How well it is.
    pub status: Status,
    /// Why, where it is not healthy.
    pub reason: Option<String>,
    /// What was measured; never a secret.
    pub details: serde_json::Map<String, serde_json::Value>,
    /// How long the dependency took to answer; `None`: the run's own duration is used.
    pub response_time: Option<Duration>,
}

impl ProbeReport {
    /// A report with this status and reason.
    pub fn new(status: Status, reason: impl Into<Option<String>>) -> Self {
        Self { status, reason: reason.into(), details: serde_json::Map::new(), response_time: None }
    }

    /// All is well.
    pub fn healthy() -> Self {
        Self::new(Status::Healthy, None)
    }

    /// It works, with less than it should have.
    pub fn degraded(reason: impl Into<String>) -> Self {
        Self::new(Status::Degraded, Some(reason.into()))
    }

    /// It does not work.
    pub fn unhealthy(reason: impl Into<String>) -> Self {
        Self::new(Status::Unhealthy, Some(reason.into()))
    }

    /// Adds something that was measured.
    #[must_use]
    pub fn detail(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// Says how long the dependency took to answer.
    #[must_use]
    pub const fn took(mut self, response_time: Duration) -> Self {
        self.response_time = Some(response_time);
        self
    }
}

/// How a probe is registered.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProbeSpec {
    /// Its name, unique.
    pub name: String,
    /// Whether the service cannot work without it. Default no.
    pub critical: bool,
    /// Where it looks. Default outside, the safe side.
    pub reach: Reach,
    /// Groups it joins. Default none.
    pub groups: Vec<Group>,
    /// Time between two runs; `None`: the manager's.
    pub period: Option<Duration>,
    /// Hard limit of a run; `None`: the manager's.
    pub timeout: Option<Duration>,
}

impl ProbeSpec {
    /// A probe of something outside the process, not critical, in no group.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            critical: false,
            reach: Reach::Outside,
            groups: Vec::new(),
            period: None,
            timeout: None,
        }
    }

    /// The service cannot work without it.
    #[must_use]
    pub const fn critical(mut self) -> Self {
        self.critical = true;
        self
    }

    /// It looks at this process alone.
    #[must_use]
    pub const fn in_process(mut self) -> Self {
        self.reach = Reach::Process;
        self
    }

    /// Joins a group.
    #[must_use]
    pub fn group(mut self, group: Group) -> Self {
        self.groups.push(group);
        self
    }

    /// Runs this often (at least every 10 ms).
    #[must_use]
    pub const fn every(mut self, period: Duration) -> Self {
        self.period = Some(period);
        self
    }

    /// A run that takes longer has failed.
    #[must_use]
    pub const fn within(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}
