//! The bus over Redis: PUBLISH on the link, and one supervised subscription connection for all names and patterns of
//! this bus. It counts nothing; the envelopes do.

use crate::{Bus, BusEvent, BusStatus, BusStream, Error, Filter, Subject, redis_error::translate};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use redis_link::{
    Channel, ConnectionState, RedisLink, SubscribeOptions, SubscriptionEvent, SubscriptionHandle,
};
use resilience::Deadline;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::AcqRel},
    },
    time::Duration,
};
use tokio::{runtime::Handle, sync::mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Frames waiting for one name or pattern, between the connection and the manager.
const QUEUE: usize = 4096;
/// Limit of taking back a subscription that nobody wants any more.
const REMOVE: Duration = Duration::from_secs(5);

/// A bus over Redis's publish and subscribe.
#[derive(Debug)]
pub struct RedisBus {
    link: RedisLink,
    handle: SubscriptionHandle,
    routes: Arc<Routes>,
    runtime: Handle,
    _stop: DropGuard,
}

/// Who wants what.
#[derive(Debug, Default)]
struct Routes {
    wanted: Mutex<HashMap<Filter, Vec<Route>>>,
    /// Held while a name is added at or removed from the server, so that the two cannot overtake one another.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug)]
struct Route {
    queue: mpsc::Sender<BusEvent>,
    /// What did not fit into the queue.
    missed: Arc<Missed>,
}

#[derive(Debug, Default)]
struct Missed {
    overflowed: AtomicBool,
    interrupted: AtomicBool,
    restored: AtomicBool,
}

impl RedisBus {
    /// A bus over `link`, which need not be connected yet; its task runs on the current runtime.
    ///
    /// # Errors
    /// [`Error::Unavailable`] outside a tokio runtime; [`Error::Shutdown`].
    pub fn new(link: RedisLink) -> Result<Self, Error> {
        const OPERATION: &str = "build the bus";
        let runtime = Handle::try_current()
            .map_err(|error| Error::Unavailable { operation: OPERATION, reason: error.to_string() })?;
        let subscription = link.subscription(&[], SubscribeOptions::default());
        let subscription = subscription.map_err(|error| translate(OPERATION, error))?;
        let (handle, routes, stop) =
            (subscription.handle(), Arc::<Routes>::default(), CancellationToken::new());
        runtime.spawn(distribute(subscription, link.clone(), Arc::clone(&routes), stop.clone()));
        Ok(Self { link, handle, routes, runtime, _stop: stop.drop_guard() })
    }

    fn channel(&self, filter: &Filter) -> Result<Channel, Error> {
        let keys = self.link.keys();
        let channel = if filter.is_wildcard() {
            keys.channel_pattern(&filter.glob())
        } else {
            keys.channel(filter.as_str())
        };
        channel.map_err(|error| Error::backend("name the channel", error))
    }
}

#[async_trait]
impl Bus for RedisBus {
    fn name(&self) -> &'static str {
        "redis"
    }

    async fn publish(
        &self,
        subject: &Subject,
        frame: Bytes,
        deadline: Deadline,
    ) -> Result<Option<u64>, Error> {
        const OPERATION: &str = "publish";
        let channel = self.link.keys().channel(subject.as_str());
        let channel = channel.map_err(|error| Error::backend(OPERATION, error))?;
        let generation = self.link.current().map_err(|error| translate(OPERATION, error))?;
        let receivers = generation.publish(&channel, frame, deadline).await;
        receivers.map(Some).map_err(|error| translate(OPERATION, error))
    }

    async fn subscribe(&self, filter: &Filter, deadline: Deadline) -> Result<Box<dyn BusStream>, Error> {
        const OPERATION: &str = "subscribe";
        let channel = self.channel(filter)?;
        let (queue, events) = mpsc::channel(QUEUE);
        let route = Route { queue, missed: Arc::default() };
        let stream = RedisStream {
            events,
            missed: Arc::clone(&route.missed),
            leave: Leave {
                filter: filter.clone(),
                channel: channel.clone(),
                routes: Arc::clone(&self.routes),
                handle: self.handle.clone(),
                runtime: self.runtime.clone(),
            },
        };
        let added = deadline.run(async {
            let _changing = self.routes.changing.lock().await;
            // First the route, then the server: nothing comes before somebody can take it. From here on the stream's
            // drop takes both back.
            self.routes.wanted.lock().entry(filter.clone()).or_default().push(route);
            self.handle.add(&[channel], deadline).await
        });
        match added.await {
            Ok(Ok(())) => Ok(Box::new(stream)),
            Ok(Err(error)) => Err(translate(OPERATION, error)),
            Err(_) => Err(Error::Timeout { operation: OPERATION, after: Duration::ZERO }),
        }
    }

    fn status(&self) -> BusStatus {
        let status = self.link.status();
        if status.state != ConnectionState::Connected {
            let reason = status.last_error.map(|error| error.to_string());
            return BusStatus { connected: false, reason };
        }
        // Subscriptions have a connection of their own, which matters once something is subscribed.
        let trouble = if self.handle.channels() > 0 { self.handle.trouble() } else { None };
        let reason = trouble.map(|cause| format!("nothing can be received: {cause}"));
        BusStatus { connected: reason.is_none(), reason }
    }

    async fn health_check(&self, deadline: Deadline) -> Result<Duration, Error> {
        self.link.health_check(deadline).await.map_err(|error| translate("check health", error))
    }
}

/// Hands every event to whoever wants it; never waits, so that one slow subscription does not hold up the others.
async fn distribute(
    mut subscription: redis_link::Subscription,
    link: RedisLink,
    routes: Arc<Routes>,
    stop: CancellationToken,
) {
    loop {
        let event = tokio::select! {
            event = subscription.next() => event,
            () = stop.cancelled() => return,
        };
        match event {
            None => break,
            Some(SubscriptionEvent::Message { channel, pattern, payload }) => {
                if let Some(name) = link.keys().channel_name(&channel) {
                    routes.deliver(name, pattern, &payload);
                }
            }
            Some(SubscriptionEvent::Lost { .. }) => routes.tell_all(&BusEvent::Interrupted),
            Some(SubscriptionEvent::Restored) => routes.tell_all(&BusEvent::Restored),
            Some(SubscriptionEvent::Overflow { .. }) => routes.tell_all(&BusEvent::Overflowed),
            Some(_) => {}
        }
    }
    // The link is shut down: dropping the routes ends the streams.
    routes.wanted.lock().clear();
}

impl Routes {
    /// With several patterns that match, Redis sends a message once for each of them without saying for which; all get
    /// all copies, and the envelope's number tells the first from the others.
    fn deliver(&self, name: &str, pattern: bool, payload: &Bytes) {
        let wanted = self.wanted.lock();
        let subject: Arc<str> = name.into();
        let send = |route: &Route| {
            route.send(BusEvent::Frame { subject: Arc::clone(&subject), frame: payload.clone() })
        };
        if pattern {
            let matching = wanted.iter().filter(|(filter, _)| filter.is_wildcard() && filter.matches(name));
            matching.flat_map(|(_, routes)| routes).for_each(send);
        } else if let Ok(subject) = Subject::new(name)
            && let Some(routes) = wanted.get(&Filter::exact(&subject))
        {
            routes.iter().for_each(send);
        }
    }

    fn tell_all(&self, event: &BusEvent) {
        self.wanted.lock().values().flatten().for_each(|route| route.send(event.clone()));
    }
}

impl Route {
    fn send(&self, event: BusEvent) {
        if let Err(mpsc::error::TrySendError::Full(event)) = self.queue.try_send(event) {
            match event {
                BusEvent::Frame { .. } | BusEvent::Overflowed => &self.missed.overflowed,
                BusEvent::Interrupted => &self.missed.interrupted,
                BusEvent::Restored => &self.missed.restored,
            }
            .swap(true, AcqRel);
        }
    }
}

struct RedisStream {
    events: mpsc::Receiver<BusEvent>,
    missed: Arc<Missed>,
    leave: Leave,
}

#[async_trait]
impl BusStream for RedisStream {
    async fn next(&mut self) -> Option<BusEvent> {
        // What did not fit is told early rather than late: the numbers in the envelopes do the counting.
        let Missed { overflowed, interrupted, restored } = &*self.missed;
        let told = [
            (interrupted, BusEvent::Interrupted),
            (restored, BusEvent::Restored),
            (overflowed, BusEvent::Overflowed),
        ];
        for (flag, event) in told {
            if flag.swap(false, AcqRel) {
                return Some(event);
            }
        }
        self.events.recv().await
    }
}

impl Drop for RedisStream {
    fn drop(&mut self) {
        self.events.close();
        self.leave.now();
    }
}

/// Takes back what a stream asked for.
struct Leave {
    filter: Filter,
    channel: Channel,
    routes: Arc<Routes>,
    handle: SubscriptionHandle,
    runtime: Handle,
}

impl Leave {
    fn now(&self) {
        let (routes, handle) = (Arc::clone(&self.routes), self.handle.clone());
        let (filter, channel) = (self.filter.clone(), self.channel.clone());
        self.runtime.spawn(async move {
            let _changing = routes.changing.lock().await;
            let unwanted = {
                let mut wanted = routes.wanted.lock();
                let Some(same) = wanted.get_mut(&filter) else { return };
                same.retain(|route| !route.queue.is_closed());
                let unwanted = same.is_empty();
                if unwanted {
                    wanted.remove(&filter);
                }
                unwanted
            };
            if unwanted && let Err(error) = handle.remove(&[channel], Deadline::after(REMOVE)).await {
                tracing::debug!(%filter, %error, "a subscription could not be taken back yet");
            }
        });
    }
}
