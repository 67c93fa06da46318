//! The queue between a bus and one stream of it. Sending never waits; what did not fit is told, and an interruption is never
//! told after its end. It knows no backend.

use crate::BusEvent;
use bytes::Bytes;
use std::sync::{
    Arc,
    atomic::{
        AtomicBool,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
};
use tokio::sync::mpsc::{self, error::TryRecvError};

/// Frames waiting for one name or pattern, between the connection and the manager.
const QUEUE: usize = 4096;

/// The sending end of a stream's queue.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    queue: mpsc::Sender<BusEvent>,
    /// What did not fit into the queue.
    missed: Arc<Missed>,
}

#[derive(Debug, Default)]
struct Missed {
    /// Something.
    any: AtomicBool,
    /// An interruption or its end, and how it is now.
    state: AtomicBool,
    interrupted: AtomicBool,
}

/// The receiving end.
#[derive(Debug)]
pub(crate) struct Inbox {
    events: mpsc::Receiver<BusEvent>,
    missed: Arc<Missed>,
    /// As it was told.
    interrupted: bool,
}

/// Both ends of a stream's queue.
pub(crate) fn inbox() -> (Route, Inbox) {
    let (queue, events) = mpsc::channel(QUEUE);
    let missed = Arc::<Missed>::default();
    (Route { queue, missed: Arc::clone(&missed) }, Inbox { events, missed, interrupted: false })
}

impl Route {
    /// Nobody takes anything any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    pub(crate) fn frame(&self, subject: &Arc<str>, frame: &Bytes) {
        self.send(BusEvent::Frame { subject: Arc::clone(subject), frame: frame.clone() });
    }

    /// Never waits: what does not fit is told as such.
    pub(crate) fn send(&self, event: BusEvent) {
        let Missed { any, state, interrupted } = &*self.missed;
        let change = match &event {
            BusEvent::Interrupted => Some(true),
            BusEvent::Restored => Some(false),
            BusEvent::Frame { .. } | BusEvent::Overflowed => None,
        };
        if let Some(now) = change {
            interrupted.store(now, Release);
        }
        if let Err(mpsc::error::TrySendError::Full(_)) = self.queue.try_send(event) {
            any.store(true, Release);
            if change.is_some() {
                state.store(true, Release);
            }
        }
    }
}

impl Inbox {
    /// Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<BusEvent> {
        loop {
            let event = self.any().await?;
            match &event {
                BusEvent::Interrupted => self.interrupted = true,
                // Of an interruption before it began.
                BusEvent::Restored if !self.interrupted => continue,
                BusEvent::Restored => self.interrupted = false,
                BusEvent::Frame { .. } | BusEvent::Overflowed => {}
            }
            return Some(event);
        }
    }

    async fn any(&mut self) -> Option<BusEvent> {
        // Told early rather than late: the numbers in the envelopes do the counting.
        if self.missed.any.load(Relaxed) && self.missed.any.swap(false, AcqRel) {
            return Some(BusEvent::Overflowed);
        }
        // After everything else: else an interruption that is queued would come after its end.
        if self.missed.state.load(Relaxed) {
            match self.events.try_recv() {
                Ok(event) => return Some(event),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => {}
            }
            self.missed.state.store(false, Release);
            let now = self.missed.interrupted.load(Acquire);
            if now != self.interrupted {
                return Some(if now { BusEvent::Interrupted } else { BusEvent::Restored });
            }
        }
        self.events.recv().await
    }

    pub(crate) fn close(&mut self) {
        self.events.close();
    }
}

#[cfg(test)]
mod tests;
