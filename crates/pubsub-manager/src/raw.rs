//! Raw channels: payloads as they are, for peers that know nothing of envelopes. Nothing is numbered, so what was missed
//! cannot be counted; that something may have been missed is still told.

use crate::{
    Error, Filter, GapCause, Lane, PubSubManager, PublishOptions, Subject, SubscribeOptions, Subscription,
    manager::Inner, queue::Item,
};
use bytes::Bytes;
use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

/// A channel without envelopes; made by [`PubSubManager::raw_channel`]. In Redis it is `{namespace}:r:{name}`.
#[derive(Clone, Debug)]
pub struct RawChannel {
    manager: Arc<Inner>,
    subject: Subject,
}

/// What a [`RawSubscription`] yields.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RawEvent {
    /// A payload.
    Message {
        /// On which channel.
        subject: Arc<str>,
        /// As published.
        payload: Bytes,
        /// Older ones of its channel that it stands for; see [`SlowConsumer::Conflate`](crate::SlowConsumer::Conflate).
        conflated: u64,
    },
    /// Messages may have been missed here; counted only where this process dropped them.
    Gap {
        /// How many, if known.
        missed: Option<u64>,
        /// Why.
        cause: GapCause,
    },
    /// The connection was away and the subscription is confirmed again.
    Reconnected,
}

/// A confirmed subscription to raw channels; also a [`Stream`](futures_core::Stream). Dropping it unsubscribes.
#[derive(Debug)]
pub struct RawSubscription(Subscription<()>);

impl PubSubManager {
    /// A raw channel by its name. Costs nothing until used.
    ///
    /// # Errors
    /// [`Error::InvalidSubject`].
    pub fn raw_channel(&self, name: &str) -> Result<RawChannel, Error> {
        Ok(RawChannel { manager: Arc::clone(&self.0), subject: Subject::new(name)? })
    }

    /// Subscribes to every raw channel whose name matches; see [`Filter::new`]. Confirmed when it returns.
    ///
    /// Cancel safety: dropped, there is no subscription.
    ///
    /// # Errors
    /// As [`subscribe_pattern`](Self::subscribe_pattern).
    pub async fn subscribe_raw(
        &self,
        pattern: &str,
        options: SubscribeOptions,
    ) -> Result<RawSubscription, Error> {
        let filter = Filter::new(pattern)?.over(Lane::Raw)?;
        Ok(RawSubscription(self.0.subscribe(filter, options).await?))
    }
}

impl RawChannel {
    /// The channel's name.
    #[must_use]
    pub const fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Publishes a payload as it is, and says to how many subscriptions the bus handed it, where the bus knows. Each is a
    /// frame of its own: publishes at the same time are in no order.
    ///
    /// Cancel safety: dropped, it may or may not have been sent.
    ///
    /// # Errors
    /// [`Error::Unknown`]: it may have been sent; any other: it was not.
    pub async fn publish(
        &self,
        payload: impl Into<Bytes>,
        options: PublishOptions,
    ) -> Result<Option<u64>, Error> {
        let (manager, payload) = (&self.manager, payload.into());
        let result = async {
            manager.check_size(payload.len())?;
            let deadline = manager.publish_deadline(&options);
            manager.bus("publish")?.publish(Lane::Raw, &self.subject, payload, deadline).await
        };
        let result = result.await;
        manager.counts.sent(result.as_ref().err());
        result
    }

    /// Subscribes to this channel; confirmed when it returns.
    ///
    /// Cancel safety: dropped, there is no subscription.
    ///
    /// # Errors
    /// As [`PubSubManager::subscribe_pattern`].
    pub async fn subscribe(&self, options: SubscribeOptions) -> Result<RawSubscription, Error> {
        let filter = Filter::exact(Lane::Raw, &self.subject);
        Ok(RawSubscription(self.manager.subscribe(filter, options).await?))
    }
}

impl RawSubscription {
    /// The next event; `None` after shutdown and after [`SlowConsumer::Disconnect`](crate::SlowConsumer::Disconnect).
    ///
    /// Cancel safety: safe, no event is lost.
    pub async fn next(&mut self) -> Option<RawEvent> {
        poll_fn(|context| self.poll_event(context)).await
    }

    /// Messages that this subscription has dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.dropped()
    }

    fn poll_event(&self, context: &mut Context<'_>) -> Poll<Option<RawEvent>> {
        let item = std::task::ready!(self.0.poll_item(context));
        Poll::Ready(item.map(|item| match item {
            Item::Reconnected => RawEvent::Reconnected,
            Item::Gap { missed, cause } => RawEvent::Gap { missed, cause },
            Item::Message(message) => RawEvent::Message {
                subject: message.subject,
                payload: message.payload,
                conflated: message.conflated,
            },
        }))
    }
}

impl futures_core::Stream for RawSubscription {
    type Item = RawEvent;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_event(context)
    }
}
