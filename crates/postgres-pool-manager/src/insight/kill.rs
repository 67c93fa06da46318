//! Cancelling statements and ending sessions, one named beyond doubt or all of a kind. Never the connection that
//! asks, never a server's own process or a WAL sender, and never a process that took the number of the one meant.
//!
//! Choosing and signalling are one statement over one snapshot of the sessions: between a look and a signal of its own
//! a session could begin another statement, or its process number could be given to another.

use super::{
    BackendId, Insight, InsightError, Report, Scope,
    activity::{IN_SCOPE, bound},
    link::Link,
};
use resilience::Deadline;
use serde::Serialize;
use sqlx::AssertSqlSafe;
use std::time::Duration;

/// Which sessions, and what is done to them.
#[derive(Clone, Debug)]
pub struct KillOptions {
    /// Only those that run, or are idle, for longer. Default 5 s for statements, 5 min for idle sessions.
    pub older_than: Duration,
    /// Default [`Scope::Own`].
    pub scope: Scope,
    /// End the session instead of cancelling its statement; idle sessions are always ended. Default `false`.
    pub terminate: bool,
    /// Say which they are and leave them alone. Default `false`.
    pub dry_run: bool,
    /// At most so many, oldest first. Default 100.
    pub limit: usize,
}

impl KillOptions {
    /// The defaults of [`Insight::kill_slow_queries`].
    #[must_use]
    pub const fn slow_queries() -> Self {
        let older_than = Duration::from_secs(5);
        Self { older_than, scope: Scope::Own, terminate: false, dry_run: false, limit: 100 }
    }

    /// The defaults of [`Insight::kill_idle_sessions`]. An idle connection of a pool is exercised every two minutes or
    /// so, hence none of them is idle for as long.
    #[must_use]
    pub const fn idle_sessions() -> Self {
        let older_than = Duration::from_secs(5 * 60);
        Self { older_than, scope: Scope::Own, terminate: true, dry_run: false, limit: 100 }
    }
}

/// What became of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum KillOutcome {
    /// Its statement was asked to end.
    Cancelled,
    /// It was asked to end.
    Terminated,
    /// It ended by itself in the very moment.
    Gone,
    /// The user may not signal it.
    Forbidden,
    /// It would have been signalled.
    DryRun,
}

/// A session that was chosen.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Killed {
    /// Which one.
    pub id: BackendId,
    /// Its user.
    pub username: Option<String>,
    /// What it calls itself.
    pub application_name: Option<String>,
    /// Its state before.
    pub state: Option<String>,
    /// Seconds for which it had been in that state.
    pub seconds: Option<f64>,
    /// Its statement; at most 1,000 characters.
    pub query: Option<String>,
    /// What became of it.
    pub outcome: KillOutcome,
}

type Row = (
    i32,
    i64,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<f64>,
    Option<String>,
    Option<bool>,
    bool,
);

/// `{chosen}` is the condition. A superuser's session may be signalled by a superuser only.
const SIGNAL: &str = "WITH me AS MATERIALIZED (SELECT coalesce((SELECT rolsuper FROM pg_catalog.pg_roles \
        WHERE rolname = current_user), false) AS super, pg_has_role('pg_signal_backend', 'USAGE') AS signals), \
    chosen AS MATERIALIZED (SELECT a.pid, (extract(epoch FROM a.backend_start) * 1000000)::bigint AS started, \
        a.usename::text AS username, a.application_name, a.state, \
        extract(epoch FROM clock_timestamp() - CASE WHEN a.state = 'active' THEN a.query_start ELSE a.state_change END) \
        ::float8 AS seconds, left(a.query, 1000) AS query, me.super OR (NOT coalesce(r.rolsuper, true) \
        AND (me.signals OR pg_has_role(a.usesysid, 'USAGE'))) AS may \
        FROM pg_catalog.pg_stat_activity a CROSS JOIN me LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid \
        WHERE a.backend_type = 'client backend' AND {scope} AND {chosen} ORDER BY 6 DESC NULLS LAST LIMIT $3) \
    SELECT pid, started, username, application_name, state, seconds, query, \
        CASE WHEN may AND $4 = 1 THEN pg_cancel_backend(pid) WHEN may AND $4 = 2 THEN pg_terminate_backend(pid) END, may \
    FROM chosen ORDER BY seconds DESC NULLS LAST";

