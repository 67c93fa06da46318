//! What the admin transport asks of the process that embeds it: stop taking traffic, end.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// Shared between the router and whoever runs the process.
#[derive(Debug)]
pub struct Control {
    draining: AtomicBool,
    /// Somebody waits for the request to end, or has.
    heeded: AtomicBool,
    shutdown: watch::Sender<bool>,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            draining: AtomicBool::new(false),
            heeded: AtomicBool::new(false),
            shutdown: watch::Sender::new(false),
        }
    }
}

impl Control {
    /// While draining, `/readyz` answers 503.
    pub fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Release);
    }

    /// Whether `/readyz` is to answer 503.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Asks the process to end; stays asked. `false`, and nothing happens, when nobody ever waited for it.
    #[must_use]
    pub fn request_shutdown(&self) -> bool {
        if !self.heeded.load(Ordering::Acquire) {
            return false;
        }
        self.set_draining(true);
        self.shutdown.send_replace(true);
        true
    }

    /// Waits for [`Control::request_shutdown`]. Cancel safe.
    pub async fn shutdown_requested(&self) {
        self.heeded.store(true, Ordering::Release);
        let mut asked = self.shutdown.subscribe();
        // The sender lives as long as `self`: this cannot fail.
        let _asked = asked.wait_for(|asked| *asked).await;
    }
}
