//! Keeps a generation open: finds the masters, connects to those that are missing, publishes, waits for a loss or a
//! change, and begins again. It decides nothing about commands.

use super::Shared;
use crate::{
    Error, Generation,
    finder::Finder,
    generation::{Node, Opening, epoch_keys, open},
    layout::Layout,
    wire::unavailable,
};
use resilience::Backoff;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

/// Generations that live shorter are replaced at growing distances: something keeps killing them.
const SETTLED: Duration = Duration::from_secs(1);
/// While a master is missing, those who know of a new one are asked so often.
const IMPATIENCE: Duration = Duration::from_millis(100);
/// Layouts are not looked for more often, however many answers say that slots have moved.
const BREATH: Duration = Duration::from_millis(20);

/// One link's keeper.
#[derive(Debug)]
pub(crate) struct Supervisor {
    shared: Arc<Shared>,
    finder: Finder,
    /// What is published.
    view: Option<Arc<Generation>>,
}

/// Asks for the credentials and reads the certificates of now, every so often and when they were refused, and has the
/// supervisor use what is new. Runs until the link closes.
pub(crate) async fn keep_renewing(shared: Arc<Shared>) {
    let renew = async {
        let every = shared.opener.config.renew_interval;
        let mut backoff = Backoff::new(shared.opener.config.reconnect);
        loop {
            let before = shared.opener.access_number();
            tokio::select! {
                () = sleep(every) => backoff.reset(),
                () = shared.renew.notified() => sleep(backoff.next_delay()).await,
            }
            // Troubles are in the log; what was good before stays.
            if shared.opener.renew().await.is_ok_and(|now| Some(now) != before) {
                shared.look.notify_one();
            }
        }
    };
    let _ = shared.closing.run_until_cancelled(renew).await;
}

/// Why the wait for something to do has ended.
enum Wake {
    /// Connections are lost.
    Lost,
    /// Another layout, other credentials, or time to try again.
    Look,
}

