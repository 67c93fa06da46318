//! What the tasks, the deliveries and the user's end of one consumer share: what it holds, what waits to be handed out,
//! and the way to settle.

use super::{
    ConsumerKey, ConsumerOptions, DurableCounts, DurableId, DurableStore, RecordedLoss, Settle, Settled,
    Settlement, TakenMessage,
};
use crate::Error;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::Ordering::Relaxed},
};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// One consumer, as long as anybody may settle a delivery of it.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) core: Arc<Core>,
    settler: mpsc::Sender<Request>,
}

/// The part that works on when nobody can settle any more.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) store: Arc<dyn DurableStore>,
    pub(super) key: ConsumerKey,
    pub(super) options: ConsumerOptions,
    pub(super) counts: Arc<DurableCounts>,
    /// Delivered and not settled, with the number of the delivery; at most `prefetch`.
    held: Mutex<HashMap<DurableId, u32>>,
    /// Told when something is no longer held.
    pub(super) freed: Notify,
    /// What waits to be handed out: at most what is held, and a few losses.
    queue: Mutex<VecDeque<Item>>,
    /// Told when something is queued.
    pub(super) queued: Notify,
    /// Nobody can settle any more.
    pub(super) gone: CancellationToken,
}

/// What a consumer is handed out.
#[derive(Debug)]
pub(super) enum Item {
    Message(TakenMessage),
    Lost(RecordedLoss),
}

/// One settlement on its way.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) settlement: Settlement,
    pub(super) reply: Option<oneshot::Sender<Result<(), Error>>>,
}

impl Core {
    pub(super) fn room(&self) -> usize {
        self.options.prefetch.saturating_sub(self.held.lock().len())
    }

    pub(super) fn holding(&self) -> Vec<(DurableId, u32)> {
        self.held.lock().iter().map(|(id, deliveries)| (*id, *deliveries)).collect()
    }

    pub(super) fn holds(&self, id: DurableId, deliveries: u32) -> bool {
        self.held.lock().get(&id) == Some(&deliveries)
    }

    /// It is settled, or somebody else's.
    pub(super) fn release(&self, id: DurableId, deliveries: u32) {
        let mut held = self.held.lock();
        if held.get(&id) == Some(&deliveries) {
            held.remove(&id);
            drop(held);
            self.freed.notify_one();
        }
    }

    pub(super) fn push(&self, item: Item) {
        if let Item::Message(message) = &item {
            self.held.lock().insert(message.id, message.deliveries);
        }
        self.queue.lock().push_back(item);
        self.queued.notify_one();
    }

    /// The next that is still held.
    pub(super) fn pop(&self) -> Option<Item> {
        loop {
            let item = self.queue.lock().pop_front()?;
            match item {
                Item::Message(message) if !self.holds(message.id, message.deliveries) => {}
                item => return Some(item),
            }
        }
    }

    pub(super) fn superseded(&self, id: DurableId) -> Error {
        Error::Superseded {
            channel: self.key.channel.to_string(),
            group: self.key.group.to_string(),
            message: id.to_string(),
        }
    }

    /// Counts what became of a delivery.
    pub(super) fn count(&self, how: &Settle, settled: Settled) {
        let count = match (settled, how) {
            (Settled::Superseded | Settled::NotPending, _) => &self.counts.superseded,
            (_, Settle::Extend(_) | Settle::Release) => return,
            (Settled::DeadLettersFull, _) | (_, Settle::Retry(_)) => &self.counts.retried,
            (_, Settle::Ack) => &self.counts.acknowledged,
            (_, Settle::Dead { .. }) => &self.counts.dead_lettered,
        };
        count.fetch_add(1, Relaxed);
    }
}

impl Member {
    pub(super) fn new(
        store: Arc<dyn DurableStore>,
        key: ConsumerKey,
        options: ConsumerOptions,
        counts: Arc<DurableCounts>,
    ) -> (Self, mpsc::Receiver<Request>) {
        let (settler, requests) = mpsc::channel(options.prefetch * 2 + 16);
        counts.consumers.fetch_add(1, Relaxed);
        let core = Arc::new(Core {
            store,
            key,
            options,
            counts,
            held: Mutex::default(),
            freed: Notify::new(),
            queue: Mutex::default(),
            queued: Notify::new(),
            gone: CancellationToken::new(),
        });
        (Self { core, settler }, requests)
    }

    /// Settles and waits for the answer. Once this has been polled it is on its way, whatever becomes of the future.
    pub(super) async fn settle(&self, settlement: Settlement) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        match self.settler.try_send(Request { settlement, reply: Some(reply) }) {
            Err(mpsc::error::TrySendError::Full(request)) => drop(self.settler.send(request).await),
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
        }
        answer.await.unwrap_or(Err(Error::Shutdown { operation: "settle a delivery" }))
    }

    /// Settles without waiting for the answer, which the log has if it is an error.
    pub(super) async fn post(&self, settlement: Settlement) {
        // It fails only where nobody is left who would carry it; then it is due again after the `ack_timeout`.
        let _ended = self.settler.send(Request { settlement, reply: None }).await;
    }

    /// Settles without waiting, also outside of a runtime. What finds no room is due again after the `ack_timeout`.
    pub(super) fn settle_unheard(&self, settlement: Settlement) {
        let (id, deliveries) = (settlement.id, settlement.deliveries);
        if self.settler.try_send(Request { settlement, reply: None }).is_err() {
            self.core.release(id, deliveries);
        }
    }

    /// Gives back what was not handed out.
    pub(super) fn give_back(&self) {
        while let Some(item) = self.core.pop() {
            if let Item::Message(TakenMessage { id, deliveries, .. }) = item {
                self.settle_unheard(Settlement { id, deliveries, how: Settle::Release });
            }
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.core.counts.consumers.fetch_sub(1, Relaxed);
        self.core.gone.cancel();
    }
}
