//! Asking the server for a statement's plan, without running it unless that is asked for and safe.
//!
//! Always inside a read-only transaction that is rolled back, on a connection that nobody else uses, with a
//! `statement_timeout`, and over the extended protocol, which takes one statement only. Planning alone may call
//! functions that are declared immutable or stable.

use super::{
    Advice, Insight, InsightError,
    advice::{Settings, advise},
    guard::Statement,
    link::Link,
    plan::Explained,
};
use crate::{Error, error::sqlstate};
use resilience::Deadline;
use serde::Serialize;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor};
use std::time::Duration;

/// How a statement is looked at.
#[derive(Clone, Debug)]
pub struct OptimizeOptions {
    /// Run it, for real row counts and times. Only a statement that does nothing but read, without parameters.
    /// Default `false`.
    pub analyze: bool,
    /// Longest run of the statement, or of its planning. Default 5 s.
    pub timeout: Duration,
    /// A table with fewer rows may be read from end to end without a word. Default 10,000: some hundred pages.
    pub big_table_rows: u64,
}

impl Default for OptimizeOptions {
    fn default() -> Self {
        Self { analyze: false, timeout: Duration::from_secs(5), big_table_rows: 10_000 }
    }
}

/// A statement's plan and what is to be said about it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Optimized {
    /// The server that was asked.
    pub server: String,
    /// Whether the statement was run.
    pub analyzed: bool,
    /// The planner's cost.
    pub total_cost: f64,
    /// The rows that the planner expects.
    pub plan_rows: f64,
    /// How long it ran, ms; only if it was run.
    pub execution_ms: Option<f64>,
    /// What to do, most useful first; nothing: the plan is as good as can be told.
    pub advice: Vec<Advice>,
    /// The plan as the server gave it (`EXPLAIN (FORMAT JSON, VERBOSE)`).
    pub plan: Value,
}

impl Insight {
    /// A statement's plan and plain advice about it: sequential scans of big tables, missing indexes with their DDL,
    /// wrong row estimates, sorts and hashes that spill to disk (the last two for certain only with `analyze`).
    ///
    /// Parameters (`$1`) are planned without values, as a prepared statement that is run often is. It never executes a
    /// write.
    ///
    /// Cancel safety: the transaction is rolled back by the server.
    ///
    /// # Errors
    /// A refusal each for no statement, several, one without a plan, and, with `analyze`, for one that writes, locks
    /// rows, calls something volatile, reads a foreign table or has parameters; [`InsightError::Timeout`]; the
    /// server's own, such as an unknown table.
    pub async fn optimize_query(
        &self,
        host: Option<&str>,
        sql: &str,
        options: &OptimizeOptions,
        deadline: Deadline,
    ) -> Result<Optimized, InsightError> {
        let statement = Statement::parse(sql)?;
        self.ask(host, "the look at a statement", deadline, async |link| {
            let millis = options.timeout.as_millis().clamp(1, 24 * 3600 * 1000);
            // Guard and server have to agree on where a literal ends.
            for sql in [
                "SET standard_conforming_strings = on".to_owned(),
                "BEGIN READ ONLY".to_owned(),
                format!("SET LOCAL statement_timeout = {millis}"),
            ] {
                link.run(sql).await?;
            }
            let looked = look(link, &statement, options).await;
            // The connection is closed next; should this fail, that rolls back, too.
            let _ = link.pg.execute("ROLLBACK").await;
            looked
        })
        .await
    }
}

async fn look(
    link: &mut Link,
    statement: &Statement<'_>,
    options: &OptimizeOptions,
) -> Result<Optimized, InsightError> {
    let mut plan = explain(link, statement, "").await?;
    if options.analyze {
        statement.may_run(&plan, link).await?;
        plan = explain(link, statement, ", ANALYZE, BUFFERS").await?;
    }
    let explained = Explained::parse(&plan)?;
    let settings = Settings::read(link, options.big_table_rows).await?;
    let advice = advise(&explained, &settings, link).await?;
    Ok(Optimized {
        server: link.server.clone(),
        analyzed: options.analyze,
        total_cost: explained.plan.cost,
        plan_rows: explained.plan.plan_rows,
        execution_ms: explained.execution_ms,
        advice,
        plan,
    })
}

async fn explain(link: &mut Link, statement: &Statement<'_>, more: &str) -> Result<Value, InsightError> {
    let mut sql = statement.sql.to_owned();
    if statement.has_parameters {
        // GENERIC_PLAN is known from Postgres 16 on; a prepared statement with the generic plan is the same, everywhere.
        single(link, format!("PREPARE insight AS {sql}")).await?;
        link.run("SET LOCAL plan_cache_mode = force_generic_plan".to_owned()).await?;
        let number = "SELECT coalesce(array_length(parameter_types, 1), 0) FROM pg_catalog.pg_prepared_statements \
            WHERE name = 'insight'";
        let number: i32 = sqlx::query_scalar(number).fetch_one(&mut link.pg).await?;
        let nulls = vec!["NULL"; usize::try_from(number).unwrap_or(0)].join(", ");
        sql = format!("EXECUTE insight({nulls})");
    }
    let sql = format!("EXPLAIN (FORMAT JSON, VERBOSE{more}) {sql}");
    let answer = sqlx::query_scalar(AssertSqlSafe(sql)).persistent(false).fetch_one(&mut link.pg).await;
    answer.map_err(told)
}

/// Over the extended protocol, which refuses a second statement.
async fn single(link: &mut Link, sql: String) -> Result<(), InsightError> {
    let done = sqlx::query(AssertSqlSafe(sql)).persistent(false).execute(&mut link.pg).await;
    done.map(drop).map_err(told)
}

fn told(e: sqlx::Error) -> InsightError {
    match sqlstate(&e).as_deref() {
        Some("57014") => InsightError::Timeout { operation: "the statement" },
        Some("25006") => {
            let what = e.as_database_error().map_or_else(String::new, |db| db.message().to_owned());
            InsightError::Writes { what }
        }
        _ => InsightError::Database(Error::from(e)),
    }
}
