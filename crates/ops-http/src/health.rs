//! The health endpoints: what the background probes said last, so a request waits for no backend.
//!
//! Status code by one rule: 503 where the service cannot work (a critical component unhealthy, or not known yet),
//! 200 else, with the status in words in the body. `/livez` depends on nothing but this thread.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use database_services::DatabaseServices;
use database_services::health_manager::{ComponentHealth, Group, Status};
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::problem::Problem;
use crate::process;

/// Names of the components that `/health/detailed` always lists.
const COMPONENTS: [&str; 4] = ["database", "cache", "locks", "pubsub"];

/// How soon a client that was told 503 should ask again, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

/// `GET /livez`: the process answers.
pub(crate) async fn livez() -> Json<Value> {
    Json(json!({"status": "healthy"}))
}

/// `GET /readyz`: whether to send traffic here.
pub(crate) async fn readyz(State(app): State<Arc<App>>) -> Response {
    let not_ready = |reason| answer(false, json!({"status": "unhealthy", "ready": false, "reason": reason}));
    if app.control().is_draining() {
        return not_ready("draining");
    }
    if app.running().is_err() {
        return not_ready("starting");
    }
    let group = app.services().health_manager().group(Group::Readiness);
    let failing: Vec<&String> = group
        .components
        .iter()
        .filter(|(_, component)| component.critical && !works(component.status))
        .map(|(name, _)| name)
        .collect();
    let mut body = json!({"status": group.status, "ready": group.passing});
    if !group.passing {
        body["reason"] = json!("components that the service cannot work without are not healthy");
        body["failing"] = json!(failing);
    }
    answer(group.passing, body)
}

/// `GET /health`.
pub(crate) async fn health(State(app): State<Arc<App>>) -> Response {
    let report = app.services().health_manager().check_health();
    // Before the start there are no probes, and nothing to be healthy.
    let status = if app.running().is_ok() { report.status } else { Status::Unknown };
    answer(
        works(status),
        json!({
            "status": status,
            "timestamp": report.timestamp,
            "version": env!("CARGO_PKG_VERSION"),
            "uptime": app.services().uptime().as_secs_f64(),
        }),
    )
}

/// `GET /health/detailed`: by token, for it tells reasons and measures.
pub(crate) async fn detailed(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    app.admit(&request, "GET /health/detailed")?;
    let report = app.running()?.health_manager().check_health();
    let slowest = report.components.values().filter_map(|one| one.response_time_ms).fold(0.0, f64::max);
    let mut components = Map::new();
    for name in COMPONENTS {
        components.insert(name.to_owned(), json!({"status": Status::Unknown, "reason": "not set up"}));
    }
    for (name, component) in &report.components {
        components.insert(name.clone(), json!(component));
    }
    Ok(answer(
        works(report.status),
        json!({
            "status": report.status,
            "timestamp": report.timestamp,
            "components": components,
            "metrics": {
                "response_time": slowest,
                "memory_usage": memory_percent(),
                "cpu_usage": app.cpu_percent(),
            },
        }),
    ))
}

/// `GET /health/cache`.
pub(crate) async fn cache(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    let services = app.running()?;
    let health = services.health_manager().component("cache");
    let stats = services.cache().stats();
    let redis = Redis::of(services);
    let l1_status = if stats.l1_max_size > 0 { Status::Healthy } else { Status::Unhealthy };
    let warming = if stats.warming_enabled { "enabled" } else { "disabled" };
    Ok(of_component(
        health.as_ref(),
        json!({
            "hit_rate": stats.hit_rate,
            "l1_hit_rate": stats.l1_hit_rate,
            "l1_cache": {
                "status": l1_status,
                "hit_rate": stats.l1_hit_rate,
                "utilization": stats.l1_utilization,
                "size": stats.l1_max_size,
                "entries": stats.l1_size,
            },
            "l2_cache": {
                "status": redis.status(),
                "connection": word(redis.master),
                "response_time_ms": stats.l2_response_time,
            },
            "cache_warming": {
                "status": warming,
                "last_cycle": Value::Null,
                "keys_warmed": stats.warming_keys_warmed,
            },
        }),
    ))
}

