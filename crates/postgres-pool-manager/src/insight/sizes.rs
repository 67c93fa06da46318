//! How big databases and tables are. Bytes on disk, not rows' contents.

use super::{Insight, InsightError, MissingRight, activity::bound};
use resilience::Deadline;
use serde::Serialize;

/// A database's size.
#[derive(Clone, Debug, PartialEq, Serialize, sqlx::FromRow)]
#[non_exhaustive]
pub struct DatabaseSize {
    /// Its name.
    pub database: String,
    /// Bytes; `None`: the user may not know.
    pub bytes: Option<i64>,
}

/// A table's size, bytes.
#[derive(Clone, Debug, PartialEq, Serialize, sqlx::FromRow)]
#[non_exhaustive]
pub struct TableSize {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub table: String,
    /// Rows as the server estimates them; `None`: it was never analyzed.
    pub rows: Option<i64>,
    /// The table itself, with free space and visibility maps.
    pub table_bytes: i64,
    /// Its indexes.
    pub index_bytes: i64,
    /// Values kept out of line, with their index.
    pub toast_bytes: i64,
    /// All together.
    pub total_bytes: i64,
}

/// Sizes at one server.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Sizes {
    /// The server that answered.
    pub server: String,
    /// All databases, largest first; at most 1,000.
    pub databases: Vec<DatabaseSize>,
    /// The largest tables of our database.
    pub tables: Vec<TableSize>,
    /// Whether there are more tables.
    pub truncated: bool,
    /// Rights that the user lacks, and what is hidden therefore.
    pub missing: Vec<MissingRight>,
}

impl Insight {
    /// Databases, and the largest tables and materialized views of ours.
    ///
    /// # Errors
    /// No connection, or no answer within `deadline`: sizes are read from the file system, which takes a moment with
    /// very many tables.
    pub async fn sizes(
        &self,
        host: Option<&str>,
        limit: usize,
        deadline: Deadline,
    ) -> Result<Sizes, InsightError> {
        self.ask(host, "the list of sizes", deadline, async |link| {
            let databases: Vec<DatabaseSize> = sqlx::query_as(
                "SELECT datname::text AS database, CASE WHEN has_database_privilege(oid, 'CONNECT') \
                 OR pg_has_role('pg_read_all_stats', 'USAGE') THEN pg_database_size(oid)::bigint END AS bytes \
                 FROM pg_catalog.pg_database WHERE NOT datistemplate ORDER BY 2 DESC NULLS LAST, 1 LIMIT 1000",
            )
            .fetch_all(&mut link.pg)
            .await?;
            let mut tables: Vec<TableSize> = sqlx::query_as(
                "SELECT n.nspname::text AS schema, c.relname::text AS table, \
                 CASE WHEN c.reltuples >= 0 THEN c.reltuples::bigint END AS rows, \
                 (pg_table_size(c.oid) - t.bytes)::bigint AS table_bytes, pg_indexes_size(c.oid)::bigint AS index_bytes, \
                 t.bytes AS toast_bytes, pg_total_relation_size(c.oid)::bigint AS total_bytes \
                 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                 CROSS JOIN LATERAL (SELECT coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0)::bigint AS bytes) t \
                 WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' \
                 AND n.nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 7 DESC, 1, 2 LIMIT $1",
            )
            .bind(bound(limit))
            .fetch_all(&mut link.pg)
            .await?;
            let truncated = tables.len() > limit;
            tables.truncate(limit);
            let hidden = databases.iter().any(|database| database.bytes.is_none());
            let missing =
                if hidden { link.rights.sees_all("sizes of databases without CONNECT") } else { Vec::new() };
            Ok(Sizes { server: link.server.clone(), databases, tables, truncated, missing })
        })
        .await
    }
}
