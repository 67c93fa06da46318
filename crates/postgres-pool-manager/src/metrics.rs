//! The pool's instruments, under their final names. Observed from the pools' own counts; nothing is recorded on
//! the way of a session but every sixteenth statement's duration.

use crate::{router::Router, stats::HostState};
use opentelemetry::{
    KeyValue, global,
    metrics::{Histogram, Meter},
};
use std::sync::{Arc, Weak, atomic::Ordering::Relaxed};

fn meter() -> Meter {
    global::meter("database_services")
}

/// `unified_database_query_duration_seconds`, sampled.
pub(crate) fn query_duration() -> Histogram<f64> {
    meter()
        .f64_histogram("unified_database_query_duration_seconds")
        .with_unit("s")
        .with_description("Duration of database statements, one in sixteen measured")
        .with_boundaries(vec![
            0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
            10.0,
        ])
        .build()
}

/// Registers what is observed. The callbacks live as long as the meter; they hold the router weakly.
pub(crate) fn observe(router: &Arc<Router>) {
    gauge(router, "ucm_active_connections", "Database connections in use", |router| {
        router.pools().iter().map(|pool| u64::from(pool.counts().in_use)).sum()
    });
    gauge(router, "ucm_max_connections", "Database connections allowed, overflow included", |router| {
        router.pools().iter().map(|pool| u64::from(pool.limits().max())).sum()
    });
    gauge(router, "ucm_connection_queue_size", "Callers waiting for a database connection", |router| {
        router.pools().iter().map(|pool| u64::from(pool.counts().waiting)).sum()
    });
    let weak = Arc::downgrade(router);
    meter()
        .u64_observable_counter("unified_database_connection_errors_total")
        .with_description("Failed attempts to connect, failed checks and connections lost in use")
        .with_callback(move |observer| {
            if let Some(router) = weak.upgrade() {
                observer
                    .observe(router.pools().iter().map(|pool| pool.counters.errors.load(Relaxed)).sum(), &[]);
            }
        })
        .build();
    let weak = Arc::downgrade(router);
    meter()
        .f64_observable_gauge("unified_replication_lag_seconds")
        .with_unit("s")
        .with_description("Upper bound of each replica's lag; absent while unknown")
        .with_callback(move |observer| {
            let Some(router) = weak.upgrade() else { return };
            for host in router.replicas.load().iter() {
                let status = host.status();
                if status.state != HostState::Unknown
                    && let Some(lag) = status.lag_seconds
                {
                    observer.observe(lag, &[KeyValue::new("replica", status.name)]);
                }
            }
        })
        .build();
}

fn gauge(router: &Arc<Router>, name: &'static str, description: &'static str, read: fn(&Router) -> u64) {
    let weak: Weak<Router> = Arc::downgrade(router);
    meter()
        .u64_observable_gauge(name)
        .with_description(description)
        .with_callback(move |observer| {
            if let Some(router) = weak.upgrade() {
                observer.observe(read(&router), &[]);
            }
        })
        .build();
}
