//! The routes, and what holds for all of them: a time limit, no caching, no traffic of the host, errors as problems.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use database_services::DatabaseServices;

use crate::admin;
use crate::app::App;
use crate::health;
use crate::host::NotTraffic;
use crate::metrics;
use crate::options::RouterOptions;
use crate::problem::Problem;
use crate::tail;

/// All endpoints, to mount in one's own service (`Router::merge`, or `nest` under a prefix).
///
/// Unknown paths are left to the host. Whatever talks to a database runs on `options.runtime`.
pub fn router(services: DatabaseServices, options: RouterOptions) -> Router {
    let app = Arc::new(App::new(services, options));
    Router::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/health", get(health::health))
        .route("/health/detailed", get(health::detailed))
        .route("/health/cache", get(health::cache))
        .route("/health/database", get(health::database))
        .route("/health/redis", get(health::redis))
        .route("/health/database-services", get(health::components))
        .route("/metrics", get(metrics::prometheus))
        .route("/metrics/json", get(metrics::json))
        .route("/metrics/database-services", get(metrics::components))
        .route("/v1", get(admin::list))
        .route("/v1/pubsub/tail", get(tail::tail))
        .route("/v1/{component}/{action}", post(admin::call))
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(Arc::clone(&app), common))
        .with_state(app)
}

/// What the server of our own adds: unknown paths are problems too.
pub(crate) fn standalone(router: Router) -> Router {
    router.fallback(|request: Request| async move { not_found(request.uri().path()) })
}

fn not_found(path: &str) -> Problem {
    let shown: String = path.chars().take(100).collect();
    Problem::new(StatusCode::NOT_FOUND, "not_found", format!("there is nothing at {shown}")).with(
        "known",
        vec![
            "/health",
            "/health/detailed",
            "/health/cache",
            "/health/database",
            "/health/redis",
            "/health/database-services",
            "/livez",
            "/readyz",
            "/metrics",
            "/metrics/json",
            "/metrics/database-services",
            "/v1",
        ],
    )
}

async fn method_not_allowed() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "endpoints are read with GET; actions under /v1 are called with POST",
    )
}

async fn common(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let limit = app.limits().request_timeout;
    let mut response = match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_elapsed) => Problem::timeout(format!(
            "no answer within {} s; an action that was begun goes on, and the log tells how it ends",
            limit.as_secs()
        ))
        .into_response(),
    };
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response.extensions_mut().insert(NotTraffic);
    response
}
