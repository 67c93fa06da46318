//! A connection generation: the masters as one caller sees them, each with a few connections under one epoch. Opening the
//! next is the supervisor's work.

mod calls;
mod death;
mod monitor;
mod node;
mod open;
mod route;

pub(crate) use death::Death;
pub(crate) use node::Node;
pub(crate) use open::{Opening, epoch_keys, open};

use crate::{Capabilities, Dedicated, Endpoint, Error, Key, layout::Layout, opener::Opener};
use futures_util::future::{join_all, select_all};
use resilience::Deadline;
use std::{fmt, sync::Arc, time::Duration};
use tokio::sync::Notify;

/// Connections to the master, or to all masters of a cluster, each valid for one epoch of its data.
///
/// With one master it is alive as long as these connections are. On a cluster it is a view: when a master is lost or slots
/// move, the link has the next generation, which shares the connections that are still good; calls on the older one
/// go on where its view still holds.
///
/// All calls take a deadline and are capped by [`Config::command_timeout`](crate::Config::command_timeout). Where the
/// connections are dead they fail with [`Error::Unavailable`]; take the next generation from the link.
pub struct Generation {
    id: u64,
    layout: Arc<Layout>,
    /// Beside the layout's masters. At least one is there when the generation begins.
    nodes: Vec<Option<Arc<Node>>>,
    /// Of the view. With one master, its connections' own.
    death: Arc<Death>,
    opener: Opener,
    /// Told when an answer says that the layout is no longer true.
    moved: Arc<Notify>,
}

impl Generation {
    pub(crate) fn new(
        id: u64,
        layout: Arc<Layout>,
        nodes: Vec<Option<Arc<Node>>>,
        opener: Opener,
        moved: Arc<Notify>,
    ) -> Self {
        let death = match nodes.as_slice() {
            [Some(only)] if layout.slots.is_none() => Arc::clone(&only.death),
            _ => Arc::default(),
        };
        Self { id, layout, nodes, death, opener, moved }
    }

    /// Counts the generations of a link from 1.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// The epoch of the data that it talks to, 1 to [`MAX_EPOCH`](crate::MAX_EPOCH). On a cluster the largest of its
    /// masters'; see [`epoch_of`](Self::epoch_of).
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.nodes().map(|node| node.epoch).max().unwrap_or(0)
    }

    /// The epoch of the data that a key belongs to. The epochs of a cluster's masters are all different.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if there is no connection to the key's master.
    pub fn epoch_of(&self, key: &Key) -> Result<u32, Error> {
        self.node_of(self.slot(key)).map(|node| node.epoch)
    }

    /// The replication id of the server's data; on a cluster of the first master's.
    #[must_use]
    pub fn replid(&self) -> &str {
        self.nodes().next().map_or("", |node| &node.info.replid)
    }

    /// The server process's own id; on a cluster the first master's.
    #[must_use]
    pub fn run_id(&self) -> &str {
        self.nodes().next().map_or("", |node| &node.info.run_id)
    }

    /// What the server can do; on a cluster what its oldest master can.
    ///
    /// # Panics
    /// Never: a generation has at least one master.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        let oldest = self.nodes().min_by_key(|node| node.info.capabilities.version);
        &oldest.expect("a generation has a master").info.capabilities
    }

    /// Whether there are several masters, so that the keys of one script have to share a slot.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        self.layout.slots.is_some()
    }

    /// The addresses of the masters that it is connected to.
    #[must_use]
    pub fn masters(&self) -> Vec<&Endpoint> {
        self.nodes().filter(|node| node.is_alive()).map(|node| &node.endpoint).collect()
    }

    /// Whether calls can still be made, and the view is the link's newest.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.death.is_dead()
    }

    /// Resolves when the generation is dead, at once if it already is. Cancel safe.
    pub fn died(&self) -> impl Future<Output = ()> + Send + 'static {
        let death = Arc::clone(&self.death);
        async move { death.wait().await }
    }

    /// Ends the generation and its connections: what is in flight fails, the link opens the next one. For callers that
    /// see that the data is no longer what it should be.
    pub fn end(&self, cause: &str) {
        self.nodes().for_each(|node| node.death.kill(cause));
        self.death.kill(cause);
    }

    /// Begins a new epoch of the data that a key belongs to, for all processes: deletes the epoch key of the key's master,
    /// so that its data counts as new, and ends the connections to it. For callers that see that the server lost or
    /// damaged data in a way that the epoch does not show. Cancel safe.
    ///
    /// # Errors
    /// As [`call`](Self::call); nothing has ended then.
    pub async fn begin_epoch(&self, key: &Key, cause: &str, deadline: Deadline) -> Result<(), Error> {
        let node = self.node_of(self.slot(key))?;
        self.del(std::slice::from_ref(&node.epoch_key), deadline).await?;
        node.death.kill(cause);
        Ok(())
    }

    /// Calls under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.nodes().map(|node| node.in_flight()).sum()
    }

    /// Opens a connection of its own to the master of `key`, for commands that block. It dies with the connections of this
    /// generation to that master.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if these are dead or the address now leads to another server, [`Error::Timeout`], or as
    /// [`Config::connect`](crate::Config::connect).
    pub async fn dedicated(&self, key: &Key, deadline: Deadline) -> Result<Dedicated, Error> {
        Dedicated::open(Arc::clone(self.node_of(self.slot(key))?), deadline).await
    }

    /// The connections that it began with.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.iter().flatten()
    }

    /// Beside the layout's masters.
    pub(crate) fn all_nodes(&self) -> &[Option<Arc<Node>>] {
        &self.nodes
    }

    pub(crate) fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.nodes.iter().all(Option::is_some)
    }

    /// Why it ended, and how long ago.
    pub(crate) fn cause(&self) -> (String, Duration) {
        let dead = self.nodes().find(|node| !node.is_alive());
        dead.map_or_else(|| self.death.cause(), |node| node.death.cause())
    }

    /// There is a newer one; the connections go on.
    pub(crate) fn superseded(&self) {
        self.death.kill("the layout of the cluster has changed");
    }

    /// Resolves when one of its connections' sets is dead, at once if one is. Cancel safe.
    pub(crate) async fn lost_one(&self) {
        if self.nodes().all(|node| node.is_alive()) {
            self.lost_another().await;
        }
    }

    /// Resolves when one of the sets that are alive now is dead. Cancel safe.
    pub(crate) async fn lost_another(&self) {
        let living = self.nodes().filter(|node| node.is_alive());
        let deaths: Vec<_> = living.map(|node| Box::pin(node.death.wait())).collect();
        if !deaths.is_empty() {
            select_all(deaths).await;
        }
    }

    /// Waits until no call is under way; calls that come meanwhile wait behind it. Cancel safe.
    pub(crate) async fn drain(&self) {
        join_all(self.nodes().map(|node| node.drain())).await;
    }

    pub(crate) fn unavailable(&self) -> Error {
        let (cause, since) = self.cause();
        Error::Unavailable { since, cause }
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation")
            .field("id", &self.id)
            .field("nodes", &self.nodes)
            .field("alive", &self.is_alive())
            .finish_non_exhaustive()
    }
}
