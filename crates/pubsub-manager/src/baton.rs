//! The turn to send on a channel. Whoever publishes while nobody sends sends a first frame himself, which spares a lone publish
//! the way through another task, and then passes the turn on.

use crate::{Bus, manager::Inner, outlet::Outlet};
use std::sync::Arc;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Dropped, also in the middle, it has the rest sent by a task.
pub(crate) struct Baton {
    /// Whether the turn is still ours: where nothing was left to send it is over, and somebody else may have the next.
    pub(crate) held: bool,
    pub(crate) outlet: Arc<Outlet>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) manager: Arc<Inner>,
    /// A shutdown waits for it.
    pub(crate) _under_way: TaskTrackerToken,
}

impl Baton {
    pub(crate) async fn run(mut self) {
        self.held = self.outlet.step(&self.bus).await;
    }
}

impl Drop for Baton {
    fn drop(&mut self) {
        if self.held && self.outlet.has_more() {
            self.manager.spawn(Arc::clone(&self.outlet).drain(Arc::clone(&self.bus)));
        }
    }
}
