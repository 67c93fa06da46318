//! The link as its users hold it: the current generation, the state, subscriptions. What keeps a generation open is
//! the supervisor.

mod shared;
mod supervisor;

use crate::{
    Channel, Config, Dedicated, Deps, Error, Generation, Key, Keys, LinkStatus, Listener, Listening,
    SubscribeOptions, Subscription, Topology, metrics, opener::Opener, replica, wire::unavailable,
};
use resilience::{Deadline, clock::ServerClock};
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

pub(crate) use shared::Shared;
use supervisor::Supervisor;

/// Whether there is a generation; what [`RedisLink::watch`] tells.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LinkState {
    /// There is. It may die before this is read: calls on it then say so.
    Connected(Arc<Generation>),
    /// There is none; the supervisor tries to open one.
    Disconnected {
        /// When the last one died, or the link began.
        since: Instant,
        /// What the last attempt, or the end of the last generation, said.
        cause: Arc<str>,
    },
    /// There is none, and never will be.
    Shutdown,
}

/// A supervised link to Redis; clones share it. Dropping the last one ends it like
/// [`shutdown`](Self::shutdown) without grace.
#[derive(Clone, Debug)]
pub struct RedisLink {
    shared: Arc<Shared>,
    /// Cancels the background work when the last handle is dropped.
    _owner: Arc<Owner>,
}

#[derive(Debug)]
struct Owner(CancellationToken);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl RedisLink {
    pub(crate) async fn start(config: Config, deps: Deps) -> Result<Self, Error> {
        let config = Arc::new(config);
        let opener = Opener::new(Arc::clone(&config), deps.credentials.clone());
        let shared = Arc::new(Shared::new(opener, deps));
        let mut supervisor = Supervisor::new(Arc::clone(&shared));
        let first = supervisor.begin().await;
        // Whoever names the masters may do so a moment too late: that mends itself.
        let passing = |error: &Error| {
            matches!(error, Error::WrongRole { .. })
                && !matches!(config.topology, Topology::Standalone { .. })
        };
        if let Err(error) = &first
            && error.is_permanent()
            && !passing(error)
        {
            return Err(error.clone());
        }
        let owner = Arc::new(Owner(shared.closing.clone()));
        metrics::register(&shared);
        tokio::spawn(supervisor.run(first));
        tokio::spawn(supervisor::keep_renewing(Arc::clone(&shared)));
        tokio::spawn(replica::watch(Arc::clone(&shared)));
        let link = Self { shared, _owner: owner };
        // The first outcome is published by the time that this returns.
        let mut states = link.watch();
        let settled =
            |state: &LinkState| !matches!(state, LinkState::Disconnected { cause, .. } if cause.is_empty());
        let _ = states.wait_for(settled).await;
        Ok(link)
    }

    /// The living generation, if there is one. Some ten nanoseconds; waits for nothing.
    #[must_use]
    pub fn generation(&self) -> Option<Arc<Generation>> {
        self.shared.current.load_full().filter(|generation| generation.is_alive())
    }

    /// The living generation.
    ///
    /// # Errors
    /// [`Error::Unavailable`] with the reason, or [`Error::Shutdown`].
    pub fn current(&self) -> Result<Arc<Generation>, Error> {
        self.generation().ok_or_else(|| self.shared.why_unavailable())
    }

    /// The living generation, waiting for one until the deadline. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Unavailable`] with the reason when there is none by then, or [`Error::Shutdown`].
    pub async fn ready(&self, deadline: Deadline) -> Result<Arc<Generation>, Error> {
        if let Some(generation) = self.generation() {
            return Ok(generation);
        }
        let mut states = self.shared.state.subscribe();
        let alive = async {
            let usable = |state: &LinkState| match state {
                LinkState::Connected(generation) => generation.is_alive(),
                LinkState::Disconnected { .. } => false,
                LinkState::Shutdown => true,
            };
            match states.wait_for(usable).await.as_deref() {
                Ok(LinkState::Connected(generation)) => Some(Arc::clone(generation)),
                _ => None,
            }
        };
        match deadline.run(alive).await {
            Ok(Some(generation)) => Ok(generation),
            Ok(None) => Err(Error::Shutdown),
            Err(_) => Err(self.shared.why_unavailable()),
        }
    }

