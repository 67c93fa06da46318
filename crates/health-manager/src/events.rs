//! Changes of status: numbered, remembered (bounded), logged, counted, broadcast.

use std::collections::VecDeque;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::broadcast;

use crate::metrics::Metrics;
use crate::{Status, Timestamp};

/// A component, or everything together (`overall`), changed its status.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Event {
    /// Counts from 1 without a hole, so that a reader of the bounded history sees what it missed.
    pub sequence: u64,
    /// When.
    pub at: Timestamp,
    /// Which component; `overall` for everything together.
    pub component: String,
    /// Before.
    pub from: Status,
    /// After.
    pub to: Status,
    /// Why.
    pub reason: Option<String>,
    /// For how long it had not been healthy, in seconds, where it became healthy.
    pub recovery_seconds: Option<f64>,
}

/// Receivers that fall further behind than this lose the oldest, and are told so.
const BROADCAST: usize = 64;

#[derive(Debug)]
pub(crate) struct Events {
    limit: usize,
    kept: Mutex<(u64, VecDeque<Event>)>,
    sender: broadcast::Sender<Event>,
}

impl Events {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, kept: Mutex::default(), sender: broadcast::channel(BROADCAST).0 }
    }

    pub(crate) fn publish(&self, mut event: Event, metrics: &Metrics) {
        match event.to {
            Status::Unhealthy => tracing::error!(
                component = event.component, from = %event.from, to = %event.to, reason = event.reason, "health changed"
            ),
            Status::Degraded => tracing::warn!(
                component = event.component, from = %event.from, to = %event.to, reason = event.reason, "health changed"
            ),
            Status::Healthy | Status::Unknown => tracing::info!(
                component = event.component, from = %event.from, to = %event.to, "health changed"
            ),
        }
        metrics.changed(&event);
        let mut kept = self.kept.lock();
        kept.0 += 1;
        event.sequence = kept.0;
        if kept.1.len() == self.limit {
            kept.1.pop_front();
        }
        kept.1.push_back(event.clone());
        // Sent under the lock, so that receivers see the order of the numbers. An error means: nobody listens.
        let _ = self.sender.send(event);
    }

    pub(crate) fn history(&self) -> Vec<Event> {
        self.kept.lock().1.iter().cloned().collect()
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.sender.subscribe()
    }
}
