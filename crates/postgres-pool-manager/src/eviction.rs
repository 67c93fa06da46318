//! What happens to a pool when its server's role changes: who is sent away, and what may no longer be used. It
//! decides no role.

use crate::{orders::Order, pool::Pool, shell::Keeper, slot::Slot, stats::Role};
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

/// Between two attempts to reach a former primary.
const AGAIN: Duration = Duration::from_secs(1);

impl Pool {
    /// What the server is used for at the moment.
    #[inline]
    pub(crate) fn role(&self) -> Role {
        if self.is_primary.load(Relaxed) { Role::Primary } else { Role::Replica }
    }

    /// Connections that read from it go on; each is checked before its next loan.
    pub(crate) fn become_primary(self: &Arc<Self>) {
        self.is_primary.store(true, Relaxed);
        self.serving.store(true, Relaxed);
        self.answered();
        self.suspect_all();
    }

    /// Every session of its time as primary ends with its next statement, and a statement under way at once: what
    /// it would write is not part of the history any more. Those who wait are sent to the new primary.
    pub(crate) fn become_replica(self: &Arc<Self>) {
        self.is_primary.store(false, Relaxed);
        self.suspect_all();
        let slots = self.slots().clone();
        slots.iter().for_each(|slot| slot.evict());
        self.end_at_server(slots);
        let idle = self.shell().reap(|_, _, _| true);
        self.close_politely(idle);
        self.dismiss();
    }

    /// Whoever uses a session raw asks nobody: the server has to end it, when it can be reached. Not one with a COMMIT
    /// under way, which counts as given back.
    fn end_at_server(self: &Arc<Self>, slots: Vec<Arc<Slot>>) {
        let pool = Arc::clone(self);
        self.spawn(async move {
            let work = async {
                for slot in slots {
                    while slot.held(pool.clock.now()).is_some()
                        && !pool.order(Order::Terminate, slot.backend).await
                    {
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            };
            pool.closing.run_until_cancelled(work).await;
        });
    }
}