    /// Every change between connected and not. Holds the last state, also across changes that were missed.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<LinkState> {
        self.shared.state.subscribe()
    }

    /// A snapshot for health and metrics.
    #[must_use]
    pub fn status(&self) -> LinkStatus {
        self.shared.status()
    }

    /// The settings it was made with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.opener.config
    }

    /// Builds keys and channels of its namespace.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.shared.keys
    }

    /// The master's clock; forgets what it knew when the master is another server process.
    #[must_use]
    pub fn server_clock(&self) -> &ServerClock {
        &self.shared.clock
    }

    /// Subscribes on a connection of its own, supervised: it comes back by itself, and says when it was away.
    ///
    /// Cancel safe: dropped early, nothing stays behind.
    ///
    /// # Errors
    /// What [`SubscriptionHandle::add`](crate::SubscriptionHandle::add) says; then nothing stays behind, either.
    pub async fn subscribe(
        &self,
        channels: &[Channel],
        options: SubscribeOptions,
        deadline: Deadline,
    ) -> Result<Subscription, Error> {
        let subscription = self.subscription(&[], options)?;
        subscription.handle().add(channels, deadline).await?;
        Ok(subscription)
    }

    /// The same without waiting: the subscription comes up in the background, also when Redis is away now, which is
    /// then its first event.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if these are more channels than the options allow, [`Error::Shutdown`].
    pub fn subscription(
        &self,
        channels: &[Channel],
        options: SubscribeOptions,
    ) -> Result<Subscription, Error> {
        if self.shared.closing.is_cancelled() {
            return Err(Error::Shutdown);
        }
        Subscription::start(Arc::clone(&self.shared), channels, options)
    }

    /// The same without a queue: everything goes to `listener` at once, on the task that reads the connection. Of the options
    /// only [`SubscribeOptions::max_channels`] counts.
    ///
    /// # Errors
    /// [`Error::Shutdown`].
    pub fn listen(&self, listener: Arc<dyn Listener>, options: SubscribeOptions) -> Result<Listening, Error> {
        if self.shared.closing.is_cancelled() {
            return Err(Error::Shutdown);
        }
        Listening::start(Arc::clone(&self.shared), &[], listener, options)
    }

    /// A connection of its own to the master of `key`, in the living generation or the next one: see
    /// [`Generation::dedicated`]. Cancel safe.
    ///
    /// # Errors
    /// As [`ready`](Self::ready) and [`Generation::dedicated`].
    pub async fn dedicated(&self, key: &Key, deadline: Deadline) -> Result<Dedicated, Error> {
        self.ready(deadline).await?.dedicated(key, deadline).await
    }

    /// Looks at the credentials and certificates now, and returns when the connections in use were made with the present
    /// ones: for whoever knows that they have changed. Cancel safe: the link looks in any case.
    ///
    /// # Errors
    /// [`Error::Credentials`] or [`Error::Tls`] if there never were any, [`Error::Unavailable`] with the reason if the servers
    /// do not accept them by the deadline: then the old connections stay in use, as long as the servers keep them.
    pub async fn renew(&self, deadline: Deadline) -> Result<(), Error> {
        let number = self.shared.opener.renew().await?;
        self.shared.look.notify_one();
        let mut states = self.watch();
        let renewed = states.wait_for(|state| match state {
            LinkState::Connected(generation) => generation.nodes().all(|node| node.access() >= number),
            LinkState::Disconnected { .. } => false,
            LinkState::Shutdown => true,
        });
        match deadline.run(renewed).await {
            Ok(Ok(state)) if !matches!(&*state, LinkState::Shutdown) => Ok(()),
            Ok(_) => Err(Error::Shutdown),
            Err(_) => Err(unavailable("the servers do not accept the new credentials or certificates")),
        }
    }

    /// One `PING` on the living generation; how long it took. Cancel safe.
    ///
    /// # Errors
    /// As [`current`](Self::current) and [`Generation::ping`].
    pub async fn health_check(&self, deadline: Deadline) -> Result<Duration, Error> {
        self.current()?.ping(deadline).await
    }

    /// Ends the link: waits up to `grace` for the calls under way, then closes all connections. Calls after that fail with
    /// [`Error::Unavailable`] or [`Error::Shutdown`]; subscriptions end. More than once is fine.
    ///
    /// Cancel safe: dropped early, the link ends without the rest of the grace.
    pub async fn shutdown(&self, grace: Duration) {
        // Also when this future is dropped halfway.
        let end = self.shared.closing.clone().drop_guard();
        if let Some(generation) = self.generation() {
            // Over or not, it ends now.
            let _ = Deadline::after(grace).run(generation.drain()).await;
        }
        drop(end);
        let mut states = self.watch();
        let ended = states.wait_for(|state| matches!(state, LinkState::Shutdown));
        // The supervisor answers at once, unless its runtime is gone already.
        let _ = Deadline::after(Duration::from_secs(1)).run(ended).await;
    }
}
