//! `pool/sessions|kill|cancel|slow|explain`: what the pool's servers do, and how to stop it. The answers come from
//! connections of their own, also while the pool is exhausted.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use database_services::postgres_pool_manager::insight::{
    BackendId, InsightError, KillOptions, OptimizeOptions, Scope,
};
use serde::Deserialize;
use serde_json::Value;

use super::{Action, Answer, deadline, input, shown};
use crate::app::App;
use crate::problem::Problem;

/// Rows of an answer where nobody asks for another number, and at most.
const ROWS: usize = 100;
const MOST_ROWS: usize = 1000;

pub(super) const ACTIONS: &[Action] = &[
    Action {
        component: "pool",
        name: "sessions",
        summary: "sessions at a server: {server?, scope?: own|database|server, limit?}",
        target: "server",
        run: |app, value| Box::pin(sessions(app, value)),
    },
    Action {
        component: "pool",
        name: "cancel",
        summary: "cancel the statement of a session: {session: \"PID@START\", server?}",
        target: "session",
        run: |app, value| Box::pin(cancel(app, value)),
    },
    Action {
        component: "pool",
        name: "kill",
        summary: "end a session: {session, server?}; or many: {kind: slow|idle, older_than_seconds?, scope?, terminate?, dry_run?, server?}",
        target: "session",
        run: |app, value| Box::pin(kill(app, value)),
    },
    Action {
        component: "pool",
        name: "slow",
        summary: "slowest statements: {limit?, server?}",
        target: "server",
        run: |app, value| Box::pin(slow(app, value)),
    },
    Action {
        component: "pool",
        name: "explain",
        summary: "a statement's plan and advice: {sql, analyze?, timeout_seconds?, server?}",
        // Not the statement: it may hold data.
        target: "server",
        run: |app, value| Box::pin(explain(app, value)),
    },
];

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Whose {
    #[default]
    Own,
    Database,
    Server,
}

impl From<Whose> for Scope {
    fn from(whose: Whose) -> Self {
        match whose {
            Whose::Own => Self::Own,
            Whose::Database => Self::Database,
            Whose::Server => Self::Server,
        }
    }
}

fn rows(limit: Option<usize>) -> Result<usize, Problem> {
    match limit.unwrap_or(ROWS) {
        limit if (1..=MOST_ROWS).contains(&limit) => Ok(limit),
        _ => Err(Problem::invalid(format!("`limit` must be 1 to {MOST_ROWS}"))),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sessions {
    server: Option<String>,
    #[serde(default)]
    scope: Whose,
    limit: Option<usize>,
}

async fn sessions(app: Arc<App>, value: Value) -> Answer {
    let Sessions { server, scope, limit } = input(value)?;
    let insight = app.running()?.database().insight();
    let seen = insight.activity(server.as_deref(), scope.into(), rows(limit)?, deadline(&app)).await;
    shown(&seen.map_err(|error| problem("listing sessions", &error))?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cancel {
    session: String,
    server: Option<String>,
}

async fn cancel(app: Arc<App>, value: Value) -> Answer {
    let Cancel { session, server } = input(value)?;
    let (id, insight) = (session_id(&session)?, app.running()?.database().insight());
    let done = insight.cancel_backend(server.as_deref(), id, deadline(&app)).await;
    shown(&done.map_err(|error| problem("cancelling", &error))?)
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Slow,
    Idle,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Kill {
    session: Option<String>,
    kind: Option<Kind>,
    older_than_seconds: Option<f64>,
    #[serde(default)]
    scope: Whose,
    #[serde(default)]
    terminate: bool,
    #[serde(default)]
    dry_run: bool,
    server: Option<String>,
}

async fn kill(app: Arc<App>, value: Value) -> Answer {
    let order: Kill = input(value)?;
    let (insight, deadline, server) =
        (app.running()?.database().insight(), deadline(&app), order.server.as_deref());
    let kind = match (&order.session, order.kind) {
        (Some(session), None) => {
            let done = insight.terminate_backend(server, session_id(session)?, deadline).await;
            return shown(&done.map_err(|error| problem("ending a session", &error))?);
        }
        (None, Some(kind)) => kind,
        _ => return Err(Problem::invalid("give either `session` or `kind`")),
    };
    let mut options = match kind {
        Kind::Slow => KillOptions { terminate: order.terminate, ..KillOptions::slow_queries() },
        Kind::Idle => KillOptions::idle_sessions(),
    };
    if let Some(seconds) = order.older_than_seconds {
        options.older_than = Duration::try_from_secs_f64(seconds)
            .map_err(|_negative| Problem::invalid("`older_than_seconds` must be 0 or more"))?;
    }
    (options.scope, options.dry_run) = (order.scope.into(), order.dry_run);
    let done = match kind {
        Kind::Slow => insight.kill_slow_queries(server, &options, deadline).await,
        Kind::Idle => insight.kill_idle_sessions(server, &options, deadline).await,
    };
    shown(&done.map_err(|error| problem("ending sessions", &error))?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Slow {
    limit: Option<usize>,
    server: Option<String>,
}

async fn slow(app: Arc<App>, value: Value) -> Answer {
    let Slow { limit, server } = input(value)?;
    let insight = app.running()?.database().insight();
    let seen = insight.slow_queries(server.as_deref(), rows(limit.or(Some(20)))?, deadline(&app)).await;
    shown(&seen.map_err(|error| problem("listing slow statements", &error))?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Explain {
    sql: String,
    #[serde(default)]
    analyze: bool,
    timeout_seconds: Option<f64>,
    server: Option<String>,
}

async fn explain(app: Arc<App>, value: Value) -> Answer {
    let Explain { sql, analyze, timeout_seconds, server } = input(value)?;
    let mut options = OptimizeOptions { analyze, ..OptimizeOptions::default() };
    if let Some(seconds) = timeout_seconds {
        options.timeout = Duration::try_from_secs_f64(seconds)
            .map_err(|_negative| Problem::invalid("`timeout_seconds` must be 0 or more"))?;
    }
    let insight = app.running()?.database().insight();
    let seen = insight.optimize_query(server.as_deref(), &sql, &options, deadline(&app)).await;
    shown(&seen.map_err(|error| problem("looking at the statement", &error))?)
}

fn session_id(text: &str) -> Result<BackendId, Problem> {
    text.parse().map_err(|error| Problem::invalid(format!("`session`: {error}")))
}

/// What the server said is told too: its own words about a statement of the admin's.
fn problem(what: &str, error: &InsightError) -> Problem {
    tracing::warn!(what, error = error as &dyn std::error::Error, "an admin action failed");
    let (status, code) = match error {
        InsightError::UnknownServer { .. } => (StatusCode::NOT_FOUND, "unknown_server"),
        InsightError::Forbidden { .. } => (StatusCode::CONFLICT, "no_right"),
        InsightError::Refused { .. } => (StatusCode::CONFLICT, "refused"),
        InsightError::Timeout { .. } => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
        error if error.is_usage() => (StatusCode::UNPROCESSABLE_ENTITY, "refused_statement"),
        error if error.is_retryable() => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        _ => (StatusCode::UNPROCESSABLE_ENTITY, "failed"),
    };
    let source = std::error::Error::source(error).map_or_else(String::new, |source| format!(": {source}"));
    Problem::new(status, code, format!("{what}: {error}{source}")).with("retryable", error.is_retryable())
}