impl Supervisor {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let finder = Finder::new(shared.opener.clone());
        Self { shared, finder, view: None }
    }

    /// The first attempt.
    ///
    /// # Errors
    /// Also what makes a start pointless on a cluster that is connected in part.
    pub(crate) async fn begin(&mut self) -> Result<(), Error> {
        self.round().await?;
        match &self.view {
            Some(view) if view.layout().uncovered().is_some() => Err(uncovered(&self.shared, view.layout())),
            _ => Ok(()),
        }
    }

    /// Runs until the link closes. `outcome` is that of the first attempt.
    pub(crate) async fn run(mut self, outcome: Result<(), Error>) {
        let (shared, closing) = (Arc::clone(&self.shared), self.shared.closing.clone());
        // Whatever it is doing: closing ends it, and dropping a generation ends its connections.
        let _ = closing.run_until_cancelled(self.keep_open(outcome)).await;
        if let Some(generation) = shared.current.swap(None) {
            generation.end("the link is shut down");
        }
        shared.facts.lock().since = std::time::SystemTime::now();
        shared.state.send_replace(super::LinkState::Shutdown);
    }

    async fn keep_open(&mut self, mut outcome: Result<(), Error>) {
        let mut backoff = Backoff::new(self.shared.opener.config.reconnect);
        // Of its own: a server that has just come back ends its first generation soon (its first replica changes the
        // replication id), and to wait as long as for a server that is away would double the outage.
        let mut short_lived = Backoff::new(self.shared.opener.config.reconnect);
        let mut since = Instant::now();
        loop {
            match &outcome {
                Ok(()) => backoff.reset(),
                Err(error) if self.view.is_none() => {
                    self.shared.count_connection_error();
                    self.shared.unpublish(since, &error.cause());
                }
                Err(error) => {
                    self.shared.count_connection_error();
                    tracing::debug!(%error, "a Redis master cannot be connected to");
                }
            }
            let began = Instant::now();
            let wake = match outcome {
                Ok(()) => self.until_something_happens().await,
                Err(_) => self.until_worth_a_try(backoff.next_delay()).await,
            };
            if let Wake::Lost = wake {
                since = Instant::now();
                self.leave_the_dead(since);
                if began.elapsed() >= SETTLED {
                    short_lived.reset();
                } else {
                    sleep(short_lived.next_delay()).await;
                }
            } else {
                sleep(BREATH).await;
            }
            outcome = self.round().await;
        }
    }

    /// Everything is connected: until it is not, or until there may be something better.
    async fn until_something_happens(&mut self) -> Wake {
        let Some(view) = self.view.clone() else { return Wake::Look };
        let every = self.shared.opener.config.probe_interval;
        let living = living(Some(&view));
        tokio::select! {
            biased;
            () = view.lost_one() => Wake::Lost,
            () = self.shared.look.notified() => Wake::Look,
            () = another_layout(&mut self.finder, &self.shared, &living, every, Layout::is_like) => Wake::Look,
        }
    }

    /// Something is missing: until the next attempt is due, or may go better.
    async fn until_worth_a_try(&mut self, delay: Duration) -> Wake {
        let view = self.view.clone();
        let living = living(self.view.as_ref());
        let another = another_layout(&mut self.finder, &self.shared, &living, IMPATIENCE, Layout::is_like);
        tokio::select! {
            biased;
            () = lost_another(view.as_deref()) => Wake::Lost,
            () = sleep(delay) => Wake::Look,
            () = another => Wake::Look,
        }
    }

    /// What is lost is of no use to anybody from now on.
    fn leave_the_dead(&mut self, since: Instant) {
        let Some(view) = &self.view else { return };
        self.shared.count_connection_error();
        if view.nodes().any(|node| node.is_alive()) {
            tracing::warn!(cause = view.cause().0, "a Redis master is lost");
            return;
        }
        let cause = view.cause().0;
        view.end(&cause);
        self.shared.unpublish(since, &cause);
        self.view = None;
    }

    /// Finds the masters, connects to those that are missing or were connected to with old credentials, and publishes
    /// what there is.
    ///
    /// # Errors
    /// If something is missing afterwards.
    async fn round(&mut self) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        // What there is: whoever knows the credentials may be slow, and is asked beside this.
        let access = match shared.opener.access_number() {
            Some(number) => number,
            None => shared.opener.renew().await?,
        };
        let living = living(self.view.as_ref());
        let layout = Arc::new(self.finder.find(&living).await?);
        shared.layout.store(Some(Arc::clone(&layout)));
        let mut nodes: Vec<Option<Arc<Node>>> = layout
            .masters
            .iter()
            .map(|master| living.iter().find(|node| node.endpoint() == master).cloned())
            .collect();
        if nodes.iter().any(Option::is_some) {
            // At once, without waiting for those that are missing.
            self.publish(&layout, &nodes);
        } else if let Some(view) = self.view.take() {
            // The master is another one now; what goes on with the old one has to end.
            view.end("the master is another server now");
            shared.count_connection_error();
            shared.unpublish(Instant::now(), "the master is another server now");
        }
        let is_fresh = |index: usize| {
            let best = epoch_keys(&shared.keys, &layout, index).next();
            nodes[index].as_ref().is_some_and(|node| {
                node.access() == access && best.is_none_or(|best| best == *node.first_key())
            })
        };
        let wanted: Vec<usize> = (0..nodes.len()).filter(|index| !is_fresh(*index)).collect();
        if wanted.is_empty() {
            return if nodes.is_empty() { Err(uncovered(&shared, &layout)) } else { Ok(()) };
        }
        let opening = Opening {
            opener: &shared.opener,
            epochs: &*shared.deps.epochs,
            keys: &shared.keys,
            clock: &shared.clock,
            layout: &layout,
            access,
            present: nodes.iter().flatten().map(|node| node.info().replid.clone()).collect(),
            kept: nodes
                .iter()
                .enumerate()
                .filter(|(at, node)| node.is_some() && !wanted.contains(at))
                .count(),
        };
        let opened = tokio::select! {
            opened = open(&opening, &wanted) => opened,
            // A master that hangs holds up nobody once it is replaced.
            () = another_layout(&mut self.finder, &shared, &living, IMPATIENCE, Layout::has_masters_of) => {
                return Err(unavailable("the masters changed while they were connected to"));
            }
            // One that hangs does not keep the loss of another a secret.
            () = lost_another(self.view.as_deref()) => {
                return Err(unavailable("a master was lost while others were connected to"));
            }
        };
        let mut trouble = None;
        for (index, opened) in opened {
            match opened {
                Ok(node) => nodes[index] = Some(node),
                Err(error) => {
                    if matches!(error, Error::Auth(_) | Error::Certificate { .. } | Error::Tls { .. }) {
                        // There may be newer ones.
                        shared.renew.notify_one();
                    }
                    trouble = trouble.filter(Error::is_permanent).or(Some(error));
                }
            }
        }
        if nodes.iter().any(Option::is_some) {
            self.publish(&layout, &nodes);
        }
        trouble.map_or(Ok(()), Err)
    }

    /// Unless it is what is published already.
    fn publish(&mut self, layout: &Arc<Layout>, nodes: &[Option<Arc<Node>>]) {
        if let Some(view) = &self.view {
            let same = |(a, b): (&Option<Arc<Node>>, &Option<Arc<Node>>)| match (a, b) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                (a, b) => a.is_none() && b.is_none(),
            };
            let unchanged = view.layout().is_like(layout);
            if view.is_alive() && unchanged && view.all_nodes().iter().zip(nodes).all(same) {
                return;
            }
        }
        let new = self.shared.publish(layout, nodes.to_vec());
        let still = |old: &Arc<Node>| new.nodes().any(|node| Arc::ptr_eq(node, old));
        if let Some(old) = self.view.replace(Arc::clone(&new)) {
            for node in old.nodes().filter(|node| !still(node)) {
                let heir = new.nodes().find(|heir| heir.endpoint() == node.endpoint());
                match heir {
                    Some(heir) if heir.access() != node.access() => self.shared.retire(node),
                    // Two epochs are not to stand side by side.
                    Some(_) => node.death().kill("the epoch key of the master is another one now"),
                    None => node.death().kill("the master is another server now"),
                }
            }
        }
    }
}

