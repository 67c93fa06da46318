//! The bounded queue between the bus and one subscriber, and what happens when the subscriber is too slow. Whatever
//! is dropped is counted and told in its place.

mod policy;

pub use policy::{ConflateBy, GapCause, SlowConsumer};

use crate::envelope::Header;
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    task::{Context, Poll, Waker},
};
use tokio::sync::Notify;

/// What waits in a queue.
#[derive(Debug)]
pub(crate) enum Item {
    Message(Received),
    Gap { missed: Option<u64>, cause: GapCause },
    Reconnected,
}

/// A message as it came.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) subject: Arc<str>,
    /// `None`: raw.
    pub(crate) header: Option<Header>,
    pub(crate) payload: Bytes,
    /// Older ones of its key that it stands for.
    pub(crate) conflated: u64,
}

/// One subscriber's queue: many may push, one takes.
#[derive(Debug)]
pub(crate) struct Queue {
    capacity: usize,
    policy: SlowConsumer,
    state: Mutex<State>,
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Item>,
    /// Messages among the items.
    messages: usize,
    /// Items taken or dropped from the front so far: a place in `keys` minus this is an index.
    gone: u64,
    /// Where the message of a key waits; of [`SlowConsumer::Conflate`] alone.
    keys: HashMap<String, u64>,
    /// Dropped before the first item and not told yet; and whether an uncounted gap was among it.
    untold: u64,
    untold_uncounted: bool,
    /// Dropped, and conflated, so far.
    dropped: u64,
    conflated: u64,
    /// No more items come.
    ended: bool,
    /// Nobody takes any more.
    abandoned: bool,
    waker: Option<Waker>,
}

impl Queue {
    pub(crate) fn new(capacity: usize, policy: SlowConsumer) -> Self {
        Self { capacity: capacity.max(1), policy, state: Mutex::default(), room: Notify::new() }
    }

    /// Waits only under [`SlowConsumer::Block`]. Returns how many messages it dropped.
    pub(crate) async fn push(&self, item: Item) -> u64 {
        let mut item = item;
        loop {
            let full = match self.try_push(item) {
                Ok(dropped) => return dropped,
                Err(back) => back,
            };
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            // Once more: there may have been room before it listened.
            match self.try_push(full) {
                Ok(dropped) => return dropped,
                Err(back) => item = back,
            }
            room.await;
        }
    }

    fn try_push(&self, item: Item) -> Result<u64, Item> {
        let key = match (&self.policy, &item) {
            (SlowConsumer::Conflate(by), Item::Message(message)) => by.key(message),
            _ => None,
        };
        let mut state = self.state.lock();
        if state.ended || state.abandoned {
            return Ok(0);
        }
        let item = match (key, item) {
            (Some(key), Item::Message(message)) => match state.conflate(key, message) {
                Some(message) => Item::Message(message),
                None => return Ok(0),
            },
            (_, item) => item,
        };
        let before = state.dropped;
        if matches!(item, Item::Message { .. }) && state.messages >= self.capacity {
            match self.policy {
                SlowConsumer::Block => return Err(item),
                SlowConsumer::DropOldest | SlowConsumer::Conflate(_) => state.drop_oldest(),
                SlowConsumer::Disconnect => {
                    let missed = Item::Gap { missed: None, cause: GapCause::SlowConsumer };
                    state.items.push_back(missed);
                    state.dropped += 1;
                    state.ended = true;
                    state.wake();
                    return Ok(1);
                }
            }
        }
        state.append(item, self.capacity);
        state.wake();
        Ok(state.dropped - before)
    }

    /// The next item; `None` at the end.
    pub(crate) fn poll_take(&self, context: &mut Context<'_>) -> Poll<Option<Item>> {
        let mut state = self.state.lock();
        if let Some(item) = state.take() {
            drop(state);
            if matches!(self.policy, SlowConsumer::Block) {
                self.room.notify_waiters();
            }
            return Poll::Ready(Some(item));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// Nothing more will be pushed; what waits may still be taken.
    pub(crate) fn end(&self) {
        let mut state = self.state.lock();
        state.ended = true;
        state.wake();
    }

    /// Nobody will take any more.
    pub(crate) fn abandon(&self) {
        {
            let mut state = self.state.lock();
            state.abandoned = true;
            state.items.clear();
            state.keys.clear();
        }
        self.room.notify_waiters();
    }

    pub(crate) fn is_open(&self) -> bool {
        let state = self.state.lock();
        !state.ended && !state.abandoned
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.state.lock().dropped
    }

    pub(crate) fn conflated(&self) -> u64 {
        self.state.lock().conflated
    }

    pub(crate) fn waiting(&self) -> usize {
        self.state.lock().messages
    }

    pub(crate) const fn policy(&self) -> &SlowConsumer {
        &self.policy
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Takes the place of the message of the same key that waits; else gives it back and remembers where it will wait.
    fn conflate(&mut self, key: String, message: Received) -> Option<Received> {
        let next = self.gone + self.items.len() as u64;
        let place = self.keys.entry(key).or_insert(next);
        let index = place.checked_sub(self.gone).and_then(|index| usize::try_from(index).ok());
        if let Some(Item::Message(old)) = index.and_then(|index| self.items.get_mut(index)) {
            *old = Received { conflated: old.conflated + 1, ..message };
            self.conflated += 1;
            return None;
        }
        *place = next;
        Some(message)
    }

    fn append(&mut self, item: Item, capacity: usize) {
        match (&item, self.items.back_mut()) {
            (Item::Message { .. }, _) => self.messages += 1,
            // Neighbouring gaps of one cause are one gap.
            (
                Item::Gap { missed: Some(more), cause },
                Some(Item::Gap { missed: Some(missed), cause: last }),
            ) if cause == last => {
                *missed += more;
                return;
            }
            (Item::Gap { missed: None, cause }, Some(Item::Gap { missed: None, cause: last }))
                if cause == last =>
            {
                return;
            }
            (Item::Reconnected, Some(Item::Reconnected)) => return,
            _ => {}
        }
        // Gaps and reconnects are few, but a dead consumer must not collect them for ever.
        if self.items.len() >= capacity.saturating_mul(2).saturating_add(16) {
            self.drop_oldest();
        }
        self.items.push_back(item);
    }

    /// Drops up to and with the oldest message.
    fn drop_oldest(&mut self) {
        while let Some(item) = self.pop_front() {
            match item {
                Item::Message(message) => {
                    self.untold += 1 + message.conflated;
                    self.dropped += 1;
                    return;
                }
                Item::Gap { missed: Some(missed), .. } => self.untold += missed,
                Item::Gap { missed: None, .. } => self.untold_uncounted = true,
                Item::Reconnected => {}
            }
        }
    }

    fn take(&mut self) -> Option<Item> {
        if self.untold > 0 {
            let missed = Some(std::mem::take(&mut self.untold));
            return Some(Item::Gap { missed, cause: GapCause::SlowConsumer });
        }
        if std::mem::take(&mut self.untold_uncounted) {
            return Some(Item::Gap { missed: None, cause: GapCause::SlowConsumer });
        }
        self.pop_front()
    }

    fn pop_front(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        self.gone += 1;
        self.messages -= usize::from(matches!(item, Item::Message(_)));
        // One pass for as many as have gone: a key costs what its message did.
        if self.keys.len() > 2 * self.items.len() + 16 {
            let gone = self.gone;
            self.keys.retain(|_, place| *place >= gone);
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests;
