//! Publishes on one durable channel: a lone one goes straight, those that wait travel together, in order. It repeats
//! nothing: whether a publish of unknown outcome is repeated is its caller's business.

use super::{DurableCounts, DurableLimits, DurableRecord, DurableStore};
use crate::{Error, Subject};
use parking_lot::Mutex;
use resilience::Deadline;
use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Weak,
        atomic::{
            AtomicU8,
            Ordering::{AcqRel, Acquire},
        },
    },
    time::Duration,
};
use tokio::sync::oneshot;

/// Records of one batch at most: some milliseconds of a server's time.
const MOST: usize = 256;

#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) record: DurableRecord,
    pub(super) deadline: Deadline,
    pub(super) ticket: Arc<Ticket>,
    pub(super) reply: oneshot::Sender<Result<(), Error>>,
}

/// Settles between a caller and the outlet whether the message still may be sent.
#[derive(Debug, Default)]
pub(super) struct Ticket(AtomicU8);

impl Ticket {
    const QUEUED: u8 = 0;
    const SENT: u8 = 1;
    const ABANDONED: u8 = 2;

    /// The caller gives up. `true`: nothing has been sent and nothing will be.
    pub(super) fn abandon(&self) -> bool {
        self.0.compare_exchange(Self::QUEUED, Self::ABANDONED, AcqRel, Acquire).is_ok()
    }

    fn send(&self) -> bool {
        self.0.compare_exchange(Self::QUEUED, Self::SENT, AcqRel, Acquire).is_ok()
    }
}

#[derive(Debug)]
pub(crate) struct Outlet {
    channel: Subject,
    limits: DurableLimits,
    max_pending: usize,
    max_bytes: usize,
    state: Mutex<State>,
}

/// The outlets in use with the manager's own limits, by channel: what is published through different handles travels
/// together as well.
#[derive(Debug, Default)]
pub(crate) struct Outlets(Mutex<HashMap<Subject, Weak<Outlet>>>);

impl Outlets {
    /// The channel's outlet, made if nobody uses one; forgotten with its last user.
    pub(super) fn get(&self, channel: &Subject, most: usize, make: impl FnOnce() -> Outlet) -> Arc<Outlet> {
        let mut outlets = self.0.lock();
        if let Some(outlet) = outlets.get(channel).and_then(Weak::upgrade) {
            return outlet;
        }
        if outlets.len() >= most {
            outlets.retain(|_, outlet| outlet.strong_count() > 0);
        }
        let outlet = Arc::new(make());
        if outlets.len() < most {
            outlets.insert(channel.clone(), Arc::downgrade(&outlet));
        }
        outlet
    }
}

#[derive(Debug, Default)]
struct State {
    pending: VecDeque<Outgoing>,
    sending: bool,
}

impl Outlet {
    pub(super) fn new(channel: Subject, limits: DurableLimits, max_pending: usize, max_bytes: usize) -> Self {
        Self { channel, limits, max_pending, max_bytes, state: Mutex::default() }
    }

    pub(super) const fn limits(&self) -> &DurableLimits {
        &self.limits
    }

    /// Queues a message. `true`: the caller has to have [`drain`](Self::drain) run.
    pub(super) fn queue(&self, message: Outgoing) -> Result<bool, Error> {
        let mut state = self.state.lock();
        if state.pending.len() >= self.max_pending {
            return Err(Error::Limit {
                what: "publishes waiting on a durable channel",
                limit: self.max_pending,
            });
        }
        state.pending.push_back(message);
        Ok(!std::mem::replace(&mut state.sending, true))
    }

    /// Sends until nothing waits.
    pub(super) async fn drain(self: Arc<Self>, store: Arc<dyn DurableStore>, counts: Arc<DurableCounts>) {
        while let Some((records, replies, deadline)) = self.next_batch() {
            if records.is_empty() {
                continue;
            }
            let (mut records, mut replies) = (&records[..], replies.into_iter());
            let mut together = records.len();
            while !records.is_empty() {
                let result = store.append(&self.channel, &records[..together], &self.limits, deadline).await;
                if matches!(result, Err(Error::Full { .. })) && together > 1 {
                    // There may be room for some of them.
                    together /= 2;
                    continue;
                }
                counts.appended(together as u64, result.as_ref().err());
                for reply in replies.by_ref().take(together) {
                    // Whoever went away wanted no answer.
                    let _gone = reply.send(result.clone());
                }
                records = &records[together..];
                together = together.min(records.len());
            }
        }
    }

    #[expect(clippy::type_complexity, reason = "three lists that belong together for three lines")]
    fn next_batch(&self) -> Option<(Vec<DurableRecord>, Vec<oneshot::Sender<Result<(), Error>>>, Deadline)> {
        let mut state = self.state.lock();
        if state.pending.is_empty() {
            state.sending = false;
            return None;
        }
        let (mut records, mut replies, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut deadline = Deadline::after(Duration::ZERO);
        while let Some(next) = state.pending.front() {
            let size = next.record.payload.len();
            if !records.is_empty() && (records.len() >= MOST || bytes + size > self.max_bytes) {
                break;
            }
            let Some(next) = state.pending.pop_front() else { break };
            if next.deadline.is_expired() || next.reply.is_closed() || !next.ticket.send() {
                // Its caller has been answered by the deadline, or has gone: nothing is sent.
                continue;
            }
            bytes += size;
            if next.deadline.remaining() > deadline.remaining() {
                deadline = next.deadline;
            }
            records.push(next.record);
            replies.push(next.reply);
        }
        Some((records, replies, deadline))
    }
}
