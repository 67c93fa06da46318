//! The manager: the channels it publishes on, the names and patterns it is subscribed to, one task that announces.
//! It owns no connection; the bus does.

mod publishing;
mod subscribing;

use crate::{
    Bus, BusStatus, Channel, Codec, Config, Deps, DurableStore, Error, Filter, Handlers, Lane,
    PublishOptions, PublisherId, Stats, Subject, SubscribeOptions, Subscription, TraceContext, Traceparent,
    codec::About,
    durable::{DurableCounts, DurableOutlets},
    metrics::{Counts, Instruments, Latency},
    outlet::Outlet,
    request::Inbox,
    source::Source,
};
use parking_lot::Mutex;
use resilience::Deadline;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};
use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Publishes to and subscribes on typed channels. Clones share it; the last one dropped ends its tasks.
#[derive(Clone, Debug)]
pub struct PubSubManager(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) counts: Arc<Counts>,
    bus: Option<Arc<dyn Bus>>,
    pub(crate) durable: Option<Arc<dyn DurableStore>>,
    pub(crate) durable_counts: Arc<DurableCounts>,
    pub(crate) durable_outlets: DurableOutlets,
    traceparent: Option<Traceparent>,
    latency: Latency,
    pub(crate) inbox: Inbox,
    pub(crate) publisher: PublisherId,
    runtime: Handle,
    next_epoch: AtomicU32,
    pub(crate) outlets: Mutex<HashMap<(Lane, Subject), Arc<Outlet>>>,
    pub(crate) sources: Mutex<HashMap<Filter, Arc<Source>>>,
    pub(crate) stop: CancellationToken,
    tasks: TaskTracker,
    #[cfg(feature = "postgres")]
    pub(crate) outbox_call: crate::outbox::Call,
    _instruments: Instruments,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What a manager is doing now, without asking the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The bus's name, `none` without one.
    pub bus: &'static str,
    /// Whether it works.
    pub connected: bool,
    /// If not, why.
    pub reason: Option<String>,
    /// Counts.
    pub stats: Stats,
}

impl PubSubManager {
    pub(crate) fn start(config: Config, deps: Deps) -> Result<Self, Error> {
        let Deps { bus, durable, traceparent } = deps;
        let runtime = Handle::try_current().map_err(|error| Error::Unavailable {
            operation: "build the pub/sub manager",
            reason: error.to_string(),
        })?;
        let counts = Arc::new(Counts::default());
        let system = bus.as_ref().map_or("none", |bus| bus.name());
        let durable_counts = Arc::default();
        let store = durable.as_ref().map_or("none", |store| store.name());
        let instruments = Instruments::new(&counts, &durable_counts, (system, store));
        let inner = Arc::new(Inner {
            config,
            counts,
            bus,
            durable,
            durable_counts,
            durable_outlets: DurableOutlets::default(),
            traceparent,
            latency: Latency::new(system),
            inbox: Inbox::default(),
            publisher: PublisherId::random(),
            runtime,
            next_epoch: AtomicU32::new(1),
            outlets: Mutex::default(),
            sources: Mutex::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            #[cfg(feature = "postgres")]
            outbox_call: Default::default(),
            _instruments: instruments,
        });
        if inner.bus.is_some() {
            let announcer =
                publishing::announce(Arc::downgrade(&inner), inner.config.announce_every, inner.stop.clone());
            inner.spawn(announcer);
        }
        Ok(Self(inner))
    }

    /// A typed channel by its name. Costs nothing until used.
    ///
    /// # Errors
    /// [`Error::InvalidSubject`].
    pub fn channel<T: Serialize + DeserializeOwned>(&self, name: &str) -> Result<Channel<T>, Error> {
        Ok(Channel::new(Arc::clone(&self.0), Lane::Plain, Subject::new(name)?))
    }

    /// The same for a channel that on a cluster only its own shard carries: its load spreads over the masters instead of
    /// reaching every node. Patterns do not reach it; needs Redis 7.0.
    ///
    /// # Errors
    /// [`Error::InvalidSubject`].
    pub fn sharded_channel<T: Serialize + DeserializeOwned>(&self, name: &str) -> Result<Channel<T>, Error> {
        Ok(Channel::new(Arc::clone(&self.0), Lane::Sharded, Subject::new(name)?))
    }

    /// Subscribes to every channel whose name matches, as in `orders.*` (one token) and `orders.>` (the rest); see
    /// [`Filter::new`]. Confirmed when it returns; while the bus is away it waits, as
    /// [`Channel::subscribe`](crate::Channel::subscribe) does.
    ///
    /// Over Redis each pattern needs a right of its own where the user has not all: the shipped rights have none, and
    /// [`Error::Forbidden`] says what to add.
    ///
    /// Cancel safety: dropped, there is no subscription.
    ///
    /// # Errors
    /// [`Error::InvalidSubject`], [`Error::Unavailable`] or [`Error::Timeout`] at the deadline, [`Error::Limit`],
    /// [`Error::Forbidden`], [`Error::Shutdown`].
    pub async fn subscribe_pattern<T: DeserializeOwned>(
        &self,
        pattern: &str,
        options: SubscribeOptions,
    ) -> Result<Subscription<T>, Error> {
        self.subscribe_filter(Filter::new(pattern)?, options).await
    }

