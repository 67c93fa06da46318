//! The manager: the channels it publishes on, the names and patterns it is subscribed to, one task that announces.
//! It owns no connection; the bus does.

use crate::{
    Bus, BusStatus, Channel, Config, Error, Filter, PublisherId, Stats, Subject, SubscribeOptions,
    Subscription,
    metrics::{Counts, Instruments},
    outlet::{Outgoing, Outlet, OutletLimits, Refused},
    queue::Queue,
    source::{Feed, Source},
};
use parking_lot::Mutex;
use resilience::Deadline;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{runtime::Handle, time::MissedTickBehavior};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Publishes to and subscribes on typed channels. Clones share it; the last one dropped ends its tasks.
#[derive(Clone, Debug)]
pub struct PubSubManager(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) counts: Arc<Counts>,
    bus: Option<Arc<dyn Bus>>,
    publisher: PublisherId,
    runtime: Handle,
    next_epoch: AtomicU32,
    outlets: Mutex<HashMap<Subject, Arc<Outlet>>>,
    sources: Mutex<HashMap<Filter, Arc<Source>>>,
    stop: CancellationToken,
    tasks: TaskTracker,
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
    pub(crate) fn start(config: Config, bus: Option<Arc<dyn Bus>>) -> Result<Self, Error> {
        let runtime = Handle::try_current().map_err(|error| Error::Unavailable {
            operation: "build the pub/sub manager",
            reason: error.to_string(),
        })?;
        let counts = Arc::new(Counts::default());
        let instruments = Instruments::new(&counts, bus.as_ref().map_or("none", |bus| bus.name()));
        let inner = Arc::new(Inner {
            config,
            counts,
            bus,
            publisher: PublisherId::random(),
            runtime,
            next_epoch: AtomicU32::new(1),
            outlets: Mutex::default(),
            sources: Mutex::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            _instruments: instruments,
        });
        if inner.bus.is_some() {
            let announcer = announce(Arc::downgrade(&inner), inner.config.announce_every, inner.stop.clone());
            inner.spawn(announcer);
        }
        Ok(Self(inner))
    }

    /// A typed channel by its name. Costs nothing until used.
    ///
    /// # Errors
    /// [`Error::InvalidSubject`].
    pub fn channel<T: Serialize + DeserializeOwned>(&self, name: &str) -> Result<Channel<T>, Error> {
        Ok(Channel::new(Arc::clone(&self.0), Subject::new(name)?))
    }

    /// Subscribes to every channel whose name matches, as in `orders.*` (one token) and `orders.>` (the rest); see
    /// [`Filter::new`]. Confirmed when it returns.
    ///
    /// Cancel safety: dropped, there is no subscription.
    ///
    /// # Errors
    /// [`Error::InvalidSubject`], [`Error::Unavailable`], [`Error::Timeout`], [`Error::Limit`], [`Error::Shutdown`].
    pub async fn subscribe_pattern<T: DeserializeOwned>(
        &self,
        pattern: &str,
        options: SubscribeOptions,
    ) -> Result<Subscription<T>, Error> {
        self.0.subscribe(Filter::new(pattern)?, options).await
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

    /// Takes leave on every channel, ends all subscriptions, and waits up to `grace` for what is being sent.
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
    }
}

const NO_BUS: &str = "no bus is configured";

impl Inner {
    fn bus(&self, operation: &'static str) -> Result<&Arc<dyn Bus>, Error> {
        if self.stop.is_cancelled() {
            return Err(Error::Shutdown { operation });
        }
        self.bus.as_ref().ok_or_else(|| Error::Unavailable { operation, reason: NO_BUS.into() })
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(task, &self.runtime);
    }

    /// Queues a message on its channel's outlet.
    pub(crate) fn send(&self, subject: &Subject, mut message: Outgoing) -> Result<(), Error> {
        let bus = self.bus("publish")?;
        loop {
            let outlet = self.outlet(subject)?;
            match outlet.queue(message) {
                Ok(true) => {
                    self.spawn(outlet.drain(Arc::clone(bus)));
                    return Ok(());
                }
                Ok(false) => return Ok(()),
                Err(Refused::Full) => {
                    return Err(Error::Limit {
                        what: "publishes waiting on a channel",
                        limit: self.config.max_pending,
                    });
                }
                Err(Refused::Ended(back)) => {
                    let mut outlets = self.outlets.lock();
                    if outlets.get(subject).is_some_and(|current| Arc::ptr_eq(current, &outlet)) {
                        outlets.remove(subject);
                    }
                    message = back;
                }
            }
        }
    }

    fn outlet(&self, subject: &Subject) -> Result<Arc<Outlet>, Error> {
        let mut outlets = self.outlets.lock();
        if let Some(outlet) = outlets.get(subject) {
            return Ok(Arc::clone(outlet));
        }
        // Under the lock under which shutdown takes them all, so none is left without a farewell.
        if self.stop.is_cancelled() {
            return Err(Error::Shutdown { operation: "publish" });
        }
        if outlets.len() >= self.config.max_channels {
            return Err(Error::Limit { what: "channels", limit: self.config.max_channels });
        }
        let limits = OutletLimits {
            pending: self.config.max_pending,
            frame_bytes: self.config.max_frame_bytes,
            announce_timeout: self.config.announce_every,
        };
        let epoch = self.next_epoch.fetch_add(1, Relaxed);
        let outlet = Arc::new(Outlet::new(subject.clone(), self.publisher, epoch, limits));
        outlets.insert(subject.clone(), Arc::clone(&outlet));
        Ok(outlet)
    }

