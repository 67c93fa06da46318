//! A typed channel: a name, a type, a codec. It holds no connection and no subscription.

use crate::{
    Codec, Error, Filter, Lane, Published, Subject, SubscribeOptions, Subscription, TraceContext,
    envelope::Kind, manager::Inner, outlet::Outgoing,
};
use resilience::Deadline;
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt, marker::PhantomData, sync::Arc};
use tokio::{sync::oneshot, time::Instant};

/// How to publish.
#[derive(Clone, Copy, Debug, Default)]
pub struct PublishOptions {
    /// Default [`Config::publish_timeout`](crate::Config::publish_timeout) from now.
    pub deadline: Option<Deadline>,
    /// The trace that subscribers are to continue. Default: the one at hand, as [`Deps::traceparent`](crate::Deps::traceparent)
    /// tells.
    pub trace: Option<TraceContext>,
}

/// A channel of messages of type `T`. Cheap to clone.
pub struct Channel<T> {
    manager: Arc<Inner>,
    lane: Lane,
    subject: Subject,
    codec: Codec,
    _type: PhantomData<fn(T) -> T>,
}

impl<T> Clone for Channel<T> {
    fn clone(&self) -> Self {
        let (manager, subject) = (Arc::clone(&self.manager), self.subject.clone());
        Self { manager, lane: self.lane, subject, codec: self.codec, _type: PhantomData }
    }
}

impl<T> fmt::Debug for Channel<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("lane", &self.lane)
            .field("subject", &self.subject)
            .field("codec", &self.codec)
            .finish_non_exhaustive()
    }
}

impl<T> Channel<T> {
    pub(crate) fn new(manager: Arc<Inner>, lane: Lane, subject: Subject) -> Self {
        let codec = manager.config.codec;
        Self { manager, lane, subject, codec, _type: PhantomData }
    }

    /// The same channel, published on with `codec`.
    #[must_use]
    pub fn with_codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }
}

impl<T: Serialize + DeserializeOwned> Channel<T> {
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
        self.publish_encoded(Kind::Message, self.encode(value)?, options).await
    }

    /// Subscribes to this channel; confirmed when it returns.
    ///
    /// Subscribers of one name in one process share its subscription: while that is interrupted another one joins at once, and
    /// is told [`Event::Reconnected`](crate::Event::Reconnected) and the gaps with the others.
    ///
    /// While the bus is away it waits: it succeeds as soon as the bus is back, and fails at the deadline if that is not
    /// before it. Then nothing stays behind, and it may be called again.
    ///
    /// Cancel safety: dropped, there is no subscription.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Timeout`] at the deadline, [`Error::Limit`], [`Error::Forbidden`],
    /// [`Error::Unsupported`], [`Error::Shutdown`].
    pub async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription<T>, Error> {
        self.manager.subscribe(Filter::exact(self.lane, &self.subject), options).await
    }

    pub(crate) fn encode(&self, value: &T) -> Result<Vec<u8>, Error> {
        self.manager.encode(self.codec, &self.subject, value)
    }
}

#[cfg(feature = "postgres")]
impl<T> Channel<T> {
    pub(crate) const fn lane(&self) -> Lane {
        self.lane
    }

    pub(crate) const fn codec(&self) -> Codec {
        self.codec
    }
}

impl<T> Channel<T> {
    pub(crate) const fn manager(&self) -> &Arc<Inner> {
        &self.manager
    }

    pub(crate) fn deadline(&self, options: &PublishOptions) -> Deadline {
        self.manager.publish_deadline(options)
    }

    pub(crate) async fn publish_encoded(
        &self,
        kind: Kind,
        payload: Vec<u8>,
        options: PublishOptions,
    ) -> Result<Published, Error> {
        let result = self.send(kind, payload, options).await;
        self.manager.counts.sent(result.as_ref().err());
        result
    }

    async fn send(&self, kind: Kind, payload: Vec<u8>, options: PublishOptions) -> Result<Published, Error> {
        let started = Instant::now();
        let deadline = self.deadline(&options);
        let trace = options.trace.or_else(|| self.manager.trace());
        let (reply, answer) = oneshot::channel();
        let message = Outgoing { kind, codec: self.codec, payload, trace, deadline, reply };
        let baton = self.manager.send(&(self.lane, self.subject.clone()), message)?;
        let answered = async {
            if let Some(baton) = baton {
                baton.run().await;
            }
            answer.await
        };
        match deadline.run(answered).await {
            Ok(Ok(result)) => result,
            // Dropped unsent because its deadline had passed.
            Ok(Err(_)) => Err(Error::Timeout { operation: "publish", after: started.elapsed() }),
            Err(_) => Err(Error::Unknown { operation: "publish" }),
        }
    }
}
