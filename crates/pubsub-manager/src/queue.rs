//! The bounded queue between the bus and one subscriber, and what happens when the subscriber is too slow. Whatever
//! is dropped is counted and told in its place.

use crate::envelope::Header;
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, Waker},
};
use tokio::sync::Notify;

/// What to do when a subscriber's queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SlowConsumer {
    /// Wait for room. Holds up the other subscribers of the same name or pattern in this process; when the bus's own
    /// queue overflows meanwhile, that is told as a gap.
    Block,
    /// Drop the oldest waiting message; the next event then is a `Gap` with their number. The default: it neither
    /// holds anybody up nor loses anything unsaid.
    #[default]
    DropOldest,
    /// End the subscription with a `Gap` as its last event.
    Disconnect,
}

/// Why messages were missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum GapCause {
    /// The connection to the bus was away.
    Reconnect,
    /// This subscriber was too slow, and its queue's policy dropped them.
    SlowConsumer,
    /// The bus's own queue in this process overflowed.
    BusOverflow,
    /// A publisher stopped announcing itself without a farewell: killed, or cut off. What it sent last is unknown.
    PublisherSilent,
    /// The publisher's numbers have a hole without a reason that is known here.
    Missed,
    /// A message that cannot be read here: not of ours, of a newer format, or of another type.
    Unreadable,
}

/// What waits in a queue.
#[derive(Debug)]
pub(crate) enum Item {
    Message { subject: Arc<str>, header: Header, payload: Bytes },
    Gap { missed: Option<u64>, cause: GapCause },
    Reconnected,
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
    /// Dropped before the first item and not told yet; and whether an uncounted gap was among it.
    untold: u64,
    untold_uncounted: bool,
    /// Dropped so far.
    dropped: u64,
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
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            match self.try_push(item) {
                Ok(dropped) => return dropped,
                Err(back) => item = back,
            }
            room.await;
        }
    }

    fn try_push(&self, item: Item) -> Result<u64, Item> {
        let mut state = self.state.lock();
        if state.ended || state.abandoned {
            return Ok(0);
        }
        let before = state.dropped;
        if matches!(item, Item::Message { .. }) && state.messages >= self.capacity {
            match self.policy {
                SlowConsumer::Block => return Err(item),
                SlowConsumer::DropOldest => state.drop_oldest(),
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
            self.room.notify_waiters();
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

    pub(crate) fn waiting(&self) -> usize {
        self.state.lock().messages
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
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
        while let Some(item) = self.items.pop_front() {
            match item {
                Item::Message { .. } => {
                    self.messages -= 1;
                    self.untold += 1;
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
        let item = self.items.pop_front()?;
        if matches!(item, Item::Message { .. }) {
            self.messages -= 1;
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests;
