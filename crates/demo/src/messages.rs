//! The subscriber of a service process: counts what it hears of updates, and what it is told to have missed.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use database_services::pubsub_manager::{Event, SubscribeOptions};
use tokio_util::sync::CancellationToken;

use crate::protocol::Messages;
use crate::service::{Counts, Service};

/// A channel on which nothing came for this long is taken to be empty ...
const QUIET: Duration = Duration::from_millis(1500);
/// ... and waiting for it ends after this.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(crate) struct Received {
    messages: AtomicU64,
    gaps: AtomicU64,
}

/// Subscribes and counts until cancelled.
pub(crate) async fn subscribe(
    service: &Arc<Service>,
    over: CancellationToken,
) -> anyhow::Result<Arc<Received>> {
    let mut subscription = service.channel.subscribe(SubscribeOptions::default()).await?;
    let received = Arc::new(Received::default());
    let counted = received.clone();
    tokio::spawn(async move {
        while let Some(Some(event)) = over.run_until_cancelled(subscription.next()).await {
            match event {
                Event::Message(_) => counted.messages.fetch_add(1, Relaxed),
                Event::Gap { .. } => counted.gaps.fetch_add(1, Relaxed),
                _ => 0,
            };
        }
    });
    Ok(received)
}

impl Received {
    /// What had arrived when the channel had become quiet.
    pub(crate) async fn settled(&self, counts: &Counts) -> Messages {
        let limit = tokio::time::Instant::now() + PATIENCE;
        loop {
            let before = self.messages.load(Relaxed);
            tokio::time::sleep(QUIET).await;
            if self.messages.load(Relaxed) == before || tokio::time::Instant::now() > limit {
                break;
            }
        }
        Messages {
            published: counts.published.load(Relaxed),
            refused: counts.refused.load(Relaxed),
            received: self.messages.load(Relaxed),
            gaps: self.gaps.load(Relaxed),
        }
    }
}
