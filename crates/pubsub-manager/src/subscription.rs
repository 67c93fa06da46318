//! The receiving end: a typed stream in which every loss stands in its place.

use crate::{
    Codec, Filter, GapCause, MessageId, PublisherId, ReplyTo, SlowConsumer, TraceContext,
    queue::{Item, Queue, Received},
    source::Source,
};
use futures_core::Stream;
use resilience::Deadline;
use serde::de::DeserializeOwned;
use std::{
    future::poll_fn,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// How to subscribe.
#[derive(Clone, Debug)]
pub struct SubscribeOptions {
    /// Messages that may wait for the subscriber. Default 1,024.
    pub capacity: usize,
    /// What to do when more come. Default [`SlowConsumer::DropOldest`].
    pub slow_consumer: SlowConsumer,
    /// For the confirmation. Default [`Config::subscribe_timeout`](crate::Config::subscribe_timeout) from now.
    pub deadline: Option<Deadline>,
}

impl Default for SubscribeOptions {
    fn default() -> Self {
        Self { capacity: 1024, slow_consumer: SlowConsumer::default(), deadline: None }
    }
}

/// What a [`Subscription`] yields.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event<T> {
    /// A message.
    Message(Message<T>),
    /// Messages were missed here.
    Gap {
        /// How many; `None` where that cannot be known.
        missed: Option<u64>,
        /// Why.
        cause: GapCause,
    },
    /// The connection was away and the subscription is confirmed again. What was missed from publishers heard
    /// before follows as [`Event::Gap`] within about a second.
    Reconnected,
}

/// A message received.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Message<T> {
    /// What was published.
    pub value: T,
    /// On which channel.
    pub subject: Arc<str>,
    /// Its name: the same for every subscriber.
    pub id: MessageId,
    /// The publisher's number on this channel.
    pub sequence: u64,
    /// When, by the publisher's clock.
    pub published_at: SystemTime,
    /// Who.
    pub publisher: PublisherId,
    /// In which encoding.
    pub codec: Codec,
    /// The publisher's trace context, if it gave one.
    pub trace: Option<TraceContext>,
    /// Older messages of its key that it stands for; see [`SlowConsumer::Conflate`].
    pub conflated: u64,
    /// Where the answer goes, if the publisher waits for one; see
    /// [`PubSubManager::reply`](crate::PubSubManager::reply).
    pub reply_to: Option<ReplyTo>,
}

/// A confirmed subscription; also a [`Stream`]. Dropping it unsubscribes.
#[derive(Debug)]
pub struct Subscription<T> {
    queue: Arc<Queue>,
    source: Arc<Source>,
    _type: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Subscription<T> {
    pub(crate) fn new(queue: Arc<Queue>, source: Arc<Source>) -> Self {
        Self { queue, source, _type: PhantomData }
    }

    /// The next event; `None` after shutdown and after [`SlowConsumer::Disconnect`].
    ///
    /// Cancel safety: safe, no event is lost.
    pub async fn next(&mut self) -> Option<Event<T>> {
        poll_fn(|context| self.poll_event(context)).await
    }

    /// What it is subscribed to.
    #[must_use]
    pub fn filter(&self) -> &Filter {
        &self.source.filter
    }

    pub(crate) fn poll_item(&self, context: &mut Context<'_>) -> Poll<Option<Item>> {
        self.queue.poll_take(context)
    }

    /// Messages that this subscription has dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.queue.dropped()
    }

    /// Messages of which a newer one of the same key took the place so far.
    #[must_use]
    pub fn conflated(&self) -> u64 {
        self.queue.conflated()
    }

    /// Messages waiting to be taken.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    fn poll_event(&self, context: &mut Context<'_>) -> Poll<Option<Event<T>>> {
        let item = std::task::ready!(self.poll_item(context));
        Poll::Ready(item.map(|item| match item {
            Item::Reconnected => Event::Reconnected,
            Item::Gap { missed, cause } => Event::Gap { missed, cause },
            Item::Message(received) => match message(received) {
                Some(message) => Event::Message(message),
                None => Event::Gap { missed: Some(1), cause: GapCause::Unreadable },
            },
        }))
    }
}

/// Decoded; `None` if it cannot be.
fn message<T: DeserializeOwned>(received: Received) -> Option<Message<T>> {
    let Received { subject, header, payload, conflated } = received;
    let header = header?;
    let (reply_to, payload) = ReplyTo::split(&header, payload)?;
    let published_at = UNIX_EPOCH.checked_add(Duration::from_micros(header.published_at));
    Some(Message {
        value: header.codec.decode(&payload)?,
        subject,
        id: header.id,
        sequence: header.id.sequence,
        published_at: published_at.unwrap_or(UNIX_EPOCH),
        publisher: header.id.publisher,
        codec: header.codec,
        trace: header.trace,
        conflated,
        reply_to,
    })
}

impl<T: DeserializeOwned> Stream for Subscription<T> {
    type Item = Event<T>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_event(context)
    }
}

impl<T> Drop for Subscription<T> {
    fn drop(&mut self) {
        self.queue.abandon();
        self.source.subscribers.lock().retain(|queue| !Arc::ptr_eq(queue, &self.queue));
        self.source.left.notify_one();
    }
}
