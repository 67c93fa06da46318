//! What is counted, under which labels, and what is not. The only tests of this crate's library that install telemetry.

use axum::body::Body;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Extension, Router};
use tower::ServiceExt;

use super::*;
use crate::Telemetry;

async fn ask(router: &Router, path: &str) -> u16 {
    let request = Request::get(path).body(Body::empty()).unwrap();
    router.clone().oneshot(request).await.unwrap().status().as_u16()
}

#[tokio::test]
async fn requests_count_by_route_and_status_and_ours_do_not_count() {
    let telemetry = Telemetry::install().unwrap();
    let router = Router::new()
        .route("/users/{id}", get(|| async { "user" }))
        .route("/livez", get(|| async { Extension(NotTraffic).into_response() }))
        .route("/never", get(std::future::pending::<String>))
        .layer(HostMetricsLayer::new());
    assert_eq!(ask(&router, "/users/1").await, 200);
    assert_eq!(ask(&router, "/users/2").await, 200);
    assert_eq!(ask(&router, "/livez").await, 200);
    assert_eq!(ask(&router, "/nowhere").await, 404);
    let mut gone = Box::pin(ask(&router, "/never"));
    assert!(futures_util::poll!(gone.as_mut()).is_pending());
    drop(gone);

    let text = telemetry.render().unwrap();
    assert!(
        text.contains(r#"http_requests_total{method="GET",route="/users/{id}",status="200"} 2"#),
        "{text}"
    );
    assert!(text.contains(r#"http_requests_total{method="GET",route="unmatched",status="404"} 1"#), "{text}");
    assert!(text.contains(r#"http_requests_total{method="GET",route="/never",status="499"} 1"#), "{text}");
    assert!(
        text.contains(
            r#"http_request_duration_seconds_bucket{method="GET",route="/users/{id}",le="0.0005"}"#
        )
    );
    assert!(text.contains("# TYPE http_requests_total counter"), "no doubled suffix: {text}");
    assert!(text.contains("# TYPE process_resident_memory_bytes gauge"), "{text}");
    assert!(text.contains("# TYPE process_memory_limit_bytes gauge"), "{text}");
    assert!(
        !text.contains("livez") && !text.contains("otel_scope") && !text.contains("target_info"),
        "{text}"
    );
}
