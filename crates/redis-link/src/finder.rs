//! Finds out who the masters are now: by the settings, by the Sentinels, or by the nodes of a cluster. It opens no
//! connection to a master of its own accord, and decides nothing about the old ones.

mod cluster;
mod sentinel;

use crate::{Error, Topology, generation::Node, layout::Layout, opener::Opener};
use futures_util::stream::{FuturesUnordered, StreamExt};
use sentinel::Sentinels;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, timeout_at};

/// What the others get once one has answered: those who answer are not to wait for those who do not.
const OTHERS: Duration = Duration::from_millis(200);

/// Asks, and keeps the connections that it asks through.
#[derive(Debug)]
pub(crate) struct Finder {
    opener: Opener,
    sentinels: Sentinels,
    /// The largest cluster epoch that was believed.
    believed: u64,
}

impl Finder {
    pub(crate) fn new(opener: Opener) -> Self {
        Self { opener, sentinels: Sentinels::default(), believed: 0 }
    }

    /// Whether the masters can change without a change of the settings.
    pub(crate) fn can_change(&self) -> bool {
        !matches!(self.opener.config.topology, Topology::Standalone { .. })
    }

    /// The layout of now. `living` are the masters that are connected. Cancel safe, and bounded by the connect time-out.
    ///
    /// # Errors
    /// [`Error::UnknownMaster`], [`Error::NoCluster`], or that nobody answers.
    pub(crate) async fn find(&mut self, living: &[Arc<Node>]) -> Result<Layout, Error> {
        match &self.opener.config.topology {
            Topology::Standalone { master, replicas } => Ok(Layout::single(master.clone(), replicas.clone())),
            Topology::Sentinel(topology) => {
                self.sentinels.find(&self.opener, topology, !living.is_empty()).await
            }
            Topology::Cluster { seeds } => {
                cluster::find(&self.opener, seeds, living, &mut self.believed).await
            }
        }
    }
}

/// What is answered within `limit`, and soon after the first good answer, each with the place of who answered.
async fn answers<T>(
    asked: impl Iterator<Item = impl Future<Output = T>>,
    limit: Duration,
    good: impl Fn(&T) -> bool,
) -> Vec<(usize, T)> {
    let mut waiting: FuturesUnordered<_> =
        asked.enumerate().map(|(place, ask)| async move { (place, ask.await) }).collect();
    let (mut all, mut until) = (Vec::new(), Instant::now() + limit);
    while let Ok(Some((place, answer))) = timeout_at(until, waiting.next()).await {
        if good(&answer) {
            until = until.min(Instant::now() + OTHERS);
        }
        all.push((place, answer));
    }
    all
}
