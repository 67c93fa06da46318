//! What is told about health, and how single answers become one. Plain values; nothing here runs.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{Group, Status, Timestamp};

/// The health of one component.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ComponentHealth {
    /// How well it is; stale answers count as unhealthy.
    pub status: Status,
    /// Why, where it is not healthy.
    pub reason: Option<String>,
    /// Since when it has had this status.
    pub since: Timestamp,
    /// Age of the last answer, in ms; `None`: there is none yet.
    pub age_ms: Option<u64>,
    /// How long it took to answer, in ms.
    pub response_time_ms: Option<f64>,
    /// Whether the answer is too old to count.
    pub stale: bool,
    /// Whether the service cannot work without it.
    pub critical: bool,
    /// Failed runs in a row.
    pub consecutive_failures: u64,
    /// What it measured.
    pub details: serde_json::Map<String, serde_json::Value>,
}

/// The health of everything.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct HealthReport {
    /// Of all together.
    pub status: Status,
    /// When this was put together.
    pub timestamp: Timestamp,
    /// Of each component.
    pub components: BTreeMap<String, ComponentHealth>,
}

/// The answer of a group.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct GroupReport {
    /// Which.
    pub group: Group,
    /// Its answer: liveness fails only when something critical is unhealthy; readiness needs every critical probe to
    /// have answered well, and fails before the start and after the shutdown; start-up stays passed once it has
    /// passed.
    pub passing: bool,
    /// Of its components together.
    pub status: Status,
    /// When this was put together.
    pub timestamp: Timestamp,
    /// Of each component in it.
    pub components: BTreeMap<String, ComponentHealth>,
}

/// One status of many: a critical failure fails, any other failure degrades; what is not known yet counts only
/// where it is critical. Nothing to look at is healthy.
pub(crate) fn aggregate<'a>(components: impl IntoIterator<Item = &'a ComponentHealth>) -> Status {
    let weigh = |component: &ComponentHealth| match (component.critical, component.status) {
        (true, status) => status,
        (false, Status::Unhealthy | Status::Degraded) => Status::Degraded,
        (false, Status::Healthy | Status::Unknown) => Status::Healthy,
    };
    components.into_iter().map(weigh).max().unwrap_or(Status::Healthy)
}
