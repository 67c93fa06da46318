//! Supervised subscriptions: the raw stream of messages with every interruption and overflow in it. No codec, no
//! routing, no sequence numbers; those are the bus's.

mod queue;
mod worker;

use crate::{Channel, Error, link::Shared};
use bytes::Bytes;
use parking_lot::Mutex;
use queue::Queue;
use resilience::Deadline;
use std::{collections::HashMap, sync::Arc};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// Limits of a subscription.
#[derive(Clone, Debug)]
pub struct SubscribeOptions {
    /// Messages kept for a consumer that is slower than they come; more are counted and reported as
    /// [`SubscriptionEvent::Overflow`]. Default 10,000.
    pub capacity: usize,
    /// Channels and patterns wanted at the same time. Default 10,000.
    pub max_channels: usize,
}

impl Default for SubscribeOptions {
    fn default() -> Self {
        Self { capacity: 10_000, max_channels: 10_000 }
    }
}

/// What a subscription brings.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscriptionEvent {
    /// Somebody published.
    Message {
        /// The whole channel, with its namespace.
        channel: String,
        /// It matched a pattern. A channel that is wanted by name and by pattern, or by two patterns, brings a
        /// message once for each.
        pattern: bool,
        /// The payload; shares the buffer that it was received in.
        payload: Bytes,
    },
    /// The connection is gone, or could not be made at first: messages are missed from about now on.
    Lost {
        /// Why.
        cause: String,
    },
    /// After a loss: all wanted channels are subscribed again.
    Restored,
    /// Messages that came here were dropped, as the consumer was too slow.
    Overflow {
        /// How many.
        missed: u64,
    },
}

/// A subscription on a connection of its own. Dropping it ends it.
#[derive(Debug)]
pub struct Subscription {
    inner: Arc<Inner>,
}

/// Changes what a subscription wants; clones are equal. It does not keep the subscription alive.
#[derive(Clone, Debug)]
pub struct SubscriptionHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    queue: Queue,
    options: SubscribeOptions,
    /// Written first, then made true by the worker.
    wanted: Mutex<Wanted>,
    /// Wakes the worker after a change of `wanted`.
    changed: Notify,
    progress: watch::Sender<Progress>,
    ended: CancellationToken,
}

#[derive(Debug, Default)]
struct Wanted {
    channels: HashMap<Channel, Standing>,
    /// Grows with every change.
    version: u64,
}

/// How the server stands to a channel that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It has not been asked, or has not answered.
    New,
    /// It took it, on this connection or an earlier one.
    Taken,
    /// It took it once and refuses it now: left out, asked for again now and then, as the right may come back.
    Refused,
}

/// How far the worker has come.
#[derive(Clone, Debug)]
struct Progress {
    connected: bool,
    /// The version of `wanted` that the server has confirmed on this connection.
    confirmed: u64,
    /// Channels that the server refused, with its words; forgotten when they are wanted again.
    refused: Vec<(Channel, Error)>,
    /// When the connection was lost, and why.
    lost: Option<(Instant, String)>,
}

impl Subscription {
    pub(crate) fn start(
        shared: Arc<Shared>,
        channels: &[Channel],
        options: SubscribeOptions,
    ) -> Result<Self, Error> {
        let inner = Arc::new(Inner {
            queue: Queue::new(options.capacity.max(1)),
            options,
            wanted: Mutex::default(),
            changed: Notify::new(),
            progress: watch::Sender::new(Progress {
                connected: false,
                confirmed: 0,
                refused: Vec::new(),
                lost: Some((Instant::now(), "it was not connected yet".to_owned())),
            }),
            ended: shared.closing.child_token(),
        });
        inner.want(channels)?;
        let runtime = shared.runtime.clone();
        runtime.spawn(worker::run(shared, Arc::clone(&inner)));
        Ok(Self { inner })
    }

    /// The next event, waiting for one; `None` once the link is shut down and everything was taken. Cancel safe.
    pub async fn next(&mut self) -> Option<SubscriptionEvent> {
        self.inner.queue.pop().await
    }

    /// For changing what it wants.
    #[must_use]
    pub fn handle(&self) -> SubscriptionHandle {
        SubscriptionHandle { inner: Arc::clone(&self.inner) }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.inner.ended.cancel();
    }
}

