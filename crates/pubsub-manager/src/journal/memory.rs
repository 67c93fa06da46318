//! A journal inside one process, for a service of one process and for tests. It is not durable and not shared.

use super::{JournalBackend, JournalId, JournalSource, RawEntry};
use crate::Error;
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use resilience::Deadline;
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::sync::watch;

/// Keeps the newest entries in memory; clones share them.
#[derive(Clone, Debug)]
pub struct MemoryJournal(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max_entries: usize,
    list: Mutex<List>,
    last: watch::Sender<JournalId>,
}

#[derive(Debug)]
struct List {
    /// The id before the first entry kept.
    trimmed: JournalId,
    entries: VecDeque<Bytes>,
}

impl MemoryJournal {
    /// An empty journal that keeps `max_entries` (at least one).
    #[must_use]
    pub fn new(max_entries: usize) -> Self {
        let start = JournalId::new(1, 0);
        let list = Mutex::new(List { trimmed: start, entries: VecDeque::new() });
        Self(Arc::new(Shared { max_entries: max_entries.max(1), list, last: watch::Sender::new(start) }))
    }
}

#[async_trait]
impl JournalBackend for MemoryJournal {
    fn kept(&self) -> Option<u64> {
        u64::try_from(self.0.max_entries).ok()
    }

    async fn append(&self, frames: &[Bytes], _deadline: Deadline) -> Result<JournalId, Error> {
        let last = {
            let mut list = self.0.list.lock();
            list.entries.extend(frames.iter().cloned());
            while list.entries.len() > self.0.max_entries {
                list.entries.pop_front();
                list.trimmed.sequence += 1;
            }
            let last = JournalId::new(list.trimmed.epoch, list.trimmed.sequence + list.entries.len() as u64);
            self.0.last.send_replace(last);
            last
        };
        Ok(last)
    }

    async fn open(&self, _deadline: Deadline) -> Result<Box<dyn JournalSource>, Error> {
        Ok(Box::new(MemorySource { shared: Arc::clone(&self.0), last: self.0.last.subscribe() }))
    }
}

struct MemorySource {
    shared: Arc<Shared>,
    last: watch::Receiver<JournalId>,
}

#[async_trait]
impl JournalSource for MemorySource {
    fn epoch(&self) -> u32 {
        1
    }

    async fn tail(&mut self) -> Result<Option<JournalId>, Error> {
        let last = *self.last.borrow();
        Ok((last.sequence > 0).then_some(last))
    }

    async fn read(&mut self, after: JournalId, max: usize, wait: Duration) -> Result<Vec<RawEntry>, Error> {
        let arrived = self.last.wait_for(|last| *last > after);
        match tokio::time::timeout(wait, arrived).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Err(Error::Shutdown { operation: "read the journal" }),
            Err(_) => return Ok(Vec::new()),
        }
        let list = self.shared.list.lock();
        let skip =
            usize::try_from(after.sequence.saturating_sub(list.trimmed.sequence)).unwrap_or(usize::MAX);
        let first = list.trimmed.sequence + 1 + skip as u64;
        let ids = (first..).map(|sequence| JournalId::new(list.trimmed.epoch, sequence));
        let frames = list.entries.iter().skip(skip).take(max);
        Ok(ids.zip(frames).map(|(id, frame)| RawEntry { id, frame: frame.clone() }).collect())
    }
}
