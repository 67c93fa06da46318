//! One reader: a task that follows the journal and a bounded queue to the consumer. It never skips silently and
//! never starts anew by itself: whatever it cannot prove to be continuous is a gap.

use super::{
    Journal, JournalConfig, JournalEntry, JournalEvent, JournalGap, JournalId, JournalSource, JournalState,
    JournalView,
    backend::RawEntry,
    cursor::{Cursor, Noticed, Step},
    frame::{self, Frame},
    pace::Pace,
};
use crate::Error;
use resilience::{Backoff, BackoffConfig, Deadline, clock::CoarseInstant};
use std::{sync::Arc, time::Duration};
use tokio::sync::{Notify, mpsc};

/// Reads every event of the journal, each exactly once, in order.
///
/// Dropping it ends its task.
#[derive(Debug)]
pub struct JournalReader {
    queue: mpsc::Receiver<Delivery>,
    view: JournalView,
    handed_out: Option<(JournalId, Option<CoarseInstant>)>,
}

#[derive(Debug)]
struct Delivery {
    event: JournalEvent,
    at: JournalId,
    /// When this event was the last of the journal, as far as the store's answer tells.
    proof: Option<CoarseInstant>,
}

impl JournalReader {
    pub(super) fn open(journal: &Journal, after: Option<JournalId>) -> Self {
        let config = journal.config();
        let (sender, queue) = mpsc::channel(config.reader_queue.max(1));
        let view = JournalView::new(journal.clock().clone(), config.disconnected_after);
        let follower = Follower {
            journal: journal.weak(),
            config: config.clone(),
            view: view.clone(),
            cursor: Cursor::new(after),
            pace: Pace::default(),
            sender,
            attached: Arc::default(),
        };
        journal.spawn(follower.run());
        Self { queue, view, handed_out: None }
    }

    /// The next event; `None` once the journal is shut down or its last handle is dropped.
    ///
    /// Calling it says that the event before has been worked off: only then does
    /// [`view`](Self::view) move past it.
    ///
    /// Cancel safety: safe, no event is lost.
    pub async fn next(&mut self) -> Option<JournalEvent> {
        if let Some((id, proof)) = self.handed_out.take() {
            self.view.worked_off(id, proof);
        }
        let Delivery { event, at, proof } = self.queue.recv().await?;
        self.handed_out = Some((at, proof));
        Some(event)
    }

    /// How much is known at this moment; see [`JournalView::state`].
    #[must_use]
    pub fn state(&self) -> JournalState {
        self.view.state()
    }

    /// A handle on position and state that any thread may ask.
    #[must_use]
    pub fn view(&self) -> JournalView {
        self.view.clone()
    }
}

/// Appends a heartbeat whenever the journal has been silent for most of `period`. The random share keeps the
/// processes of a fleet from doing so at once: the first one's beat quiets the others.
async fn beat(journal: super::WeakJournal, view: JournalView, period: Duration) -> Gone {
    loop {
        let due = period.mul_f64(rand::random_range(0.70..0.95));
        match view.silence() {
            Some(silence) if silence < due => tokio::time::sleep(due - silence).await,
            _ if journal.is_gone() => return Gone,
            _ => {
                journal.beat(Deadline::after(period)).await;
                tokio::time::sleep(period / 4).await;
            }
        }
    }
}

/// The task behind a reader.
struct Follower {
    journal: super::WeakJournal,
    config: JournalConfig,
    view: JournalView,
    cursor: Cursor,
    pace: Pace,
    sender: mpsc::Sender<Delivery>,
    /// Told when a source is attached. A beat before the first time would lie before where reading begins, and the reader
    /// be without proof until the next one.
    attached: Arc<Notify>,
}

/// The consumer or the journal is gone.
struct Gone;

impl Follower {
    async fn run(mut self) {
        let stop = self.journal.stop();
        let sender = self.sender.clone();
        let (attached, period) = (Arc::clone(&self.attached), self.config.heartbeat);
        let (journal, view) = (self.journal.clone(), self.view.clone());
        let beats = async move {
            attached.notified().await;
            beat(journal, view, period).await
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = sender.closed() => {}
            Gone = self.follow() => {}
            Gone = beats => {}
        }
    }

