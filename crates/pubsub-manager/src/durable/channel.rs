//! A typed durable channel: publish, consume, look after its groups. It holds no connection and no position.

use super::{
    Consumer, ConsumerOptions, DeadLetter, DurableGroup, DurableHandler, DurableId, DurableLimits,
    DurableMessage, DurableRecord, GroupChange, GroupName, Resolution, StartFrom,
    outlet::{Outgoing, Outlet, Ticket},
};
use crate::{Codec, Error, Subject, TraceContext, manager::Inner};
use resilience::Deadline;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{sync::oneshot, time::Instant};
use uuid::Uuid;

/// How long after its deadline a publish waits for what the store says of it.
const LAST_WORD: Duration = Duration::from_millis(100);

/// How to publish on a durable channel.
#[derive(Clone, Copy, Debug, Default)]
pub struct DurablePublish {
    /// The message's id. Who repeats a publish of unknown outcome does so under the same id, so that whoever handles the
    /// message can tell. Default: a new one.
    pub id: Option<Uuid>,
    /// Default [`Config::publish_timeout`](crate::Config::publish_timeout) from now.
    pub deadline: Option<Deadline>,
    /// The trace that consumers are to continue.
    pub trace: Option<TraceContext>,
}

/// A durable channel of messages of type `T`. Cheap to clone; what waits to be published travels together.
pub struct DurableChannel<T> {
    manager: Arc<Inner>,
    subject: Subject,
    codec: Codec,
    outlet: Arc<Outlet>,
    _type: PhantomData<fn(T) -> T>,
}

impl<T> Clone for DurableChannel<T> {
    fn clone(&self) -> Self {
        Self {
            manager: Arc::clone(&self.manager),
            subject: self.subject.clone(),
            codec: self.codec,
            outlet: Arc::clone(&self.outlet),
            _type: PhantomData,
        }
    }
}

impl<T> fmt::Debug for DurableChannel<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DurableChannel")
            .field("subject", &self.subject)
            .field("codec", &self.codec)
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "postgres")]
impl<T> DurableChannel<T> {
    pub(crate) const fn manager(&self) -> &Arc<Inner> {
        &self.manager
    }

    pub(crate) const fn codec(&self) -> Codec {
        self.codec
    }
}

impl<T: Serialize + DeserializeOwned> DurableChannel<T> {
    pub(super) fn new(manager: Arc<Inner>, subject: Subject) -> Self {
        let codec = manager.config.codec;
        let most = manager.config.max_channels;
        let make = || outlet(&manager, &subject, manager.config.durable);
        let outlet = manager.durable_outlets.get(&subject, most, make);
        Self { manager, subject, codec, outlet, _type: PhantomData }
    }

    /// The same channel, published on with `codec`.
    #[must_use]
    pub fn with_codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// The same channel, keeping what `limits` say and not what [`Config::durable`](crate::Config::durable) says. All
    /// publishers of a channel should agree.
    #[must_use]
    pub fn with_limits(mut self, limits: DurableLimits) -> Self {
        self.outlet = Arc::new(outlet(&self.manager, &self.subject, limits));
        self
    }

    pub(crate) fn encode(&self, value: &T) -> Result<Vec<u8>, Error> {
        self.manager.encode(self.codec, &self.subject, value)
    }

    /// Publishes a message to every group, also to those that come later as long as it is kept. Kept when it returns, by the
    /// store's own measure of durability. Its id is answered.
    ///
    /// While the store cannot be reached it waits, until the deadline.
    ///
    /// Cancel safety: dropped before the message was sent, it is not published; after that it may have been.
    ///
    /// # Errors
    /// [`Error::Unknown`]: it may have been published; repeat it with [`publish_with`](Self::publish_with) and an id of your
    /// own. Any other, [`Error::Full`] among them: it was not.
    pub async fn publish(&self, value: &T) -> Result<Uuid, Error> {
        self.publish_with(value, DurablePublish::default()).await
    }

