//! What a link's handles, supervisor, subscriptions and metrics share.

use super::LinkState;
use crate::{
    Deps, Endpoint, Error, Generation, Keys, Version, generation::Node, layout::Layout, metrics,
    opener::Opener,
};
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use resilience::clock::ServerClock;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) opener: Opener,
    pub(crate) keys: Keys,
    pub(crate) clock: ServerClock,
    pub(crate) current: ArcSwapOption<Generation>,
    pub(crate) state: watch::Sender<LinkState>,
    /// The layout as it was last found, also while nothing is connected.
    pub(crate) layout: ArcSwapOption<Layout>,
    /// The layout may no longer be true, or there are new credentials.
    pub(crate) look: Arc<Notify>,
    /// The credentials or certificates were refused.
    pub(crate) renew: Notify,
    /// Cancelled once: the link ends.
    pub(crate) closing: CancellationToken,
    pub(crate) facts: Mutex<Facts>,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) deps: Deps,
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
    pub(crate) version: Option<Version>,
    /// The server process whose clock the link's is.
    time_of: Option<String>,
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
            layout: ArcSwapOption::empty(),
            look: Arc::default(),
            renew: Notify::new(),
            closing: CancellationToken::new(),
            facts: Mutex::new(Facts {
                since: SystemTime::now(),
                last_error: None,
                generation: 0,
                epoch: None,
                replid: None,
                version: None,
                time_of: None,
            }),
            runtime: tokio::runtime::Handle::current(),
            deps,
            generations: AtomicU64::new(0),
            connection_errors: AtomicU64::new(0),
            replicas_connected: AtomicUsize::new(0),
        }
    }

    pub(crate) fn connection_errors(&self) -> u64 {
        self.connection_errors.load(Relaxed)
    }

    pub(crate) fn count_connection_error(&self) {
        self.connection_errors.fetch_add(1, Relaxed);
        metrics::connection_error();
    }

    pub(crate) fn replicas_connected(&self) -> usize {
        self.replicas_connected.load(Relaxed)
    }

    pub(crate) fn set_replicas_connected(&self, count: usize) {
        self.replicas_connected.store(count, Relaxed);
    }

    /// One of the masters, another one each time where there are several; what is known of them may be old.
    pub(crate) fn some_master(&self) -> Result<Endpoint, Error> {
        use rand::seq::IndexedRandom;
        let layout = self.layout.load_full();
        let some = layout.as_ref().and_then(|layout| layout.masters.choose(&mut rand::rng()));
        some.cloned().ok_or_else(|| self.why_unavailable())
    }

    pub(crate) fn why_unavailable(&self) -> Error {
        match &*self.state.borrow() {
            LinkState::Shutdown => Error::Shutdown,
            LinkState::Disconnected { since, cause } => {
                Error::Unavailable { since: since.elapsed(), cause: cause.to_string() }
            }
            LinkState::Connected(generation) => generation.unavailable(),
        }
    }

    /// Makes a generation of these connections the current one. The one before goes on as far as its connections do.
    pub(crate) fn publish(&self, layout: &Arc<Layout>, nodes: Vec<Option<Arc<Node>>>) -> Arc<Generation> {
        self.choose_timekeeper(&nodes);
        let id = self.generations.fetch_add(1, Relaxed) + 1;
        let (opener, moved) = (self.opener.clone(), Arc::clone(&self.look));
        let generation = Arc::new(Generation::new(id, Arc::clone(layout), nodes, opener, moved));
        let before = self.current.swap(Some(Arc::clone(&generation)));
        {
            let mut facts = self.facts.lock();
            if before.is_none() {
                facts.since = SystemTime::now();
            }
            facts.generation = id;
            facts.epoch = Some(generation.epoch());
            facts.replid = Some(generation.replid().to_owned());
            facts.version = Some(generation.capabilities().version);
        }
        self.state.send_replace(LinkState::Connected(Arc::clone(&generation)));
        let masters = Masters(&generation);
        match &before {
            None => {
                tracing::info!(generation = id, epoch = generation.epoch(), master = %masters, "connected to Redis");
            }
            Some(_) => {
                tracing::info!(generation = id, epoch = generation.epoch(), master = %masters, "new connections to Redis");
            }
        }
        if let Some(before) = before.filter(|_| layout.slots.is_some()) {
            before.superseded();
        }
        generation
    }

    /// The clock of one master is the link's, as long as it is there.
    fn choose_timekeeper(&self, nodes: &[Option<Arc<Node>>]) {
        let present = || nodes.iter().flatten().filter(|node| node.is_alive());
        if present().any(|node| node.keeps_time()) {
            return;
        }
        let Some(first) = present().next() else { return };
        let process = &first.info().run_id;
        if self.facts.lock().time_of.replace(process.clone()).as_ref() != Some(process) {
            self.clock.reset();
        }
        first.keep_time(&self.clock);
    }

    /// Nothing to use until the next [`publish`](Self::publish). `since` is the beginning of the outage.
    pub(crate) fn unpublish(&self, since: Instant, cause: &str) {
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
            tracing::warn!(cause, master = %self.opener.config.topology, "no connection to Redis");
        } else {
            tracing::debug!(cause, "still no connection to Redis");
        }
    }

    /// Lets connections that were replaced go on for a while, for those who still hold their generation, then ends them.
    pub(crate) fn retire(&self, node: &Arc<Node>) {
        // Not the node itself: unused, it may end sooner.
        let (death, closing) = (Arc::clone(node.death()), self.closing.clone());
        let while_in_use = self.opener.config.command_timeout + Duration::from_secs(1);
        self.runtime.spawn(async move {
            let _ = closing.run_until_cancelled(tokio::time::sleep(while_in_use)).await;
            death.kill("replaced by connections with newer credentials or certificates");
        });
    }
}

/// For the log: all of them.
struct Masters<'a>(&'a Generation);

impl std::fmt::Display for Masters<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, master) in self.0.masters().into_iter().enumerate() {
            write!(f, "{}{master}", if index > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}
