//! Vacuum, analyze and reindex by hand: on the primary, outside of a transaction, one table after the other, without
//! the pool's `statement_timeout`. The caller's deadline is the limit, and the server is told of it.
//!
//! A table's name is looked up in the catalog before it gets into a statement, and quoted by the server. Before
//! Postgres 17 the server leaves out a table that the user does not own with no more than a warning; here it is said.

use super::{
    Insight, InsightError,
    link::Link,
    scan::{Kind, Token, tokens},
};
use crate::{
    Error,
    conn::{Verdict, verdict},
    error::{ConnectFailure, sqlstate},
};
use resilience::Deadline;
use serde::Serialize;
use std::str::FromStr;
use tokio::time::Instant;

/// What is worked on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// One table or materialized view.
    Table {
        /// Its schema; `None`: the first of the search path that has it.
        schema: Option<String>,
        /// Its name.
        name: String,
    },
    /// All tables and materialized views of a schema.
    Schema(String),
}

impl FromStr for Target {
    type Err = InsightError;

    /// `table` or `schema.table`, with double quotes where SQL wants them.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = tokens(text)?;
        let name = |token: &Token<'_>| token.name().map(std::borrow::Cow::into_owned);
        let parsed = match &found[..] {
            [table] => name(table).map(|name| Self::Table { schema: None, name }),
            [schema, dot, table] if dot.kind == Kind::Sign && dot.text == "." => {
                name(schema).zip(name(table)).map(|(schema, name)| Self::Table { schema: Some(schema), name })
            }
            _ => None,
        };
        let unknown = || InsightError::UnknownObject {
            kind: "table",
            name: text.to_owned(),
            database: "any".to_owned(),
        };
        parsed.ok_or_else(unknown)
    }
}

/// How a vacuum is done.
#[derive(Clone, Debug)]
pub struct VacuumOptions {
    /// Write the table anew and give the space back to the system; nobody can even read it meanwhile. Default `false`.
    pub full: bool,
    /// Count anew what the planner goes by. Default `true`.
    pub analyze: bool,
}

impl Default for VacuumOptions {
    fn default() -> Self {
        Self { full: false, analyze: true }
    }
}

/// How indexes are built anew.
#[derive(Clone, Debug)]
pub struct ReindexOptions {
    /// Without keeping writers waiting, at twice the work. Default `true`.
    pub concurrently: bool,
}

impl Default for ReindexOptions {
    fn default() -> Self {
        Self { concurrently: true }
    }
}

/// How far the work is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MaintenanceProgress {
    /// Tables finished.
    pub done: usize,
    /// Tables in all.
    pub total: usize,
    /// The table that is worked on now; empty at the end.
    pub table: String,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Maintained {
    /// The server.
    pub server: String,
    /// `VACUUM`, `ANALYZE` or `REINDEX`.
    pub operation: &'static str,
    /// The tables, with the seconds that each took.
    pub tables: Vec<(String, f64)>,
    /// The tables left out, with why.
    pub skipped: Vec<Skipped>,
    /// Broken indexes there are now in these schemas, left by a concurrent build that failed, now or earlier.
    pub invalid_indexes: Vec<String>,
}

/// A table that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Skipped {
    /// The table.
    pub table: String,
    /// Why.
    pub why: String,
}

/// Reports to the caller; not awaited.
type Tell<'a> = &'a mut (dyn FnMut(MaintenanceProgress) + Send);

struct Work<'a> {
    operation: &'static str,
    /// The statement up to the table's name.
    verb: &'a str,
    /// Whether the database's owner may do it to everybody's tables.
    database_owner: bool,
}

impl Insight {
    /// Removes dead rows.
    ///
    /// Cancel safety: the server ends the work under way within a second; what was done stays.
    ///
    /// # Errors
    /// No such table or schema; [`InsightError::Forbidden`] for one table that is not the user's;
    /// [`InsightError::Timeout`]; the primary is none. Of a schema, tables that fail are in the answer.
    pub async fn vacuum(
        &self,
        target: &Target,
        options: &VacuumOptions,
        deadline: Deadline,
        progress: Tell<'_>,
    ) -> Result<Maintained, InsightError> {
        let verb = match (options.full, options.analyze) {
            (false, false) => "VACUUM",
            (false, true) => "VACUUM (ANALYZE)",
            (true, false) => "VACUUM (FULL)",
            (true, true) => "VACUUM (FULL, ANALYZE)",
        };
        self.maintain(target, Work { operation: "VACUUM", verb, database_owner: true }, deadline, progress)
            .await
    }

    /// Counts anew what the planner goes by.
    ///
    /// # Errors
    /// As [`vacuum`](Self::vacuum).
    pub async fn analyze(
        &self,
        target: &Target,
        deadline: Deadline,
        progress: Tell<'_>,
    ) -> Result<Maintained, InsightError> {
        let work = Work { operation: "ANALYZE", verb: "ANALYZE", database_owner: true };
        self.maintain(target, work, deadline, progress).await
    }

    /// Builds indexes anew.
    ///
    /// # Errors
    /// As [`vacuum`](Self::vacuum).
    pub async fn reindex(
        &self,
        target: &Target,
        options: &ReindexOptions,
        deadline: Deadline,
        progress: Tell<'_>,
    ) -> Result<Maintained, InsightError> {
        let verb = if options.concurrently { "REINDEX TABLE CONCURRENTLY" } else { "REINDEX TABLE" };
        self.maintain(target, Work { operation: "REINDEX", verb, database_owner: false }, deadline, progress)
            .await
    }