    /// [`publish`](Self::publish) with an id, a deadline and a trace of one's own.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub async fn publish_with(&self, value: &T, options: DurablePublish) -> Result<Uuid, Error> {
        const PUBLISH: &str = "publish on a durable channel";
        let started = Instant::now();
        let store = Arc::clone(self.manager.durable(PUBLISH)?);
        let payload = self.encode(value)?;
        let id = options.id.unwrap_or_else(Uuid::now_v7);
        let (published_at, trace) = (SystemTime::now(), options.trace.or_else(|| self.manager.trace()));
        let record = DurableRecord { id, codec: self.codec, published_at, trace, payload: payload.into() };
        let timeout = self.manager.config.publish_timeout;
        let deadline = options.deadline.unwrap_or_else(|| Deadline::after(timeout));
        let (reply, answer) = oneshot::channel();
        let ticket = Arc::new(Ticket::default());
        let waiting = Outgoing { record, deadline, ticket: Arc::clone(&ticket), reply };
        if self.outlet.queue(waiting)? {
            let counts = Arc::clone(&self.manager.durable_counts);
            self.manager.spawn(Arc::clone(&self.outlet).drain(store, counts));
        }
        let mut answer = answer;
        let mut answered = deadline.run(&mut answer).await.ok();
        if answered.is_none() && !ticket.abandon() {
            // The store keeps the same deadline, and may know that nothing was sent.
            answered = tokio::time::timeout(LAST_WORD, answer).await.ok();
            if answered.is_none() {
                return Err(Error::Unknown { operation: PUBLISH });
            }
        }
        match answered {
            Some(Ok(result)) => result.map(|()| id),
            // Abandoned, or dropped unsent because its deadline had passed.
            Some(Err(_)) | None => Err(Error::Timeout { operation: PUBLISH, after: started.elapsed() }),
        }
    }

    /// A consumer of `group`, which is created if it is not there. It takes ahead up to `prefetch` messages.
    ///
    /// While the store cannot be reached it tries again until [`Config::subscribe_timeout`](crate::Config::subscribe_timeout).
    /// Later interruptions are bridged.
    ///
    /// Cancel safety: dropped, there is no consumer; the group may have been created.
    ///
    /// # Errors
    /// [`Error::InvalidName`], [`Error::Config`], [`Error::Unavailable`], [`Error::Timeout`], [`Error::Unknown`],
    /// [`Error::Limit`], [`Error::Shutdown`].
    pub async fn consume(&self, group: &str, options: ConsumerOptions) -> Result<Consumer<T>, Error> {
        Consumer::start(&self.manager, &self.subject, group, options).await
    }

    /// Runs `handle` for every message of `group`, up to [`ConsumerOptions::concurrency`] at once: `Ok` acknowledges; `Err`
    /// and a panic give it back, to be tried again after its back-off, and after `max_deliveries` make it a dead letter with
    /// the error as its reason. At [`shutdown`](crate::PubSubManager::shutdown) what is being handled is waited for.
    ///
    /// Cancel safety and errors: as [`consume`](Self::consume).
    pub async fn handle<F, Fut, E>(
        &self,
        group: &str,
        options: ConsumerOptions,
        handle: F,
    ) -> Result<DurableHandler, Error>
    where
        T: Send + 'static,
        F: Fn(DurableMessage<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display + Send + 'static,
    {
        let concurrency = options.concurrency;
        let consumer = self.consume(group, options).await?;
        let stop = self.manager.stop_token().child_token();
        let spawn = |task| self.manager.spawn(task);
        Ok(DurableHandler::start(consumer, concurrency, stop, handle, spawn))
    }
}

fn outlet(manager: &Inner, subject: &Subject, limits: DurableLimits) -> Outlet {
    let config = &manager.config;
    Outlet::new(subject.clone(), limits, config.max_pending, config.max_frame_bytes.saturating_mul(4))
}

