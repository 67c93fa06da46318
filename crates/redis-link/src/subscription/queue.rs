//! The queue between a subscription's worker and its consumer: bounded, never blocking the worker, never silent about
//! what it dropped.

use super::SubscriptionEvent;
use crate::Channel;
use parking_lot::Mutex;
use std::collections::{HashSet, VecDeque};
use tokio::sync::Notify;

#[derive(Debug)]
pub(super) struct Queue {
    capacity: usize,
    state: Mutex<State>,
    /// One consumer waits.
    filled: Notify,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<SubscriptionEvent>,
    closed: bool,
}

impl Queue {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, state: Mutex::default(), filled: Notify::new() }
    }

    /// A message, or one more that was missed if the queue is full.
    pub(super) fn push_message(&self, message: SubscriptionEvent) {
        {
            let mut state = self.state.lock();
            if state.events.len() >= self.capacity {
                Self::count(&mut state, 1);
            } else {
                state.events.push_back(message);
            }
        }
        self.filled.notify_one();
    }

    /// Messages that were missed before they came here.
    pub(super) fn push_missed(&self, missed: u64) {
        Self::count(&mut self.state.lock(), missed);
        self.filled.notify_one();
    }

    /// Always goes in. A full queue is bounded all the same: an outage after an unread one, without a message in between,
    /// continues it.
    pub(super) fn push_lost(&self, cause: String) {
        {
            let mut state = self.state.lock();
            let message = |event: &SubscriptionEvent| matches!(event, SubscriptionEvent::Message { .. });
            let news = state.events.iter().rposition(message).map_or(0, |last| last + 1);
            let unread =
                state.events.iter().skip(news).position(|e| matches!(e, SubscriptionEvent::Lost { .. }));
            match unread {
                Some(lost) if state.events.len() >= self.capacity => {
                    let (mut missed, mut shards) = (0, Vec::new());
                    for event in state.events.drain(news + lost + 1..) {
                        match event {
                            SubscriptionEvent::Overflow { missed: more } => missed += more,
                            SubscriptionEvent::ShardsLost { .. }
                            | SubscriptionEvent::ShardsRestored { .. } => {
                                shards.push(event);
                            }
                            _ => {}
                        }
                    }
                    state.events.extend(shards);
                    if missed > 0 {
                        Self::count(&mut state, missed);
                    }
                }
                _ => state.events.push_back(SubscriptionEvent::Lost { cause }),
            }
        }
        self.filled.notify_one();
    }

    /// Always goes in. In a full queue it continues an unread loss of the same channels, likewise.
    pub(super) fn push_shards_lost(&self, channels: &[Channel], cause: String) {
        {
            let mut state = self.state.lock();
            if state.events.len() >= self.capacity {
                Self::merge_losses(&mut state, channels, cause);
            } else {
                let channels = channels.to_vec();
                state.events.push_back(SubscriptionEvent::ShardsLost { channels, cause });
            }
        }
        self.filled.notify_one();
    }

    /// Behind the last message, only the first loss of each of these channels remains.
    fn merge_losses(state: &mut State, channels: &[Channel], cause: String) {
        let message = |event: &SubscriptionEvent| matches!(event, SubscriptionEvent::Message { .. });
        let news = state.events.iter().rposition(message).map_or(0, |last| last + 1);
        let mut new: HashSet<_> = channels.iter().cloned().collect();
        let all = new.clone();
        for event in state.events.iter_mut().skip(news) {
            match event {
                SubscriptionEvent::ShardsLost { channels, .. } => {
                    channels.retain(|channel| !all.contains(channel) || new.remove(channel));
                }
                SubscriptionEvent::ShardsRestored { channels } => {
                    // One whose loss was read already has to be told.
                    channels.retain(|channel| !all.contains(channel) || new.contains(channel));
                }
                _ => {}
            }
        }
        let empty = |event: &SubscriptionEvent| match event {
            SubscriptionEvent::ShardsLost { channels, .. }
            | SubscriptionEvent::ShardsRestored { channels } => channels.is_empty(),
            _ => false,
        };
        state.events.retain(|event| !empty(event));
        if !new.is_empty() {
            let channels = new.into_iter().collect();
            state.events.push_back(SubscriptionEvent::ShardsLost { channels, cause });
        }
    }

    /// Always goes in: there is at most one for each loss.
    pub(super) fn push(&self, event: SubscriptionEvent) {
        self.state.lock().events.push_back(event);
        self.filled.notify_one();
    }

    /// No more events come.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.filled.notify_one();
    }

    /// Cancel safe: an event is taken only when it is returned.
    pub(super) async fn pop(&self) -> Option<SubscriptionEvent> {
        loop {
            let filled = self.filled.notified();
            {
                let mut state = self.state.lock();
                if let Some(event) = state.events.pop_front() {
                    return Some(event);
                }
                if state.closed {
                    return None;
                }
            }
            filled.await;
        }
    }

    fn count(state: &mut State, more: u64) {
        match state.events.back_mut() {
            Some(SubscriptionEvent::Overflow { missed }) => *missed += more,
            _ => state.events.push_back(SubscriptionEvent::Overflow { missed: more }),
        }
    }
}

#[cfg(test)]
mod tests;
