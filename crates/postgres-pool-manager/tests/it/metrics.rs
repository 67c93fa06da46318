//! The instruments, under the names that dashboards and alerts know.

use crate::support::*;
use local_stack::{PostgresOptions, Stack, wait_for};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use postgres_pool_manager::{Config, Endpoint, Error, PoolState, PostgresPoolManager, ReplicaEndpoint, sqlx};
use prometheus::proto::{Metric, MetricFamily};
use resilience::Deadline;

#[tokio::test]
async fn instruments_have_their_final_names() {
    let registry = prometheus::Registry::new();
    let exporter = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .without_units()
        .without_counter_suffixes()
        .build()
        .unwrap();
    opentelemetry::global::set_meter_provider(SdkMeterProvider::builder().with_reader(exporter).build());
    // Other tests' pools count with the same meter: names of this test's own.
    let stack = Stack::builder().postgres(PostgresOptions::with_replicas(1)).start().await.unwrap();
    let db = stack.database().await.unwrap();
    let primary = Endpoint::new("measured", db.url());
    let replicas = vec![ReplicaEndpoint::new("measured-replica", db.replica_url(0).unwrap(), 1)];
    let pool = Config { primary, replicas, ..config(db.url(), 5) }.connect().await.unwrap();
    wait_for("the replica serving", SOON, async || pool.status().state == PoolState::Connected).await;
    sqlx::query("SELECT 1").execute(&pool.primary()).await.unwrap();
    by_the_conventions(&pool, &registry, db.name()).await;
    let families = registry.gather();
    let names: Vec<_> = families.iter().map(|family| (family.name(), family.get_field_type())).collect();
    use prometheus::proto::MetricType::{COUNTER, GAUGE, HISTOGRAM};
    for expected in [
        ("ucm_active_connections", GAUGE),
        ("ucm_max_connections", GAUGE),
        ("ucm_connection_queue_size", GAUGE),
        ("unified_database_connection_errors_total", COUNTER),
        ("unified_database_query_duration_seconds", HISTOGRAM),
        ("unified_replication_lag_seconds", GAUGE),
    ] {
        assert!(names.contains(&expected), "{expected:?} not in {names:?}");
    }
    let lag = families.iter().find(|family| family.name() == "unified_replication_lag_seconds").unwrap();
    let labels: Vec<_> = lag.get_metric()[0].get_label().iter().map(|label| label.name()).collect();
    assert!(labels.contains(&"replica"), "{labels:?}");
}

/// The metric of this family with these labels and no others but the exporter's own.
fn metric<'f>(families: &'f [MetricFamily], name: &str, labels: &[(&str, &str)]) -> &'f Metric {
    let family = families.iter().find(|family| family.name() == name);
    let family = family.unwrap_or_else(|| panic!("{name} is missing"));
    let own = |metric: &Metric| {
        let found =
            metric.get_label().iter().map(|label| (label.name().to_owned(), label.value().to_owned()));
        let mut found: Vec<_> = found.filter(|(name, _)| !name.starts_with("otel_")).collect();
        found.sort();
        found
    };
    let mut wanted: Vec<_> =
        labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    wanted.sort();
    let found = family.get_metric().iter().find(|metric| own(metric) == wanted);
    found.unwrap_or_else(|| panic!("{name}{labels:?} is not in {family:?}"))
}

/// What OpenTelemetry's conventions name, read while the pool is busy: sizes as set, states as they are, durations with
/// their attributes and no others.
async fn by_the_conventions(pool: &PostgresPoolManager, registry: &prometheus::Registry, database: &str) {
    const POOL: &str = "db_client_connection_pool_name";
    let all: Vec<_> = futures_util::future::join_all((0..5).map(|_| pool.write())).await;
    let all: Vec<_> = all.into_iter().map(Result::unwrap).collect();
    let late = pool.write().deadline(Deadline::after(millis(50))).await.unwrap_err();
    assert!(matches!(late, Error::AcquireTimeout { .. }), "{late}");
    let waiting = pool.clone();
    let served = tokio::spawn(async move { waiting.write().await.map(drop) });
    wait_for("a caller in the queue", SOON, async || {
        let families = registry.gather();
        let at = |name: &str| metric(&families, name, &[(POOL, "measured")]).get_gauge().get_value();
        at("db_client_connection_pending_requests") == 1.0
    })
    .await;
    let families = registry.gather();
    let gauge = |name: &str, labels: &[(&str, &str)]| metric(&families, name, labels).get_gauge().get_value();
    let count = |state| {
        gauge("db_client_connection_count", &[(POOL, "measured"), ("db_client_connection_state", state)])
    };
    assert_eq!((count("used"), count("idle")), (5.0, 0.0));
    for (name, value) in [("max", 5.0), ("idle_max", 5.0), ("idle_min", 0.0), ("pending_requests", 1.0)] {
        for host in ["measured", "measured-replica"] {
            let value = if (name, host) == ("pending_requests", "measured-replica") { 0.0 } else { value };
            assert_eq!(
                gauge(&format!("db_client_connection_{name}"), &[(POOL, host)]),
                value,
                "{name} {host}"
            );
        }
    }
    let timeouts = metric(&families, "db_client_connection_timeouts", &[(POOL, "measured")]);
    assert_eq!(timeouts.get_counter().get_value(), 1.0);

    drop(all);
    served.await.unwrap().unwrap();
    for _ in 0..32 {
        let failed = sqlx::query("SELECT * FROM nowhere").execute(&pool.primary()).await;
        assert!(failed.is_err());
    }
    let families = registry.gather();
    let samples = |name: &str, labels: &[(&str, &str)]| {
        metric(&families, name, labels).get_histogram().get_sample_count()
    };
    assert_eq!(samples("db_client_connection_create_time", &[(POOL, "measured")]), 5);
    assert!(samples("db_client_connection_wait_time", &[(POOL, "measured")]) >= 1);
    assert!(samples("db_client_connection_use_time", &[(POOL, "measured")]) >= 5);
    let status = &pool.load_balancer()[0];
    let (port, name) = (status.port.to_string(), database.to_owned());
    let operation = [
        ("db_system_name", "postgresql"),
        ("db_namespace", name.as_str()),
        ("db_operation_name", "SELECT"),
        ("server_address", status.host.as_str()),
        ("server_port", port.as_str()),
    ];
    assert!(samples("db_client_operation_duration", &operation) >= 1);
    let failed: Vec<_> = operation.into_iter().chain([("error_type", "syntax_or_access")]).collect();
    assert!(samples("db_client_operation_duration", &failed) >= 2, "one in sixteen of 32");
}
