//! What all links of the process tell the meter: observed when somebody reads, nothing on the calls' path.

use crate::link::Shared;
use opentelemetry::{KeyValue, global, metrics::Meter};
use parking_lot::Mutex;
use std::sync::{
    Arc, Weak,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// The names carry no label for a link, so the links of a process are told as one: bounded by the number of links.
static LINKS: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());

/// Connection errors of all links, also of those that are gone: a counter must not fall.
static ERRORS: AtomicU64 = AtomicU64::new(0);

/// Counts a connection error.
pub(crate) fn connection_error() {
    ERRORS.fetch_add(1, Relaxed);
}

/// All links together.
#[derive(Default)]
struct Sum {
    links: u64,
    masters_connected: u64,
    replicas: u64,
    replicas_connected: u64,
    connections: u64,
}

/// Adds a link. Instruments are made with each, by the provider that is set now; the first living link speaks for all.
pub(crate) fn register(shared: &Arc<Shared>) {
    {
        let mut links = LINKS.lock();
        links.retain(|link| link.strong_count() > 0);
        links.push(Arc::downgrade(shared));
    }
    let meter = global::meter("database_services");
    let link = Arc::downgrade(shared);
    connected_gauges(&meter, &link);
    let of = link.clone();
    let _ = meter
        .u64_observable_gauge("ucm_redis_connections")
        .with_callback(move |observer| {
            if let Some(sum) = sum(&of) {
                observer.observe(sum.connections, &[KeyValue::new("connection_type", "master")]);
                observer.observe(sum.replicas_connected, &[KeyValue::new("connection_type", "replica")]);
            }
        })
        .build();
    let _ = meter
        .u64_observable_counter("unified_redis_connection_errors_total")
        .with_callback(move |observer| {
            if sum(&link).is_some() {
                observer.observe(ERRORS.load(Relaxed), &[]);
            }
        })
        .build();
}

fn connected_gauges(meter: &Meter, link: &Weak<Shared>) {
    let of = link.clone();
    let _ = meter
        .u64_observable_gauge("unified_redis_master_connected")
        .with_callback(move |observer| {
            if let Some(sum) = sum(&of) {
                observer.observe(u64::from(sum.masters_connected == sum.links), &[]);
            }
        })
        .build();
    let of = link.clone();
    let _ = meter
        .u64_observable_gauge("unified_redis_replica_connected")
        .with_callback(move |observer| {
            // Without replicas there is nothing to say, and nothing to alert on.
            if let Some(sum) = sum(&of).filter(|sum| sum.replicas > 0) {
                observer.observe(u64::from(sum.replicas_connected == sum.replicas), &[]);
            }
        })
        .build();
}

/// The sum, if `link` is the one that speaks.
fn sum(link: &Weak<Shared>) -> Option<Sum> {
    let links: Vec<Arc<Shared>> = LINKS.lock().iter().filter_map(Weak::upgrade).collect();
    let open: Vec<_> = links.iter().filter(|link| !link.closing.is_cancelled()).collect();
    if !Weak::ptr_eq(&Arc::downgrade(open.first()?), link) {
        return None;
    }
    let mut sum = Sum::default();
    for status in open.iter().map(|link| link.status()) {
        sum.links += 1;
        sum.masters_connected += u64::from(status.master_connected);
        sum.replicas += status.replicas as u64;
        sum.replicas_connected += status.replicas_connected as u64;
        sum.connections += status.connections as u64;
    }
    Some(sum)
}
