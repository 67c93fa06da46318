//! Sessions at a server, and the transactions that hold it back.

use super::{Insight, InsightError, Report};
use resilience::Deadline;
use serde::{Serialize, Serializer};
use sqlx::{AssertSqlSafe, Row, postgres::PgRow};
use std::{fmt, str::FromStr, time::Duration};

/// Characters of a statement that are shown.
const SHOWN: i32 = 1000;

/// A session at a server beyond doubt: process numbers are used again, their start is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BackendId {
    /// The process at the server.
    pub pid: i32,
    /// When the session began (`backend_start`), in microseconds since 1970.
    pub backend_start: i64,
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.pid, self.backend_start)
    }
}

/// It is not of the form `PID@START`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names no session; write it as the list of sessions shows it: PID@START, for example 4711@1700000000000000"
)]
pub struct InvalidBackendId(String);

impl FromStr for BackendId {
    type Err = InvalidBackendId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('@').and_then(|(pid, start)| {
            Some(Self { pid: pid.parse().ok()?, backend_start: start.parse().ok()? })
        });
        parts.filter(|id| id.pid > 0).ok_or_else(|| InvalidBackendId(text.to_owned()))
    }
}

impl Serialize for BackendId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Whose sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Those of our application name, our user and our database. The default.
    #[default]
    Own,
    /// All in our database.
    Database,
    /// All at the server.
    Server,
}

impl Scope {
    pub(crate) const fn number(self) -> i32 {
        match self {
            Self::Own => 0,
            Self::Database => 1,
            Self::Server => 2,
        }
    }
}

/// The condition for `$1` (a [`Scope`]) and `$2` (the application's name) on `pg_stat_activity a`.
pub(crate) const IN_SCOPE: &str = "a.pid <> pg_backend_pid() AND ($1 = 2 OR a.datname = current_database()) \
    AND ($1 > 0 OR (a.usename = current_user AND a.application_name = $2))";

/// A session of a client.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Backend {
    /// Names it for [`Insight::cancel_backend`]; `None`: hidden.
    pub id: Option<BackendId>,
    /// The process at the server.
    pub pid: i32,
    /// Its user.
    pub username: Option<String>,
    /// Its database.
    pub database: Option<String>,
    /// What it calls itself.
    pub application_name: Option<String>,
    /// Where it comes from; `None`: a Unix socket, or hidden.
    pub client: Option<String>,
    /// `active`, `idle`, `idle in transaction`, …; `None`: hidden.
    pub state: Option<String>,
    /// What it waits for, as `type: event`.
    pub waits_for: Option<String>,
    /// Processes that hold the lock that it waits for.
    pub blocked_by: Vec<i32>,
    /// Seconds since its state changed.
    pub state_seconds: Option<f64>,
    /// Seconds since its statement began, while it runs.
    pub query_seconds: Option<f64>,
    /// Seconds since its transaction began.
    pub transaction_seconds: Option<f64>,
    /// Its statement, or its last one; at most 1,000 characters.
    pub query: Option<String>,
}

fn backend(row: &PgRow) -> Result<Backend, sqlx::Error> {
    let (pid, start): (i32, Option<i64>) = (row.try_get("pid")?, row.try_get("started")?);
    Ok(Backend {
        id: start.map(|backend_start| BackendId { pid, backend_start }),
        pid,
        username: row.try_get("username")?,
        database: row.try_get("database")?,
        application_name: row.try_get("application_name")?,
        client: row.try_get("client")?,
        state: row.try_get("state")?,
        waits_for: row.try_get("waits_for")?,
        blocked_by: row.try_get("blocked_by")?,
        state_seconds: row.try_get("state_seconds")?,
        query_seconds: row.try_get("query_seconds")?,
        transaction_seconds: row.try_get("transaction_seconds")?,
        query: row.try_get("query")?,
    })
}

/// A transaction that has been open for long.
#[derive(Clone, Debug, PartialEq, Serialize, sqlx::FromRow)]
#[non_exhaustive]
pub struct Transaction {
    /// `session`, or `prepared` (two-phase commit, waits for `COMMIT PREPARED`).
    pub kind: String,
    /// As [`BackendId`] is written, or the prepared transaction's name.
    pub id: Option<String>,
    /// Its user.
    pub username: Option<String>,
    /// Its database.
    pub database: Option<String>,
    /// What the session calls itself.
    pub application_name: Option<String>,
    /// The session's state.
    pub state: Option<String>,
    /// Seconds since it began.
    pub seconds: f64,
    /// How many transactions began since the oldest one that it may still see: what vacuum cannot remove.
    pub xmin_age: Option<i64>,
    /// Its latest statement.
    pub query: Option<String>,
}

