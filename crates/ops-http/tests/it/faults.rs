//! The truth about health while servers die and the services' runtime is stuck.

use std::time::Duration;

use local_stack::{PostgresOptions, RedisOptions, Stack};
use ops_http::{Limits, ServeOptions, Server};

use crate::support::{SOON, Site, ask_blocking, request};

async fn own_stack() -> Stack {
    Stack::builder()
        .postgres(PostgresOptions::default())
        .redis(RedisOptions::default())
        .start()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn database_down_is_503_and_the_process_stays_alive() {
    let site = Site::on(own_stack().await, Limits::default()).await;
    site.until("/readyz", 200).await;
    site.stack.postgres().primary().kill().unwrap();
    for path in ["/readyz", "/health", "/health/database", "/health/database-services", "/health/detailed"] {
        let answer = site.until(path, 503).await;
        assert!(answer.has_header("retry-after: 5"), "{}", answer.head);
    }
    assert_eq!(site.get("/health").await.json()["status"], "unhealthy");
    assert_eq!(site.get("/readyz").await.json()["failing"][0], "database");
    assert_eq!(site.get("/livez").await.status, 200);
    assert_eq!(site.get("/metrics").await.status, 200);

    site.stack.postgres().primary().restart().await.unwrap();
    site.until("/readyz", 200).await;
    site.until("/health", 200).await;
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_down_is_degraded_and_still_200() {
    let site = Site::on(own_stack().await, Limits::default()).await;
    site.until("/readyz", 200).await;
    site.stack.redis().master().kill().unwrap();
    local_stack::wait_for("health is degraded", SOON, async || {
        site.get("/health").await.json()["status"] == "degraded"
    })
    .await;
    for path in ["/health", "/health/cache", "/health/redis", "/health/database-services", "/readyz"] {
        let answer = site.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", site.get("/health/detailed").await.text);
    }
    assert_eq!(site.get("/health/redis").await.json()["master"], "disconnected");
    assert_eq!(site.get("/health/cache").await.json()["l2_cache"]["connection"], "disconnected");
    site.stack.redis().master().restart().await.unwrap();
    site.until_healthy().await;
    site.end().await;
}

#[test]
fn a_saturated_runtime_does_not_keep_probes_from_being_answered() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let site = runtime.block_on(Site::shared());
    let (stuck, is_stuck) = std::sync::mpsc::sync_channel::<()>(1);
    let (free, until_freed) = std::sync::mpsc::sync_channel::<()>(1);
    runtime.spawn(async move {
        stuck.send(()).unwrap();
        // The only worker does not come back from here until it is let go.
        let _freed = until_freed.recv_timeout(Duration::from_secs(60));
    });
    is_stuck.recv_timeout(Duration::from_secs(10)).unwrap();
    for path in ["/livez", "/health", "/metrics"] {
        let began = std::time::Instant::now();
        let answer = ask_blocking(&site.address(), &request("GET", path, None, ""));
        assert!([200, 503].contains(&answer.status), "{path}: {answer:?}");
        assert!(path != "/livez" || answer.status == 200, "{answer:?}");
        assert!(began.elapsed() < Duration::from_secs(1), "{path} took {:?}", began.elapsed());
    }
    free.send(()).unwrap();
    runtime.block_on(site.end());
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_takes_readiness_away_and_gives_it_back() {
    let site = Site::shared().await;
    site.until("/readyz", 200).await;
    site.post("/v1/service/drain", &serde_json::json!({})).await;
    let answer = site.get("/readyz").await;
    assert_eq!((answer.status, answer.json()["reason"].as_str()), (503, Some("draining")));
    assert_eq!(site.get("/health").await.status, 200);
    site.post("/v1/service/drain", &serde_json::json!({"enabled": false})).await;
    assert_eq!(site.get("/readyz").await.status, 200);
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_refused_before_anything_starts() {
    let site = Site::shared().await;
    let options = ServeOptions { listen: site.server.addr().clone(), ..ServeOptions::default() };
    let refused = Server::start(site.services.clone(), options).unwrap_err().to_string();
    assert!(refused.contains(&site.address()) && refused.contains("HTTP_LISTEN"), "{refused}");
    site.end().await;
}
