//! The journal in PostgreSQL: a table of entries and one row that counts them.
//!
//! # Why nothing is skipped
//! Transactions commit in another order than they take numbers from a sequence, so a reader of "everything after the last
//! number" would skip whatever commits late. Here an append takes its numbers by updating the journal's one row, and holds
//! that row until it has committed: the next append gets greater numbers, and commits later. **Order of ids is order of
//! commits**, the ids are dense, and whoever sees an entry sees all before it. A reader needs no more than its last id.
//!
//! An append is one statement, hence one transaction that ends without its client: nobody can stop while holding the row,
//! no user transaction takes part, and a transaction that runs for an hour delays nothing. The price is that appends of
//! all processes follow one another; those of one process travel together.
//!
//! # Why nothing repeats
//! Ids are given under an epoch. The row remembers the server's history (timeline) under which it was last written; the
//! first append under another one, after a failover or a restore to a point in time, begins the next epoch, which is at
//! least 256 times the timeline: two servers that were promoted one after the other never give the same. An append shows
//! the greatest id that its process has given or read; where the row is below it, something was lost that the timeline does
//! not show (a snapshot of the disk was put back), and it begins a new epoch, too. Readers report each as a gap.
//!
//! Entries beyond `max_len` are deleted, by whoever appends the next sixteenth of it. An append survives a crash of the
//! server as far as `synchronous_commit` is left on.

mod sql;

use super::{BEFORE_SENDING, PostgresListener, Topic, translate, translate_query};
use crate::{Error, JournalBackend, JournalId, JournalSource, RawEntry};
use async_trait::async_trait;
use bytes::Bytes;
use postgres_pool_manager::{
    DirectConnection,
    sqlx::{self, AssertSqlSafe, FromRow, Row, postgres::PgRow},
};
use resilience::Deadline;
use serde::{Deserialize, Serialize};
use sql::Sql;
use std::{
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{AcqRel, Acquire, Release},
        },
    },
    time::Duration,
};
use tokio::time::Instant;

/// Which journal, and how much of the past it keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PostgresJournalConfig {
    /// Name of the journal within the schema, 1 to 255 bytes. Default `main`.
    pub shard: String,
    /// Entries kept, give or take a sixteenth: at least what is appended at peak within a minute, so that a reader may be
    /// away for that long without a gap. Default 100,000.
    pub max_len: u32,
}

impl Default for PostgresJournalConfig {
    fn default() -> Self {
        Self { shard: "main".into(), max_len: 100_000 }
    }
}

/// A journal in PostgreSQL, shared by all processes that use the schema.
///
/// Appends go through the pool; each reader has a connection of its own.
#[derive(Debug)]
pub struct PostgresJournal {
    listener: PostgresListener,
    shared: Arc<Shared>,
    max_len: u32,
    trimming: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Shared {
    shard: String,
    topic: String,
    sql: Sql,
    /// The greatest id that this process has given or read, packed.
    seen: AtomicU64,
}

const OPERATION: &str = "append to the journal";

impl PostgresJournal {
    /// A journal over `listener`'s database, which need not be reachable yet; its schema needs
    /// [`migrations`](crate::migrations).
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the shard's name is empty or too long.
    pub fn new(listener: PostgresListener, config: &PostgresJournalConfig) -> Result<Self, Error> {
        if config.shard.is_empty() || config.shard.len() > 255 {
            let reason = format!("a name has 1 to 255 bytes, this one {}", config.shard.len());
            return Err(Error::Unsupported { operation: "name the journal", reason });
        }
        let shared = Shared {
            shard: config.shard.clone(),
            topic: format!("j.{}", config.shard),
            sql: Sql::new(listener.pool().schema()),
            seen: AtomicU64::new(0),
        };
        let (shared, trimming) = (Arc::new(shared), Arc::default());
        Ok(Self { listener, shared, max_len: config.max_len.max(1), trimming })
    }

    /// `None`: the journal has no row yet.
    async fn attempt(&self, frames: &[Bytes], deadline: Deadline) -> Result<Option<JournalId>, Error> {
        let Shared { shard, topic, sql, seen } = &*self.shared;
        let floor = JournalId::from_packed(seen.load(Acquire));
        let session = self.listener.pool().write().deadline(deadline).await;
        let mut session = session.map_err(|error| translate(OPERATION, error, BEFORE_SENDING))?;
        let frames: Vec<&[u8]> = frames.iter().map(|frame| &**frame).collect();
        let appended = sqlx::query_as(AssertSqlSafe(sql.append.clone()))
            .bind(shard)
            .bind(frames)
            .bind(i64::from(floor.epoch))
            .bind(signed(floor.sequence))
            .bind(self.listener.channel())
            .bind(topic)
            .fetch_optional(&mut session)
            .await;
        let appended: Option<Id> = appended.map_err(|error| translate_query(OPERATION, error))?;
        Ok(appended.map(|Id(id)| id))
    }

    /// Makes the journal's row where there is none.
    async fn create(&self, deadline: Deadline) -> Result<(), Error> {
        let Shared { shard, sql, seen, .. } = &*self.shared;
        let session = self.listener.pool().write().deadline(deadline).await;
        let mut session = session.map_err(|error| translate(OPERATION, error, BEFORE_SENDING))?;
        let created = sqlx::query(AssertSqlSafe(sql.create.clone()))
            .bind(shard)
            .bind(i64::from(JournalId::from_packed(seen.load(Acquire)).epoch))
            .execute(&mut session)
            .await;
        // Whether it was made now or before, nothing was appended.
        created.map(drop).map_err(|error| match translate_query(OPERATION, error) {
            Error::Unknown { operation } => {
                Error::Unavailable { operation, reason: "the connection was lost".into() }
            }
            error => error,
        })
    }

