//! Handlers at work on a subscription: how many at once, what becomes of a failure, how it ends. It does not know what a
//! handler does.

use crate::{Event, GapCause, Message, SubscribeOptions, Subscription, trace};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{runtime::Handle, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

/// How a handler works.
#[derive(Clone, Debug)]
pub struct HandlerOptions {
    /// Messages worked on at the same time. Default 1, which keeps their order.
    pub concurrency: usize,
    /// How to subscribe; what waits while the handler is busy is up to its queue.
    pub subscribe: SubscribeOptions,
}

impl Default for HandlerOptions {
    fn default() -> Self {
        Self { concurrency: 1, subscribe: SubscribeOptions::default() }
    }
}

/// Messages that a handler did not get.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HandlerLoss {
    /// The name or pattern that it is subscribed to.
    pub filter: String,
    /// How many; `None` where that cannot be known.
    pub missed: Option<u64>,
    /// Why.
    pub cause: GapCause,
}

/// What handlers have done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HandlerStats {
    /// Messages handled.
    pub handled: u64,
    /// Of them, those whose handler failed or panicked.
    pub failed: u64,
    /// Losses told.
    pub losses: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Tally {
    handled: AtomicU64,
    failed: AtomicU64,
    losses: AtomicU64,
}

pub(crate) type Work = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;
pub(crate) type OnLoss = dyn Fn(HandlerLoss) + Send + Sync;

/// Handlers at work. Dropping it ends them at once, in the middle of what they do; [`shutdown`](Self::shutdown) lets them
/// finish.
#[derive(Debug)]
pub struct Handlers {
    stop: CancellationToken,
    abort: CancellationToken,
    tasks: TaskTracker,
    runtime: Handle,
    tally: Arc<Tally>,
}

impl Handlers {
    pub(crate) fn new(runtime: Handle, stop: &CancellationToken) -> Self {
        let (tasks, tally) = (TaskTracker::new(), Arc::default());
        Self { stop: stop.child_token(), abort: CancellationToken::new(), tasks, runtime, tally }
    }

    /// Puts `handler` to work on `subscription`, in a task of its own.
    pub(crate) fn employ<T: DeserializeOwned + Send + 'static>(
        &self,
        subscription: Subscription<T>,
        concurrency: usize,
        handler: impl Fn(Message<T>) -> Work + Send + Sync + 'static,
        on_loss: Arc<OnLoss>,
    ) {
        let (stop, tally) = (self.stop.clone(), Arc::clone(&self.tally));
        let work = work(subscription, concurrency.max(1), Arc::new(handler), on_loss, stop, tally);
        let abort = self.abort.clone();
        let until = async move {
            // `None`: ended in the middle.
            let _ended = abort.run_until_cancelled(work).await;
        };
        self.tasks.spawn_on(until, &self.runtime);
    }

    /// What they have done so far.
    #[must_use]
    pub fn stats(&self) -> HandlerStats {
        let Tally { handled, failed, losses } = &*self.tally;
        HandlerStats {
            handled: handled.load(Relaxed),
            failed: failed.load(Relaxed),
            losses: losses.load(Relaxed),
        }
    }

    /// Takes no more messages, waits up to `grace` for those worked on, and ends what is left.
    ///
    /// Cancel safety: no more messages are taken, and what is worked on ends at once.
    pub async fn shutdown(self, grace: Duration) {
        self.stop.cancel();
        self.tasks.close();
        let _late = tokio::time::timeout(grace, self.tasks.wait()).await;
    }
}

impl Drop for Handlers {
    fn drop(&mut self) {
        self.stop.cancel();
        self.abort.cancel();
    }
}

/// Until the subscription ends or `stop`; dropped, it ends what is worked on.
async fn work<T: DeserializeOwned + Send + 'static>(
    mut subscription: Subscription<T>,
    concurrency: usize,
    handler: Arc<impl Fn(Message<T>) -> Work + Send + Sync + 'static>,
    on_loss: Arc<OnLoss>,
    stop: CancellationToken,
    tally: Arc<Tally>,
) {
    let filter = subscription.filter().to_string();
    let mut busy = JoinSet::new();
    loop {
        let event = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(done) = busy.join_next() => {
                finished(&tally, &filter, &done);
                continue;
            }
            event = subscription.next(), if busy.len() < concurrency => event,
        };
        match event {
            None => break,
            Some(Event::Reconnected) => {}
            Some(Event::Gap { missed, cause }) => {
                tally.losses.fetch_add(1, Relaxed);
                let loss = HandlerLoss { filter: filter.clone(), missed, cause };
                if catch_unwind(AssertUnwindSafe(|| on_loss(loss))).is_err() {
                    tracing::error!(filter, "the hook that is told of losses panicked");
                }
            }
            Some(Event::Message(message)) => {
                let span = trace::process(&message.subject, &message.id, message.trace);
                let handler = Arc::clone(&handler);
                // Called in its task: it may panic before there is a future, too, and the others must not notice.
                busy.spawn(async move { handler(message).await }.instrument(span));
            }
        }
    }
    drop(subscription);
    while let Some(done) = busy.join_next().await {
        finished(&tally, &filter, &done);
    }
}

fn finished(tally: &Tally, filter: &str, done: &Result<Result<(), String>, tokio::task::JoinError>) {
    tally.handled.fetch_add(1, Relaxed);
    let error: &dyn fmt::Display = match done {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error,
        Err(panic) => panic,
    };
    tally.failed.fetch_add(1, Relaxed);
    tracing::warn!(filter, %error, "a message's handler failed");
}

/// Told where nobody asked to be told otherwise.
pub(crate) fn log_loss(loss: &HandlerLoss) {
    let HandlerLoss { filter, missed, cause } = loss;
    tracing::warn!(%filter, ?missed, ?cause, "messages were missed");
}
