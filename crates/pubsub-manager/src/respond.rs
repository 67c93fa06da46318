//! The answering end of requests.

use crate::{
    Channel, Error, HandlerLoss, HandlerOptions, Handlers, Message, PubSubManager, ReplyTo,
    handler::{Work, log_loss},
    manager::Inner,
};
use resilience::Deadline;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fmt,
    future::Future,
    sync::{Arc, Weak},
};

impl PubSubManager {
    /// Answers a request by hand; [`Channel::respond`] does it for a handler. More than one answer may be sent.
    ///
    /// Cancel safety: dropped, it may or may not have been sent.
    ///
    /// # Errors
    /// As [`Channel::publish`].
    pub async fn reply<R: Serialize>(&self, to: ReplyTo, value: &R, deadline: Deadline) -> Result<(), Error> {
        let frame = self.0.answer(to, Ok(value))?;
        self.0.send_answer(to, frame, deadline).await
    }
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Channel<T> {
    /// Answers every request on this channel with what `handler` returns; a failure or a panic is answered as such. A
    /// message that is no request is handled, too, and its outcome goes nowhere.
    ///
    /// Cancel safety: dropped, there is no subscription.
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe).
    pub async fn respond<R, F, O, E>(&self, options: HandlerOptions, handler: F) -> Result<Handlers, Error>
    where
        R: Serialize + Send + 'static,
        F: Fn(Message<T>) -> O + Send + Sync + 'static,
        O: Future<Output = Result<R, E>> + Send + 'static,
        E: fmt::Display + Send + 'static,
    {
        let subscription = self.subscribe(options.subscribe).await?;
        let manager = Arc::downgrade(self.manager());
        let handler = Arc::new(handler);
        let work = move |message: Message<T>| -> Work {
            let (to, handler) = (message.reply_to, Arc::clone(&handler));
            // In a task of its own, and called there, so that a panic has an answer as well.
            let handling = async move { handler(message).await };
            let handled = OwnTask(tokio::spawn(tracing::Instrument::in_current_span(handling)));
            Box::pin(settle(manager.clone(), to, handled))
        };
        let handlers = PubSubManager(Arc::clone(self.manager())).handlers();
        let on_loss = Arc::new(|loss: HandlerLoss| log_loss(&loss));
        handlers.employ(subscription, options.concurrency, work, on_loss);
        Ok(handlers)
    }
}

/// A task that ends with whoever waits for it.
struct OwnTask<R>(tokio::task::JoinHandle<R>);

impl<R> Drop for OwnTask<R> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn settle<R: Serialize, E: fmt::Display>(
    manager: Weak<Inner>,
    to: Option<ReplyTo>,
    mut handled: OwnTask<Result<R, E>>,
) -> Result<(), String> {
    let outcome = match (&mut handled.0).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => Err(panic.to_string()),
    };
    if let (Some(to), Some(manager)) = (to, manager.upgrade()) {
        let frame = manager.answer(to, outcome.as_ref().map_err(String::as_str));
        // An answer that cannot be written is told as well.
        let frame = frame.or_else(|error| manager.answer::<R>(to, Err(&error.to_string())));
        let failed = outcome.map(drop);
        let deadline = Deadline::after(manager.config.publish_timeout);
        let sent = async { manager.send_answer(to, frame?, deadline).await };
        sent.await.map_err(|error| format!("the answer was not sent: {error}"))?;
        return failed;
    }
    outcome.map(drop)
}
