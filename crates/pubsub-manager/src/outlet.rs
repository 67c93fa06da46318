//! The publishing end of one channel: its counter and what waits to be sent. One frame is under way at a time, so
//! the numbers arrive in order, and what is known not to have been sent takes no number.

use crate::{
    Bus, Codec, Error, Lane, MessageId, PublisherId, Subject, TraceContext,
    envelope::{self, Header, Kind},
};
use bytes::BytesMut;
use parking_lot::Mutex;
use resilience::Deadline;
use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{sync::oneshot, time::Instant};

/// One message on its way.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) kind: Kind,
    pub(crate) codec: Codec,
    pub(crate) payload: Vec<u8>,
    pub(crate) trace: Option<TraceContext>,
    pub(crate) deadline: Deadline,
    pub(crate) reply: oneshot::Sender<Result<Published, Error>>,
}

/// A message that the bus has accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The message's name.
    pub id: MessageId,
    /// Subscriptions that the bus handed it to, where the bus knows; processes, not subscribers.
    pub receivers: Option<u64>,
}

/// Bounds of an outlet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutletLimits {
    pub(crate) pending: usize,
    pub(crate) frame_bytes: usize,
    pub(crate) announce_timeout: Duration,
}

/// The publishing end of one channel.
#[derive(Debug)]
pub(crate) struct Outlet {
    lane: Lane,
    subject: Subject,
    publisher: PublisherId,
    epoch: u32,
    limits: OutletLimits,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The last number given.
    last: u64,
    pending: VecDeque<Outgoing>,
    tell: Option<Kind>,
    sending: bool,
    ended: bool,
    used: Instant,
}

/// What one round sends. Dropped before its answer came, it may have been sent.
struct Round {
    frame: BytesMut,
    first: u64,
    replies: Vec<oneshot::Sender<Result<Published, Error>>>,
    deadline: Deadline,
}

impl Drop for Round {
    fn drop(&mut self) {
        for reply in self.replies.drain(..) {
            let _gone = reply.send(Err(Error::Unknown { operation: "publish" }));
        }
    }
}

impl Outlet {
    pub(crate) fn new(
        (lane, subject): (Lane, Subject),
        publisher: PublisherId,
        epoch: u32,
        limits: OutletLimits,
    ) -> Self {
        let pending = VecDeque::new();
        let state =
            State { last: 0, pending, tell: None, sending: false, ended: false, used: Instant::now() };
        Self { lane, subject, publisher, epoch, limits, state: Mutex::new(state) }
    }

    /// Queues a message. `Ok(true)`: the caller has to have [`drain`](Self::drain) run.
    /// The message comes back when the outlet has ended and another one is to be used.
    pub(crate) fn queue(&self, message: Outgoing) -> Result<bool, Refused> {
        let mut state = self.state.lock();
        if state.ended {
            return Err(Refused::Ended(message));
        }
        if state.pending.len() >= self.limits.pending {
            return Err(Refused::Full);
        }
        state.pending.push_back(message);
        state.used = Instant::now();
        Ok(!std::mem::replace(&mut state.sending, true))
    }

    /// Has the last number told. `true`: as in [`queue`](Self::queue).
    pub(crate) fn announce(&self) -> bool {
        let mut state = self.state.lock();
        // A message under way tells the number as well; a farewell is not taken back.
        if state.sending || state.last == 0 || state.tell.is_some() {
            return false;
        }
        state.tell = Some(Kind::Announcement);
        state.sending = true;
        true
    }

    /// Ends the counter if it has been idle for `idle`; `None`: it is in use, `Some(true)`: as in `queue`.
    pub(crate) fn retire(&self, idle: Duration) -> Option<bool> {
        let mut state = self.state.lock();
        if state.sending || !state.pending.is_empty() || state.used.elapsed() < idle {
            return None;
        }
        state.ended = true;
        if state.last == 0 {
            return Some(false);
        }
        state.tell = Some(Kind::Farewell);
        state.sending = true;
        Some(true)
    }

