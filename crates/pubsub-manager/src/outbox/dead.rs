//! Messages that were put aside: for operators to look at, to try again or to drop.

use super::Outbox;
use crate::{Error, postgres::translate_query};
use postgres_pool_manager::sqlx::{self, AssertSqlSafe, FromRow, Row, postgres::PgRow};
use serde::Serialize;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

const OPERATION: &str = "look after the outbox's dead messages";

/// A message that was put aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeadMessage {
    /// Its number, by which it is retried or dropped.
    pub id: i64,
    /// The message's own id, which a retry keeps.
    #[serde(serialize_with = "as_text")]
    pub record: Uuid,
    /// Its ordering key.
    pub key: String,
    /// `plain`, `sharded`, `raw` or `durable`.
    pub target: String,
    /// The channel's name.
    pub subject: String,
    /// Size of the payload in bytes.
    pub bytes: u64,
    /// How often it was tried.
    pub attempts: u32,
    /// What the last attempt came to.
    pub reason: String,
    /// When the transaction published it.
    pub published_at: SystemTime,
    /// When it was put aside.
    pub died_at: SystemTime,
}

fn as_text<S: serde::Serializer>(id: &Uuid, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

impl FromRow<'_, PgRow> for DeadMessage {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let time = |name| {
            let micros = row.try_get::<i64, _>(name)?.unsigned_abs();
            Ok::<_, sqlx::Error>(UNIX_EPOCH.checked_add(Duration::from_micros(micros)).unwrap_or(UNIX_EPOCH))
        };
        let record = Uuid::parse_str(row.try_get("record")?);
        Ok(Self {
            id: row.try_get("id")?,
            record: record.map_err(|error| sqlx::Error::Decode(error.into()))?,
            key: row.try_get("key")?,
            target: row.try_get("target")?,
            subject: row.try_get("subject")?,
            bytes: u64::from(row.try_get::<i32, _>("bytes")?.unsigned_abs()),
            attempts: row.try_get::<i32, _>("attempts")?.unsigned_abs(),
            reason: row.try_get("reason")?,
            published_at: time("published_at")?,
            died_at: time("died_at")?,
        })
    }
}

/// Which dead messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which<'a> {
    /// Every one.
    All,
    /// Those with these numbers.
    Ids(&'a [i64]),
}

impl Outbox {
    /// Up to `limit` dead messages with numbers above `after`, 0 for the first, in the order of their publishing.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn dead(&self, after: i64, limit: u32) -> Result<Vec<DeadMessage>, Error> {
        let pool = self.0.listener.pool();
        let dead = sqlx::query_as(AssertSqlSafe(self.0.sql.dead.clone()))
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(&pool.primary())
            .await;
        dead.map_err(|error| translate_query(OPERATION, error))
    }

    /// Puts dead messages back at the end of the outbox, with the ids that they had; how many. They are delivered behind
    /// what has been published since.
    ///
    /// Cancel safety: dropped, it may or may not have happened.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn retry(&self, which: Which<'_>) -> Result<u64, Error> {
        self.change(&self.0.sql.revive, which).await
    }

    /// Deletes dead messages for good; how many.
    ///
    /// Cancel safety: dropped, it may or may not have happened.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn drop_dead(&self, which: Which<'_>) -> Result<u64, Error> {
        self.change(&self.0.sql.drop_dead, which).await
    }

    async fn change(&self, sql: &str, which: Which<'_>) -> Result<u64, Error> {
        let ids = match which {
            Which::All => &[],
            Which::Ids([]) => return Ok(0),
            Which::Ids(ids) => ids,
        };
        let pool = self.0.listener.pool();
        let changed = sqlx::query(AssertSqlSafe(sql.to_owned())).bind(ids).execute(&pool.primary()).await;
        changed.map(|changed| changed.rows_affected()).map_err(|error| translate_query(OPERATION, error))
    }
}
