//! The link as its users hold it: the current generation, the state, subscriptions. What keeps a generation open is
//! the supervisor.

mod supervisor;

use crate::{
    Channel, Config, ConnectionState, Dedicated, Deps, Error, Generation, Keys, LinkStatus, SubscribeOptions,
    Subscription, metrics, replica, wire::Opener,
};
use resilience::{Deadline, clock::ServerClock};
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

pub(crate) use supervisor::Shared;

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
        let opener = Opener::new(Arc::clone(&config))?;
        let shared = Arc::new(Shared::new(opener, deps));
        let first = shared.open().await;
        if let Err(error) = &first
            && error.is_permanent()
        {
            return Err(error.clone());
        }
        let owner = Arc::new(Owner(shared.closing.clone()));
        metrics::register(&shared);
        tokio::spawn(supervisor::supervise(Arc::clone(&shared), first));
        if !config.topology.replicas().is_empty() {
            tokio::spawn(replica::watch(Arc::clone(&shared)));
        }
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

    /// A connection of its own, in the living generation or the next one: see [`Generation::dedicated`]. Cancel safe.
    ///
    /// # Errors
    /// As [`ready`](Self::ready) and [`Generation::dedicated`].
    pub async fn dedicated(&self, deadline: Deadline) -> Result<Dedicated, Error> {
        self.ready(deadline).await?.dedicated(deadline).await
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

impl Shared {
    fn why_unavailable(&self) -> Error {
        match &*self.state.borrow() {
            LinkState::Shutdown => Error::Shutdown,
            LinkState::Disconnected { since, cause } => {
                Error::Unavailable { since: since.elapsed(), cause: cause.to_string() }
            }
            LinkState::Connected(generation) => generation.unavailable(),
        }
    }

    pub(crate) fn status(&self) -> LinkStatus {
        let facts = self.facts.lock().clone();
        let current = self.current.load_full();
        let state = match &*self.state.borrow() {
            LinkState::Connected(generation) if generation.is_alive() => ConnectionState::Connected,
            LinkState::Shutdown => ConnectionState::Shutdown,
            _ => ConnectionState::Disconnected,
        };
        LinkStatus {
            state,
            since: facts.since,
            last_error: facts.last_error,
            generation: facts.generation,
            epoch: facts.epoch,
            replid: facts.replid,
            master: self.opener.config.topology.master().to_string(),
            version: facts.version,
            master_connected: state == ConnectionState::Connected,
            replicas_connected: self.replicas_connected(),
            replicas: self.opener.config.topology.replicas().len(),
            connections: current.as_ref().map_or(0, |generation| generation.connections()),
            connection_errors: self.connection_errors(),
            in_flight: current.as_ref().map_or(0, |generation| generation.in_flight()),
            clock_uncertainty: self.clock.uncertainty(),
        }
    }
}
