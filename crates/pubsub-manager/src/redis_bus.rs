//! The bus over Redis: PUBLISH and SPUBLISH on the link, and one supervised subscription for all names and patterns of this
//! bus. It counts nothing; the envelopes do.

mod routes;
mod together;

use crate::{
    Bus, BusEvent, BusStatus, BusStream, Error, Filter, Lane, Subject,
    bus::inbox::{Inbox, inbox},
    redis_error::translate,
};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use redis_link::{
    Channel, ConnectionState, Error as LinkError, Keys, Listening, RedisLink, SubscribeOptions,
    SubscriptionHandle,
};
use resilience::Deadline;
use routes::{Outpost, Routes};
use std::{sync::Arc, time::Duration};
use together::Together;
use tokio::{runtime::Handle, time::Instant};

/// Limit of taking back a subscription that nobody wants any more.
const REMOVE: Duration = Duration::from_secs(5);

/// A bus over Redis's publish and subscribe.
///
/// What a lane's channels are called: `{ns}:p:{subject}` (plain), `{ns}:s:{subject}` (sharded, Redis 7.0), `{ns}:r:{subject}`
/// (raw). All share one connection, and on a cluster one more for each master that carries a sharded channel; a pattern over
/// raw channels has one of its own, as its messages bear no numbers by which copies could be told apart.
///
/// # Rights
/// Redis compares a pattern with a user's rights letter by letter: under the shipped rights (`&{ns}:*`) every name may be
/// subscribed to and no pattern. Each pattern needs a right of its own, such as `&shop:p:orders.*` for `orders.*` and `orders.>`
/// in the namespace `shop`; [`Error::Forbidden`] names the one that is missing.
#[derive(Debug)]
pub struct RedisBus {
    link: RedisLink,
    listening: Listening,
    routes: Arc<Routes>,
    together: Arc<Together>,
    runtime: Handle,
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
        let routes = Arc::new(Routes::new(link.keys().clone()));
        let listening = link.listen(Arc::clone(&routes) as _, SubscribeOptions::default());
        let listening = listening.map_err(|error| translate(OPERATION, error))?;
        let together = Arc::new(Together::new(link.clone()));
        Ok(Self { link, listening, routes, together, runtime })
    }

    /// A subscription of its own for one pattern.
    async fn subscribe_apart(
        &self,
        channel: &Channel,
        deadline: Deadline,
    ) -> Result<Box<dyn BusStream>, Error> {
        let (route, inbox) = inbox();
        let outpost = Arc::new(Outpost { keys: self.link.keys().clone(), route: Mutex::new(Some(route)) });
        let listening = self.link.listen(outpost, SubscribeOptions::default());
        let listening = listening.map_err(|error| translate(SUBSCRIBE, error))?;
        let added = listening.handle().add(std::slice::from_ref(channel), deadline).await;
        added.map_err(|error| refused(channel, error))?;
        Ok(Box::new(Apart { inbox, _listening: listening }))
    }
}

const OPERATION: &str = "publish";
const SUBSCRIBE: &str = "subscribe";

/// The scope of a lane's channels.
const fn scope(lane: Lane) -> &'static str {
    match lane {
        Lane::Plain => "p",
        Lane::Sharded => "s",
        Lane::Raw => "r",
    }
}

fn channel(keys: &Keys, filter: &Filter) -> Result<Channel, Error> {
    let scope = scope(filter.lane());
    let channel = match (filter.lane(), filter.is_wildcard()) {
        (_, true) => keys.channel_pattern_in(scope, &filter.glob()),
        (Lane::Sharded, false) => keys.sharded_channel_in(scope, filter.as_str()),
        (_, false) => keys.channel_in(scope, filter.as_str()),
    };
    channel.map_err(|error| Error::backend("name the channel", error))
}

/// Why a subscription was not confirmed. It is taken back, so nothing about it is unknown.
fn refused(channel: &Channel, error: LinkError) -> Error {
    match error {
        LinkError::Timeout { after, .. } => Error::Timeout { operation: SUBSCRIBE, after },
        error @ LinkError::Acl { .. } => {
            let right = format!("&{}", channel.as_str());
            Error::Forbidden { operation: SUBSCRIBE, right, source: Arc::new(error) }
        }
        error => translate(SUBSCRIBE, error),
    }
}

