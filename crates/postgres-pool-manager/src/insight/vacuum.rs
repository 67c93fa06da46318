//! How well vacuum keeps up: dead rows, when it last came, how far the transaction counter has run. It changes nothing;
//! `maintain` does.

use super::{Insight, InsightError, activity::bound};
use resilience::Deadline;
use serde::Serialize;

/// Transactions after which the server refuses new ones, less its own margin.
const WRAPAROUND: i64 = 2_147_483_648 - 3_000_000;

/// A table as vacuum sees it. Times are ISO 8601, UTC.
#[derive(Clone, Debug, PartialEq, Serialize, sqlx::FromRow)]
#[non_exhaustive]
pub struct TableVacuum {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub table: String,
    /// Rows that count, as the server estimates them.
    pub live_rows: i64,
    /// Rows deleted or replaced that vacuum has not removed yet.
    pub dead_rows: i64,
    /// dead / (live + dead).
    pub dead_share: f64,
    /// The latest vacuum by hand.
    pub last_vacuum: Option<String>,
    /// The latest vacuum by the server itself.
    pub last_autovacuum: Option<String>,
    /// The latest analyze, by hand or by the server itself.
    pub last_analyze: Option<String>,
    /// Transactions since its oldest row was made safe from the counter's wraparound.
    pub freeze_age: i64,
}

/// Vacuum in our database.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct VacuumState {
    /// The server that answered.
    pub server: String,
    /// Transactions since the database's oldest row was made safe from wraparound.
    pub freeze_age: i64,
    /// Age at which the server vacuums by itself to stay safe (`autovacuum_freeze_max_age`).
    pub freeze_max_age: i64,
    /// freeze_age as a share of what stops the server: 1 is standstill.
    pub wraparound_share: f64,
    /// Whether the server vacuums by itself.
    pub autovacuum: bool,
    /// Most dead rows first.
    pub tables: Vec<TableVacuum>,
    /// Whether there are more tables.
    pub truncated: bool,
}

impl Insight {
    /// Tables by their dead rows, and the age of the database.
    ///
    /// # Errors
    /// No connection, or no answer within `deadline`.
    pub async fn vacuum_state(&self, limit: usize, deadline: Deadline) -> Result<VacuumState, InsightError> {
        self.ask(None, "the state of vacuum", deadline, async |link| {
            let (freeze_age, freeze_max_age, autovacuum): (i64, i64, bool) = sqlx::query_as(
                "SELECT age(datfrozenxid)::bigint, current_setting('autovacuum_freeze_max_age')::bigint, \
                 current_setting('autovacuum')::bool FROM pg_catalog.pg_database WHERE datname = current_database()",
            )
            .fetch_one(&mut link.pg)
            .await?;
            let mut tables: Vec<TableVacuum> = sqlx::query_as(
                "SELECT s.schemaname::text AS schema, s.relname::text AS table, s.n_live_tup AS live_rows, \
                 s.n_dead_tup AS dead_rows, \
                 coalesce(s.n_dead_tup::float8 / nullif(s.n_live_tup + s.n_dead_tup, 0), 0) AS dead_share, \
                 to_char(s.last_vacuum AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS last_vacuum, \
                 to_char(s.last_autovacuum AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS last_autovacuum, \
                 to_char(greatest(s.last_analyze, s.last_autoanalyze) AT TIME ZONE 'UTC', \
                 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS last_analyze, age(c.relfrozenxid)::bigint AS freeze_age \
                 FROM pg_catalog.pg_stat_user_tables s JOIN pg_catalog.pg_class c ON c.oid = s.relid \
                 WHERE c.relkind IN ('r', 'm') ORDER BY s.n_dead_tup DESC, 9 DESC, 1, 2 LIMIT $1",
            )
            .bind(bound(limit))
            .fetch_all(&mut link.pg)
            .await?;
            let truncated = tables.len() > limit;
            tables.truncate(limit);
            let wraparound_share = freeze_age as f64 / WRAPAROUND as f64;
            let server = link.server.clone();
            Ok(VacuumState { server, freeze_age, freeze_max_age, wraparound_share, autovacuum, tables, truncated })
        })
        .await
    }
}
