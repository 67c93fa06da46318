//! One delivery: a message and the duty to settle it. Dropped unsettled it is given back.

use super::{DurableId, Settle, Settlement, member::Member};
use crate::{Error, Subject, TraceContext};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::AcqRel},
    },
    time::{Duration, SystemTime},
};
use uuid::Uuid;

/// Longest reason of a dead letter in bytes.
const MAX_REASON: usize = 1024;

/// A message of a durable channel.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DurableMessage<T> {
    /// Names the message for ever, also when it was published or is delivered again: whoever must not do something twice
    /// remembers it.
    pub id: Uuid,
    /// What was published.
    pub value: T,
    /// On which channel.
    pub channel: Subject,
    /// Where it stands in the channel.
    pub position: DurableId,
    /// 1 for the first delivery to this group.
    pub deliveries: u32,
    /// When it was first published, by the publisher's clock.
    pub published_at: SystemTime,
    /// The publisher's trace context.
    pub trace: Option<TraceContext>,
}

/// A message that has to be settled. Dropped unsettled, it is delivered again after its back-off; while it is held, it is
/// delivered to nobody else.
pub struct Delivery<T> {
    /// The message.
    pub message: DurableMessage<T>,
    pub(super) duty: Duty,
}

impl<T: fmt::Debug> fmt::Debug for Delivery<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("message", &self.message).finish_non_exhaustive()
    }
}

impl<T> Delivery<T> {
    /// Says that it has been handled: this group does not get it again.
    ///
    /// While the store cannot be reached it is tried again, for as long as the `ack_timeout`.
    ///
    /// Cancel safety: once polled it is on its way.
    ///
    /// # Errors
    /// [`Error::AlreadySettled`]; [`Error::Superseded`]: somebody else was given it meanwhile; else it will be delivered
    /// again unless the error is [`Error::Unknown`], in which case it may be.
    pub async fn ack(&self) -> Result<(), Error> {
        self.duty.settle(Settle::Ack).await
    }

    /// Gives it back, to be delivered again after `after`, to any consumer. The number of deliveries stands: after
    /// `max_deliveries` it becomes a dead letter instead.
    ///
    /// Cancel safety and errors: as [`ack`](Self::ack).
    pub async fn retry(&self, after: Duration) -> Result<(), Error> {
        self.duty.settle(Settle::Retry(after)).await
    }

    /// Makes it a dead letter of its group, with a reason (the first 1,024 bytes).
    ///
    /// Cancel safety and errors: as [`ack`](Self::ack); [`Error::Limit`]: there are too many dead letters, it is tried again
    /// in a minute.
    pub async fn dead_letter(&self, reason: &str) -> Result<(), Error> {
        self.duty.dead_letter(reason).await
    }

    /// Whether nobody else has been given it, as far as is known here: what takes long may ask before it writes.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.duty.member.core.holds(self.duty.id, self.duty.deliveries)
    }

    /// The delivery's back-off: how long it waits if it is dropped.
    #[must_use]
    pub fn backoff(&self) -> Duration {
        self.duty.backoff()
    }
}

/// The duty to settle, without the message.
pub(super) struct Duty {
    member: Arc<Member>,
    id: DurableId,
    deliveries: u32,
    settled: AtomicBool,
}

impl Duty {
    pub(super) fn new(member: Arc<Member>, id: DurableId, deliveries: u32) -> Self {
        Self { member, id, deliveries, settled: AtomicBool::new(false) }
    }

    fn settlement(&self, how: Settle) -> Settlement {
        Settlement { id: self.id, deliveries: self.deliveries, how }
    }

    pub(super) async fn settle(&self, how: Settle) -> Result<(), Error> {
        if self.settled.swap(true, AcqRel) {
            return Err(Error::AlreadySettled);
        }
        self.member.settle(self.settlement(how)).await
    }

    pub(super) async fn dead_letter(&self, reason: &str) -> Result<(), Error> {
        let max = self.member.core.options.max_dead_letters;
        self.settle(Settle::Dead { reason: shortened(reason), max }).await
    }

    /// The same without waiting for the answer.
    pub(super) fn dead_letter_unheard(&self, reason: &str) {
        self.settled.store(true, std::sync::atomic::Ordering::Release);
        let max = self.member.core.options.max_dead_letters;
        self.member.settle_unheard(self.settlement(Settle::Dead { reason: shortened(reason), max }));
    }

    /// Settles by the outcome of a handler, without waiting for the answer: a failed message is given back or, after the last
    /// delivery, a dead letter.
    pub(super) async fn handled(&self, outcome: Result<(), String>) {
        let options = &self.member.core.options;
        let how = match outcome {
            Ok(()) => Settle::Ack,
            Err(reason) if self.deliveries >= options.max_deliveries => {
                Settle::Dead { reason: shortened(&reason), max: options.max_dead_letters }
            }
            Err(_) => Settle::Retry(self.backoff()),
        };
        if !self.settled.swap(true, AcqRel) {
            self.member.post(self.settlement(how)).await;
        }
    }

    fn backoff(&self) -> Duration {
        self.member.core.options.backoff.delay(self.deliveries.saturating_sub(1), rand::random())
    }
}

impl Drop for Duty {
    fn drop(&mut self) {
        if !self.settled.swap(true, AcqRel) {
            self.member.settle_unheard(self.settlement(Settle::Retry(self.backoff())));
        }
    }
}

fn shortened(reason: &str) -> String {
    let mut end = reason.len().min(MAX_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason[..end].to_owned()
}
