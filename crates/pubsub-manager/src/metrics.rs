//! The manager's counts and the instruments that read them. Nothing is recorded per call.

use opentelemetry::{KeyValue, metrics::ObservableCounter};
use serde::Serialize;
use std::sync::{
    Arc, Weak,
    atomic::{AtomicU64, Ordering::Relaxed},
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

/// Keeps the instruments alive.
#[derive(Debug)]
pub(crate) struct Instruments {
    _sent: ObservableCounter<u64>,
    _consumed: ObservableCounter<u64>,
}

impl Instruments {
    /// The names of the OpenTelemetry semantic conventions for messaging.
    pub(crate) fn new(counts: &Arc<Counts>, system: &'static str) -> Self {
        let observe = |name: &'static str, description: &'static str, read: fn(&Counts) -> u64| {
            let counts: Weak<Counts> = Arc::downgrade(counts);
            opentelemetry::global::meter("database_services")
                .u64_observable_counter(name)
                .with_description(description)
                .with_callback(move |observer| {
                    if let Some(counts) = counts.upgrade() {
                        observer.observe(read(&counts), &[KeyValue::new("messaging.system", system)]);
                    }
                })
                .build()
        };
        Self {
            _sent: observe("messaging.client.sent.messages", "Messages accepted by the bus.", |counts| {
                counts.published.load(Relaxed)
            }),
            _consumed: observe("messaging.client.consumed.messages", "Messages received.", |counts| {
                counts.received.load(Relaxed)
            }),
        }
    }
}
