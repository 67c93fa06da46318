//! Turns the components' health checks into probes. Probes hold the services weakly and resolve the component at
//! each run, so that a swap needs no registration anew.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use health_manager::{Group, Probe, ProbeReport, ProbeSpec, Status};
use resilience::Deadline;

use crate::Error;
use crate::error::told;
use crate::parts::Parts;
use crate::services::Inner;

/// Which component a probe looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Component {
    Database,
    Redis,
    Cache,
    Locks,
    PubSub,
}

impl Component {
    const ALL: [Self; 5] = [Self::Database, Self::Redis, Self::Cache, Self::Locks, Self::PubSub];

    const fn name(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Redis => "redis",
            Self::Cache => "cache",
            Self::Locks => "locks",
            Self::PubSub => "pubsub",
        }
    }
}

/// Names of the probes that every instance has; a host may register more.
pub const PROBES: [&str; 5] = {
    let all = Component::ALL;
    [all[0].name(), all[1].name(), all[2].name(), all[3].name(), all[4].name()]
};

#[derive(Debug)]
struct ComponentProbe {
    component: Component,
    services: Weak<Inner>,
}

/// Registers the probes and breakers, and starts them.
pub(crate) fn start(inner: &Arc<Inner>) -> Result<(), Error> {
    let failed = |error: health_manager::Error| match error {
        health_manager::Error::MissingProbe { probe, known, .. } => Error::Component {
            component: "health",
            message: format!(
                "HEALTH_READINESS names the probe {probe:?}, which does not exist; there are: {known}"
            ),
        },
        other => Error::Component { component: "health", message: other.to_string() },
    };
    let health = inner.health();
    for component in Component::ALL {
        let spec = ProbeSpec::new(component.name()).group(Group::Startup);
        // Without its truth a service cannot work; without the rest it is slower, or says so at the call.
        let spec = if component == Component::Database { spec.critical() } else { spec };
        let probe = ComponentProbe { component, services: Arc::downgrade(inner) };
        match health.register(spec, Arc::new(probe)) {
            Ok(()) | Err(health_manager::Error::Duplicate(_)) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    if let Some(parts) = inner.parts.load_full() {
        register_breakers(inner, &parts);
    }
    health.start().map_err(failed)
}

/// Makes the breakers of these parts known in place of older ones.
pub(crate) fn register_breakers(inner: &Arc<Inner>, parts: &Parts) {
    for (name, breaker) in parts.cache.breakers() {
        if let Err(error) = inner.health().register_breaker(name, breaker) {
            tracing::warn!(%error, "a breaker cannot be shown");
        }
    }
}

#[async_trait]
impl Probe for ComponentProbe {
    async fn check(&self, deadline: Deadline) -> ProbeReport {
        let parts = self.services.upgrade().and_then(|inner| inner.parts.load_full());
        let Some(parts) = parts else {
            return ProbeReport::new(Status::Unknown, "not initialized".to_owned());
        };
        match self.component {
            Component::Database => database(&parts, deadline).await,
            Component::Redis => redis(&parts, deadline).await,
            Component::Cache => cache(&parts, deadline).await,
            Component::Locks => locks(&parts, deadline).await,
            Component::PubSub => pubsub(&parts, deadline).await,
        }
    }
}

async fn database(parts: &Parts, deadline: Deadline) -> ProbeReport {
    use postgres_pool_manager::PoolState;
    let took = match parts.database.health_check(deadline).await {
        Ok(took) => took,
        Err(error) => return ProbeReport::unhealthy(told(&error)),
    };
    let status = parts.database.status();
    let report = match (status.state, status.reason) {
        (PoolState::Connected, _) => ProbeReport::healthy(),
        (_, reason) => ProbeReport::degraded(reason.unwrap_or_else(|| "not every server serves".to_owned())),
    };
    let pool = status.pool;
    report
        .took(took)
        .detail("active_connections", pool.active_connections)
        .detail("idle_connections", pool.idle)
        .detail("pool_utilization", pool.utilization)
        .detail("connection_queue_size", pool.connection_queue_size)
}

const WITHOUT: &str = "no Redis is configured";

async fn redis(parts: &Parts, deadline: Deadline) -> ProbeReport {
    let Some(links) = &parts.links else {
        return ProbeReport::new(Status::Healthy, WITHOUT.to_owned()).detail("configured", false);
    };
    let mut report = ProbeReport::healthy();
    for (name, link) in links.all() {
        let status = link.status();
        match link.health_check(deadline).await {
            Ok(took) => report = report.took(took),
            Err(error) => {
                report.status = Status::Unhealthy;
                report.reason = Some(format!("{name} at {}: {}", status.master, told(&error)));
            }
        }
        if report.status == Status::Healthy && status.replicas_connected < status.replicas {
            report.status = Status::Degraded;
            report.reason = Some(format!(
                "{} of {} replicas of {name} follow",
                status.replicas_connected, status.replicas
            ));
        }
        report = report
            .detail(&format!("{name}_master"), link.status().master_connected)
            .detail(&format!("{name}_replicas_connected"), status.replicas_connected)
            .detail(&format!("{name}_epoch"), status.epoch);
    }
    report
}

async fn cache(parts: &Parts, deadline: Deadline) -> ProbeReport {
    let checked = parts.cache.health_check(deadline).await;
    let (status, stats) = (parts.cache.status(), parts.cache.stats());
    let report = match checked {
        Ok(took) if status.healthy => ProbeReport::healthy().took(took),
        Ok(took) => ProbeReport::degraded(format!("coherence: {:?}", status.coherence)).took(took),
        // It fails open: the levels that are left, and the loader, still answer.
        Err(error) => ProbeReport::degraded(told(&error)),
    };
    report
        .detail("hit_rate", stats.hit_rate)
        .detail("l1_hit_rate", stats.l1_hit_rate)
        .detail("l1_utilization", stats.l1_utilization)
        .detail("coherence", format!("{:?}", status.coherence))
        .detail("pending_invalidations", status.pending_invalidations)
}

async fn locks(parts: &Parts, deadline: Deadline) -> ProbeReport {
    if parts.links.is_none() {
        return ProbeReport::new(Status::Healthy, WITHOUT.to_owned()).detail("available", false);
    }
    match parts.locks.health_check(deadline).await {
        Ok(took) => ProbeReport::healthy().took(took),
        Err(error) => ProbeReport::unhealthy(told(&error)),
    }
}

async fn pubsub(parts: &Parts, deadline: Deadline) -> ProbeReport {
    let report = match parts.bus.pubsub.health_check(deadline).await {
        Ok(took) => ProbeReport::healthy().took(took),
        Err(error) => ProbeReport::unhealthy(told(&error)),
    };
    report.detail("bus", parts.bus.pubsub.status().bus)
}
