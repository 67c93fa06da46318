//! The background: applying what others invalidate, repeating what could not be delivered, housekeeping. Each task
//! holds the engine weakly and ends with it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use pubsub_manager::{JournalEvent, JournalReader};

use crate::core::Core;
use crate::counters::Count;
use crate::invalidate::Notice;
use crate::key::Key;
use crate::load::millis;
use crate::tier::Guarded;

/// Starts the tasks.
pub(crate) fn start(core: &Arc<Core>, reader: Option<JournalReader>) {
    if let Some(reader) = reader {
        spawn(core, follow(Arc::downgrade(core), reader));
    }
    if let Some(l2) = &core.l2 {
        spawn(core, watch_l2(Arc::downgrade(core), Arc::clone(l2)));
    }
    spawn(core, redeliver(Arc::downgrade(core)));
    spawn(core, tend(Arc::downgrade(core)));
}

fn spawn(core: &Arc<Core>, work: impl Future<Output = ()> + Send + 'static) {
    let stop = core.stop.clone();
    core.tasks.spawn_on(
        async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = work => {}
            }
        },
        &core.runtime,
    );
}

/// Applies the journal. That `next` is called again says that everything before has been applied, and only then does
/// the view count it.
async fn follow(core: Weak<Core>, mut reader: JournalReader) {
    let view = reader.view();
    while let Some(event) = reader.next().await {
        let Some(core) = core.upgrade() else { return };
        if view.state().is_current() {
            // Current means proven at some moment of the time that the journal allows: count from its beginning.
            let slack =
                core.journal.as_ref().map_or(Duration::MAX, |journal| journal.config().disconnected_after);
            core.watch.proven(core.watch.now().saturating_sub(millis(slack)));
        }
        match event {
            JournalEvent::Entry(entry) => apply(&core, &entry.payload),
            JournalEvent::Gap { .. } => missed(&core),
            _ => {}
        }
    }
}

fn apply(core: &Core, payload: &[u8]) {
    let Ok((instance, notice)) = rmp_serde::from_slice::<(u64, Notice)>(payload) else { return missed(core) };
    if instance == core.instance {
        return; // Fenced here before it was sent.
    }
    core.counters.count(Count::Remote);
    match notice {
        Notice::Keys(region, keys) => {
            // A region that is not open here has no entries, and its reads begin later than this.
            let Some(region) = core.region_named(&region) else { return };
            for key in keys.iter().filter_map(|key| Key::new(region.id, key).ok()) {
                core.ledger.fence(&key, &region, &core.l1, false);
            }
        }
        Notice::Region(region, hard) => {
            let Some(region) = core.region_named(&region) else { return };
            let at = core.ledger.advance();
            if hard { region.raise_hard(at) } else { region.raise_soft(at) }
        }
        Notice::Everything => core.raise_everything(true),
    }
}

/// What was missed is unknown: every entry is asked for anew at its next read, which brings it back from L2 cheaply
/// if it still holds. The entries stay as the last resort.
fn missed(core: &Core) {
    core.counters.count(Count::Gaps);
    core.raise_everything(false);
}

/// A new epoch of Redis: an invalidation that was acknowledged under the old one may be lost. The journal notices it
/// too, but L2 may be asked before that.
async fn watch_l2(core: Weak<Core>, l2: Arc<Guarded>) {
    loop {
        let other = l2.renewed().await;
        let Some(core) = core.upgrade() else { return };
        if other {
            missed(&core);
        }
    }
}

/// Repeats deliveries: often while they succeed, once a second while they do not. An outage is two lines in the log,
/// however many invalidations it holds up.
async fn redeliver(core: Weak<Core>) {
    let mut pause = QUICK;
    loop {
        tokio::time::sleep(pause).await;
        let Some(core) = core.upgrade() else { return };
        let next = if core.redeliver().await { QUICK } else { SLOW };
        if next != pause {
            let keys = core.ledger.pending();
            if next == SLOW {
                tracing::warn!(keys, "invalidations are not propagated yet and will be repeated");
            } else {
                tracing::info!(keys, "invalidations are propagated again");
            }
        }
        pause = next;
    }
}

async fn tend(core: Weak<Core>) {
    let mut rounds = 0_u64;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let Some(core) = core.upgrade() else { return };
        core.ledger.sweep();
        core.beside.sweep(core.watch.now());
        crate::stats::observe(&core);
        rounds += 1;
        if rounds.is_multiple_of(5) {
            for tier in [&core.l2, &core.l3].into_iter().flatten() {
                tier.tend().await;
            }
        }
    }
}

const QUICK: Duration = Duration::from_millis(100);
const SLOW: Duration = Duration::from_secs(1);
