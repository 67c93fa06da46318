//! Every endpoint's JSON, by its keys.

use serde_json::Value;

use crate::support::Site;

/// All keys of an object, nested ones as `a.b`, sorted; lists by their first element as `a[].b`.
fn keys(value: &Value) -> Vec<String> {
    fn walk(prefix: &str, value: &Value, into: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                for (name, inner) in members {
                    let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                    if inner.is_object() || inner.is_array() {
                        walk(&path, inner, into);
                    }
                    into.push(path);
                }
            }
            Value::Array(list) => {
                if let Some(first) = list.first() {
                    walk(&format!("{prefix}[]"), first, into);
                }
            }
            _ => {}
        }
    }
    let mut all = Vec::new();
    walk("", value, &mut all);
    all.sort();
    all
}

/// Everything named is there.
fn assert_has(answer: &Value, wanted: &[&str]) {
    let there = keys(answer);
    for key in wanted {
        assert!(there.iter().any(|one| one == key), "{key} is missing in {there:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_endpoints_have_their_shapes_and_say_healthy() {
    let site = Site::shared().await;
    site.until_healthy().await;
    let health = site.get("/health").await;
    assert!(
        health.has_header("cache-control: no-store") && health.has_header("content-type: application/json")
    );
    assert_eq!(keys(&health.json()), ["status", "timestamp", "uptime", "version"]);
    assert_eq!(health.json()["status"], "healthy");
    assert!(health.json()["uptime"].as_f64().unwrap() > 0.0);

    let detailed = site.get("/health/detailed").await.json();
    assert_has(
        &detailed,
        &[
            "status",
            "components.database.status",
            "components.cache.status",
            "components.locks.status",
            "components.pubsub.status",
            "metrics.response_time",
            "metrics.memory_usage",
            "metrics.cpu_usage",
        ],
    );
    assert!(detailed["metrics"]["memory_usage"].as_f64().unwrap() > 0.0, "{detailed}");

    let cache = site.get("/health/cache").await.json();
    assert_has(
        &cache,
        &[
            "status",
            "l1_hit_rate",
            "l1_cache.status",
            "l1_cache.hit_rate",
            "l1_cache.utilization",
            "l1_cache.size",
            "l2_cache.status",
            "l2_cache.connection",
            "l2_cache.response_time_ms",
            "cache_warming.status",
            "cache_warming.last_cycle",
            "cache_warming.keys_warmed",
        ],
    );
    assert_eq!(cache["l1_cache"]["size"], 1000);
    assert_eq!(cache["l2_cache"]["connection"], "connected");

    let database = site.get("/health/database").await.json();
    assert_has(&database, &["status", "avg_response_time_ms", "active_connections", "utilization"]);
    let redis = site.get("/health/redis").await.json();
    assert_eq!(keys(&redis), ["master", "replica", "response_time_ms", "status"]);
    assert_eq!(
        (redis["master"].as_str(), redis["replica"].as_str()),
        (Some("connected"), Some("not_configured"))
    );

    let components = site.get("/health/database-services").await.json();
    assert_eq!(
        keys(&components),
        [
            "cache",
            "cache.status",
            "database",
            "database.status",
            "locks",
            "locks.status",
            "overall",
            "overall.status",
            "pubsub",
            "pubsub.status"
        ]
    );
    for name in ["database", "cache", "locks", "pubsub", "overall"] {
        assert_eq!(components[name]["status"], "healthy", "{components}");
    }
    assert_eq!(site.get("/livez").await.status, 200);
    let ready = site.until("/readyz", 200).await.json();
    assert_eq!((ready["ready"].as_bool(), ready["status"].as_str()), (Some(true), Some("healthy")));
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_endpoints_have_their_shapes() {
    let site = Site::shared().await;
    let json = site.get("/metrics/json").await.json();
    assert_has(
        &json,
        &[
            "connection_pool.active_connections",
            "connection_pool.pool_utilization",
            "connection_pool.connection_queue_size",
            "connection_pool.redis_master_connected",
            "connection_pool.redis_replica_connected",
            "cache.hit_rate",
            "cache.total_requests",
            "cache.l1_utilization",
            "database.avg_latency_ms",
            "load_balancer[].host",
            "load_balancer[].port",
            "load_balancer[].weight",
            "load_balancer[].state",
            "load_balancer[].lag_seconds",
            "load_balancer[].requests",
        ],
    );
    let components = site.get("/metrics/database-services").await.json();
    for name in ["database", "cache", "locks", "pubsub", "health"] {
        assert!(components[name].is_object(), "{components}");
    }
    let text = site.get("/metrics").await;
    assert!(
        text.head.to_ascii_lowercase().contains("content-type: text/plain; version=0.0.4"),
        "{}",
        text.head
    );
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_is_a_problem_that_names_what_does() {
    let site = Site::shared().await;
    for path in ["/", "/metrics/cache/weekly", "/health/nothing"] {
        let answer = site.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.has_header("content-type: application/problem+json"), "{}", answer.head);
        let problem = answer.json();
        assert_eq!(problem["code"], "not_found");
        assert_eq!(problem["status"], 404);
        assert!(problem["known"].as_array().unwrap().contains(&Value::from("/health")));
    }
    let answer = site.post("/health", &Value::Null).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (405, Some("method_not_allowed")));
    site.end().await;
}