#[derive(Clone, Copy, PartialEq)]
enum Action {
    Nothing = 0,
    Cancel = 1,
    Terminate = 2,
}

impl Insight {
    /// Cancels the statement that a session runs.
    ///
    /// # Errors
    /// [`InsightError::Refused`] if there is no such session (any more) or it is none of a client;
    /// [`InsightError::Forbidden`]; no answer within `deadline`.
    pub async fn cancel_backend(
        &self,
        host: Option<&str>,
        id: BackendId,
        deadline: Deadline,
    ) -> Result<Killed, InsightError> {
        self.one(host, id, Action::Cancel, deadline).await
    }

    /// Ends a session and waits until it has ended.
    ///
    /// # Errors
    /// As [`cancel_backend`](Self::cancel_backend).
    pub async fn terminate_backend(
        &self,
        host: Option<&str>,
        id: BackendId,
        deadline: Deadline,
    ) -> Result<Killed, InsightError> {
        self.one(host, id, Action::Terminate, deadline).await
    }

    /// Cancels statements that run for long, or ends their sessions.
    ///
    /// # Errors
    /// No connection, or no answer within `deadline`. What the user may not signal is in the report.
    pub async fn kill_slow_queries(
        &self,
        host: Option<&str>,
        options: &KillOptions,
        deadline: Deadline,
    ) -> Result<Report<Killed>, InsightError> {
        let action = if options.terminate { Action::Terminate } else { Action::Cancel };
        let chosen = "a.state = 'active' AND clock_timestamp() - a.query_start > make_interval(secs => $5)";
        self.all(host, "the end of slow statements", chosen, action, options, deadline).await
    }

    /// Ends sessions that do nothing for long, in a transaction or not. Those that wait for notifications (`LISTEN`)
    /// or hold a session's advisory lock are idle on purpose and are left alone.
    ///
    /// # Errors
    /// As [`kill_slow_queries`](Self::kill_slow_queries).
    pub async fn kill_idle_sessions(
        &self,
        host: Option<&str>,
        options: &KillOptions,
        deadline: Deadline,
    ) -> Result<Report<Killed>, InsightError> {
        let chosen = "a.state LIKE 'idle%' AND clock_timestamp() - a.state_change > make_interval(secs => $5) \
            AND (a.state <> 'idle' OR (a.query !~* '^\\s*(un)?listen\\M' AND NOT EXISTS (SELECT FROM pg_catalog.pg_locks l \
            WHERE l.pid = a.pid AND l.locktype = 'advisory' AND l.granted)))";
        self.all(host, "the end of idle sessions", chosen, Action::Terminate, options, deadline).await
    }

    async fn all(
        &self,
        host: Option<&str>,
        operation: &'static str,
        chosen: &str,
        action: Action,
        options: &KillOptions,
        deadline: Deadline,
    ) -> Result<Report<Killed>, InsightError> {
        let sql = SIGNAL.replace("{scope}", IN_SCOPE).replace("{chosen}", chosen);
        let done = if options.dry_run { Action::Nothing } else { action };
        self.ask(host, operation, deadline, async |link| {
            // One more than asked for would be signalled: here the list is not cut off, the choice is.
            let limit = bound(options.limit) - 1;
            let rows: Vec<Row> = sqlx::query_as(AssertSqlSafe(sql))
                .bind(options.scope.number())
                .bind(&self.config().application_name)
                .bind(limit)
                .bind(done as i32)
                .bind(options.older_than.as_secs_f64())
                .fetch_all(&mut link.pg)
                .await?;
            let rows: Vec<Killed> = rows.into_iter().map(|row| killed(row, done)).collect();
            let mut report = Report::new(link, rows, usize::MAX);
            report.truncated = i64::try_from(report.rows.len()).is_ok_and(|n| n == limit);
            if options.scope != Scope::Own {
                report.missing =
                    link.rights.sees_all("sessions of other users, which are therefore not chosen");
            }
            if report.rows.iter().any(|row| row.outcome == KillOutcome::Forbidden) {
                report.missing.extend(link.rights.signals("the end of other users' sessions"));
            }
            Ok(report)
        })
        .await
    }