/// `GET /health/database`.
pub(crate) async fn database(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    let services = app.running()?;
    let health = services.health_manager().component("database");
    let pool = services.database().pool_stats();
    let response_time = health.as_ref().and_then(|one| one.response_time_ms);
    Ok(of_component(
        health.as_ref(),
        json!({
            "avg_response_time_ms": response_time,
            "active_connections": pool.active_connections,
            "idle": pool.idle,
            "pool_size": pool.pool_size,
            "overflow": pool.overflow,
            "utilization": pool.utilization,
            "connection_queue_size": pool.connection_queue_size,
        }),
    ))
}

/// `GET /health/redis`. Nothing depends on Redis alone, so this is 200 with the truth in words.
pub(crate) async fn redis(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    let services = app.running()?;
    let redis = Redis::of(services);
    let response_time = services.health_manager().component("redis").and_then(|one| one.response_time_ms);
    Ok(answer(
        true,
        json!({
            "status": redis.status(),
            "master": word(redis.master),
            "replica": word(redis.replica),
            "response_time_ms": response_time,
        }),
    ))
}

/// Redis as the links see it; `None`: there is none in the settings.
struct Redis {
    master: Option<bool>,
    replica: Option<bool>,
}

impl Redis {
    fn of(services: &DatabaseServices) -> Self {
        let links: Vec<_> =
            services.redis().into_iter().chain(services.coordination()).map(|l| l.status()).collect();
        let any = !links.is_empty();
        let replicas = links.iter().any(|link| link.replicas > 0);
        Self {
            master: any.then(|| links.iter().all(|link| link.master_connected)),
            replica: replicas.then(|| links.iter().all(|link| link.replicas_connected == link.replicas)),
        }
    }

    fn status(&self) -> Status {
        match (self.master, self.replica) {
            (Some(false), _) => Status::Unhealthy,
            (Some(true), Some(false)) => Status::Degraded,
            (Some(true), _) => Status::Healthy,
            (None, _) => Status::Unknown,
        }
    }
}

fn word(connected: Option<bool>) -> &'static str {
    match connected {
        Some(true) => "connected",
        Some(false) => "disconnected",
        None => "not_configured",
    }
}

/// `GET /health/database-services`: every component in a word.
pub(crate) async fn components(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    let services = app.running()?;
    let report = services.health_manager().check_health();
    let mut body = Map::new();
    for name in COMPONENTS {
        let status = report.components.get(name).map_or(Status::Unknown, |one| one.status);
        body.insert(name.to_owned(), json!({"status": status}));
    }
    body.insert("overall".to_owned(), json!({"status": report.status}));
    Ok(answer(works(report.status), Value::Object(body)))
}

/// A component's own endpoint: 503 only if the service cannot work without it.
fn of_component(health: Option<&ComponentHealth>, mut body: Value) -> Response {
    let status = health.map_or(Status::Unknown, |one| one.status);
    let fine = works(status) || !health.is_some_and(|one| one.critical);
    body["status"] = json!(status);
    answer(fine, body)
}

fn works(status: Status) -> bool {
    matches!(status, Status::Healthy | Status::Degraded)
}

fn answer(fine: bool, body: Value) -> Response {
    if fine {
        Json(body).into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, RETRY_AFTER)], Json(body)).into_response()
    }
}

/// Resident memory as a share of what the process may use; `None` where the system does not say.
fn memory_percent() -> Option<f64> {
    let (used, limit) = (process::resident_memory_bytes()?, process::memory_limit_bytes()?);
    (limit > 0).then(|| used as f64 * 100.0 / limit as f64)
}
