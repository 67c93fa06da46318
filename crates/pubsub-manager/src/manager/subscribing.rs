//! Subscribing: the names and patterns of this process, each with one source for all of its subscribers.

use super::Inner;
use crate::{
    Error, Filter, SubscribeOptions, Subscription,
    queue::Queue,
    source::{Feed, Source},
};
use resilience::Deadline;
use serde::de::DeserializeOwned;
use std::sync::{Arc, Weak};
use tokio::time::Instant;

impl Inner {
    pub(crate) async fn subscribe<T: DeserializeOwned>(
        self: &Arc<Self>,
        filter: Filter,
        options: SubscribeOptions,
    ) -> Result<Subscription<T>, Error> {
        let (bus, started) = (self.bus("subscribe")?, Instant::now());
        let deadline = options.deadline.unwrap_or_else(|| Deadline::after(self.config.subscribe_timeout));
        let queue = Arc::new(Queue::new(options.capacity, options.slow_consumer));
        let source = self.attach(filter, Arc::clone(&queue))?;
        // Dropped in reverse order, also when this future is: first the subscriber leaves, then an unconfirmed source.
        let _forget = Forget { inner: self, source: Arc::clone(&source) };
        let subscription = Subscription::new(queue, Arc::clone(&source));
        let confirmed = source.confirmed.get_or_try_init(|| async {
            let stream = bus.subscribe(&source.filter, deadline).await?;
            let feed = Feed {
                source: Arc::clone(&source),
                announce_every: self.config.announce_every,
                counts: Arc::clone(&self.counts),
                latency: self.latency.clone(),
                stop: self.stop.clone(),
            };
            let (inner, last) = (Arc::downgrade(self), Arc::downgrade(self));
            let run =
                feed.run(stream, move |source| unused(&inner, source), move |source| ended(&last, source));
            self.spawn(run);
            Ok::<(), Error>(())
        });
        let failed = match deadline.run(confirmed).await {
            Ok(Ok(_)) => return Ok(subscription),
            Ok(Err(error)) => error,
            Err(_) => Error::Timeout { operation: "subscribe", after: started.elapsed() },
        };
        Err(failed)
    }

    fn attach(&self, filter: Filter, queue: Arc<Queue>) -> Result<Arc<Source>, Error> {
        let mut sources = self.sources.lock();
        let open: usize = sources.values().map(|source| source.subscribers.lock().len()).sum();
        if open >= self.config.max_subscriptions {
            return Err(Error::Limit { what: "subscriptions", limit: self.config.max_subscriptions });
        }
        let source = sources.entry(filter).or_insert_with_key(|filter| Arc::new(Source::new(filter.clone())));
        source.subscribers.lock().push(queue);
        Ok(Arc::clone(source))
    }
}

/// Forgets a source that was never confirmed and has no subscriber.
struct Forget<'a> {
    inner: &'a Inner,
    source: Arc<Source>,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let mut sources = self.inner.sources.lock();
        let current = sources.get(&self.source.filter).is_some_and(|s| Arc::ptr_eq(s, &self.source));
        if current && !self.source.confirmed.initialized() && self.source.subscribers.lock().is_empty() {
            sources.remove(&self.source.filter);
        }
    }
}

/// Ends a source with its feed: its subscribers get to their end, and whoever subscribes from now on gets a new one.
/// Under the lock under which subscribers attach, so none is left behind.
fn ended(inner: &Weak<Inner>, source: &Arc<Source>) {
    let inner = inner.upgrade();
    let mut sources = inner.as_ref().map(|inner| inner.sources.lock());
    for queue in source.subscribers.lock().drain(..) {
        queue.end();
    }
    if let Some(sources) = &mut sources
        && sources.get(&source.filter).is_some_and(|current| Arc::ptr_eq(current, source))
    {
        sources.remove(&source.filter);
    }
}

/// Forgets a source that nobody listens to any more. Under the lock under which subscribers attach, so none is lost.
fn unused(inner: &Weak<Inner>, source: &Arc<Source>) -> bool {
    let Some(inner) = inner.upgrade() else { return true };
    let mut sources = inner.sources.lock();
    let mut subscribers = source.subscribers.lock();
    subscribers.retain(|queue| queue.is_open());
    if !subscribers.is_empty() {
        return false;
    }
    if sources.get(&source.filter).is_some_and(|current| Arc::ptr_eq(current, source)) {
        sources.remove(&source.filter);
    }
    true
}