    pub(crate) async fn subscribe_filter<T: DeserializeOwned>(
        &self,
        filter: Filter,
        options: SubscribeOptions,
    ) -> Result<Subscription<T>, Error> {
        self.0.subscribe(filter, options).await
    }

    pub(crate) fn handlers(&self) -> Handlers {
        Handlers::new(self.0.runtime.clone(), &self.0.stop)
    }

    /// The name under which this manager publishes.
    #[must_use]
    pub fn publisher(&self) -> PublisherId {
        self.0.publisher
    }

    /// Counts so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = self.0.counts.stats();
        stats.channels = self.0.outlets.lock().len();
        let sources = self.0.sources.lock();
        stats.subscribed = sources.len();
        stats.subscribers = sources.values().map(|source| source.subscribers.lock().len()).sum();
        stats
    }

    /// What it is doing now, without asking the server.
    #[must_use]
    pub fn status(&self) -> Status {
        let (name, bus) = match &self.0.bus {
            Some(bus) => (bus.name(), bus.status()),
            None => ("none", BusStatus { connected: false, reason: Some(NO_BUS.into()) }),
        };
        Status { bus: name, connected: bus.connected, reason: bus.reason, stats: self.stats() }
    }

    /// Asks the server, and says how long the answer took.
    ///
    /// # Errors
    /// Any error means that publishing would fail now.
    pub async fn health_check(&self, deadline: Deadline) -> Result<Duration, Error> {
        self.0.bus("check health")?.health_check(deadline).await
    }

    /// Takes leave on every channel, ends all subscriptions, and waits up to `grace` for what is being sent. [`Handlers`] go on
    /// with what they have, but their answers find nothing to be sent on: shut them down before.
    ///
    /// Cancel safety: the end has begun and goes on.
    pub async fn shutdown(&self, grace: Duration) {
        self.0.stop.cancel();
        self.0.tasks.close();
        let outlets: Vec<_> = self.0.outlets.lock().drain().map(|(_, outlet)| outlet).collect();
        if let Some(bus) = &self.0.bus {
            for outlet in outlets {
                if outlet.end() {
                    self.0.spawn(outlet.drain(Arc::clone(bus)));
                }
            }
        }
        let _late = tokio::time::timeout(grace, self.0.tasks.wait()).await;
        if let Some(bus) = &self.0.bus {
            bus.end();
        }
    }
}

const NO_BUS: &str = "no bus is configured";
const NO_DURABLE: &str = "no store of durable channels is configured";

impl Inner {
    pub(crate) fn bus(&self, operation: &'static str) -> Result<&Arc<dyn Bus>, Error> {
        if self.stop.is_cancelled() {
            return Err(Error::Shutdown { operation });
        }
        self.bus.as_ref().ok_or_else(|| Error::Unavailable { operation, reason: NO_BUS.into() })
    }

    pub(crate) fn durable(&self, operation: &'static str) -> Result<&Arc<dyn DurableStore>, Error> {
        if self.stop.is_cancelled() {
            return Err(Error::Shutdown { operation });
        }
        self.durable.as_ref().ok_or_else(|| Error::Unavailable { operation, reason: NO_DURABLE.into() })
    }

    /// Whether there is a store at all.
    #[cfg(feature = "postgres")]
    pub(crate) fn check_durable(&self, operation: &'static str) -> Result<(), Error> {
        let missing = || Error::Unavailable { operation, reason: NO_DURABLE.into() };
        self.durable.as_ref().map(drop).ok_or_else(missing)
    }

    pub(crate) fn stop_token(&self) -> &CancellationToken {
        &self.stop
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(task, &self.runtime);
    }

    /// The trace at hand.
    pub(crate) fn trace(&self) -> Option<TraceContext> {
        TraceContext::from_traceparent(&self.traceparent?()?)
    }

    pub(crate) fn publish_deadline(&self, options: &PublishOptions) -> Deadline {
        options.deadline.unwrap_or_else(|| Deadline::after(self.config.publish_timeout))
    }

    /// Within the limit of size.
    pub(crate) fn encode<T: Serialize>(
        &self,
        codec: Codec,
        subject: &Subject,
        value: &T,
    ) -> Result<Vec<u8>, Error> {
        let (subject, publisher, trace) = (subject.as_str(), self.publisher, self.trace());
        let payload = codec.encode(value, &About { subject, publisher, trace })?;
        self.check_size(payload.len())?;
        Ok(payload)
    }

    pub(crate) const fn check_size(&self, actual: usize) -> Result<(), Error> {
        let limit = self.config.max_message_bytes;
        if actual > limit { Err(Error::TooLarge { limit, actual }) } else { Ok(()) }
    }
}
