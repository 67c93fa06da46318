//! The journal: one ordered list of entries that every process reads completely, or knows that it did not.
//! It is not a work queue (nobody acknowledges) and keeps only the recent past.

mod backend;
mod cursor;
mod event;
mod frame;
mod memory;
mod pace;
mod reader;
#[cfg(feature = "redis")]
mod redis;
mod view;
mod writer;

pub use backend::{JournalBackend, JournalSource, RawEntry};
pub use event::{JournalEntry, JournalEvent, JournalGap, JournalId, JournalState, PublisherId};
pub use memory::MemoryJournal;
pub use reader::JournalReader;
#[cfg(feature = "redis")]
pub use redis::{RedisJournal, RedisJournalConfig};
pub use view::JournalView;

use crate::Error;
use bytes::Bytes;
use pace::Pace;
use parking_lot::Mutex;
use resilience::{Deadline, clock::CoarseClock};
use serde::{Deserialize, Serialize};
use std::{
    future::Future,
    sync::{
        Arc, Weak,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{AcqRel, Relaxed, Release},
        },
    },
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use writer::{BatchLimits, Pending, Ticket};

/// How a [`Journal`] batches, beats and gives up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JournalConfig {
    /// A journal with readers is never silent for longer: any process that has seen nothing for most of this time
    /// appends a heartbeat. Also the longest blocking read. Default 400 ms: two fit in `disconnected_after`, as an entry
    /// proves nothing younger than the question that it answers.
    pub heartbeat: Duration,
    /// A reader that has worked off nothing for longer is not current. Default 1 s.
    pub disconnected_after: Duration,
    /// An append that got no answer by then is unknown, whatever the caller's deadline. Default 1 s.
    pub append_timeout: Duration,
    /// Limit of one attempt to open a reading end. Default 2 s.
    pub open_timeout: Duration,
    /// Calls of `append` that may wait; one more answers [`Error::Limit`]. Default 4,096.
    pub max_pending: usize,
    /// Entries sent in one batch. Default 256: some 0.3 ms of a server's time.
    pub max_batch: usize,
    /// Largest payload. Default 64 KiB: the journal carries keys, not values.
    pub max_payload_bytes: usize,
    /// Events read ahead of the consumer. Default 1,024.
    pub reader_queue: usize,
    /// Entries asked for in one read. Default 512.
    pub read_batch: usize,
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(400),
            disconnected_after: Duration::from_secs(1),
            append_timeout: Duration::from_secs(1),
            open_timeout: Duration::from_secs(2),
            max_pending: 4096,
            max_batch: 256,
            max_payload_bytes: 64 * 1024,
            reader_queue: 1024,
            read_batch: 512,
        }
    }
}

/// Counts since the journal was built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JournalStats {
    /// Entries appended by this handle, acknowledged by the store.
    pub appended: u64,
    /// Appends that failed with certainty.
    pub failed: u64,
    /// Appends without an answer.
    pub unknown: u64,
    /// Gaps noticed by this handle's readers, without the one at opening.
    pub gaps: u64,
    /// The most entries that came within a minute, from all processes.
    pub busiest_minute: u64,
    /// Entries that the store keeps, where that has a bound: too few if it is not twice `busiest_minute`.
    pub kept: Option<u64>,
}

