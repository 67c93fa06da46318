//! The pool's instruments, under their final names. Observed from the pools' own counts; nothing is recorded on
//! the way of a session but every sixteenth statement's duration.

use crate::{pool::Pool, router::Router, stats::HostState};
use opentelemetry::{
    KeyValue, global,
    metrics::{Histogram, Meter},
};
use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Totals since the start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) opened: AtomicU64,
    pub(crate) discarded: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) timeouts: AtomicU64,
}

fn meter() -> Meter {
    global::meter("database_services")
}

/// The histograms of one pool.
#[derive(Debug)]
pub(crate) struct Durations {
    /// `unified_database_query_duration_seconds`.
    query: Histogram<f64>,
    /// `db.client.operation.duration`.
    operation: Histogram<f64>,
    pub(crate) create: Histogram<f64>,
    pub(crate) wait: Histogram<f64>,
    pub(crate) usage: Histogram<f64>,
}

impl Durations {
    pub(crate) fn new() -> Self {
        let pool = |name: &'static str, description: &'static str| histogram(name, description, &FINE);
        Self {
            query: histogram(
                "unified_database_query_duration_seconds",
                "Duration of database statements, one in sixteen measured",
                &FINE,
            ),
            operation: histogram(
                "db.client.operation.duration",
                "Duration of database statements, one in sixteen measured",
                &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0],
            ),
            create: pool("db.client.connection.create_time", "The time it took to open a connection"),
            wait: pool(
                "db.client.connection.wait_time",
                "The time that callers waited who had to wait, one in sixteen measured",
            ),
            usage: pool(
                "db.client.connection.use_time",
                "The time between taking a connection and giving it back, one in sixteen measured",
            ),
        }
    }

    /// `error` is of a closed set.
    pub(crate) fn statement(&self, took: Duration, attributes: &[KeyValue], error: Option<&'static str>) {
        let took = took.as_secs_f64();
        self.query.record(took, &[]);
        match error {
            None => self.operation.record(took, attributes),
            Some(error) => {
                let attributes: Vec<_> =
                    attributes.iter().cloned().chain([KeyValue::new("error.type", error)]).collect();
                self.operation.record(took, &attributes);
            }
        }
    }
}

/// A statement within a data centre takes a tenth of a millisecond, a bad one ten seconds.
const FINE: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

fn histogram(name: &'static str, description: &'static str, boundaries: &[f64]) -> Histogram<f64> {
    meter()
        .f64_histogram(name)
        .with_unit("s")
        .with_description(description)
        .with_boundaries(boundaries.to_vec())
        .build()
}

/// Registers what is observed. The callbacks live as long as the meter; they hold the router weakly.
pub(crate) fn observe(router: &Arc<Router>) {
    by_convention(router);
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
            for host in router.servers.load().replicas.iter() {
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

/// What OpenTelemetry's conventions for database clients name, by pool, which is by server.
fn by_convention(router: &Arc<Router>) {
    each_pool(
        router,
        "db.client.connection.count",
        "{connection}",
        "Connections by their state",
        |pool, out| {
            let counts = pool.counts();
            out(i64::from(counts.idle), Some("idle"));
            out(i64::from(counts.in_use), Some("used"));
        },
    );
    each_pool(
        router,
        "db.client.connection.idle.max",
        "{connection}",
        "Idle connections that are kept",
        |pool, out| {
            out(i64::from(pool.limits().size), None);
        },
    );
    each_pool(
        router,
        "db.client.connection.idle.min",
        "{connection}",
        "Idle connections held ready",
        |pool, out| {
            out(i64::from(pool.limits().min_idle), None);
        },
    );
    each_pool(
        router,
        "db.client.connection.max",
        "{connection}",
        "Connections allowed, overflow included",
        |pool, out| {
            out(i64::from(pool.limits().max()), None);
        },
    );
    each_pool(
        router,
        "db.client.connection.pending_requests",
        "{request}",
        "Callers waiting",
        |pool, out| {
            out(i64::from(pool.counts().waiting), None);
        },
    );
    let weak = Arc::downgrade(router);
    meter()
        .u64_observable_counter("db.client.connection.timeouts")
        .with_unit("{timeout}")
        .with_description("Callers that ran into their deadline while waiting for a connection")
        .with_callback(move |observer| {
            let Some(router) = weak.upgrade() else { return };
            for pool in router.pools() {
                let name = KeyValue::new("db.client.connection.pool.name", pool.name.clone());
                observer.observe(pool.counters.timeouts.load(Relaxed), &[name]);
            }
        })
        .build();
}

/// Takes a value and, where there are several, the connections' state.
type Out<'a> = &'a dyn Fn(i64, Option<&'static str>);

fn each_pool(
    router: &Arc<Router>,
    name: &'static str,
    unit: &'static str,
    description: &'static str,
    read: fn(&Pool, Out<'_>),
) {
    let weak: Weak<Router> = Arc::downgrade(router);
    meter()
        .i64_observable_up_down_counter(name)
        .with_unit(unit)
        .with_description(description)
        .with_callback(move |observer| {
            let Some(router) = weak.upgrade() else { return };
            for pool in router.pools() {
                read(&pool, &|value, state| {
                    let name = KeyValue::new("db.client.connection.pool.name", pool.name.clone());
                    let state = state.map(|state| KeyValue::new("db.client.connection.state", state));
                    let attributes: Vec<_> = [name].into_iter().chain(state).collect();
                    observer.observe(value, &attributes);
                });
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
