//! Supervised subscriptions: the raw stream of messages with every interruption and overflow in it. No codec, no
//! routing, no sequence numbers; those are the bus's.

mod listener;
mod plan;
mod queue;
mod shards;
mod worker;

pub use listener::{Incoming, Listener};

use crate::{Channel, Error, link::Shared};
use bytes::Bytes;
use parking_lot::Mutex;
use plan::{Outcome, Plan, Seat};
use queue::Queue;
use resilience::Deadline;
use std::{fmt, sync::Arc};
use tokio::{sync::watch, time::Instant};
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
    /// The connection of the names and patterns is gone, or could not be made at first: messages are missed from about
    /// now on. Sharded channels have events of their own.
    Lost {
        /// Why.
        cause: String,
    },
    /// After a loss: all wanted names and patterns are subscribed again.
    Restored,
    /// These sharded channels are no longer subscribed: their server is gone, or their slots have moved. The others notice
    /// nothing.
    ShardsLost {
        /// Which; each of them was subscribed before.
        channels: Vec<Channel>,
        /// Why.
        cause: String,
    },
    /// After a loss: these are subscribed again.
    ShardsRestored {
        /// Which.
        channels: Vec<Channel>,
    },
    /// Messages that came here were dropped, as the consumer was too slow.
    Overflow {
        /// How many.
        missed: u64,
    },
}

/// A subscription on connections of its own. Dropping it ends it.
#[derive(Debug)]
pub struct Subscription {
    queue: Arc<Queue>,
    listening: Listening,
}

/// Changes what a subscription wants; clones are equal. It does not keep the subscription alive.
#[derive(Clone, Debug)]
pub struct SubscriptionHandle {
    inner: Arc<Inner>,
}

/// A subscription that hands everything to a [`Listener`] at once. Dropping it ends it.
#[derive(Debug)]
pub struct Listening {
    inner: Arc<Inner>,
}

struct Inner {
    listener: Arc<dyn Listener>,
    options: SubscribeOptions,
    /// Written first, then made true by the workers.
    plan: Mutex<Plan>,
    /// Wakes the workers after a change of what is wanted, or where.
    wanted: watch::Sender<()>,
    /// Wakes those who wait for something to become true.
    progress: watch::Sender<()>,
    ended: CancellationToken,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("channels", &self.plan.lock().wanted()).finish_non_exhaustive()
    }
}

impl Subscription {
    pub(crate) fn start(
        shared: Arc<Shared>,
        channels: &[Channel],
        options: SubscribeOptions,
    ) -> Result<Self, Error> {
        let queue = Arc::new(Queue::new(options.capacity.max(1)));
        let listening = Listening::start(shared, channels, Arc::clone(&queue) as _, options)?;
        Ok(Self { queue, listening })
    }

    /// The next event, waiting for one; `None` once the link is shut down and everything was taken. Cancel safe.
    pub async fn next(&mut self) -> Option<SubscriptionEvent> {
        self.queue.pop().await
    }

    /// For changing what it wants.
    #[must_use]
    pub fn handle(&self) -> SubscriptionHandle {
        self.listening.handle()
    }
}

impl Listening {
    pub(crate) fn start(
        shared: Arc<Shared>,
        channels: &[Channel],
        listener: Arc<dyn Listener>,
        options: SubscribeOptions,
    ) -> Result<Self, Error> {
        let cluster = shared.opener.config.topology.is_cluster();
        let mut plan = Plan::new(cluster, Instant::now());
        if let Some(layout) = shared.layout.load_full() {
            // Nothing is wanted yet, so there is nothing to tell.
            plan.place(&layout, Instant::now());
        }
        let inner = Arc::new(Inner {
            listener,
            options,
            plan: Mutex::new(plan),
            wanted: watch::Sender::new(()),
            progress: watch::Sender::new(()),
            ended: shared.closing.child_token(),
        });
        inner.want(channels)?;
        let runtime = shared.runtime.clone();
        runtime.spawn(run(shared, Arc::clone(&inner), cluster));
        Ok(Self { inner })
    }