/// A handle on one journal; clones share it. The last one dropped ends its tasks and readers.
#[derive(Clone, Debug)]
pub struct Journal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    backend: Arc<dyn JournalBackend>,
    config: JournalConfig,
    clock: CoarseClock,
    publisher: PublisherId,
    runtime: Handle,
    /// Somebody appends without the writer.
    direct: AtomicBool,
    /// Taken at shutdown, which ends the writer once it has worked off what waits.
    queue: Mutex<Option<mpsc::Sender<Pending>>>,
    stop: CancellationToken,
    tasks: TaskTracker,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    appended: AtomicU64,
    failed: AtomicU64,
    unknown: AtomicU64,
    gaps: AtomicU64,
    busiest_minute: AtomicU64,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Journal {
    /// A journal over `backend`; its tasks run on the current runtime.
    ///
    /// # Errors
    /// [`Error::Unavailable`] outside a tokio runtime.
    pub fn new(backend: Arc<dyn JournalBackend>, config: JournalConfig) -> Result<Self, Error> {
        let runtime = Handle::try_current().map_err(|error| Error::Unavailable {
            operation: "build the journal",
            reason: error.to_string(),
        })?;
        let (queue, receiver) = mpsc::channel(config.max_pending.max(1));
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let limits = BatchLimits {
            frames: config.max_batch.max(1),
            bytes: config.max_payload_bytes.saturating_mul(4),
            timeout: config.append_timeout,
        };
        tasks.spawn_on(writer::run(Arc::clone(&backend), receiver, limits), &runtime);
        let (clock, publisher, counts) = (CoarseClock::system(), PublisherId::random(), Counts::default());
        let (queue, direct) = (Mutex::new(Some(queue)), AtomicBool::new(false));
        Ok(Self(Arc::new(Inner {
            backend,
            config,
            clock,
            publisher,
            runtime,
            direct,
            queue,
            stop,
            tasks,
            counts,
        })))
    }

    /// The name under which this handle appends.
    #[must_use]
    pub fn publisher(&self) -> PublisherId {
        self.0.publisher
    }

    /// The settings in force.
    #[must_use]
    pub fn config(&self) -> &JournalConfig {
        &self.0.config
    }

    /// Appends one entry and returns its id.
    ///
    /// Cancel safety: dropped before the append was sent, nothing is appended; after that it may be.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Timeout`], [`Error::Limit`], [`Error::TooLarge`], [`Error::Shutdown`]:
    /// nothing was appended. [`Error::Unknown`]: it may have been.
    pub async fn append(&self, payload: impl AsRef<[u8]>, deadline: Deadline) -> Result<JournalId, Error> {
        self.append_many(&[payload.as_ref()], deadline).await
    }

    /// Appends entries in order, all or none, and returns the id of the last; the others are those directly
    /// before it. At most [`JournalConfig::max_batch`] at once.
    ///
    /// Cancel safety and errors: as [`append`](Self::append). An empty list is [`Error::Limit`].
    pub async fn append_many<P: AsRef<[u8]>>(
        &self,
        payloads: &[P],
        deadline: Deadline,
    ) -> Result<JournalId, Error> {
        let config = &self.0.config;
        if payloads.is_empty() || payloads.len() > config.max_batch {
            return Err(Error::Limit { what: "entries of one append", limit: config.max_batch });
        }
        let largest = payloads.iter().map(|payload| payload.as_ref().len()).max().unwrap_or(0);
        if largest > config.max_payload_bytes {
            return Err(Error::TooLarge { limit: config.max_payload_bytes, actual: largest });
        }
        let frames =
            payloads.iter().map(|payload| frame::entry(self.0.publisher, payload.as_ref())).collect();
        let result = self.0.send(frames, deadline).await;
        let counts = &self.0.counts;
        match &result {
            Ok(_) => counts.appended.fetch_add(payloads.len() as u64, Relaxed),
            Err(error) if error.may_have_happened() => counts.unknown.fetch_add(1, Relaxed),
            Err(_) => counts.failed.fetch_add(1, Relaxed),
        };
        result
    }

    /// A reader of everything appended after `after`, or, with `None`, after the moment at which it first
    /// reaches the store; it then begins with a [`JournalGap::Opened`].
    ///
    /// Returns at once, also when the store cannot be reached: the reader keeps trying.
    #[must_use]
    pub fn reader(&self, after: Option<JournalId>) -> JournalReader {
        JournalReader::open(self, after)
    }

    /// Counts so far.
    #[must_use]
    pub fn stats(&self) -> JournalStats {
        let counts = &self.0.counts;
        JournalStats {
            appended: counts.appended.load(Relaxed),
            failed: counts.failed.load(Relaxed),
            unknown: counts.unknown.load(Relaxed),
            gaps: counts.gaps.load(Relaxed),
            busiest_minute: counts.busiest_minute.load(Relaxed),
            kept: self.0.backend.kept(),
        }
    }

    /// Ends readers and heartbeats, refuses new appends, and waits up to `grace` for what is being sent.
    ///
    /// Cancel safety: the end has begun and goes on.
    pub async fn shutdown(&self, grace: Duration) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.queue.lock().take();
        let _late = tokio::time::timeout(grace, self.0.tasks.wait()).await;
    }

    fn clock(&self) -> &CoarseClock {
        &self.0.clock
    }

    fn weak(&self) -> WeakJournal {
        WeakJournal { inner: Arc::downgrade(&self.0), stop: self.0.stop.clone() }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.tasks.spawn_on(task, &self.0.runtime);
    }
}

