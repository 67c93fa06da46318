//! `pubsub/outbox|outbox_dead|outbox_resolve`: messages of committed transactions on their way to their channels.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use database_services::pubsub_manager::{Blocker, DeadMessage, Error, Which};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::{Action, Answer, Nothing, deadline, failed, input};
use crate::app::App;
use crate::problem::Problem;

pub(super) const ACTIONS: &[Action] = &[
    Action {
        component: "pubsub",
        name: "outbox",
        summary: "the outbox: what waits, for how long, behind which transaction, and who relays",
        target: "",
        run: |app, value| Box::pin(status(app, value)),
    },
    Action {
        component: "pubsub",
        name: "outbox_dead",
        summary: "messages that their channel refuses for good: {after?, limit?}",
        target: "",
        run: |app, value| Box::pin(dead(app, value)),
    },
    Action {
        component: "pubsub",
        name: "outbox_resolve",
        summary: "publish refused messages again, or drop them: {how: retry|drop, ids?: [ID], all?}",
        target: "ids",
        run: |app, value| Box::pin(resolve(app, value)),
    },
];

async fn status(app: Arc<App>, value: Value) -> Answer {
    let Nothing {} = input(value)?;
    let outbox = app.running()?.outbox();
    let figures = outbox.inspect(deadline(&app)).await.map_err(|error| refused(&error))?;
    let status = outbox.status();
    Ok(json!({
        "pending": figures.pending,
        "lag_seconds": figures.lag.as_ref().map(Duration::as_secs_f64),
        "dead": figures.dead,
        "blocked_by": figures.blocked_by.as_ref().map(blocker),
        "relays_here": status.leader,
        "delivered_here": status.delivered,
        "retried_here": status.retried,
        "held_keys_here": status.held_keys,
        "error_here": status.error,
    }))
}

fn blocker(blocker: &Blocker) -> Value {
    json!({
        "pid": blocker.pid,
        "open_for_seconds": blocker.open_for.as_ref().map(Duration::as_secs_f64),
        "prepared": blocker.prepared,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Dead {
    after: Option<i64>,
    limit: Option<u32>,
}

async fn dead(app: Arc<App>, value: Value) -> Answer {
    let Dead { after, limit } = input(value)?;
    let limit = limit.unwrap_or(100);
    if !(1..=1_000).contains(&limit) {
        return Err(Problem::invalid(format!("`limit`: {limit} is outside 1 to 1000")));
    }
    let outbox = app.running()?.outbox();
    let dead = outbox.dead(after.unwrap_or(0), limit).await.map_err(|error| refused(&error))?;
    let rows: Vec<Value> = dead.iter().map(row).collect();
    Ok(json!({"more": rows.len() as u64 == u64::from(limit), "dead": rows}))
}

fn row(dead: &DeadMessage) -> Value {
    let since = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    json!({
        "id": dead.id,
        "message": dead.record.to_string(),
        "key": dead.key,
        "target": dead.target,
        "channel": dead.subject,
        "bytes": dead.bytes,
        "attempts": dead.attempts,
        "reason": dead.reason,
        "published_at": since(dead.published_at),
        "died_at": since(dead.died_at),
    })
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum How {
    Retry,
    Drop,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resolve {
    how: How,
    #[serde(default)]
    ids: Vec<i64>,
    #[serde(default)]
    all: bool,
}

async fn resolve(app: Arc<App>, value: Value) -> Answer {
    let Resolve { how, ids, all } = input(value)?;
    if ids.is_empty() != all {
        return Err(Problem::invalid("give either `ids` or `all`"));
    }
    let outbox = app.running()?.outbox();
    let which = if all { Which::All } else { Which::Ids(&ids) };
    let resolved = match how {
        How::Retry => outbox.retry(which).await,
        How::Drop => outbox.drop_dead(which).await,
    };
    Ok(json!({"resolved": resolved.map_err(|error| refused(&error))?}))
}

fn refused(error: &Error) -> Problem {
    failed("the outbox", error, error.is_retryable())
}
