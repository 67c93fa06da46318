//! The statements that take longest: from `pg_stat_statements` where it can be read, else from what this process
//! measured. The two are never mixed.

use super::{
    Insight, InsightError, MissingRight,
    activity::bound,
    link::Link,
    sketch::{self, EVERY},
};
use crate::error::sqlstate;
use resilience::Deadline;
use serde::Serialize;
use sqlx::AssertSqlSafe;

/// Where the figures come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SlowSource {
    /// The server's `pg_stat_statements`: every statement of every client since its last reset.
    PgStatStatements,
    /// This process's own measurement: one statement in sixteen, waiting for the network included, since it started.
    ClientSampled,
}

/// A statement, its literals replaced by `?` or `$n`. Times are in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, sqlx::FromRow)]
#[non_exhaustive]
pub struct SlowQuery {
    /// Its text; at most 1,000 characters.
    pub query: String,
    /// How often it was run; of sampled figures: how often it was measured.
    pub calls: i64,
    /// Mean duration, ms.
    pub mean_exec_time: f64,
    /// Longest duration, ms.
    pub max_exec_time: f64,
    /// Standard deviation of the duration, ms.
    pub stddev_exec_time: f64,
    /// All of them together, ms.
    pub total_exec_time: f64,
}

/// The slowest statements by their mean.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SlowQueries {
    /// Where the figures come from.
    pub source: SlowSource,
    /// One statement in so many was measured; 1: each.
    pub sampled_every: u32,
    /// The server, or `this process`.
    pub server: String,
    /// Slowest mean first.
    pub queries: Vec<SlowQuery>,
    /// Why it is not `pg_stat_statements`, and how it would be; nothing if it is.
    pub note: Option<String>,
    /// Rights that the user lacks, and what is hidden therefore.
    pub missing: Vec<MissingRight>,
}

impl Insight {
    /// The statements of our database with the longest mean duration; the replaced system's limit was 20.
    ///
    /// # Errors
    /// No connection, or no answer within `deadline`. Without `pg_stat_statements` there is another source, not an error.
    pub async fn slow_queries(
        &self,
        host: Option<&str>,
        limit: usize,
        deadline: Deadline,
    ) -> Result<SlowQueries, InsightError> {
        self.ask(host, "the list of slow statements", deadline, async |link| {
            let note = match from_server(link, limit).await? {
                Ok(queries) => {
                    return Ok(SlowQueries {
                        source: SlowSource::PgStatStatements,
                        sampled_every: 1,
                        server: link.server.clone(),
                        queries,
                        note: None,
                        missing: link.rights.sees_all("statements of other users"),
                    });
                }
                Err(why) => why,
            };
            Ok(self.own_measurements(limit, note))
        })
        .await
    }

    fn own_measurements(&self, limit: usize, note: String) -> SlowQueries {
        let sketches = self.servers.iter().filter_map(|server| server.recorder.as_ref());
        let mut queries = sketch::merged(sketches.map(|recorder| &recorder.sketch));
        queries.sort_by(|a, b| b.mean_exec_time.total_cmp(&a.mean_exec_time));
        queries.truncate(limit);
        let (source, server) = (SlowSource::ClientSampled, "this process".to_owned());
        SlowQueries { source, sampled_every: EVERY, server, queries, note: Some(note), missing: Vec::new() }
    }
}

/// The inner `Err` says why the server has nothing to tell.
async fn from_server(link: &mut Link, limit: usize) -> Result<Result<Vec<SlowQuery>, String>, InsightError> {
    let schema: Option<String> = sqlx::query_scalar(
        "SELECT quote_ident(n.nspname) FROM pg_catalog.pg_extension e \
         JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements'",
    )
    .fetch_optional(&mut link.pg)
    .await?;
    let Some(schema) = schema else {
        let mend = "add it to shared_preload_libraries, restart, and CREATE EXTENSION pg_stat_statements";
        return Ok(Err(format!(
            "pg_stat_statements is not installed in database {}; {mend}",
            link.rights.database
        )));
    };
    // The text of a statement that may not be seen is replaced by words in angle brackets.
    let sql = format!(
        "SELECT left(query, 1000) AS query, calls::bigint, mean_exec_time, max_exec_time, stddev_exec_time, \
         total_exec_time FROM {schema}.pg_stat_statements \
         WHERE dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) \
         AND query <> '<insufficient privilege>' AND calls > 0 ORDER BY mean_exec_time DESC LIMIT $1"
    );
    match sqlx::query_as(AssertSqlSafe(sql)).bind(bound(limit) - 1).fetch_all(&mut link.pg).await {
        Ok(queries) => Ok(Ok(queries)),
        Err(e) => match sqlstate(&e).as_deref() {
            Some("55000") => Ok(Err(
                "pg_stat_statements is not loaded; add it to shared_preload_libraries and restart".into(),
            )),
            Some("42703") => {
                Ok(Err("pg_stat_statements is of an old version; ALTER EXTENSION pg_stat_statements UPDATE"
                    .into()))
            }
            Some("42501") => Ok(Err(format!(
                "user {} may not read pg_stat_statements; GRANT pg_read_all_stats, and USAGE on schema {schema}",
                link.rights.username
            ))),
            _ => Err(e.into()),
        },
    }
}
