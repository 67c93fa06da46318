//! Appends of one process, sent one batch at a time: a lone append goes straight, appends under load travel
//! together. It retries nothing that may have happened.

use super::{JournalBackend, JournalId};
use crate::Error;
use bytes::Bytes;
use parking_lot::Mutex;
use resilience::Deadline;
use std::{sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot};

/// One caller's frames on their way; the reply is the id of the last of them.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) frames: Vec<Bytes>,
    pub(super) deadline: Deadline,
    pub(super) ticket: Arc<Ticket>,
    pub(super) reply: oneshot::Sender<Result<JournalId, Error>>,
}

/// Settles between caller and writer whether the frames still may be sent.
#[derive(Debug, Default)]
pub(super) struct Ticket(Mutex<Stage>);

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Stage {
    #[default]
    Queued,
    Sent,
    Abandoned,
}

impl Ticket {
    /// The caller gives up. `true`: nothing has been sent and nothing will be.
    pub(super) fn abandon(&self) -> bool {
        let mut stage = self.0.lock();
        if *stage == Stage::Queued {
            *stage = Stage::Abandoned;
        }
        *stage == Stage::Abandoned
    }

    fn send(&self) -> bool {
        let mut stage = self.0.lock();
        let queued = *stage == Stage::Queued;
        if queued {
            *stage = Stage::Sent;
        }
        queued
    }
}

/// Bounds of one batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchLimits {
    pub(super) frames: usize,
    pub(super) bytes: usize,
    pub(super) timeout: Duration,
}

/// Until every sender is gone.
pub(super) async fn run(
    backend: Arc<dyn JournalBackend>,
    mut queue: mpsc::Receiver<Pending>,
    limits: BatchLimits,
) {
    let mut carried: Option<Pending> = None;
    loop {
        let first = match carried.take() {
            Some(pending) => pending,
            None => match queue.recv().await {
                Some(pending) => pending,
                None => return,
            },
        };
        if !first.ticket.send() {
            continue;
        }
        let mut batch = vec![first];
        let (mut frames, mut bytes) = size(&batch[0]);
        while let Ok(next) = queue.try_recv() {
            let (more_frames, more_bytes) = size(&next);
            if frames + more_frames > limits.frames || bytes + more_bytes > limits.bytes {
                carried = Some(next);
                break;
            }
            if next.ticket.send() {
                (frames, bytes) = (frames + more_frames, bytes + more_bytes);
                batch.push(next);
            }
        }
        send(&*backend, batch, limits.timeout).await;
    }
}

fn size(pending: &Pending) -> (usize, usize) {
    (pending.frames.len(), pending.frames.iter().map(Bytes::len).sum())
}

async fn send(backend: &dyn JournalBackend, batch: Vec<Pending>, timeout: Duration) {
    let latest = batch.iter().map(|pending| pending.deadline.remaining()).max().unwrap_or(timeout);
    let frames: Vec<Bytes> = batch.iter().flat_map(|pending| pending.frames.iter().cloned()).collect();
    let result = backend.append(&frames, Deadline::after(latest.min(timeout))).await;
    let mut later = frames.len() as u64;
    for pending in batch {
        later -= pending.frames.len() as u64;
        let answer = match &result {
            Ok(last) => Ok(JournalId::new(last.epoch, last.sequence.saturating_sub(later))),
            Err(error) => Err(error.clone()),
        };
        // A caller that went away wanted no answer.
        let _gone = pending.reply.send(answer);
    }
}
