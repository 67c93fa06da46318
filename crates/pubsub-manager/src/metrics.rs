//! The manager's counts and the instruments that read them. Nothing is recorded per call.

use crate::{DurableStats, Error, durable::DurableCounts};
use opentelemetry::{
    KeyValue,
    metrics::{Histogram, ObservableCounter},
};
use serde::Serialize;
use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Counts since the manager was built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Messages that the bus accepted.
    pub published: u64,
    /// Publishes that failed with certainty.
    pub publish_failed: u64,
    /// Publishes without an answer.
    pub publish_unknown: u64,
    /// Messages received, once for each name or pattern subscribed to in this process.
    pub received: u64,
    /// Messages dropped because a subscriber was slow.
    pub dropped: u64,
    /// Gaps noticed.
    pub gaps: u64,
    /// Messages in those gaps whose number is known.
    pub missed: u64,
    /// Times that a subscription was confirmed again after an interruption.
    pub reconnects: u64,
    /// Names and patterns subscribed to now.
    pub subscribed: usize,
    /// Subscribers now.
    pub subscribers: usize,
    /// Channels with a running counter now.
    pub channels: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) published: AtomicU64,
    pub(crate) publish_failed: AtomicU64,
    pub(crate) publish_unknown: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) gaps: AtomicU64,
    pub(crate) missed: AtomicU64,
    pub(crate) reconnects: AtomicU64,
}

impl Counts {
    /// A publish ended, with this error if any.
    pub(crate) fn sent(&self, error: Option<&Error>) {
        match error {
            None => self.published.fetch_add(1, Relaxed),
            Some(error) if error.may_have_happened() => self.publish_unknown.fetch_add(1, Relaxed),
            Some(_) => self.publish_failed.fetch_add(1, Relaxed),
        };
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            published: self.published.load(Relaxed),
            publish_failed: self.publish_failed.load(Relaxed),
            publish_unknown: self.publish_unknown.load(Relaxed),
            received: self.received.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            gaps: self.gaps.load(Relaxed),
            missed: self.missed.load(Relaxed),
            reconnects: self.reconnects.load(Relaxed),
            ..Stats::default()
        }
    }
}

/// Times from publish to receive, by the publisher's clock and ours: as exact as those two agree.
#[derive(Clone, Debug)]
pub(crate) struct Latency {
    seconds: Histogram<f64>,
    attributes: [KeyValue; 1],
}

impl Latency {
    pub(crate) fn new(system: &'static str) -> Self {
        let seconds = opentelemetry::global::meter("database_services")
            .f64_histogram("messaging.client.delivery.duration")
            .with_unit("s")
            .with_description("From publish to receive, one message in sixteen.")
            .with_boundaries(vec![
                0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
                5.0,
            ])
            .build();
        Self { seconds, attributes: [KeyValue::new("messaging.system", system)] }
    }

    /// `published_at` in microseconds since 1970.
    pub(crate) fn record(&self, published_at: u64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let took = now.saturating_sub(Duration::from_micros(published_at));
        self.seconds.record(took.as_secs_f64(), &self.attributes);
    }
}

/// Keeps the instruments alive.
#[derive(Debug)]
pub(crate) struct Instruments {
    _counters: Vec<ObservableCounter<u64>>,
}

/// Name, description, what is read.
type Counter = (&'static str, &'static str, fn(&Counts) -> u64);

/// The first two have the names of the OpenTelemetry semantic conventions for messaging.
const COUNTERS: [Counter; 7] = [
    ("messaging.client.sent.messages", "Messages accepted by the bus.", |c| c.published.load(Relaxed)),
    ("messaging.client.consumed.messages", "Messages received.", |c| c.received.load(Relaxed)),
    ("messaging.client.publish.failed", "Publishes that failed with certainty.", |c| {
        c.publish_failed.load(Relaxed)
    }),
    ("messaging.client.publish.unknown", "Publishes without an answer.", |c| c.publish_unknown.load(Relaxed)),
    ("messaging.client.dropped.messages", "Messages dropped because a subscriber was slow.", |c| {
        c.dropped.load(Relaxed)
    }),
    ("messaging.client.missed.messages", "Messages missed whose number is known.", |c| {
        c.missed.load(Relaxed)
    }),
    ("messaging.client.gaps", "Times that messages were missed.", |c| c.gaps.load(Relaxed)),
];

/// Those of durable channels.
type DurableCounter = (&'static str, &'static str, fn(&DurableStats) -> u64);

const DURABLE: [DurableCounter; 8] = [
    ("messaging.durable.published", "Messages that the store accepted.", |s| s.published),
    ("messaging.durable.delivered", "Messages taken from the store, repeated ones among them.", |s| {
        s.delivered
    }),
    ("messaging.durable.redelivered", "Repeated deliveries.", |s| s.redelivered),
    ("messaging.durable.acknowledged", "Messages acknowledged.", |s| s.acknowledged),
    ("messaging.durable.retried", "Messages given back.", |s| s.retried),
    ("messaging.durable.dead_lettered", "Messages that became dead letters.", |s| s.dead_lettered),
    ("messaging.durable.superseded", "Deliveries that somebody else was given meanwhile.", |s| s.superseded),
    ("messaging.durable.losses", "Losses told.", |s| s.losses),
];

impl Instruments {
    /// The second name is that of the durable channels' store.
    pub(crate) fn new(
        counts: &Arc<Counts>,
        durable: &Arc<DurableCounts>,
        (system, store): (&'static str, &'static str),
    ) -> Self {
        let plain = COUNTERS.map(|(name, description, read)| {
            let counts: Weak<Counts> = Arc::downgrade(counts);
            counter(name, description, system, move || Some(read(&*counts.upgrade()?)))
        });
        let durable = DURABLE.map(|(name, description, read)| {
            let counts: Weak<DurableCounts> = Arc::downgrade(durable);
            counter(name, description, store, move || Some(read(&counts.upgrade()?.stats())))
        });
        Self { _counters: plain.into_iter().chain(durable).collect() }
    }
}

fn counter(
    name: &'static str,
    description: &'static str,
    system: &'static str,
    read: impl Fn() -> Option<u64> + Send + Sync + 'static,
) -> ObservableCounter<u64> {
    opentelemetry::global::meter("database_services")
        .u64_observable_counter(name)
        .with_description(description)
        .with_callback(move |observer| {
            if let Some(value) = read() {
                observer.observe(value, &[KeyValue::new("messaging.system", system)]);
            }
        })
        .build()
}