    /// For changing what it wants.
    #[must_use]
    pub fn handle(&self) -> SubscriptionHandle {
        SubscriptionHandle { inner: Arc::clone(&self.inner) }
    }
}

/// Until the subscription or the link ends.
async fn run(shared: Arc<Shared>, inner: Arc<Inner>, cluster: bool) {
    let keep = async {
        let on_shared = worker::keep(Arc::clone(&shared), Arc::clone(&inner), Seat::Shared);
        if cluster {
            tokio::join!(on_shared, shards::keep(Arc::clone(&shared), Arc::clone(&inner)));
        } else {
            on_shared.await;
        }
    };
    let _ = inner.ended.run_until_cancelled(Box::pin(keep)).await;
    inner.listener.ended();
}

impl Drop for Listening {
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
    /// back. [`Error::Acl`], [`Error::Unsupported`] (sharded channels before Redis 7.0) or another refusal that time does not mend: the refused channels are no longer wanted, unless
    /// the server took them before.
    /// [`Error::Overloaded`]: more channels than [`SubscribeOptions::max_channels`], nothing has changed.
    /// [`Error::Shutdown`] when link or subscription have ended.
    pub async fn add(&self, channels: &[Channel], deadline: Deadline) -> Result<(), Error> {
        self.inner.want(channels)?;
        self.until(deadline, |plan| match plan.outcome(channels) {
            Outcome::Taken => Ok(Ok(())),
            Outcome::Refused(error) => Ok(Err(error)),
            Outcome::Waiting(trouble) => Err(trouble),
        })
        .await?
    }

    /// Wants these channels no more, and waits until the server has confirmed that, or its connection is gone. Messages that were received
    /// before may still follow. Cancel safe: once called, the channels are not wanted.
    ///
    /// # Errors
    /// As [`add`](Self::add); the channels are not wanted in any case.
    pub async fn remove(&self, channels: &[Channel], deadline: Deadline) -> Result<(), Error> {
        self.inner.plan.lock().unwant(channels);
        self.inner.wanted.send_replace(());
        self.until(deadline, |plan| if plan.is_gone(channels) { Ok(()) } else { Err(None) }).await
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
        self.inner.plan.lock().trouble()
    }

    /// Channels and patterns wanted.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.inner.plan.lock().wanted()
    }

    /// Waits until `look` answers; else with the trouble that is in the way, if there is any.
    async fn until<T>(
        &self,
        deadline: Deadline,
        look: impl Fn(&Plan) -> Result<T, Option<(Instant, String)>>,
    ) -> Result<T, Error> {
        let started = Instant::now();
        let mut progress = self.inner.progress.subscribe();
        let answered = async {
            loop {
                progress.mark_unchanged();
                if let Ok(answer) = look(&self.inner.plan.lock()) {
                    return answer;
                }
                // Its sender lives as long as `inner`.
                let _ = progress.changed().await;
            }
        };
        let waited = tokio::select! {
            biased;
            () = self.inner.ended.cancelled() => return Err(Error::Shutdown),
            waited = deadline.run(answered) => waited,
        };
        if let Ok(answer) = waited {
            return Ok(answer);
        }
        match look(&self.inner.plan.lock()) {
            Ok(answer) => Ok(answer),
            Err(Some((at, cause))) => Err(Error::Unavailable { since: at.elapsed(), cause }),
            Err(None) => Err(Error::Timeout { operation: "SUBSCRIBE", after: started.elapsed(), sent: true }),
        }
    }
}

impl Inner {
    fn want(&self, channels: &[Channel]) -> Result<(), Error> {
        if !self.plan.lock().want(channels, self.options.max_channels) {
            return Err(Error::Overloaded);
        }
        self.wanted.send_replace(());
        Ok(())
    }

    /// Changes the plan, and tells what follows from it before anything else can.
    fn update(&self, change: impl FnOnce(&mut Plan) -> Vec<SubscriptionEvent>) {
        {
            let mut plan = self.plan.lock();
            change(&mut plan).into_iter().for_each(|event| self.listener.event(event));
        }
        self.progress.send_replace(());
    }
}
