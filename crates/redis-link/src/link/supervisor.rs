//! Keeps one generation open: waits for its death, opens the next with back-off, publishes it. It decides nothing
//! about commands.

use super::LinkState;
use crate::{
    Deps, Error, Generation, Keys, Version,
    generation::{Opening, open},
    metrics,
    wire::Opener,
};
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use resilience::{Backoff, clock::ServerClock};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

/// Generations that live shorter are replaced at growing distances: something keeps killing them.
const SETTLED: Duration = Duration::from_secs(1);

/// What a link's handles, supervisor, subscriptions and metrics share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) opener: Opener,
    pub(crate) keys: Keys,
    pub(crate) clock: ServerClock,
    pub(crate) current: ArcSwapOption<Generation>,
    pub(crate) state: watch::Sender<LinkState>,
    /// Cancelled once: the link ends.
    pub(crate) closing: CancellationToken,
    pub(crate) facts: Mutex<Facts>,
    pub(crate) runtime: tokio::runtime::Handle,
    deps: Deps,
    generations: AtomicU64,
    connection_errors: AtomicU64,
    replicas_connected: AtomicUsize,
}

/// What the status says about the last generation and before.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) since: SystemTime,
    pub(crate) last_error: Option<String>,
    pub(crate) generation: u64,
    pub(crate) epoch: Option<u32>,
    pub(crate) replid: Option<String>,
    pub(crate) run_id: Option<String>,
    pub(crate) version: Option<Version>,
}

impl Shared {
    /// Inside of a runtime.
    pub(crate) fn new(opener: Opener, deps: Deps) -> Self {
        let since = Instant::now();
        Self {
            keys: Keys::new(&opener.config.namespace),
            opener,
            clock: ServerClock::new(),
            current: ArcSwapOption::empty(),
            state: watch::Sender::new(LinkState::Disconnected { since, cause: "".into() }),
            closing: CancellationToken::new(),
            facts: Mutex::new(Facts {
                since: SystemTime::now(),
                last_error: None,
                generation: 0,
                epoch: None,
                replid: None,
                run_id: None,
                version: None,
            }),
            runtime: tokio::runtime::Handle::current(),
            deps,
            generations: AtomicU64::new(0),
            connection_errors: AtomicU64::new(0),
            replicas_connected: AtomicUsize::new(0),
        }
    }

    /// One attempt at the next generation.
    pub(crate) async fn open(&self) -> Result<Arc<Generation>, Error> {
        let id = self.generations.load(Relaxed) + 1;
        let previous = self.facts.lock().run_id.clone();
        let opening = Opening {
            opener: &self.opener,
            epochs: &*self.deps.epochs,
            epoch_key: &self.keys.epoch(),
            clock: &self.clock,
            previous_run_id: previous.as_deref(),
        };
        let generation = open(opening, id).await?;
        self.generations.store(id, Relaxed);
        Ok(generation)
    }

    pub(crate) fn connection_errors(&self) -> u64 {
        self.connection_errors.load(Relaxed)
    }

    pub(crate) fn replicas_connected(&self) -> usize {
        self.replicas_connected.load(Relaxed)
    }

    pub(crate) fn set_replicas_connected(&self, count: usize) {
        self.replicas_connected.store(count, Relaxed);
    }

    fn publish(&self, generation: &Arc<Generation>) {
        {
            let mut facts = self.facts.lock();
            facts.since = SystemTime::now();
            facts.generation = generation.id();
            facts.epoch = Some(generation.epoch());
            facts.replid = Some(generation.replid().to_owned());
            facts.run_id = Some(generation.run_id().to_owned());
            facts.version = Some(generation.capabilities().version);
        }
        self.current.store(Some(Arc::clone(generation)));
        self.state.send_replace(LinkState::Connected(Arc::clone(generation)));
        tracing::info!(
            generation = generation.id(),
            epoch = generation.epoch(),
            master = %self.opener.config.topology.master(),
            "connected to Redis"
        );
    }

    /// Nothing to use until the next [`publish`](Self::publish). `since` is the beginning of the outage.
    fn unpublish(&self, since: Instant, cause: &str) {
        self.connection_errors.fetch_add(1, Relaxed);
        metrics::connection_error();
        let lost = self.current.swap(None).is_some();
        {
            let mut facts = self.facts.lock();
            facts.last_error = Some(cause.to_owned());
            if lost {
                facts.since = SystemTime::now();
            }
        }
        let first = lost
            || matches!(&*self.state.borrow(), LinkState::Disconnected { cause, .. } if cause.is_empty());
        self.state.send_replace(LinkState::Disconnected { since, cause: cause.into() });
        if first {
            tracing::warn!(cause, master = %self.opener.config.topology.master(), "no connection to Redis");
        } else {
            tracing::debug!(cause, "still no connection to Redis");
        }
    }
}

/// Runs until the link closes. `outcome` is that of the first attempt.
pub(crate) async fn supervise(shared: Arc<Shared>, outcome: Result<Arc<Generation>, Error>) {
    let closing = shared.closing.clone();
    // Whatever it is doing: closing ends it, and dropping a generation ends its connections.
    let _ = closing.run_until_cancelled(keep_open(&shared, outcome)).await;
    if let Some(generation) = shared.current.swap(None) {
        generation.end("the link is shut down");
    }
    shared.facts.lock().since = SystemTime::now();
    shared.state.send_replace(LinkState::Shutdown);
}

async fn keep_open(shared: &Shared, mut outcome: Result<Arc<Generation>, Error>) {
    let mut backoff = Backoff::new(shared.opener.config.reconnect);
    // Of its own: a server that has just come back ends its first generation soon (its first replica changes the
    // replication id), and to wait as long as for a server that is away would double the outage.
    let mut short_lived = Backoff::new(shared.opener.config.reconnect);
    let mut since = Instant::now();
    loop {
        match outcome {
            Ok(generation) => {
                let opened = Instant::now();
                shared.publish(&generation);
                generation.died().await;
                since = Instant::now();
                shared.unpublish(since, &generation.death().cause().0);
                backoff.reset();
                if opened.elapsed() >= SETTLED {
                    short_lived.reset();
                } else {
                    tokio::time::sleep(short_lived.next_delay()).await;
                }
            }
            Err(error) => {
                shared.unpublish(since, &error.cause());
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
        outcome = shared.open().await;
    }
}
