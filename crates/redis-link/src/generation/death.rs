//! The one-way switch of a generation. It closes no connection: the monitor waits for it and does.

use parking_lot::Mutex;
use std::{
    sync::atomic::{
        AtomicBool,
        Ordering::{Acquire, Release},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// Dead or alive, why, and who wants to know.
#[derive(Debug, Default)]
pub(crate) struct Death {
    dead: AtomicBool,
    cause: Mutex<Option<(String, Instant)>>,
    notify: Notify,
}

impl Death {
    /// The first cause stays. Needs no runtime.
    pub(crate) fn kill(&self, cause: &str) {
        {
            let mut first = self.cause.lock();
            if first.is_some() {
                return;
            }
            *first = Some((cause.to_owned(), Instant::now()));
        }
        self.dead.store(true, Release);
        self.notify.notify_waiters();
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Acquire)
    }

    /// Resolves at death. Misses none that happens after the call, polled or not.
    pub(crate) async fn wait(&self) {
        let notified = self.notify.notified();
        if !self.is_dead() {
            notified.await;
        }
    }

    /// Why, and for how long.
    pub(crate) fn cause(&self) -> (String, Duration) {
        match &*self.cause.lock() {
            Some((cause, at)) => (cause.clone(), at.elapsed()),
            None => ("it is alive".to_owned(), Duration::ZERO),
        }
    }
}
