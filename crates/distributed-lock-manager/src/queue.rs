//! Who waits for which lock in this process. Only the first of a queue talks to the store; a release heard from
//! anywhere wakes it. It knows no store and no lease.

use crate::LockError;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Weak},
};
use tokio::{sync::Notify, time::Instant};

/// Where a backend reports released locks. Cheap to clone; does not keep the manager alive.
#[derive(Clone, Debug)]
pub struct Wakes(Weak<Queues>);

/// All queues of one manager.
#[derive(Debug)]
pub(crate) struct Queues {
    max_waiters: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queues: HashMap<Arc<str>, VecDeque<Arc<Waiter>>>,
    waiting: usize,
}

#[derive(Debug, Default)]
struct Waiter {
    signal: Mutex<Signal>,
    notify: Notify,
}

/// What a waiter was told last.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Signal {
    /// Nothing.
    #[default]
    None,
    /// "You are the first now, and this process took the lock just now, until about then": no need to ask.
    HeldUntil(Instant),
    /// "Ask."
    Retry,
}

impl Wakes {
    pub(crate) fn new(queues: &Arc<Queues>) -> Self {
        Self(Arc::downgrade(queues))
    }

    /// Whether the manager has gone, so that nobody listens any more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }

    /// The lock `name` was released.
    pub fn wake(&self, name: &str) {
        let Some(queues) = self.0.upgrade() else { return };
        if let Some(first) = queues.state.lock().queues.get(name).and_then(VecDeque::front) {
            first.tell(Signal::Retry);
        }
    }

    /// Any lock may have been released: wakes were missed.
    pub fn wake_all(&self) {
        let Some(queues) = self.0.upgrade() else { return };
        for queue in queues.state.lock().queues.values() {
            if let Some(first) = queue.front() {
                first.tell(Signal::Retry);
            }
        }
    }
}

impl Queues {
    pub(crate) fn new(max_waiters: usize) -> Arc<Self> {
        Arc::new(Self { max_waiters, state: Mutex::default() })
    }

    pub(crate) fn waiting(&self) -> usize {
        self.state.lock().waiting
    }

    /// Takes the last place; `true` if it is also the first.
    pub(crate) fn join(self: &Arc<Self>, name: &Arc<str>) -> Result<(Place, bool), LockError> {
        let mut state = self.state.lock();
        if state.waiting >= self.max_waiters {
            return Err(LockError::TooManyWaiters { limit: self.max_waiters });
        }
        state.waiting += 1;
        let waiter = Arc::new(Waiter::default());
        let queue = state.queues.entry(Arc::clone(name)).or_default();
        queue.push_back(Arc::clone(&waiter));
        let first = queue.len() == 1;
        Ok((
            Place { queues: Arc::clone(self), name: Arc::clone(name), waiter, next_hears: Signal::Retry },
            first,
        ))
    }
}

impl Waiter {
    fn tell(&self, told: Signal) {
        let mut signal = self.signal.lock();
        // A release heard meanwhile must not be covered up.
        if *signal != Signal::Retry {
            *signal = told;
        }
        drop(signal);
        self.notify.notify_one();
    }
}

/// A place in a queue; dropping it leaves the queue and tells the next one.
#[derive(Debug)]
pub(crate) struct Place {
    queues: Arc<Queues>,
    name: Arc<str>,
    waiter: Arc<Waiter>,
    next_hears: Signal,
}

impl Place {
    /// Until something is told. Cancel safe.
    pub(crate) async fn told(&self) -> Signal {
        loop {
            let signal = std::mem::take(&mut *self.waiter.signal.lock());
            if signal != Signal::None {
                return signal;
            }
            self.waiter.notify.notified().await;
        }
    }

    /// Leaves with the lock in hand: the next one need not ask before `until`.
    pub(crate) fn leave_as_holder(mut self, until: Instant) {
        self.next_hears = Signal::HeldUntil(until);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.queues.state.lock();
        state.waiting -= 1;
        let Some(queue) = state.queues.get_mut(&self.name) else { return };
        let Some(index) = queue.iter().position(|waiter| Arc::ptr_eq(waiter, &self.waiter)) else { return };
        queue.remove(index);
        match queue.front() {
            None => {
                state.queues.remove(&self.name);
            }
            // Whoever leaves from the front without the lock may take a wake with him: the next one asks.
            Some(first) if index == 0 => first.tell(self.next_hears),
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
