//! One bus subscription shared by all subscribers of one name or pattern in the process: tracks publishers, fans out.
//! It does not decode payloads.

use crate::{
    BusEvent, BusStream, Filter, GapCause, Lane,
    envelope::{self, Header, Kind},
    metrics::{Counts, Latency},
    queue::{Item, Queue, Received},
    tracker::{Missed, Tracker},
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, OnceCell},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

/// One message in so many has its time on the way recorded.
const SAMPLED: u64 = 16;

/// A name or pattern with its subscribers.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) filter: Filter,
    pub(crate) subscribers: Mutex<Vec<Arc<Queue>>>,
    /// Set once the bus has confirmed the subscription.
    pub(crate) confirmed: OnceCell<()>,
    /// A subscriber has gone.
    pub(crate) left: Notify,
    pub(crate) tally: Tally,
}

/// What came to one source.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) received: AtomicU64,
    pub(crate) gaps: AtomicU64,
    pub(crate) missed: AtomicU64,
    pub(crate) reconnects: AtomicU64,
    /// Publishers heard of and not forgotten.
    pub(crate) publishers: AtomicUsize,
}

impl Source {
    pub(crate) fn new(filter: Filter) -> Self {
        Self {
            filter,
            subscribers: Mutex::default(),
            confirmed: OnceCell::new(),
            left: Notify::new(),
            tally: Tally::default(),
        }
    }
}

/// The task behind a [`Source`].
pub(crate) struct Feed {
    pub(crate) source: Arc<Source>,
    pub(crate) announce_every: Duration,
    pub(crate) counts: Arc<Counts>,
    pub(crate) latency: Latency,
    pub(crate) stop: CancellationToken,
}

impl Feed {
    /// Until `unused` says that no subscriber is left, the bus ends or the manager stops; then `ended` has to take leave
    /// of the subscribers.
    pub(crate) async fn run(
        self,
        mut stream: Box<dyn BusStream>,
        unused: impl Fn(&Arc<Source>) -> bool,
        ended: impl FnOnce(&Arc<Source>),
    ) {
        let mut tracker = Tracker::new(self.announce_every, Instant::now());
        let mut tick = tokio::time::interval(self.announce_every / 2);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = &self.stop;
        loop {
            // In this order: after a stall, announcements that wait come before the verdict that nobody announced.
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => None,
                () = self.source.left.notified() => {
                    if unused(&self.source) {
                        return;
                    }
                    continue;
                }
                event = stream.next() => event,
                _ = tick.tick() => {
                    for _ in 0..tracker.tick(Instant::now()) {
                        self.gap(Missed { count: None, cause: GapCause::PublisherSilent }).await;
                    }
                    self.source.tally.publishers.store(tracker.publishers(), Relaxed);
                    continue;
                }
            };
            let Some(event) = event else { break };
            // A subscriber under `Block` may hold this up for long; the stop must not wait for it.
            tokio::select! {
                () = self.handle(&mut tracker, event) => {}
                () = stop.cancelled() => break,
            }
        }
        ended(&self.source);
    }

    async fn handle(&self, tracker: &mut Tracker, event: BusEvent) {
        let now = Instant::now();
        match event {
            BusEvent::Frame { subject, frame } => {
                // A glob of the bus may match more than the pattern asks for.
                if !self.source.filter.matches(&subject) {
                    return;
                }
                if self.is_raw() {
                    self.message(&subject, None, &frame).await;
                } else {
                    self.frame(tracker, &subject, frame, now).await;
                }
            }
            BusEvent::Interrupted => tracker.interrupted(GapCause::Reconnect, now),
            BusEvent::Restored => {
                tracker.restored(now);
                self.counts.reconnects.fetch_add(1, Relaxed);
                self.source.tally.reconnects.fetch_add(1, Relaxed);
                self.push(|| Item::Reconnected).await;
                self.uncounted(GapCause::Reconnect).await;
            }
            BusEvent::Overflowed => {
                tracker.interrupted(GapCause::BusOverflow, now);
                tracker.restored(now);
                self.uncounted(GapCause::BusOverflow).await;
            }
        }
    }

    fn is_raw(&self) -> bool {
        self.source.filter.lane() == Lane::Raw
    }

    /// Raw messages have no numbers: whatever may have been lost is told as such.
    async fn uncounted(&self, cause: GapCause) {
        if self.is_raw() {
            self.gap(Missed { count: None, cause }).await;
        }
    }

    async fn frame(&self, tracker: &mut Tracker, subject: &Arc<str>, mut frame: Bytes, now: Instant) {
        while let Some(envelope) = envelope::decode(&mut frame) {
            let Ok((header, payload)) = envelope else {
                return self.gap(Missed { count: None, cause: GapCause::Unreadable }).await;
            };
            if header.kind == Kind::Reply {
                // An inbox matches a wide pattern, and is nobody else's business.
                continue;
            }
            let verdict = tracker.heard(subject, &header, now);
            for missed in verdict.gaps {
                self.gap(missed).await;
            }
            if verdict.deliver {
                self.message(subject, Some(header), &payload).await;
            }
        }
    }

    async fn message(&self, subject: &Arc<str>, header: Option<Header>, payload: &Bytes) {
        self.counts.received.fetch_add(1, Relaxed);
        let number = self.source.tally.received.fetch_add(1, Relaxed);
        if let Some(header) = header
            && number.is_multiple_of(SAMPLED)
        {
            self.latency.record(header.published_at);
        }
        let message =
            || Received { subject: Arc::clone(subject), header, payload: payload.clone(), conflated: 0 };
        self.push(|| Item::Message(message())).await;
    }

    async fn gap(&self, Missed { count: missed, cause }: Missed) {
        self.counts.gaps.fetch_add(1, Relaxed);
        self.counts.missed.fetch_add(missed.unwrap_or(0), Relaxed);
        self.source.tally.gaps.fetch_add(1, Relaxed);
        self.source.tally.missed.fetch_add(missed.unwrap_or(0), Relaxed);
        self.push(|| Item::Gap { missed, cause }).await;
    }

    async fn push(&self, item: impl Fn() -> Item) {
        let only = {
            let subscribers = self.source.subscribers.lock();
            // The usual case costs no allocation.
            if let [one] = &subscribers[..] { Ok(Arc::clone(one)) } else { Err(subscribers.clone()) }
        };
        let dropped = match only {
            Ok(queue) => queue.push(item()).await,
            Err(queues) => {
                let mut dropped = 0;
                for queue in queues {
                    dropped += queue.push(item()).await;
                }
                dropped
            }
        };
        self.counts.dropped.fetch_add(dropped, Relaxed);
    }
}

#[cfg(test)]
mod tests;