    async fn one(
        &self,
        host: Option<&str>,
        id: BackendId,
        action: Action,
        deadline: Deadline,
    ) -> Result<Killed, InsightError> {
        let chosen = "a.pid = $5 AND (extract(epoch FROM a.backend_start) * 1000000)::bigint = $6";
        let sql = SIGNAL.replace("{scope}", IN_SCOPE).replace("{chosen}", chosen);
        self.ask(host, "the end of a session", deadline, async |link| {
            let row: Option<Row> = sqlx::query_as(AssertSqlSafe(sql))
                .bind(Scope::Server.number())
                .bind("")
                .bind(1_i64)
                .bind(action as i32)
                .bind(id.pid)
                .bind(id.backend_start)
                .fetch_optional(&mut link.pg)
                .await?;
            let Some(row) = row else { return Err(refused(link, id).await) };
            let killed = killed(row, action);
            if killed.outcome == KillOutcome::Forbidden {
                let (user, what) = (link.rights.username.clone(), format!("signal session {id}"));
                let mend = "a superuser can, or, unless it is a superuser's, its own user or one with the rights of \
                    pg_signal_backend";
                return Err(InsightError::Forbidden { user, what, mend: mend.to_owned() });
            }
            if action == Action::Terminate {
                ended(link, id).await?;
            }
            Ok(killed)
        })
        .await
    }
}

fn killed(row: Row, action: Action) -> Killed {
    let (pid, backend_start, username, application_name, state, seconds, query, signalled, may) = row;
    let outcome = match (action, signalled) {
        _ if !may => KillOutcome::Forbidden,
        (Action::Nothing, _) => KillOutcome::DryRun,
        (_, Some(false) | None) => KillOutcome::Gone,
        (Action::Cancel, Some(true)) => KillOutcome::Cancelled,
        (Action::Terminate, Some(true)) => KillOutcome::Terminated,
    };
    Killed {
        id: BackendId { pid, backend_start },
        username,
        application_name,
        state,
        seconds,
        query,
        outcome,
    }
}

/// Why a session was not found among those that may be touched.
async fn refused(link: &mut Link, id: BackendId) -> InsightError {
    let found = sqlx::query_as::<_, (Option<String>, Option<bool>, bool)>(
        "SELECT backend_type, (extract(epoch FROM backend_start) * 1000000)::bigint = $2, pid = pg_backend_pid() \
         FROM pg_catalog.pg_stat_activity WHERE pid = $1",
    )
    .bind(id.pid)
    .bind(id.backend_start)
    .fetch_optional(&mut link.pg)
    .await;
    let why = match found {
        Err(e) => return e.into(),
        Ok(None) => "there is no such session (any more)".to_owned(),
        Ok(Some((_, _, true))) => "it is the connection that asks".to_owned(),
        Ok(Some((_, Some(false), _))) => "its process number belongs to another session now".to_owned(),
        Ok(Some((_, None, _))) => {
            "user lacks pg_read_all_stats and cannot tell whether it is that session".to_owned()
        }
        Ok(Some((kind, Some(true), _))) => {
            format!("it is no client's but a {}", kind.as_deref().unwrap_or("process of the server"))
        }
    };
    InsightError::Refused { id: id.to_string(), why }
}

/// Until the session is gone; the caller's deadline is around it.
async fn ended(link: &mut Link, id: BackendId) -> Result<(), InsightError> {
    let there = "SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE pid = $1 \
        AND (extract(epoch FROM backend_start) * 1000000)::bigint = $2)";
    loop {
        let there: bool =
            sqlx::query_scalar(there).bind(id.pid).bind(id.backend_start).fetch_one(&mut link.pg).await?;
        if !there {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