#[async_trait]
impl Bus for RedisBus {
    fn name(&self) -> &'static str {
        "redis"
    }

    async fn publish(
        &self,
        lane: Lane,
        subject: &Subject,
        frame: Bytes,
        deadline: Deadline,
    ) -> Result<Option<u64>, Error> {
        let channel = channel(self.link.keys(), &Filter::exact(lane, subject))?;
        let generation = self.link.current().map_err(|error| translate(OPERATION, error))?;
        // A node of a cluster counts its own subscribers alone, but a shard's are all at its master.
        let counts_all = lane == Lane::Sharded || !generation.is_cluster();
        let known = |receivers| counts_all.then_some(receivers);
        if lane == Lane::Raw {
            return self.together.publish(&self.runtime, channel, frame, deadline).await.map(known);
        }
        let receivers = match lane {
            Lane::Sharded => generation.spublish(&channel, frame, deadline).await,
            Lane::Plain | Lane::Raw => generation.publish(&channel, frame, deadline).await,
        };
        receivers.map(known).map_err(|error| translate(OPERATION, error))
    }

    async fn subscribe(&self, filter: &Filter, deadline: Deadline) -> Result<Box<dyn BusStream>, Error> {
        let channel = channel(self.link.keys(), filter)?;
        if filter.lane() == Lane::Raw && filter.is_wildcard() {
            return self.subscribe_apart(&channel, deadline).await;
        }
        let handle = self.listening.handle();
        let (route, inbox) = inbox();
        let (routes, runtime) = (Arc::clone(&self.routes), self.runtime.clone());
        let leave = Leave { filter: filter.clone(), channel: channel.clone(), routes, handle, runtime };
        let stream = RedisStream { inbox, leave };
        let (changing, started) = (self.routes.changing(&channel), Instant::now());
        let added = deadline.run(async {
            let _changing = changing.lock().await;
            // First the route, then the server: nothing comes before somebody can take it. From here on the stream's
            // drop takes both back.
            self.routes.enter(filter, route);
            stream.leave.handle.add(std::slice::from_ref(&channel), deadline).await
        });
        match added.await {
            Ok(Ok(())) => Ok(Box::new(stream)),
            Ok(Err(error)) => Err(refused(&channel, error)),
            Err(_) => Err(Error::Timeout { operation: SUBSCRIBE, after: started.elapsed() }),
        }
    }

    fn status(&self) -> BusStatus {
        let status = self.link.status();
        if status.state != ConnectionState::Connected {
            let reason = status.last_error.map(|error| error.to_string());
            return BusStatus { connected: false, reason };
        }
        // Subscriptions have connections of their own, which matter once something is subscribed.
        let handle = self.listening.handle();
        let trouble = if handle.channels() > 0 { handle.trouble() } else { None };
        let reason = trouble.map(|cause| format!("nothing can be received: {cause}"));
        BusStatus { connected: reason.is_none(), reason }
    }

    async fn health_check(&self, deadline: Deadline) -> Result<Duration, Error> {
        self.link.health_check(deadline).await.map_err(|error| translate("check health", error))
    }
}

struct RedisStream {
    inbox: Inbox,
    leave: Leave,
}

#[async_trait]
impl BusStream for RedisStream {
    async fn next(&mut self) -> Option<BusEvent> {
        self.inbox.next().await
    }
}

impl Drop for RedisStream {
    fn drop(&mut self) {
        self.inbox.close();
        self.leave.now();
    }
}

/// One with a subscription of its own, which ends with it.
struct Apart {
    inbox: Inbox,
    _listening: Listening,
}

#[async_trait]
impl BusStream for Apart {
    async fn next(&mut self) -> Option<BusEvent> {
        self.inbox.next().await
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
            let changing = routes.changing(&channel);
            let _changing = changing.lock().await;
            if routes.leave(&filter)
                && let Err(error) = handle.remove(&[channel], Deadline::after(REMOVE)).await
            {
                tracing::debug!(%filter, %error, "a subscription could not be taken back yet");
            }
        });
    }
}