    /// Ends the counter whatever waits: that is sent first, the farewell last. `true`: as in [`queue`](Self::queue).
    pub(crate) fn end(&self) -> bool {
        let mut state = self.state.lock();
        state.ended = true;
        if state.last == 0 && state.pending.is_empty() && !state.sending {
            return false;
        }
        state.tell = Some(Kind::Farewell);
        !std::mem::replace(&mut state.sending, true)
    }

    /// The last number given, and how many wait.
    pub(crate) fn progress(&self) -> (u64, usize) {
        let state = self.state.lock();
        (state.last, state.pending.len())
    }

    /// Sends until nothing waits.
    pub(crate) async fn drain(self: Arc<Self>, bus: Arc<dyn Bus>) {
        while self.step(&bus).await {}
    }

    /// Sends one frame; `false`: nothing waited, and whoever queues the next message has to have it sent.
    ///
    /// Dropped in the middle, what was in the frame may have been sent, and the rest waits for another call.
    pub(crate) async fn step(&self, bus: &Arc<dyn Bus>) -> bool {
        let Some(mut round) = self.next_round() else { return false };
        let frame = std::mem::take(&mut round.frame).freeze();
        let result = bus.publish(self.lane, &self.subject, frame, round.deadline).await;
        if let Err(error) = &result
            && !error.may_have_happened()
        {
            // Certainly not sent: the numbers are given again.
            self.state.lock().last = round.first - 1;
        }
        for (sequence, reply) in (round.first..).zip(round.replies.drain(..)) {
            let id = MessageId { publisher: self.publisher, epoch: self.epoch, sequence };
            let answer = match &result {
                Ok(receivers) => Ok(Published { id, receivers: *receivers }),
                Err(error) => Err(error.clone()),
            };
            // Whoever went away wanted no answer.
            let _gone = reply.send(answer);
        }
        true
    }

    /// To be asked by whose turn it is alone. Whether something waits; if not, whoever queues the next message has to have it sent.
    pub(crate) fn has_more(&self) -> bool {
        let mut state = self.state.lock();
        state.sending = !state.pending.is_empty() || state.tell.is_some();
        state.sending
    }

    fn next_round(&self) -> Option<Round> {
        let mut state = self.state.lock();
        let first = state.last + 1;
        let mut round = Round {
            frame: BytesMut::new(),
            first,
            replies: Vec::new(),
            deadline: Deadline::after(Duration::ZERO),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let published_at = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let id = |sequence| MessageId { publisher: self.publisher, epoch: self.epoch, sequence };
        while let Some(message) = state.pending.front() {
            let size = round.frame.len() + envelope::HEADER_BYTES + message.payload.len();
            if !round.replies.is_empty() && size > self.limits.frame_bytes {
                break;
            }
            let Some(message) = state.pending.pop_front() else { break };
            if message.deadline.is_expired() || message.reply.is_closed() {
                // Its caller has been answered by the deadline, or has gone: nothing is sent.
                continue;
            }
            state.last += 1;
            let (kind, codec, trace) = (message.kind, message.codec, message.trace);
            let header = Header { kind, codec, id: id(state.last), published_at, trace };
            envelope::encode(&mut round.frame, &header, &message.payload);
            if message.deadline.remaining() > round.deadline.remaining() {
                round.deadline = message.deadline;
            }
            round.replies.push(message.reply);
        }
        if round.replies.is_empty() {
            // Whoever has sent nothing has nothing to tell.
            let Some(kind) = state.tell.take().filter(|_| state.last > 0) else {
                state.sending = false;
                return None;
            };
            let header =
                Header { kind, codec: Codec::default(), id: id(state.last), published_at, trace: None };
            envelope::encode(&mut round.frame, &header, &[]);
            round.deadline = Deadline::after(self.limits.announce_timeout);
        } else if state.tell == Some(Kind::Announcement) {
            state.tell = None;
        }
        Some(round)
    }
}

/// Why a message was not queued.
#[derive(Debug)]
pub(crate) enum Refused {
    Ended(Outgoing),
    Full,
}

#[cfg(test)]
mod tests;
