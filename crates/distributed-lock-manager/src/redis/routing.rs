//! The wake channel: who released what, heard from the link and told to the managers. It asks the store nothing.

use crate::Wakes;
use parking_lot::Mutex;
use redis_link::{Channel, Error as LinkError, SubscriptionEvent, SubscriptionHandle};
use resilience::{Backoff, BackoffConfig, Deadline};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Longest pause before a refused wake channel is asked for again; each time costs a connection.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);

/// Whether the wake channel has been subscribed: `Err(None)` not yet, else why not.
pub(super) type Confirmed = Result<(), Option<String>>;

/// Tells every manager of this process which lock was released; all of them to all when some may have been missed.
pub(super) struct Routing {
    pub(super) wakes: Arc<Mutex<Vec<Wakes>>>,
    pub(super) confirmed: Arc<Mutex<Confirmed>>,
}

impl Routing {
    pub(super) async fn run(
        self,
        mut subscription: redis_link::Subscription,
        channel: Channel,
        stop: CancellationToken,
    ) {
        let handle = subscription.handle();
        let routed = async {
            while let Some(event) = subscription.next().await {
                self.route(&event);
            }
        };
        tokio::select! {
            () = routed => {}
            () = self.subscribe(&handle, channel) => {}
            () = stop.cancelled() => {}
        }
    }

    /// Until it is subscribed or the link is shut down: a missing right may be given.
    async fn subscribe(&self, handle: &SubscriptionHandle, channel: Channel) {
        let mut backoff = Backoff::new(BackoffConfig { max: REFUSED_PAUSE, ..BackoffConfig::default() });
        loop {
            match handle.add(std::slice::from_ref(&channel), Deadline::never()).await {
                Ok(()) => {
                    *self.confirmed.lock() = Ok(());
                    // Whoever asked before may have missed his wake.
                    self.wake_all();
                    return std::future::pending().await;
                }
                Err(LinkError::Shutdown) => return,
                Err(error) => {
                    tracing::warn!(%error, "waiters for locks cannot be woken; they ask once a second");
                    *self.confirmed.lock() = Err(Some(error.to_string()));
                }
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    fn route(&self, event: &SubscriptionEvent) {
        match event {
            SubscriptionEvent::Message { payload, .. } => {
                if let Ok(name) = std::str::from_utf8(payload) {
                    self.wakes.lock().iter().for_each(|wakes| wakes.wake(name));
                }
            }
            SubscriptionEvent::Restored | SubscriptionEvent::Overflow { .. } => self.wake_all(),
            // Nobody can be woken now; whoever waits notices.
            _ => {}
        }
    }

    fn wake_all(&self) {
        self.wakes.lock().iter().for_each(Wakes::wake_all);
    }
}