impl SubscriptionHandle {
    /// Wants these channels as well, and waits until the server has confirmed all of them: messages published after
    /// that arrive, or their loss is reported.
    ///
    /// Cancel safe: once called, the channels are wanted.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Timeout`] at the deadline: the channels stay wanted, and come when the connection is
    /// back. [`Error::Acl`] or another refusal that time does not mend: the refused channels are no longer wanted, unless
    /// the server took them before.
    /// [`Error::Overloaded`]: more channels than [`SubscribeOptions::max_channels`], nothing has changed.
    /// [`Error::Shutdown`] when link or subscription have ended.
    pub async fn add(&self, channels: &[Channel], deadline: Deadline) -> Result<(), Error> {
        let version = self.inner.want(channels)?;
        self.confirmed(channels, version, deadline).await
    }

    /// Wants these channels no more, and waits until the server has confirmed that. Messages that were received
    /// before may still follow. Cancel safe: once called, the channels are not wanted.
    ///
    /// # Errors
    /// As [`add`](Self::add); the channels are not wanted in any case.
    pub async fn remove(&self, channels: &[Channel], deadline: Deadline) -> Result<(), Error> {
        let version = {
            let mut wanted = self.inner.wanted.lock();
            for channel in channels {
                wanted.channels.remove(channel);
            }
            wanted.version += 1;
            wanted.version
        };
        self.inner.changed.notify_one();
        self.confirmed(&[], version, deadline).await
    }

    /// Whether the connection is up and everything wanted at some recent moment is subscribed.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.trouble().is_none()
    }

    /// Why not [`is_connected`](Self::is_connected).
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        if self.inner.ended.is_cancelled() {
            return Some("the subscription has ended".to_owned());
        }
        if let Some((_, cause)) = &self.inner.progress.borrow().lost {
            return Some(cause.clone());
        }
        let refused = self.inner.wanted.lock().channels.values().filter(|s| **s == Standing::Refused).count();
        (refused > 0).then(|| format!("Redis refuses {refused} of the channels that it took before"))
    }

    /// Channels and patterns wanted.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.inner.wanted.lock().channels.len()
    }

    async fn confirmed(&self, channels: &[Channel], version: u64, deadline: Deadline) -> Result<(), Error> {
        let started = Instant::now();
        let mut progress = self.inner.progress.subscribe();
        let done = progress.wait_for(|progress| progress.connected && progress.confirmed >= version);
        let waited = tokio::select! {
            biased;
            () = self.inner.ended.cancelled() => return Err(Error::Shutdown),
            waited = deadline.run(done) => waited.map(|done| done.is_ok()),
        };
        let progress = self.inner.progress.borrow().clone();
        let refusal = progress.refused.into_iter().find(|(channel, _)| channels.contains(channel));
        match (waited, progress.lost) {
            (Ok(true), _) => refusal.map_or(Ok(()), |(_, error)| Err(error)),
            (Ok(false), _) => Err(Error::Shutdown),
            (Err(_), Some((at, cause))) => Err(Error::Unavailable { since: at.elapsed(), cause }),
            (Err(_), None) => {
                Err(Error::Timeout { operation: "SUBSCRIBE", after: started.elapsed(), sent: true })
            }
        }
    }
}

impl Inner {
    /// Adds to what is wanted, all or nothing; answers the version to wait for.
    fn want(&self, channels: &[Channel]) -> Result<u64, Error> {
        let version = {
            let mut wanted = self.wanted.lock();
            let new = channels.iter().filter(|channel| !wanted.channels.contains_key(*channel)).count();
            if wanted.channels.len() + new > self.options.max_channels {
                return Err(Error::Overloaded);
            }
            for channel in channels {
                let standing = wanted.channels.entry(channel.clone()).or_insert(Standing::New);
                if *standing == Standing::Refused {
                    *standing = Standing::Taken;
                }
            }
            wanted.version += 1;
            wanted.version
        };
        self.progress.send_if_modified(|progress| {
            progress.refused.retain(|(refused, _)| !channels.contains(refused));
            false
        });
        self.changed.notify_one();
        Ok(version)
    }
}
