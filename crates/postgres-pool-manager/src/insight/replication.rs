//! Who follows whom, how far behind, what the log costs. From the server asked alone: the balancer's own view of lag is
//! [`load_balancer`](crate::PostgresPoolManager::load_balancer).

use super::{Insight, InsightError, MissingRight};
use resilience::Deadline;
use serde::Serialize;
use std::time::Duration;

/// A standby as its upstream sees it. `None`: hidden, or not known yet.
#[derive(Clone, Debug, PartialEq, Serialize, sqlx::FromRow)]
#[non_exhaustive]
pub struct Standby {
    /// The WAL sender's process at the server.
    pub pid: i32,
    /// What the standby calls itself.
    pub application_name: Option<String>,
    /// Where it is.
    pub client: Option<String>,
    /// `streaming`, `catchup`, …
    pub state: Option<String>,
    /// `async`, `sync`, `potential`, `quorum`.
    pub sync_state: Option<String>,
    /// Log bytes not sent to it.
    pub unsent_bytes: Option<i64>,
    /// Log bytes that it has not replayed.
    pub lag_bytes: Option<i64>,
    /// Seconds from the commit here to its write there, of recent commits; none while nothing is written.
    pub write_lag_seconds: Option<f64>,
    /// … to its flush there.
    pub flush_lag_seconds: Option<f64>,
    /// … to its replay there.
    pub replay_lag_seconds: Option<f64>,
}

/// A replication slot: a promise to keep the log until somebody has read it.
#[derive(Clone, Debug, PartialEq, Serialize, sqlx::FromRow)]
#[non_exhaustive]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// `physical` or `logical`.
    pub kind: String,
    /// Whether anybody reads from it now. An inactive one keeps the log for ever, and fills the disk.
    pub active: bool,
    /// Log bytes kept for it.
    pub retained_bytes: Option<i64>,
    /// `reserved`, `extended`, `unreserved`, `lost`.
    pub wal_status: Option<String>,
}

/// What a standby receives.
#[derive(Clone, Debug, PartialEq, Serialize, sqlx::FromRow)]
#[non_exhaustive]
pub struct Receiver {
    /// `streaming`, …
    pub status: Option<String>,
    /// Whom it follows.
    pub sender_host: Option<String>,
    /// The port there.
    pub sender_port: Option<i32>,
    /// The slot that it uses.
    pub slot_name: Option<String>,
    /// The history that it follows.
    pub timeline: Option<i32>,
    /// Log bytes received and not replayed.
    pub unreplayed_bytes: Option<i64>,
}

/// Replication as one server sees it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Replication {
    /// The server that answered.
    pub server: String,
    /// Whether it is a standby itself.
    pub is_standby: bool,
    /// Its timeline at the last checkpoint.
    pub timeline: i32,
    /// Its position in the log: written (a primary), replayed (a standby).
    pub lsn: Option<String>,
    /// `synchronous_standby_names`; empty: commits wait for nobody.
    pub synchronous_standby_names: String,
    /// Who follows it.
    pub standbys: Vec<Standby>,
    /// Its slots.
    pub slots: Vec<Slot>,
    /// Whom it follows; `None`: nobody now.
    pub receiver: Option<Receiver>,
    /// Rights that the user lacks, and what is hidden therefore.
    pub missing: Vec<MissingRight>,
}

/// How fast the log grows.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WalRate {
    /// The server that answered.
    pub server: String,
    /// Bytes written between two samples.
    pub bytes: i64,
    /// Seconds between them, by the server's clock.
    pub seconds: f64,
    /// The one by the other.
    pub bytes_per_second: f64,
}

/// `{here}` is the server's own position.
const STANDBYS: &str = "SELECT pid, application_name, coalesce(client_hostname, host(client_addr)) AS client, state, sync_state, \
    pg_wal_lsn_diff({here}, sent_lsn)::bigint AS unsent_bytes, pg_wal_lsn_diff({here}, replay_lsn)::bigint AS lag_bytes, \
    extract(epoch FROM write_lag)::float8 AS write_lag_seconds, extract(epoch FROM flush_lag)::float8 AS flush_lag_seconds, \
    extract(epoch FROM replay_lag)::float8 AS replay_lag_seconds \
    FROM pg_catalog.pg_stat_replication ORDER BY application_name, pid LIMIT 1000";

const SLOTS: &str = "SELECT slot_name::text AS name, slot_type AS kind, active, \
    pg_wal_lsn_diff({here}, restart_lsn)::bigint AS retained_bytes, wal_status \
    FROM pg_catalog.pg_replication_slots ORDER BY slot_name LIMIT 1000";

const RECEIVER: &str = "SELECT status, sender_host, sender_port, slot_name, received_tli AS timeline, \
    pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::bigint AS unreplayed_bytes \
    FROM pg_catalog.pg_stat_wal_receiver";

impl Insight {
    /// Followers, slots, and whom the server follows itself.
    ///
    /// # Errors
    /// No connection, or no answer within `deadline`.
    pub async fn replication(
        &self,
        host: Option<&str>,
        deadline: Deadline,
    ) -> Result<Replication, InsightError> {
        self.ask(host, "the state of replication", deadline, async |link| {
            let is_standby = link.rights.standby;
            let here = if is_standby { "pg_last_wal_replay_lsn()" } else { "pg_current_wal_lsn()" };
            let sql = |template: &str| sqlx::AssertSqlSafe(template.replace("{here}", here));
            let head = "SELECT (SELECT timeline_id FROM pg_control_checkpoint()), {here}::text, \
                current_setting('synchronous_standby_names')";
            let (timeline, lsn, synchronous_standby_names) =
                sqlx::query_as(sql(head)).fetch_one(&mut link.pg).await?;
            Ok(Replication {
                server: link.server.clone(),
                is_standby,
                timeline,
                lsn,
                synchronous_standby_names,
                standbys: sqlx::query_as(sql(STANDBYS)).fetch_all(&mut link.pg).await?,
                slots: sqlx::query_as(sql(SLOTS)).fetch_all(&mut link.pg).await?,
                receiver: sqlx::query_as(RECEIVER).fetch_optional(&mut link.pg).await?,
                missing: link
                    .rights
                    .sees_all("position, state and lag of the standbys, and whom the server follows"),
            })
        })
        .await
    }

    /// How much log the primary writes: two samples, `apart` from each other (1 s is enough to see a rate).
    ///
    /// # Errors
    /// No connection, or no answer within `deadline`, which has to be longer than `apart`.
    pub async fn wal_rate(&self, apart: Duration, deadline: Deadline) -> Result<WalRate, InsightError> {
        let sample = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint, \
            extract(epoch FROM clock_timestamp())::float8";
        self.ask(None, "the rate of the log", deadline, async |link| {
            let (before, from): (i64, f64) = sqlx::query_as(sample).fetch_one(&mut link.pg).await?;
            tokio::time::sleep(apart).await;
            let (after, to): (i64, f64) = sqlx::query_as(sample).fetch_one(&mut link.pg).await?;
            let (bytes, seconds) = (after - before, (to - from).max(1e-6));
            let server = link.server.clone();
            Ok(WalRate { server, bytes, seconds, bytes_per_second: bytes as f64 / seconds })
        })
        .await
    }
}