/// Resolves when connections of the view that are alive now are lost.
async fn lost_another(view: Option<&Generation>) {
    match view {
        Some(view) => view.lost_another().await,
        None => std::future::pending().await,
    }
}

/// Resolves when somebody tells of another layout than the one that is known, or waits for ever where none can be.
async fn another_layout(
    finder: &mut Finder,
    shared: &Shared,
    living: &[Arc<Node>],
    every: Duration,
    is_like: fn(&Layout, &Layout) -> bool,
) {
    if !finder.can_change() {
        return std::future::pending().await;
    }
    loop {
        sleep(every).await;
        // Who cannot be asked says nothing; connections tell by themselves if they are lost.
        let Ok(found) = finder.find(living).await else { continue };
        match shared.layout.load_full() {
            Some(known) if is_like(&known, &found) => {
                if found.is_like(&known) {
                    // Replicas come and go without a new generation.
                    shared.layout.store(Some(Arc::new(found)));
                }
            }
            _ => return,
        }
    }
}

/// The connections of a view that are good.
fn living(view: Option<&Arc<Generation>>) -> Vec<Arc<Node>> {
    view.into_iter().flat_map(|view| view.nodes()).filter(|node| node.is_alive()).cloned().collect()
}

fn uncovered(shared: &Shared, layout: &Layout) -> Error {
    let (count, first) = layout.uncovered().unwrap_or_default();
    Error::SlotsUncovered { cluster: shared.opener.config.topology.to_string(), count, first }
}
