//! How much each index is used, unused ones first, and which of them may go. Nothing is dropped here.

use super::{Insight, InsightError, Report, activity::bound, link::within};
use resilience::Deadline;
use serde::Serialize;
use std::collections::HashMap;

/// An index and what it is used for.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct IndexUsage {
    /// The schema of table and index.
    pub schema: String,
    /// The table.
    pub table: String,
    /// The index.
    pub index: String,
    /// Scans at the server that was asked, since its statistics were reset.
    pub scans: i64,
    /// Scans at the other servers of the settings; `None`: one of them did not answer.
    pub other_scans: Option<i64>,
    /// Its size, bytes.
    pub bytes: i64,
    /// Whether it keeps values unique.
    pub is_unique: bool,
    /// Whether a constraint (primary key, unique, exclusion, foreign key to it) or the replica identity needs it.
    pub is_needed: bool,
    /// `false`: a broken build (`CREATE INDEX CONCURRENTLY` that failed) that costs writes and serves nobody.
    pub is_valid: bool,
    /// The statement that drops it, if nothing is known that it is needed for.
    pub drop_it: Option<String>,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: i64,
    schema: String,
    table: String,
    index: String,
    qualified: String,
    scans: i64,
    bytes: i64,
    is_unique: bool,
    is_needed: bool,
    is_valid: bool,
}

const INDEXES: &str = "SELECT i.indexrelid::bigint AS id, s.schemaname::text AS schema, s.relname::text AS table, \
    s.indexrelname::text AS index, format('%I.%I', s.schemaname, s.indexrelname) AS qualified, \
    coalesce(s.idx_scan, 0)::bigint AS scans, pg_relation_size(i.indexrelid)::bigint AS bytes, \
    i.indisunique AS is_unique, i.indisprimary OR i.indisexclusion OR i.indisreplident OR i.indisclustered \
    OR EXISTS (SELECT FROM pg_catalog.pg_constraint c WHERE c.conindid = i.indexrelid) \
    OR EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = i.indexrelid) AS is_needed, \
    i.indisvalid AS is_valid \
    FROM pg_catalog.pg_stat_user_indexes s JOIN pg_catalog.pg_index i ON i.indexrelid = s.indexrelid \
    WHERE $1::text IS NULL OR s.schemaname = $1 ORDER BY 6, 7 DESC, 5 LIMIT $2";

impl Insight {
    /// The indexes of our database, or of one schema: the least used first, the largest of them before the others.
    ///
    /// A unique index and one that a constraint needs does its work without being scanned, and is never said to be
    /// superfluous; neither is one that another server of the settings uses, or may use as it did not answer.
    ///
    /// # Errors
    /// No connection, or no answer within `deadline`.
    pub async fn index_usage(
        &self,
        schema: Option<&str>,
        limit: usize,
        deadline: Deadline,
    ) -> Result<Report<IndexUsage>, InsightError> {
        let (mut report, since) = self
            .ask(None, "the list of indexes", deadline, async |link| {
                let rows: Vec<Row> =
                    sqlx::query_as(INDEXES).bind(schema).bind(bound(limit)).fetch_all(&mut link.pg).await?;
                let since: Option<String> = sqlx::query_scalar(
                    "SELECT to_char(stats_reset AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') \
                     FROM pg_catalog.pg_stat_database WHERE datname = current_database()",
                )
                .fetch_one(&mut link.pg)
                .await?;
                Ok((Report::new(link, rows, limit), since))
            })
            .await?;
        let (others, silent) = self.scans_elsewhere(deadline).await;
        let since = since.unwrap_or_else(|| "the server's first start".to_owned());
        report.notes.push(format!("scans are counted since {since}, by each server for itself"));
        if !silent.is_empty() {
            let who = silent.join(", ");
            report.notes.push(format!("{who} did not answer: an index without scans here may be used there"));
        }
        let known = silent.is_empty();
        let rows = report.rows.drain(..).map(|row| judged(row, known.then_some(&others))).collect();
        let Report { server, truncated, missing, notes, .. } = report;
        Ok(Report { server, rows, truncated, missing, notes })
    }

    /// Scans at the replicas by the index's number, which is the same at all of them; and who did not answer.
    async fn scans_elsewhere(&self, deadline: Deadline) -> (HashMap<i64, i64>, Vec<String>) {
        let (mut scans, mut silent) = (HashMap::new(), Vec::new());
        for server in self.replicas() {
            let work = async {
                let mut link = self.open(server).await?;
                let sql = "SELECT indexrelid::bigint, coalesce(idx_scan, 0)::bigint FROM pg_catalog.pg_stat_user_indexes \
                    WHERE idx_scan > 0 LIMIT 100000";
                Ok::<Vec<(i64, i64)>, InsightError>(sqlx::query_as(sql).fetch_all(&mut link.pg).await?)
            };
            match within(deadline, "the list of indexes", work).await {
                Ok(Ok(rows)) => rows.into_iter().for_each(|(id, n)| *scans.entry(id).or_default() += n),
                Ok(Err(_)) | Err(_) => silent.push(server.name.clone()),
            }
        }
        (scans, silent)
    }
}

fn judged(row: Row, others: Option<&HashMap<i64, i64>>) -> IndexUsage {
    let other_scans = others.map(|others| others.get(&row.id).copied().unwrap_or(0));
    let unused = row.scans == 0 && other_scans == Some(0);
    let superfluous = !row.is_needed && (!row.is_valid || (unused && !row.is_unique));
    IndexUsage {
        drop_it: superfluous.then(|| format!("DROP INDEX CONCURRENTLY {}", row.qualified)),
        schema: row.schema,
        table: row.table,
        index: row.index,
        scans: row.scans,
        other_scans,
        bytes: row.bytes,
        is_unique: row.is_unique,
        is_needed: row.is_needed,
        is_valid: row.is_valid,
    }
}
