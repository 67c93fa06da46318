//! The Prometheus names, types and labels that dashboards and alerts rely on, against what is really exported.
//!
//! A program of its own: the meter provider is the process's, and services of other tests would lend their names.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

#[expect(dead_code, reason = "shared with the other test program, which uses all of it")]
#[path = "../it/support.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::get;
use database_services::cache_manager::{Loaded, RegionOptions};
use database_services::distributed_lock_manager::LockOptions;
use local_stack::{PostgresOptions, RedisOptions, Stack};
use ops_http::{HostMetricsLayer, Limits};
use tower::ServiceExt;

use support::{SOON, Site};

/// Every name of the surface: type, label names.
const SURFACE: &[(&str, &str, &[&str])] = &[
    ("unified_cache_operations_total", "counter", &["cache_level", "operation_type", "status"]),
    ("unified_cache_hit_ratio", "gauge", &["cache_level"]),
    ("unified_cache_operation_duration_seconds", "histogram", &["cache_level", "operation_type"]),
    ("unified_cache_l1_utilization", "gauge", &[]),
    ("unified_cache_l1_size", "gauge", &[]),
    ("unified_cache_l1_max_size", "gauge", &[]),
    ("unified_cache_l1_memory_usage_bytes", "gauge", &[]),
    ("unified_cache_key_access_frequency", "gauge", &["key"]),
    ("unified_cache_warming_operations_total", "counter", &[]),
    ("unified_cache_warming_cycles_total", "counter", &[]),
    ("unified_cache_warming_hit_rate", "gauge", &[]),
    ("ucm_cache_warming_errors", "counter", &[]),
    ("unified_redis_master_connected", "gauge", &[]),
    ("unified_redis_replica_connected", "gauge", &[]),
    ("unified_redis_connection_errors_total", "counter", &[]),
    ("unified_database_connection_errors_total", "counter", &[]),
    ("ucm_active_connections", "gauge", &[]),
    ("ucm_max_connections", "gauge", &[]),
    ("ucm_connection_queue_size", "gauge", &[]),
    ("ucm_redis_connections", "gauge", &["connection_type"]),
    ("ucm_connection_errors", "counter", &[]),
    ("ucm_response_target_seconds", "gauge", &["mode"]),
    ("unified_database_query_duration_seconds", "histogram", &[]),
    ("unified_replication_lag_seconds", "gauge", &["replica"]),
    ("unified_circuit_breaker_state", "gauge", &["dependency", "state"]),
    ("unified_recovery_duration_seconds", "histogram", &["dependency"]),
    ("unified_lock_acquires_total", "counter", &["outcome"]),
    ("unified_lock_hold_seconds", "histogram", &[]),
    ("redis_keyspace_hits_total", "counter", &[]),
    ("redis_keyspace_misses_total", "counter", &[]),
    ("ssl_certificate_expires_in_days", "gauge", &[]),
    ("http_requests_total", "counter", &["method", "route", "status"]),
    ("http_request_duration_seconds", "histogram", &["method", "route"]),
    ("process_resident_memory_bytes", "gauge", &[]),
    ("process_memory_limit_bytes", "gauge", &[]),
];

/// Of the surface, and not there yet. Whoever adds one takes it from here.
const NOT_YET: &[&str] = &[
    "unified_cache_l1_memory_usage_bytes",
    "unified_cache_key_access_frequency",
    "unified_cache_warming_operations_total",
    "unified_cache_warming_cycles_total",
    "unified_cache_warming_hit_rate",
    "ucm_cache_warming_errors",
    "ucm_connection_errors",
    "redis_keyspace_hits_total",
    "redis_keyspace_misses_total",
    "ssl_certificate_expires_in_days",
];

/// Beside the surface's: OpenTelemetry's own names, and one of ours.
const BESIDE: &[&str] = &["messaging_", "db_client_", "unified_health_transitions_total"];

#[derive(Debug, Default)]
struct Family {
    kind: String,
    labels: BTreeSet<String>,
}

fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let doubled =
                families.insert(name.to_owned(), Family { kind: kind.to_owned(), ..Family::default() });
            assert!(doubled.is_none(), "{name} is declared twice");
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix).filter(|base| families.contains_key(*base)))
                .unwrap_or(name);
            let labels = line.split_once('{').map_or("", |(_, rest)| rest.split_once('}').unwrap().0);
            let names =
                labels.split("\",").filter_map(|pair| pair.split_once('=')).map(|(name, _)| name.to_owned());
            let family = families.get_mut(base).unwrap_or_else(|| panic!("{name} has no type"));
            family.labels.extend(names.filter(|name| name != "le"));
        }
    }
    families
}

#[tokio::test(flavor = "multi_thread")]
async fn names_types_and_labels_are_those_of_the_surface() {
    let stack = Stack::builder()
        .postgres(PostgresOptions::with_replicas(1))
        .redis(RedisOptions::with_replicas(1))
        .start()
        .await
        .unwrap();
    let more = [
        ("DATABASE_REPLICAS", stack.postgres().replicas()[0].target()),
        ("REDIS_REPLICA_HOST", stack.redis().replicas()[0].target()),
    ];
    let site = Site::with(stack, Limits::default(), &more).await;
    site.until_healthy().await;
    let region = site.services.cache().region::<String>("golden", RegionOptions::default()).unwrap();
    for key in ["a", "b", "a"] {
        let load = |_context| async { Ok::<_, std::io::Error>(Loaded::value("value".to_owned())) };
        region.get_or_load(key, load).await.unwrap();
    }
    region.invalidate("a").await.unwrap();
    let lock = site.services.lock_manager().try_acquire("golden", LockOptions::default()).await.unwrap();
    lock.release().await.unwrap();
    let host = Router::new().route("/users", get(|| async { "none" })).layer(HostMetricsLayer::new());
    host.oneshot(Request::get("/users").body(Body::empty()).unwrap()).await.unwrap();

    // A recovery has a duration only once there was one.
    site.stack.redis().master().kill().unwrap();
    local_stack::wait_for("health is degraded", SOON, async || {
        site.get("/health").await.json()["status"] == "degraded"
    })
    .await;
    site.stack.redis().master().restart().await.unwrap();
    site.until_healthy().await;

    // The hit ratio needs traffic, and is looked at once a second.
    local_stack::wait_for("the hit ratio is there", SOON, async || {
        for _ in 0..200 {
            region.get("b").await.unwrap();
        }
        site.get("/metrics").await.text.contains("unified_cache_hit_ratio{")
    })
    .await;
    let text = site.get("/metrics").await.text;
    let there = families(&text);
    let mut missing = Vec::new();
    for (name, kind, labels) in SURFACE {
        match there.get(*name) {
            None => missing.push(*name),
            Some(family) => {
                assert_eq!(family.kind, *kind, "{name}");
                let wanted: BTreeSet<String> = labels.iter().map(|label| (*label).to_owned()).collect();
                assert_eq!(family.labels, wanted, "{name}");
            }
        }
    }
    assert_eq!(missing, NOT_YET, "exported: {:?}", there.keys());
    for name in there.keys() {
        let known = SURFACE.iter().any(|(surface, ..)| surface == name)
            || BESIDE.iter().any(|one| name.starts_with(one));
        assert!(known, "{name} is no name of the surface");
    }
    site.end().await;
}
