//! What this manager publishes on and is subscribed to, one line each: for operators and consoles. It asks no server.

use crate::{Lane, PubSubManager};
use serde::Serialize;
use std::sync::atomic::Ordering::Relaxed;

/// A channel with a running counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ChannelInfo {
    /// Its name.
    pub subject: String,
    /// Its lane.
    pub lane: Lane,
    /// Messages numbered by the running counter.
    pub published: u64,
    /// Publishes waiting to be sent.
    pub pending: usize,
}

/// A name or pattern subscribed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SubscriptionInfo {
    /// The name or pattern.
    pub filter: String,
    /// Its lane.
    pub lane: Lane,
    /// Whether the bus has confirmed it.
    pub confirmed: bool,
    /// Publishers heard of on it in the last ten minutes.
    pub publishers: usize,
    /// Messages received.
    pub received: u64,
    /// Gaps noticed.
    pub gaps: u64,
    /// Messages in them whose number is known.
    pub missed: u64,
    /// Times that it was confirmed again after an interruption.
    pub reconnects: u64,
    /// Its subscribers in this process.
    pub subscribers: Vec<SubscriberInfo>,
}

/// One subscriber in this process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SubscriberInfo {
    /// Messages that wait for it: how far it lags.
    pub waiting: usize,
    /// Messages dropped because it was too slow.
    pub dropped: u64,
    /// Messages of which a newer one took the place.
    pub conflated: u64,
    /// What happens when its queue is full: `block`, `drop_oldest`, `conflate` or `disconnect`.
    pub slow_consumer: &'static str,
}

impl PubSubManager {
    /// The channels published on within [`Config::idle_channel`](crate::Config::idle_channel), by name.
    #[must_use]
    pub fn channels(&self) -> Vec<ChannelInfo> {
        let outlets = self.0.outlets.lock();
        let info = outlets.iter().map(|((lane, subject), outlet)| {
            let (published, pending) = outlet.progress();
            ChannelInfo { subject: subject.to_string(), lane: *lane, published, pending }
        });
        let mut info: Vec<_> = info.collect();
        info.sort_by(|a, b| (&a.subject, a.lane).cmp(&(&b.subject, b.lane)));
        info
    }

    /// The names and patterns subscribed to, by name.
    #[must_use]
    pub fn subscriptions(&self) -> Vec<SubscriptionInfo> {
        let sources: Vec<_> = self.0.sources.lock().values().cloned().collect();
        let info = sources.iter().map(|source| {
            let (filter, tally) = (&source.filter, &source.tally);
            let subscribers = source.subscribers.lock();
            let subscriber = |queue: &std::sync::Arc<crate::queue::Queue>| SubscriberInfo {
                waiting: queue.waiting(),
                dropped: queue.dropped(),
                conflated: queue.conflated(),
                slow_consumer: queue.policy().name(),
            };
            SubscriptionInfo {
                filter: filter.to_string(),
                lane: filter.lane(),
                confirmed: source.confirmed.initialized(),
                publishers: tally.publishers.load(Relaxed),
                received: tally.received.load(Relaxed),
                gaps: tally.gaps.load(Relaxed),
                missed: tally.missed.load(Relaxed),
                reconnects: tally.reconnects.load(Relaxed),
                subscribers: subscribers.iter().map(subscriber).collect(),
            }
        });
        let mut info: Vec<_> = info.collect();
        info.sort_by(|a, b| (&a.filter, a.lane).cmp(&(&b.filter, b.lane)));
        info
    }
}