impl Insight {
    /// Sessions of clients: running ones first, longest first, then those idle in a transaction, then idle ones.
    ///
    /// # Errors
    /// No connection, or no answer within `deadline`.
    pub async fn activity(
        &self,
        host: Option<&str>,
        scope: Scope,
        limit: usize,
        deadline: Deadline,
    ) -> Result<Report<Backend>, InsightError> {
        let sql = format!(
            "SELECT pid, (extract(epoch FROM backend_start) * 1000000)::bigint AS started, usename::text AS username, \
             datname::text AS database, application_name, coalesce(client_hostname, host(client_addr)) AS client, state, \
             nullif(concat_ws(': ', wait_event_type, wait_event), '') AS waits_for, \
             CASE WHEN wait_event_type = 'Lock' THEN pg_blocking_pids(pid) ELSE '{{}}' END AS blocked_by, \
             extract(epoch FROM clock_timestamp() - state_change)::float8 AS state_seconds, \
             CASE WHEN state = 'active' THEN extract(epoch FROM clock_timestamp() - query_start)::float8 END \
             AS query_seconds, extract(epoch FROM clock_timestamp() - xact_start)::float8 AS transaction_seconds, \
             left(query, {SHOWN}) AS query \
             FROM pg_catalog.pg_stat_activity a WHERE {IN_SCOPE} \
             AND (backend_type = 'client backend' OR (backend_type IS NULL AND datid IS NOT NULL)) \
             ORDER BY CASE WHEN state = 'active' THEN 0 WHEN state LIKE 'idle in%' THEN 1 ELSE 2 END, \
             coalesce(xact_start, state_change), pid LIMIT $3"
        );
        self.ask(host, "the list of sessions", deadline, async |link| {
            let rows = sqlx::query(AssertSqlSafe(sql))
                .bind(scope.number())
                .bind(&self.config().application_name)
                .bind(bound(limit))
                .fetch_all(&mut link.pg)
                .await?;
            let rows = rows.iter().map(backend).collect::<Result<Vec<_>, _>>()?;
            let mut report = Report::new(link, rows, limit);
            report.missing = link.rights.sees_all("state, statement and start of other users' sessions");
            Ok(report)
        })
        .await
    }

    /// Transactions open for longer than `older_than`, prepared ones included, oldest first, of the whole database.
    ///
    /// # Errors
    /// No connection, or no answer within `deadline`.
    pub async fn long_transactions(
        &self,
        host: Option<&str>,
        older_than: Duration,
        limit: usize,
        deadline: Deadline,
    ) -> Result<Report<Transaction>, InsightError> {
        let sql = format!(
            "SELECT * FROM (SELECT 'session' AS kind, \
             pid || '@' || (extract(epoch FROM backend_start) * 1000000)::bigint AS id, usename::text AS username, \
             datname::text AS database, application_name, state, \
             extract(epoch FROM clock_timestamp() - xact_start)::float8 AS seconds, age(backend_xmin)::bigint AS xmin_age, \
             left(query, {SHOWN}) AS query FROM pg_catalog.pg_stat_activity \
             WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() AND datname = current_database() \
             UNION ALL SELECT 'prepared', gid, owner::text, database::text, NULL, NULL, \
             extract(epoch FROM clock_timestamp() - prepared)::float8, age(transaction)::bigint, NULL \
             FROM pg_catalog.pg_prepared_xacts WHERE database = current_database()) t \
             WHERE seconds > $1 ORDER BY seconds DESC LIMIT $2"
        );
        self.ask(host, "the list of transactions", deadline, async |link| {
            let rows = sqlx::query_as(AssertSqlSafe(sql))
                .bind(older_than.as_secs_f64())
                .bind(bound(limit))
                .fetch_all(&mut link.pg)
                .await?;
            let mut report = Report::new(link, rows, limit);
            report.missing = link.rights.sees_all("transactions of other users");
            Ok(report)
        })
        .await
    }
}

/// One more than asked for shows whether there are more.
pub(crate) fn bound(limit: usize) -> i64 {
    i64::try_from(limit.min(10_000)).unwrap_or(10_000) + 1
}