    async fn maintain(
        &self,
        target: &Target,
        work: Work<'_>,
        deadline: Deadline,
        progress: Tell<'_>,
    ) -> Result<Maintained, InsightError> {
        self.ask(None, work.operation, deadline, async |link| {
            if link.rights.standby {
                let (host, failure) = (link.server.clone(), ConnectFailure::NotWritable);
                return Err(Error::Connect { host, failure, source: None }.into());
            }
            let tables = resolve(link, target, &work).await?;
            let millis = deadline.remaining().as_millis().clamp(1, 24 * 24 * 3600 * 1000);
            link.run(format!("SET statement_timeout = {millis}")).await?;
            let (server, operation) = (link.server.clone(), work.operation);
            let mut all =
                Maintained { server, operation, tables: vec![], skipped: vec![], invalid_indexes: vec![] };
            let total = tables.len();
            for (done, table) in tables.iter().enumerate() {
                progress(MaintenanceProgress { done, total, table: table.qualified.clone() });
                one(link, &work, table, total == 1 && matches!(target, Target::Table { .. }), &mut all)
                    .await?;
            }
            progress(MaintenanceProgress { done: total, total, table: String::new() });
            all.invalid_indexes = invalid(link, &tables).await?;
            Ok(all)
        })
        .await
    }
}

/// A table as the catalog has it.
#[derive(sqlx::FromRow)]
struct Table {
    id: i64,
    qualified: String,
    may: bool,
}

async fn one(
    link: &mut Link,
    work: &Work<'_>,
    table: &Table,
    alone: bool,
    all: &mut Maintained,
) -> Result<(), InsightError> {
    let name = table.qualified.clone();
    if !table.may {
        let user = link.rights.username.clone();
        let mend = "its owner can, or from Postgres 17 on a user with pg_maintain or MAINTAIN on it";
        if alone {
            let what = format!("{} {name}", work.operation);
            return Err(InsightError::Forbidden { user, what, mend: mend.to_owned() });
        }
        all.skipped.push(Skipped { table: name, why: format!("user {user} does not own it; {mend}") });
        return Ok(());
    }
    let started = Instant::now();
    match link.run(format!("{} {name}", work.verb)).await {
        Ok(()) => all.tables.push((name, started.elapsed().as_secs_f64())),
        Err(e) if sqlstate(&e).as_deref() == Some("57014") => {
            return Err(InsightError::Timeout { operation: work.operation });
        }
        Err(e) if alone || verdict(&e, true) == Verdict::Broken => return Err(e.into()),
        // Dropped meanwhile, or broken: the others can still be done.
        Err(e) => all.skipped.push(Skipped { table: name, why: e.to_string() }),
    }
    Ok(())
}

/// The tables, by the catalog alone.
async fn resolve(link: &mut Link, target: &Target, work: &Work<'_>) -> Result<Vec<Table>, InsightError> {
    let owner = if work.database_owner {
        "OR EXISTS (SELECT FROM pg_catalog.pg_database d WHERE d.datname = current_database() AND pg_has_role(d.datdba, 'USAGE'))"
    } else {
        ""
    };
    let maintain =
        if link.rights.version >= 170_000 { "OR has_table_privilege(c.oid, 'MAINTAIN')" } else { "" };
    let (kinds, schema, name) = match target {
        Target::Table { schema, name } => ("'r', 'm', 'p'", schema.as_deref(), Some(name.as_str())),
        // The partitions stand for what they are parts of.
        Target::Schema(schema) => ("'r', 'm'", Some(schema.as_str()), None),
    };
    let sql = format!(
        "SELECT c.oid::bigint AS id, format('%I.%I', n.nspname, c.relname) AS qualified, \
         pg_has_role(c.relowner, 'USAGE') {owner} {maintain} AS may \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ({kinds}) AND c.relpersistence <> 't' AND ($1::text IS NULL OR n.nspname = $1) \
         AND ($2::text IS NULL OR c.relname = $2) AND ($1::text IS NOT NULL OR pg_table_is_visible(c.oid)) \
         ORDER BY c.relpages, c.relname LIMIT 100000"
    );
    let tables: Vec<Table> =
        sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(schema).bind(name).fetch_all(&mut link.pg).await?;
    let database = link.rights.database.clone();
    match target {
        Target::Table { schema, name } if tables.is_empty() => {
            let name = schema.iter().chain([name]).cloned().collect::<Vec<_>>().join(".");
            Err(InsightError::UnknownObject { kind: "table", name, database })
        }
        Target::Schema(schema) if tables.is_empty() => {
            let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)";
            let there: bool = sqlx::query_scalar(sql).bind(schema).fetch_one(&mut link.pg).await?;
            let name = schema.clone();
            if there {
                Ok(tables)
            } else {
                Err(InsightError::UnknownObject { kind: "schema", name, database })
            }
        }
        _ => Ok(tables),
    }
}

async fn invalid(link: &mut Link, tables: &[Table]) -> Result<Vec<String>, InsightError> {
    let sql = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_index i \
        JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
        WHERE NOT i.indisvalid AND c.relkind = 'i' AND i.indrelid::bigint = ANY($1) ORDER BY 1 LIMIT 1000";
    let ids: Vec<i64> = tables.iter().map(|table| table.id).collect();
    Ok(sqlx::query_scalar(sql).bind(ids).fetch_all(&mut link.pg).await?)
}