    async fn follow(&mut self) -> Gone {
        let mut backoff = Backoff::new(BackoffConfig::default());
        loop {
            let Some(backend) = self.journal.backend() else { return Gone };
            match backend.open(Deadline::after(self.config.open_timeout)).await {
                Ok(source) => match self.follow_source(source).await {
                    Ok(progress) => {
                        if progress {
                            backoff.reset();
                        }
                    }
                    Err(gone) => return gone,
                },
                Err(error) => tracing::debug!(%error, "the journal cannot be opened for reading"),
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// Until the source fails; `true` when it had worked.
    async fn follow_source(&mut self, mut source: Box<dyn JournalSource>) -> Result<bool, Gone> {
        let tail = match self.bounded(source.tail()).await {
            Ok(tail) => tail,
            Err(error) => {
                tracing::debug!(%error, "the journal's end cannot be read");
                return Ok(false);
            }
        };
        if let Some(noticed) = self.cursor.attach(source.epoch(), tail) {
            self.gap(noticed).await?;
        }
        self.attached.notify_one();
        loop {
            let Some(position) = self.cursor.position() else { return Ok(false) };
            let sent = self.view.now();
            match self.bounded(source.read(position, self.config.read_batch, self.config.heartbeat)).await {
                Ok(entries) if entries.is_empty() => match self.bounded(source.tail()).await {
                    Ok(tail) => {
                        if let Some(noticed) = self.cursor.check_tail(source.epoch(), tail) {
                            self.gap(noticed).await?;
                        }
                    }
                    Err(error) => return Ok(self.ended(&error)),
                },
                Ok(entries) => self.entries(entries, sent).await?,
                Err(error) => return Ok(self.ended(&error)),
            }
        }
    }

    /// A blocking read that outlives its own waiting time by a second means a connection that is not there.
    async fn bounded<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let limit = self.config.heartbeat + Duration::from_secs(1);
        match tokio::time::timeout(limit, call).await {
            Ok(result) => result,
            Err(_) => Err(Error::Unknown { operation: "read the journal" }),
        }
    }

    fn ended(&self, error: &Error) -> bool {
        tracing::debug!(%error, position = ?self.cursor.position(), "reading the journal was interrupted");
        true
    }

    async fn entries(&mut self, entries: Vec<RawEntry>, sent: CoarseInstant) -> Result<(), Gone> {
        // The server answered no later than it was asked to wait: an answer that lay in a buffer while this process stood
        // still says no more than that. When it answered is not known, so it proves what was true when it was asked.
        self.view.heard(self.view.now().min(sent + self.config.heartbeat));
        self.journal.came(&mut self.pace, entries.len());
        let reached_end = entries.len() < self.config.read_batch;
        let last = entries.len().saturating_sub(1);
        for (index, RawEntry { id, frame }) in entries.into_iter().enumerate() {
            match self.cursor.advance(id) {
                Step::Next => {}
                Step::After(noticed) => self.gap(noticed).await?,
                Step::Skip => continue,
            }
            let event = match frame::decode(&frame) {
                Some(Frame::Entry { publisher, payload }) => {
                    JournalEvent::Entry(JournalEntry { id, publisher, payload })
                }
                Some(Frame::Heartbeat) => JournalEvent::Heartbeat { id },
                None => JournalEvent::Gap { cause: JournalGap::Unreadable, resumes_after: id },
            };
            let proof = (reached_end && index == last).then_some(sent);
            self.deliver(Delivery { event, at: id, proof }).await?;
        }
        Ok(())
    }

    async fn gap(&self, Noticed { cause, resumes_after }: Noticed) -> Result<(), Gone> {
        if cause != JournalGap::Opened {
            tracing::warn!(?cause, %resumes_after, "the journal has a gap");
            self.journal.count_gap();
        }
        let event = JournalEvent::Gap { cause, resumes_after };
        self.deliver(Delivery { event, at: resumes_after, proof: None }).await
    }

    async fn deliver(&self, delivery: Delivery) -> Result<(), Gone> {
        self.sender.send(delivery).await.map_err(|_| Gone)
    }
}

#[cfg(test)]
mod tests;
