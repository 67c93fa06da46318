//! A function that is run for every message of a group: acknowledged on `Ok`, tried again on `Err` and on a panic, a dead
//! letter after the last attempt.

use super::{Consumer, Delivery, DurableEvent, DurableMessage, Loss};
use serde::de::DeserializeOwned;
use std::{fmt, future::Future, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    task::{JoinError, JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

/// For what is being taken and settled when the last message has been handled.
const LAST: Duration = Duration::from_secs(2);

/// A running handler. Dropping it ends it as [`shutdown`](Self::shutdown) does, without waiting.
#[derive(Debug)]
pub struct DurableHandler {
    stop: CancellationToken,
    abort: CancellationToken,
    done: CancellationToken,
    losses: watch::Receiver<(u64, Option<Loss>)>,
}

impl Drop for DurableHandler {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl DurableHandler {
    /// Takes nothing more and waits up to `grace` for the messages being handled; what is not done by then is dropped, and
    /// delivered again.
    ///
    /// Cancel safety: the end has begun and goes on, without the limit.
    pub async fn shutdown(self, grace: Duration) {
        self.stop.cancel();
        if tokio::time::timeout(grace, self.done.cancelled()).await.is_err() {
            self.abort.cancel();
        }
    }

    /// How often the group was told of a loss here, and of what kind the latest was.
    #[must_use]
    pub fn losses(&self) -> (u64, Option<Loss>) {
        *self.losses.borrow()
    }

    /// Resolves at the next loss; `None` once the handler has ended.
    ///
    /// Cancel safety: safe. Losses that come together may be one: [`losses`](Self::losses) counts them.
    pub async fn lost(&mut self) -> Option<Loss> {
        self.losses.changed().await.ok()?;
        self.losses.borrow_and_update().1
    }

    /// What runs the handler; `spawn` is where.
    pub(super) fn start<T, F, Fut, E>(
        consumer: Consumer<T>,
        concurrency: usize,
        stop: CancellationToken,
        handle: F,
        spawn: impl FnOnce(std::pin::Pin<Box<dyn Future<Output = ()> + Send>>),
    ) -> Self
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(DurableMessage<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display + Send + 'static,
    {
        let (told, losses) = watch::channel((0, None));
        let (abort, done) = (CancellationToken::new(), CancellationToken::new());
        let handler = Self { stop: stop.clone(), abort: abort.clone(), done: done.clone(), losses };
        spawn(Box::pin(async move {
            let _done = done.drop_guard();
            run(consumer, concurrency, (stop, abort), Arc::new(handle), told).await;
        }));
        handler
    }
}

async fn run<T, F, Fut, E>(
    mut consumer: Consumer<T>,
    concurrency: usize,
    (stop, abort): (CancellationToken, CancellationToken),
    handle: Arc<F>,
    told: watch::Sender<(u64, Option<Loss>)>,
) where
    T: DeserializeOwned + Send + 'static,
    F: Fn(DurableMessage<T>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), E>> + Send + 'static,
    E: fmt::Display + Send + 'static,
{
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = running.join_next() => {}
            event = consumer.next(), if running.len() < concurrency => match event {
                None => break,
                Some(DurableEvent::Message(delivery)) => {
                    running.spawn(attempt(delivery, Arc::clone(&handle)));
                }
                Some(DurableEvent::Lost(loss)) => {
                    tracing::warn!(?loss, consumer = consumer.name(), "messages of a durable channel may be lost");
                    told.send_modify(|(count, latest)| (*count, *latest) = (*count + 1, Some(loss)));
                }
            },
        }
    }
    // What was not handed out goes to others at once.
    consumer.end();
    let rest = async { while running.join_next().await.is_some() {} };
    tokio::select! {
        () = rest => {}
        () = abort.cancelled() => running.shutdown().await,
    }
    consumer.shutdown(LAST).await;
}

async fn attempt<T, F, Fut, E>(delivery: Delivery<T>, handle: Arc<F>)
where
    T: Send + 'static,
    F: Fn(DurableMessage<T>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), E>> + Send + 'static,
    E: fmt::Display + Send + 'static,
{
    let Delivery { message, duty } = delivery;
    let id = message.id;
    // In a task of its own, so that a panic is an outcome; the function itself may panic as well as its future.
    let mut handling = AbortOnDrop(tokio::spawn(async move {
        let outcome = handle(message).await;
        outcome.map_err(|error| error.to_string())
    }));
    let outcome = match (&mut handling.0).await {
        Ok(outcome) => outcome,
        Err(error) => Err(panicked(error)),
    };
    if let Err(reason) = &outcome {
        tracing::debug!(%id, reason, "a message could not be handled");
    }
    duty.handled(outcome).await;
}

fn panicked(error: JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return "the handler was ended".to_owned() };
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("the handler panicked: {}", text.as_deref().unwrap_or("without words"))
}

struct AbortOnDrop(JoinHandle<Result<(), String>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
