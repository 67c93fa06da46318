//! Figures over all components, in the names that dashboards and scripts know. Snapshots; nothing is asked.

use std::collections::BTreeMap;

use redis_link::LinkStatus;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{DatabaseServices, Error};

/// Connections at a glance.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ConnectionMetrics {
    /// Postgres connections in use.
    pub active_connections: u32,
    /// Those in use of all that may be opened, 0 to 1.
    pub pool_utilization: f64,
    /// Callers waiting for one.
    pub connection_queue_size: u32,
    /// Whether the Redis master answers; `false` also without Redis.
    pub redis_master_connected: bool,
    /// Whether a Redis replica follows; `false` also without one.
    pub redis_replica_connected: bool,
}

impl DatabaseServices {
    /// Connections at a glance.
    ///
    /// # Errors
    /// [`Error::NotInitialized`].
    pub fn connection_metrics(&self) -> Result<ConnectionMetrics, Error> {
        let parts = self.try_parts()?;
        let pool = parts.database.pool_stats();
        let link = parts.links.as_ref().map(|links| links.cache.status());
        Ok(ConnectionMetrics {
            active_connections: pool.active_connections,
            pool_utilization: pool.utilization,
            connection_queue_size: pool.connection_queue_size,
            redis_master_connected: link.as_ref().is_some_and(|link| link.master_connected),
            redis_replica_connected: link.as_ref().is_some_and(|link| link.replicas_connected > 0),
        })
    }

    /// Each Redis link by its name: `redis`, and `redis-coordination` where that is another server. None without Redis,
    /// or before the start.
    pub fn redis_status(&self) -> BTreeMap<&'static str, LinkStatus> {
        let Ok(parts) = self.try_parts() else { return BTreeMap::new() };
        let links = parts.links.iter().flat_map(crate::links::Links::all);
        links.map(|(name, link)| (name, link.status())).collect()
    }

    /// Everything as JSON: `service`, `connection_pool`, `connections`, `database`, `load_balancer`, `cache`, `redis`,
    /// `locks`, `pubsub`, `breakers`, `health`.
    ///
    /// # Errors
    /// [`Error::NotInitialized`].
    pub fn stats(&self) -> Result<Value, Error> {
        let parts = self.try_parts()?;
        let health = self.health_manager();
        let redis: serde_json::Map<_, _> =
            self.redis_status().into_iter().map(|(name, status)| (name.to_owned(), value(&status))).collect();
        Ok(json!({
            "service": {
                "version": Self::version(),
                "mode": self.mode(),
                "state": self.state(),
                "uptime": self.uptime().as_secs_f64(),
                "response_target_ms": u64::try_from(self.mode().response_target().as_millis()).unwrap_or(u64::MAX),
                "agent_id": self.security_context().agent_id(),
                "tier": self.security_context().tier(),
            },
            "connection_pool": value(&parts.database.pool_stats()),
            "connections": value(&self.connection_metrics()?),
            "database": value(&parts.database.status()),
            "load_balancer": value(&parts.database.load_balancer()),
            "cache": value(&parts.cache.stats()),
            "redis": if redis.is_empty() { Value::Null } else { Value::Object(redis) },
            "locks": value(&parts.locks.stats()),
            "pubsub": value(&parts.bus.pubsub.stats()),
            "durable": value(&parts.bus.pubsub.durable_stats()),
            "outbox": value(&parts.outbox.status()),
            "journal": parts.bus.journal.as_ref().map(|journal| value(&journal.stats())),
            "breakers": value(&health.breakers()),
            "health": value(&health.check_health()),
        }))
    }
}

/// These types always have a JSON form; should one not, its figure is missing rather than the whole.
fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or(Value::Null)
}
