//! The metrics endpoints: Prometheus' text, and the same facts as JSON for scripts.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::app::App;
use crate::problem::Problem;
use crate::telemetry;

/// `GET /metrics`: for anybody; the servers' names by token only.
pub(crate) async fn prometheus(State(app): State<Arc<App>>, request: Request) -> Response {
    match telemetry::render_installed(app.knows(&request)) {
        Ok(text) => ([(header::CONTENT_TYPE, telemetry::CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be rendered");
            Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "the metrics cannot be rendered; see the log",
            )
            .into_response()
        }
    }
}

/// `GET /metrics/json`: by token, for it names hosts.
pub(crate) async fn json(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    app.admit(&request, "GET /metrics/json")?;
    let services = app.running()?;
    let database = services.database();
    let latency = services.health_manager().component("database").and_then(|one| one.response_time_ms);
    let hosts: Vec<Value> = database
        .load_balancer()
        .iter()
        .map(|host| {
            json!({
                "host": host.host,
                "port": host.port,
                "role": host.role,
                "weight": host.weight,
                "state": host.state,
                "lag_seconds": host.lag_seconds,
                "requests": host.requests,
            })
        })
        .collect();
    Ok(Json(json!({
        "connection_pool": services.connection_metrics().ok(),
        "cache": services.cache().stats(),
        "database": {"avg_latency_ms": latency},
        "load_balancer": hosts,
    }))
    .into_response())
}

/// `GET /metrics/database-services`: every component's figures, by token.
pub(crate) async fn components(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    app.admit(&request, "GET /metrics/database-services")?;
    let services = app.running()?;
    let report = services.health_manager().check_health();
    let statuses: serde_json::Map<String, Value> =
        report.components.iter().map(|(name, one)| (name.clone(), json!(one.status))).collect();
    Ok(Json(json!({
        "database": services.database().pool_stats(),
        "cache": services.cache().stats(),
        "locks": services.lock_manager().stats(),
        "pubsub": services.pubsub().stats(),
        "health": {
            "status": report.status,
            "components": statuses,
            "breakers": services.health_manager().breakers(),
        },
    }))
    .into_response())
}