impl Inner {
    /// The right to append without the writer, of one at a time: spares a lone append the way through another task. Whoever
    /// else comes meanwhile travels with the others.
    fn alone(&self) -> Option<Alone<'_>> {
        (!self.direct.swap(true, AcqRel)).then_some(Alone(&self.direct))
    }

    async fn send(&self, frames: Vec<Bytes>, deadline: Deadline) -> Result<JournalId, Error> {
        const OPERATION: &str = "append to the journal";
        let started = Instant::now();
        if let Some(_alone) = self.alone() {
            if self.queue.lock().is_none() {
                return Err(Error::Shutdown { operation: OPERATION });
            }
            let deadline = deadline.capped(self.config.append_timeout);
            let appended = deadline.run(self.backend.append(&frames, deadline)).await;
            return appended.unwrap_or(Err(Error::Unknown { operation: OPERATION }));
        }
        let (reply, answer) = oneshot::channel();
        let ticket = Arc::new(Ticket::default());
        let abandon = AbandonOnDrop(&ticket);
        let pending = Pending { frames, deadline, ticket: Arc::clone(&ticket), reply };
        let Some(queued) = self.queue.lock().as_ref().map(|queue| queue.try_send(pending)) else {
            return Err(Error::Shutdown { operation: OPERATION });
        };
        queued.map_err(|_| Error::Limit { what: "appends waiting", limit: self.config.max_pending })?;
        match deadline.run(answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_writer_gone)) => Err(Error::Shutdown { operation: OPERATION }),
            Err(_) if abandon.0.abandon() => {
                Err(Error::Timeout { operation: OPERATION, after: started.elapsed() })
            }
            Err(_) => Err(Error::Unknown { operation: OPERATION }),
        }
    }
}

struct Alone<'a>(&'a AtomicBool);

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.store(false, Release);
    }
}

struct AbandonOnDrop<'a>(&'a Ticket);

impl Drop for AbandonOnDrop<'_> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// What a journal's tasks hold of it: not enough to keep it alive.
#[derive(Clone, Debug)]
struct WeakJournal {
    inner: Weak<Inner>,
    stop: CancellationToken,
}

impl WeakJournal {
    fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    fn backend(&self) -> Option<Arc<dyn JournalBackend>> {
        self.inner.upgrade().map(|inner| Arc::clone(&inner.backend))
    }

    fn is_gone(&self) -> bool {
        self.inner.strong_count() == 0
    }

    /// So many entries came, from all processes.
    fn came(&self, pace: &mut Pace, entries: usize) {
        let Some(inner) = self.inner.upgrade() else { return };
        let kept = inner.backend.kept();
        let busy = pace.add(entries, kept, inner.clock.now());
        inner.counts.busiest_minute.fetch_max(busy.entries, Relaxed);
        if busy.short {
            let entries = busy.entries;
            tracing::warn!(entries, kept, "the journal keeps less than two such minutes: make it longer");
        }
    }

    fn count_gap(&self) {
        if let Some(inner) = self.inner.upgrade() {
            inner.counts.gaps.fetch_add(1, Relaxed);
        }
    }

    /// Appends a heartbeat; a failure shows as silence, which is what it is.
    async fn beat(&self, deadline: Deadline) {
        let Some(inner) = self.inner.upgrade() else { return };
        let frame = frame::heartbeat(inner.publisher);
        if let Err(error) = inner.send(vec![frame], deadline).await {
            tracing::debug!(%error, "the journal's heartbeat could not be appended");
        }
    }
}
