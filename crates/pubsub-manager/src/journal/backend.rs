//! What a store has to offer to hold a journal. It knows nothing of frames, heartbeats or gaps.

use super::JournalId;
use crate::Error;
use async_trait::async_trait;
use bytes::Bytes;
use resilience::Deadline;
use std::{fmt::Debug, time::Duration};

/// A store that keeps one ordered list with dense ids.
///
/// Implementations of ours: [`MemoryJournal`](crate::MemoryJournal), with feature `redis`
/// [`RedisJournal`](crate::RedisJournal) and with feature `postgres` [`PostgresJournal`](crate::PostgresJournal).
#[async_trait]
pub trait JournalBackend: Debug + Send + Sync + 'static {
    /// Appends `frames` in order, all or none, and returns the id of the *last* one; the ids of the others are
    /// the ones directly before it in the same epoch.
    ///
    /// Cancel safety: dropped, the frames may or may not have been appended.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and [`Error::Timeout`]: nothing was appended. [`Error::Unknown`]: it may have been.
    async fn append(&self, frames: &[Bytes], deadline: Deadline) -> Result<JournalId, Error>;

    /// A reading end of its own, which is not disturbed by appends.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Timeout`]: try again.
    async fn open(&self, deadline: Deadline) -> Result<Box<dyn JournalSource>, Error>;

    /// How many entries it keeps, where that has a bound.
    fn kept(&self) -> Option<u64> {
        None
    }
}

/// One reading end. After an error it is dropped and another one opened.
#[async_trait]
pub trait JournalSource: Send + 'static {
    /// The epoch under which this end was opened.
    fn epoch(&self) -> u32;

    /// The greatest id ever given, `None` when there is no journal.
    ///
    /// # Errors
    /// Any error ends this source.
    async fn tail(&mut self) -> Result<Option<JournalId>, Error>;

    /// Up to `max` entries after `after`, in order; waits up to `wait` for the first. Empty means none came.
    ///
    /// # Errors
    /// Any error ends this source.
    async fn read(&mut self, after: JournalId, max: usize, wait: Duration) -> Result<Vec<RawEntry>, Error>;
}

/// An entry as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawEntry {
    /// Its place.
    pub id: JournalId,
    /// The frame that was appended.
    pub frame: Bytes,
}
