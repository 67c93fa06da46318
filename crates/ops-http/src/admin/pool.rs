//! `pool/stats|resize`: the connection pool.

use std::sync::Arc;

use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Action, Answer, Nothing, failed, input, shown};
use crate::app::App;
use crate::problem::Problem;

pub(super) const ACTIONS: &[Action] = &[
    Action {
        component: "pool",
        name: "stats",
        summary: "connections, utilization, waiting callers, by server",
        target: "",
        run: |app, value| Box::pin(stats(app, value)),
    },
    Action {
        component: "pool",
        name: "resize",
        summary: "change size and overflow: {size, max_overflow?}",
        target: "size",
        run: |app, value| Box::pin(resize(app, value)),
    },
];

async fn stats(app: Arc<App>, value: Value) -> Answer {
    let Nothing {} = input(value)?;
    shown(&app.running()?.database().pool_stats())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resize {
    size: u32,
    max_overflow: Option<u32>,
}

async fn resize(app: Arc<App>, value: Value) -> Answer {
    let Resize { size, max_overflow } = input(value)?;
    let services = app.running()?;
    let pool = services.database();
    // As set for each server; the statistics are sums over all of them, within the fleet's share.
    let before = pool.tunable();
    let overflow = max_overflow.unwrap_or(before.max_overflow);
    let (sum, budget) = (size.saturating_add(overflow), services.settings().database_max_connections);
    if sum > budget {
        return Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "over_budget",
            format!(
                "size {size} + overflow {overflow} = {sum} is more than DATABASE_MAX_CONNECTIONS {budget}, the fleet's budget; \
                 ask for less, or raise that setting"
            ),
        ));
    }
    pool.resize(size, overflow).map_err(|error| failed("resizing the pool", &error, error.is_retryable()))?;
    Ok(json!({
        "before": {"pool_size": before.size, "overflow": before.max_overflow},
        "after": {"pool_size": size, "overflow": overflow},
    }))
}