/// Looking after the channel. All are safe to cancel: what was asked for may have been done or not. All may fail with
/// [`Error::Unavailable`], [`Error::Timeout`], [`Error::Unknown`] and [`Error::Shutdown`], those that name a group also with
/// [`Error::InvalidName`] and, where there is none, [`Error::UnknownGroup`]. Time limit:
/// [`Config::subscribe_timeout`](crate::Config::subscribe_timeout).
impl<T> DurableChannel<T> {
    /// The channel's name.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// How much the channel keeps.
    #[must_use]
    pub fn limits(&self) -> &DurableLimits {
        self.outlet.limits()
    }

    /// The groups as they are now, sorted by name. A group that is stuck shows in `lag`, `pending` and `oldest_unacked`.
    ///
    /// # Errors
    /// See above.
    pub async fn groups(&self) -> Result<Vec<DurableGroup>, Error> {
        self.manager.durable("list groups")?.groups(&self.subject, self.deadline()).await
    }

    /// Nothing is delivered to the group any more, in the whole fleet, within a second; what has been delivered may be settled.
    /// Stays so until [`resume`](Self::resume), also over restarts.
    ///
    /// # Errors
    /// See above.
    pub async fn pause(&self, group: &str) -> Result<(), Error> {
        self.change(group, GroupChange::Pause).await
    }

    /// The group goes on, within a second.
    ///
    /// # Errors
    /// See above.
    pub async fn resume(&self, group: &str) -> Result<(), Error> {
        self.change(group, GroupChange::Resume).await
    }

    /// Delivers once more to the group what is kept from there on. What is pending stays so, and may be delivered twice. With
    /// [`StartFrom::Now`] what was not delivered yet is skipped.
    ///
    /// # Errors
    /// See above.
    pub async fn replay(&self, group: &str, from: StartFrom) -> Result<(), Error> {
        self.change(group, GroupChange::Place(from)).await
    }

    /// Removes a group that nobody consumes any more, with its dead letters, so that nothing is kept for it. A consumer that
    /// runs nevertheless takes it for a loss and creates it again.
    ///
    /// # Errors
    /// See above.
    pub async fn delete_group(&self, group: &str) -> Result<(), Error> {
        self.change(group, GroupChange::Delete).await
    }

    /// Up to `max` dead letters of a group after `after`, oldest first.
    ///
    /// # Errors
    /// See above.
    pub async fn dead_letters(
        &self,
        group: &str,
        after: Option<DurableId>,
        max: usize,
    ) -> Result<Vec<DeadLetter>, Error> {
        let (store, group) = (self.manager.durable("list dead letters")?, GroupName::new(group)?);
        store.dead_letters(&self.subject, &group, after, max, self.deadline()).await
    }

    /// Delivers a dead letter again, to its group alone, counting its deliveries anew.
    ///
    /// # Errors
    /// See above, and [`Error::UnknownDeadLetter`].
    pub async fn retry_dead_letter(&self, group: &str, letter: DurableId) -> Result<(), Error> {
        self.resolve(group, letter, Resolution::Retry).await
    }

    /// Removes a dead letter.
    ///
    /// # Errors
    /// See above, and [`Error::UnknownDeadLetter`].
    pub async fn drop_dead_letter(&self, group: &str, letter: DurableId) -> Result<(), Error> {
        self.resolve(group, letter, Resolution::Drop).await
    }

    async fn change(&self, group: &str, change: GroupChange) -> Result<(), Error> {
        let (store, group) = (self.manager.durable("change a group")?, GroupName::new(group)?);
        store.change(&self.subject, &group, change, self.deadline()).await
    }

    async fn resolve(&self, group: &str, letter: DurableId, resolution: Resolution) -> Result<(), Error> {
        let (store, group) = (self.manager.durable("resolve a dead letter")?, GroupName::new(group)?);
        store.resolve(&self.subject, &group, letter, resolution, self.deadline()).await
    }

    fn deadline(&self) -> Deadline {
        Deadline::after(self.manager.config.subscribe_timeout)
    }
}
