//! Instruments with their final names. Counts are read from the striped counters when somebody collects; durations
//! are recorded as they come, those of L1 one in 256. Not here: counting.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Histogram, Meter};

use crate::answer::Level;
use crate::core::Core;
use crate::counters::{Count, Counters};
use crate::stats::Sums;

/// Records durations.
pub(crate) struct Latency {
    histogram: Histogram<f64>,
    l1: [KeyValue; 2],
    l2: [KeyValue; 2],
    l3: [KeyValue; 2],
    load: [KeyValue; 2],
}

impl fmt::Debug for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latency").finish_non_exhaustive()
    }
}

impl Latency {
    pub(crate) fn new() -> Self {
        let histogram = meter()
            .f64_histogram("unified_cache_operation_duration_seconds")
            .with_description("Duration of cache operations in seconds, hits of l1 sampled")
            .with_boundaries(vec![
                1e-7, 5e-7, 1e-6, 5e-6, 2.5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2,
                0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
            ])
            .build();
        let labels = |operation, level| [kv("operation_type", operation), kv("cache_level", level)];
        Self {
            histogram,
            l1: labels("get", "l1"),
            l2: labels("get", "l2"),
            l3: labels("get", "l3"),
            load: labels("load", "overall"),
        }
    }

    pub(crate) fn l1(&self, counters: &Counters, took: Duration) {
        counters.took(Count::L1Nanos, Count::L1Samples, took);
        self.histogram.record(took.as_secs_f64(), &self.l1);
    }

    pub(crate) fn tier(&self, counters: &Counters, level: Level, took: Duration) {
        let (labels, nanos, samples) = match level {
            Level::L2 => (&self.l2, Count::L2Nanos, Count::L2Samples),
            _ => (&self.l3, Count::L3Nanos, Count::L3Samples),
        };
        let mine = counters.mine();
        let sampled = mine.seen(samples).is_multiple_of(8);
        counters.took(nanos, samples, took);
        if sampled {
            self.histogram.record(took.as_secs_f64(), labels);
        }
    }

    pub(crate) fn load(&self, counters: &Counters, took: Duration) {
        counters.took(Count::LoadNanos, Count::LoadSamples, took);
        self.histogram.record(took.as_secs_f64(), &self.load);
    }

    pub(crate) fn write(&self, took: Duration, operation: &'static str) {
        let labels = [kv("operation_type", operation), kv("cache_level", "overall")];
        self.histogram.record(took.as_secs_f64(), &labels);
    }
}

/// Registers what is read at collection; the callbacks end with the engine.
pub(crate) fn register(core: &Arc<Core>) {
    let meter = meter();
    operations(&meter, Arc::downgrade(core));
    ratios(&meter, Arc::downgrade(core));
    gauge(&meter, "unified_cache_l1_utilization", "Share of L1 in use", Arc::downgrade(core), |core| {
        core.l1.len() as f64 / core.l1.capacity().max(1) as f64
    });
    gauge(&meter, "unified_cache_l1_size", "Entries in L1", Arc::downgrade(core), |core| {
        core.l1.len() as f64
    });
    gauge(&meter, "unified_cache_l1_max_size", "Entries that L1 can hold", Arc::downgrade(core), |core| {
        core.l1.capacity() as f64
    });
}

fn gauge(meter: &Meter, name: &'static str, text: &'static str, core: Weak<Core>, read: fn(&Core) -> f64) {
    let _ = meter
        .f64_observable_gauge(name)
        .with_description(text)
        .with_callback(move |observer| {
            if let Some(core) = core.upgrade() {
                observer.observe(read(&core), &[]);
            }
        })
        .build();
}

fn operations(meter: &Meter, core: Weak<Core>) {
    let _ = meter
        .u64_observable_counter("unified_cache_operations_total")
        .with_description("Cache operations by type, level and outcome")
        .with_callback(move |observer| {
            let Some(core) = core.upgrade() else { return };
            for (operation, level, status, value) in counted(&core.counters) {
                let labels =
                    [kv("operation_type", operation), kv("cache_level", level), kv("status", status)];
                observer.observe(value, &labels);
            }
        })
        .build();
}

/// A request that L1 did not answer is a miss of L1, one that L2 did not answer either a miss of L2 too, and so on.
fn counted(counters: &Counters) -> [(&'static str, &'static str, &'static str, u64); 18] {
    let total = |what| counters.total(what);
    let sums = Sums::of(counters);
    let (after_l1, after_l2) = (sums.all - sums.l1, sums.all.saturating_sub(sums.l1 + sums.l2));
    let hits = sums.l1 + sums.l2 + sums.l3;
    [
        ("get", "l1", "hit", sums.l1),
        ("get", "l1", "miss", after_l1),
        ("get", "l2", "hit", sums.l2),
        ("get", "l2", "miss", after_l1 - sums.l2.min(after_l1)),
        ("get", "l2", "error", total(Count::L2Error)),
        ("get", "l3", "hit", sums.l3),
        ("get", "l3", "miss", after_l2 - sums.l3.min(after_l2)),
        ("get", "l3", "error", total(Count::L3Error)),
        ("get", "overall", "hit", hits),
        ("get", "overall", "miss", sums.all.saturating_sub(hits)),
        ("load", "overall", "success", total(Count::LoadOk)),
        ("load", "overall", "error", total(Count::LoadError)),
        ("set", "overall", "success", total(Count::SetOk)),
        ("set", "overall", "error", total(Count::SetError)),
        ("delete", "overall", "success", total(Count::DeleteOk)),
        ("delete", "overall", "error", total(Count::DeleteError)),
        ("clear", "overall", "success", total(Count::ClearOk)),
        ("clear", "overall", "error", total(Count::ClearError)),
    ]
}

fn ratios(meter: &Meter, core: Weak<Core>) {
    let _ = meter
        .f64_observable_gauge("unified_cache_hit_ratio")
        .with_description("Hit ratio of the last five minutes; absent below 100 requests")
        .with_callback(move |observer| {
            let Some(core) = core.upgrade() else { return };
            let ratios = core.window.lock().ratios(Sums::of(&core.counters));
            for (level, ratio) in ratios {
                if let Some(ratio) = ratio {
                    observer.observe(ratio, &[kv("cache_level", level)]);
                }
            }
        })
        .build();
}

fn meter() -> Meter {
    opentelemetry::global::meter("database_services")
}

fn kv(key: &'static str, value: &'static str) -> KeyValue {
    KeyValue::new(key, value)
}