    pub(crate) async fn subscribe<T: DeserializeOwned>(
        self: &Arc<Self>,
        filter: Filter,
        options: SubscribeOptions,
    ) -> Result<Subscription<T>, Error> {
        let bus = self.bus("subscribe")?;
        let deadline = options.deadline.unwrap_or_else(|| Deadline::after(self.config.subscribe_timeout));
        let queue = Arc::new(Queue::new(options.capacity, options.slow_consumer));
        let source = self.attach(filter, Arc::clone(&queue))?;
        // Dropped in reverse order, also when this future is: first the subscriber leaves, then an unconfirmed source.
        let _forget = Forget { inner: self, source: Arc::clone(&source) };
        let subscription = Subscription::new(queue, Arc::clone(&source));
        let confirmed = source.confirmed.get_or_try_init(|| async {
            let stream = bus.subscribe(&source.filter, deadline).await?;
            let feed = Feed {
                source: Arc::clone(&source),
                announce_every: self.config.announce_every,
                counts: Arc::clone(&self.counts),
                stop: self.stop.clone(),
            };
            let (inner, last) = (Arc::downgrade(self), Arc::downgrade(self));
            let run =
                feed.run(stream, move |source| unused(&inner, source), move |source| ended(&last, source));
            self.spawn(run);
            Ok::<(), Error>(())
        });
        let failed = match deadline.run(confirmed).await {
            Ok(Ok(_)) => return Ok(subscription),
            Ok(Err(error)) => error,
            Err(_) => Error::Timeout { operation: "subscribe", after: self.config.subscribe_timeout },
        };
        Err(failed)
    }

    fn attach(&self, filter: Filter, queue: Arc<Queue>) -> Result<Arc<Source>, Error> {
        let mut sources = self.sources.lock();
        let open: usize = sources.values().map(|source| source.subscribers.lock().len()).sum();
        if open >= self.config.max_subscriptions {
            return Err(Error::Limit { what: "subscriptions", limit: self.config.max_subscriptions });
        }
        let source = sources.entry(filter).or_insert_with_key(|filter| Arc::new(Source::new(filter.clone())));
        source.subscribers.lock().push(queue);
        Ok(Arc::clone(source))
    }
}

/// Forgets a source that was never confirmed and has no subscriber.
struct Forget<'a> {
    inner: &'a Inner,
    source: Arc<Source>,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let mut sources = self.inner.sources.lock();
        let current = sources.get(&self.source.filter).is_some_and(|s| Arc::ptr_eq(s, &self.source));
        if current && !self.source.confirmed.initialized() && self.source.subscribers.lock().is_empty() {
            sources.remove(&self.source.filter);
        }
    }
}

/// Ends a source with its feed: its subscribers get to their end, and whoever subscribes from now on gets a new one.
/// Under the lock under which subscribers attach, so none is left behind.
fn ended(inner: &Weak<Inner>, source: &Arc<Source>) {
    let inner = inner.upgrade();
    let mut sources = inner.as_ref().map(|inner| inner.sources.lock());
    for queue in source.subscribers.lock().drain(..) {
        queue.end();
    }
    if let Some(sources) = &mut sources
        && sources.get(&source.filter).is_some_and(|current| Arc::ptr_eq(current, source))
    {
        sources.remove(&source.filter);
    }
}

/// Forgets a source that nobody listens to any more. Under the lock under which subscribers attach, so none is lost.
fn unused(inner: &Weak<Inner>, source: &Arc<Source>) -> bool {
    let Some(inner) = inner.upgrade() else { return true };
    let mut sources = inner.sources.lock();
    let mut subscribers = source.subscribers.lock();
    subscribers.retain(|queue| queue.is_open());
    if !subscribers.is_empty() {
        return false;
    }
    if sources.get(&source.filter).is_some_and(|current| Arc::ptr_eq(current, source)) {
        sources.remove(&source.filter);
    }
    true
}

/// Has every channel's last number told once a period, and retires the idle ones.
async fn announce(inner: Weak<Inner>, every: Duration, stop: CancellationToken) {
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        let Some(inner) = inner.upgrade() else { return };
        let Some(bus) = &inner.bus else { return };
        let outlets: Vec<_> = inner
            .outlets
            .lock()
            .iter()
            .map(|(subject, outlet)| (subject.clone(), Arc::clone(outlet)))
            .collect();
        for (subject, outlet) in outlets {
            let drain = match outlet.retire(inner.config.idle_channel) {
                None => outlet.announce(),
                Some(farewell) => {
                    let mut outlets = inner.outlets.lock();
                    if outlets.get(&subject).is_some_and(|current| Arc::ptr_eq(current, &outlet)) {
                        outlets.remove(&subject);
                    }
                    farewell
                }
            };
            if drain {
                inner.spawn(outlet.drain(Arc::clone(bus)));
            }
        }
    }
}
