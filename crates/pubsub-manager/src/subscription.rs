//! The receiving end: a typed stream in which every loss stands in its place.

use crate::{
    Codec, GapCause, MessageId, PublisherId, SlowConsumer, TraceContext,
    queue::{Item, Queue},
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
#[derive(Clone, Copy, Debug)]
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

    /// Messages that this subscription has dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.queue.dropped()
    }

    /// Messages waiting to be taken.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    fn poll_event(&self, context: &mut Context<'_>) -> Poll<Option<Event<T>>> {
        let item = std::task::ready!(self.queue.poll_take(context));
        Poll::Ready(item.map(|item| {
            match item {
                Item::Reconnected => Event::Reconnected,
                Item::Gap { missed, cause } => Event::Gap { missed, cause },
                Item::Message { subject, header, payload } => match header.codec.decode(&payload) {
                    None => Event::Gap { missed: Some(1), cause: GapCause::Unreadable },
                    Some(value) => Event::Message(Message {
                        value,
                        subject,
                        id: header.id,
                        sequence: header.id.sequence,
                        published_at: UNIX_EPOCH
                            .checked_add(Duration::from_micros(header.published_at))
                            .unwrap_or(UNIX_EPOCH),
                        publisher: header.id.publisher,
                        codec: header.codec,
                        trace: header.trace,
                    }),
                },
            }
        }))
    }
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
