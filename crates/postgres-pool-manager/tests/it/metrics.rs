//! The instruments, under the names that dashboards and alerts know.

use opentelemetry_sdk::metrics::SdkMeterProvider;
use postgres_pool_manager::sqlx;

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
    let (pool, _db) = crate::replicas::replicated(1).await;
    sqlx::query("SELECT 1").execute(&pool.primary()).await.unwrap();
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
