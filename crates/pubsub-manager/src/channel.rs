//! A typed channel: a name, a type, a codec. It holds no connection and no subscription.

use crate::{
    Codec, Error, Filter, Published, Subject, SubscribeOptions, Subscription, TraceContext, manager::Inner,
    outlet::Outgoing,
};
use resilience::Deadline;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fmt,
    marker::PhantomData,
    sync::{Arc, atomic::Ordering::Relaxed},
};
use tokio::{sync::oneshot, time::Instant};

/// How to publish.
#[derive(Clone, Copy, Debug, Default)]
pub struct PublishOptions {
    /// Default [`Config::publish_timeout`](crate::Config::publish_timeout) from now.
    pub deadline: Option<Deadline>,
    /// The trace that subscribers are to continue.
    pub trace: Option<TraceContext>,
}

/// A channel of messages of type `T`. Cheap to clone.
pub struct Channel<T> {
    manager: Arc<Inner>,
    subject: Subject,
    codec: Codec,
    _type: PhantomData<fn(T) -> T>,
}

impl<T> Clone for Channel<T> {
    fn clone(&self) -> Self {
        let (manager, subject) = (Arc::clone(&self.manager), self.subject.clone());
        Self { manager, subject, codec: self.codec, _type: PhantomData }
    }
}

impl<T> fmt::Debug for Channel<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("subject", &self.subject)
            .field("codec", &self.codec)
            .finish_non_exhaustive()
    }
}

impl<T: Serialize + DeserializeOwned> Channel<T> {
    pub(crate) fn new(manager: Arc<Inner>, subject: Subject) -> Self {
        let codec = manager.config.codec;
        Self { manager, subject, codec, _type: PhantomData }
    }

    /// The same channel, published on with `codec`.
    #[must_use]
    pub fn with_codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// The channel's name.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Publishes a message to whoever is subscribed now.
    ///
    /// Cancel safety: dropped before the message was sent, it is not sent; after that it may have been.
    ///
    /// # Errors
    /// [`Error::Unknown`]: it may have been sent; any other: it was not.
    pub async fn publish(&self, value: &T) -> Result<Published, Error> {
        self.publish_with(value, PublishOptions::default()).await
    }

    /// [`publish`](Self::publish) with a deadline and a trace of one's own.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub async fn publish_with(&self, value: &T, options: PublishOptions) -> Result<Published, Error> {
        self.publish_encoded(self.encode(value)?, options).await
    }

    /// Subscribes to this channel; confirmed when it returns.
    ///
    /// Cancel safety: dropped, there is no subscription.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Timeout`], [`Error::Limit`], [`Error::Shutdown`].
    pub async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription<T>, Error> {
        self.manager.subscribe(Filter::exact(&self.subject), options).await
    }

    pub(crate) fn encode(&self, value: &T) -> Result<Vec<u8>, Error> {
        let payload = self.codec.encode(value)?;
        let limit = self.manager.config.max_message_bytes;
        if payload.len() > limit {
            return Err(Error::TooLarge { limit, actual: payload.len() });
        }
        Ok(payload)
    }
}

impl<T> Channel<T> {
    pub(crate) async fn publish_encoded(
        &self,
        payload: Vec<u8>,
        options: PublishOptions,
    ) -> Result<Published, Error> {
        let counts = &self.manager.counts;
        let result = self.send(payload, options).await;
        match &result {
            Ok(_) => counts.published.fetch_add(1, Relaxed),
            Err(error) if error.may_have_happened() => counts.publish_unknown.fetch_add(1, Relaxed),
            Err(_) => counts.publish_failed.fetch_add(1, Relaxed),
        };
        result
    }

    async fn send(&self, payload: Vec<u8>, options: PublishOptions) -> Result<Published, Error> {
        let started = Instant::now();
        let deadline =
            options.deadline.unwrap_or_else(|| Deadline::after(self.manager.config.publish_timeout));
        let (reply, answer) = oneshot::channel();
        let message = Outgoing { codec: self.codec, payload, trace: options.trace, deadline, reply };
        self.manager.send(&self.subject, message)?;
        match deadline.run(answer).await {
            Ok(Ok(result)) => result,
            // Dropped unsent because its deadline had passed.
            Ok(Err(_)) => Err(Error::Timeout { operation: "publish", after: started.elapsed() }),
            Err(_) => Err(Error::Unknown { operation: "publish" }),
        }
    }
}
