//! The user's end of one consumer of a group: what it is handed out, one after the other.

use super::{
    ConsumerKey, ConsumerOptions, Delivery, DurableMessage, GroupName, Loss, RecordedLoss, TakenMessage,
    delivery::Duty,
    member::{Item, Member},
    settler, taker,
};
use crate::{Error, Subject, manager::Inner};
use resilience::Deadline;
use serde::de::DeserializeOwned;
use std::{
    fmt,
    marker::PhantomData,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// What a [`Consumer`] yields.
#[derive(Debug)]
#[non_exhaustive]
pub enum DurableEvent<T> {
    /// A message, to be settled.
    Message(Delivery<T>),
    /// Messages of this group were lost, or may have been, since the last that was told. At least one consumer of the group
    /// is told, and again if it dies before the store has heard that it was.
    Lost(Loss),
}

/// One consumer of a group; its messages are delivered to nobody else of the group while it lives.
///
/// Dropping it ends it: what was not handed out is given back, what was is to be settled by who has it.
pub struct Consumer<T> {
    member: Arc<Member>,
    stop: CancellationToken,
    runtime: Handle,
    _type: PhantomData<fn() -> T>,
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("key", &self.member.core.key).finish_non_exhaustive()
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        self.end();
    }
}

impl<T> Consumer<T> {
    /// Opens the group and starts the tasks.
    pub(super) async fn start(
        inner: &Inner,
        channel: &Subject,
        group: &str,
        options: ConsumerOptions,
    ) -> Result<Self, Error> {
        let (group, name) = (GroupName::new(group)?, options.checked()?);
        let store = Arc::clone(inner.durable("consume")?);
        let key = ConsumerKey { channel: channel.clone(), group, name };
        let deadline = Deadline::after(inner.config.subscribe_timeout);
        let opening = store.open(&key, options.start, None, deadline);
        let late = |_| Error::Timeout { operation: "consume", after: inner.config.subscribe_timeout };
        let source = deadline.run(opening).await.map_err(late)??;
        let (member, requests) = Member::new(store, key, options, Arc::clone(&inner.durable_counts));
        let (member, stop) = (Arc::new(member), inner.stop_token().child_token());
        let core = Arc::clone(&member.core);
        // Not waited for at shutdown, as it lives as long as its consumer: what it carries is waited for by the keeper.
        inner.runtime().spawn(settler::run(Arc::clone(&core), requests));
        inner.spawn(taker::keep(core, stop.clone()));
        inner.spawn(taker::take(Arc::clone(&member), source, stop.clone()));
        Ok(Self { member, stop, runtime: inner.runtime().clone(), _type: PhantomData })
    }

    /// The consumer's name within its group.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.member.core.key.name
    }

    /// Ends it, and waits up to `grace` until everything that it was delivered is settled or given back.
    ///
    /// Cancel safety: the end has begun and goes on.
    pub async fn shutdown(self, grace: Duration) {
        self.end();
        let core = Arc::clone(&self.member.core);
        let settled = async {
            // The task that takes may have something yet.
            while core.room() < core.options.prefetch || Arc::strong_count(&self.member) > 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _late = tokio::time::timeout(grace, settled).await;
    }

    /// Takes nothing more, and gives back what was not handed out.
    pub(super) fn end(&self) {
        self.stop.cancel();
        self.member.give_back();
    }

    fn told(&self, loss: RecordedLoss) -> Loss {
        let core = Arc::clone(&self.member.core);
        core.counts.losses.fetch_add(1, Relaxed);
        // If this fails, it is told once more.
        self.runtime.spawn(async move {
            let told = core.store.told(&core.key, loss.number, Deadline::after(Duration::from_secs(5))).await;
            if let Err(error) = told {
                tracing::debug!(%error, "a loss that was told could not be recorded");
            }
        });
        Loss { missed: loss.missed, cause: loss.cause }
    }
}

impl<T: DeserializeOwned> Consumer<T> {
    /// The next event; `None` once the manager or the store is shut down.
    ///
    /// A message that does not decode becomes a dead letter and is not handed out.
    ///
    /// Cancel safety: safe, no event is lost.
    pub async fn next(&mut self) -> Option<DurableEvent<T>> {
        loop {
            if self.stop.is_cancelled() {
                return None;
            }
            match self.member.core.pop() {
                Some(Item::Lost(loss)) => return Some(DurableEvent::Lost(self.told(loss))),
                Some(Item::Message(taken)) => {
                    if let Some(delivery) = self.decode(taken) {
                        return Some(DurableEvent::Message(delivery));
                    }
                }
                None => tokio::select! {
                    () = self.member.core.queued.notified() => {}
                    () = self.stop.cancelled() => {}
                },
            }
        }
    }

    fn decode(&self, taken: TakenMessage) -> Option<Delivery<T>> {
        let TakenMessage { id: position, deliveries, record } = taken;
        let duty = Duty::new(Arc::clone(&self.member), position, deliveries);
        let core = &self.member.core;
        let Some(record) = record else {
            core.counts.undecodable.fetch_add(1, Relaxed);
            duty.dead_letter_unheard("undecodable: not a record that this version can read");
            return None;
        };
        let value = match record.codec.try_decode(&record.payload) {
            Ok(value) => value,
            Err(error) => {
                core.counts.undecodable.fetch_add(1, Relaxed);
                duty.dead_letter_unheard(&format!("undecodable as {}: {error}", record.codec.name()));
                return None;
            }
        };
        let message = DurableMessage {
            id: record.id,
            value,
            channel: core.key.channel.clone(),
            position,
            deliveries,
            published_at: record.published_at,
            trace: record.trace,
        };
        Some(Delivery { message, duty })
    }
}