    /// Has the entries beyond `max_len` deleted, once for every sixteenth of it and one such order at a time.
    fn trim(&self, last: JournalId, appended: u64) {
        let (max, step) = (u64::from(self.max_len), u64::from(self.max_len / 16).max(1));
        let due = last.sequence / step > last.sequence.saturating_sub(appended) / step;
        if !due || last.sequence <= max || self.trimming.swap(true, AcqRel) {
            return;
        }
        let (shared, trimming) = (Arc::clone(&self.shared), Arc::clone(&self.trimming));
        let pool = self.listener.pool().clone();
        self.listener.runtime().spawn(async move {
            let trimmed = sqlx::query(AssertSqlSafe(shared.sql.trim.clone()))
                .bind(&shared.shard)
                .bind(i64::from(last.epoch))
                .bind(signed(last.sequence - max))
                .execute(&pool.primary())
                .await;
            if let Err(error) = trimmed {
                tracing::debug!(%error, "the journal was not trimmed and will be later");
            }
            trimming.store(false, Release);
        });
    }
}

#[async_trait]
impl JournalBackend for PostgresJournal {
    fn kept(&self) -> Option<u64> {
        Some(self.max_len.into())
    }

    async fn append(&self, frames: &[Bytes], deadline: Deadline) -> Result<JournalId, Error> {
        let appended = deadline.run(async {
            loop {
                if let Some(id) = self.attempt(frames, deadline).await? {
                    return Ok(id);
                }
                self.create(deadline).await?;
            }
        });
        let id = appended.await.map_err(|_| Error::Unknown { operation: OPERATION })??;
        self.shared.seen.fetch_max(id.packed(), Release);
        self.trim(id, frames.len() as u64);
        Ok(id)
    }

    async fn open(&self, deadline: Deadline) -> Result<Box<dyn JournalSource>, Error> {
        const OPEN: &str = "open the journal";
        let mut topic = self.listener.topic(&self.shared.topic);
        topic.primary_is_current();
        let opened = deadline.run(async {
            self.create(deadline).await?;
            let mut connection = self.listener.open(OPEN, deadline).await?;
            let epoch: i64 = sqlx::query_scalar(AssertSqlSafe(self.shared.sql.epoch.clone()))
                .bind(&self.shared.shard)
                .fetch_one(&mut *connection)
                .await
                .map_err(|error| translate_query(OPEN, error))?;
            Ok((connection, u32::try_from(epoch).unwrap_or(u32::MAX)))
        });
        let (connection, epoch) = opened.await.map_err(|_| super::error::late(OPEN, Duration::ZERO))??;
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(PostgresSource { connection, topic, shared, epoch }))
    }
}

struct PostgresSource {
    connection: DirectConnection,
    topic: Topic,
    shared: Arc<Shared>,
    epoch: u32,
}

#[async_trait]
impl JournalSource for PostgresSource {
    fn epoch(&self) -> u32 {
        self.epoch
    }

    async fn tail(&mut self) -> Result<Option<JournalId>, Error> {
        let tail = sqlx::query_as(AssertSqlSafe(self.shared.sql.tail.clone()))
            .bind(&self.shared.shard)
            .fetch_optional(&mut *self.connection)
            .await;
        let tail: Option<Id> = tail.map_err(|error| translate_query("read the journal's end", error))?;
        Ok(tail.map(|Id(id)| id))
    }

    async fn read(&mut self, after: JournalId, max: usize, wait: Duration) -> Result<Vec<RawEntry>, Error> {
        const READ: &str = "read the journal";
        let until = Instant::now() + wait;
        loop {
            if self.topic.primary_has_changed() {
                let reason = "another server has become the primary".into();
                return Err(Error::Unavailable { operation: READ, reason });
            }
            self.topic.mark();
            let entries = sqlx::query_as(AssertSqlSafe(self.shared.sql.read.clone()))
                .bind(&self.shared.shard)
                .bind(i64::from(after.epoch))
                .bind(signed(after.sequence))
                .bind(i64::try_from(max).unwrap_or(i64::MAX))
                .fetch_all(&mut *self.connection)
                .await;
            let entries: Vec<Entry> = entries.map_err(|error| translate_query(READ, error))?;
            let left = until.saturating_duration_since(Instant::now());
            if entries.is_empty() && !left.is_zero() {
                self.topic.wait(left).await;
                continue;
            }
            if let Some(Entry(last)) = entries.last() {
                self.shared.seen.fetch_max(last.id.packed(), Release);
            }
            return Ok(entries.into_iter().map(|Entry(entry)| entry).collect());
        }
    }
}

struct Id(JournalId);

impl FromRow<'_, PgRow> for Id {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let (epoch, sequence): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        Ok(Self(JournalId::new(u32::try_from(epoch).unwrap_or(u32::MAX), sequence.unsigned_abs())))
    }
}

struct Entry(RawEntry);

impl FromRow<'_, PgRow> for Entry {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let (Id(id), frame): (_, Vec<u8>) = (Id::from_row(row)?, row.try_get(2)?);
        Ok(Self(RawEntry { id, frame: frame.into() }))
    }
}

fn signed(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}
