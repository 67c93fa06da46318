//! On a cluster: one connection for the sharded channels of each master at which some are wanted, and who serves what as
//! the link knows it. It says nothing to a server.

use super::{Inner, plan::Seat, worker};
use crate::{Endpoint, link::Shared};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

/// A connection on which nothing is wanted is kept so long: slots come back.
const LINGER: Duration = Duration::from_secs(5);

/// One kept connection.
struct Kept {
    /// Dropping it ends the connection.
    _worker: AbortOnDropHandle<()>,
    idle_since: Option<Instant>,
}

/// Runs until it is dropped.
pub(super) async fn keep(shared: Arc<Shared>, inner: Arc<Inner>) {
    let (mut states, mut wanted) = (shared.state.subscribe(), inner.wanted.subscribe());
    let mut kept: HashMap<Endpoint, Kept> = HashMap::new();
    loop {
        if let Some(layout) = shared.layout.load_full() {
            let mut moved = false;
            inner.update(|plan| {
                let events = plan.place(&layout, Instant::now());
                moved = events.is_some();
                events.unwrap_or_default()
            });
            if moved {
                inner.wanted.send_replace(());
            }
        }
        wanted.mark_unchanged();
        place(&shared, &inner, &mut kept);
        tokio::select! {
            // Neither sender is gone before this is.
            _ = states.changed() => {}
            _ = wanted.changed() => {}
            // The layout of a cluster of which nobody can be reached changes without a new state.
            () = sleep(shared.opener.config.probe_interval) => {}
        }
    }
}

fn place(shared: &Arc<Shared>, inner: &Arc<Inner>, kept: &mut HashMap<Endpoint, Kept>) {
    let now = Instant::now();
    let mut plan = inner.plan.lock();
    let masters = plan.masters();
    kept.retain(|master, kept| {
        if masters.contains(master) {
            kept.idle_since = None;
            return true;
        }
        let keep = now.duration_since(*kept.idle_since.get_or_insert(now)) < LINGER;
        if !keep {
            plan.leave(master);
        }
        keep
    });
    for master in masters {
        kept.entry(master).or_insert_with_key(|master| {
            plan.sit(master, now);
            let seat = Seat::Shard(master.clone());
            let worker = shared.runtime.spawn(worker::keep(Arc::clone(shared), Arc::clone(inner), seat));
            Kept { _worker: AbortOnDropHandle::new(worker), idle_since: None }
        });
    }
}
