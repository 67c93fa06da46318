//! `health/check`: the whole report, optionally after asking every probe anew.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Action, Answer, deadline, input, shown};
use crate::app::App;
use crate::problem::Problem;

pub(super) const ACTIONS: &[Action] = &[
    Action {
        component: "health",
        name: "check",
        summary: "the health report; {now: true} asks every probe before answering",
        target: "",
        run: |app, value| Box::pin(check(app, value)),
    },
    Action {
        component: "health",
        name: "breakers",
        summary: "circuit breakers: state, failures, last failure",
        target: "",
        run: |app, value| Box::pin(breakers(app, value)),
    },
    Action {
        component: "health",
        name: "reset_breaker",
        summary: "close a circuit breaker: {name}",
        target: "name",
        run: |app, value| Box::pin(reset_breaker(app, value)),
    },
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Check {
    #[serde(default)]
    now: bool,
}

async fn check(app: Arc<App>, value: Value) -> Answer {
    let Check { now } = input(value)?;
    let health = app.services().health_manager();
    let report = if now { health.check_now(deadline(&app)).await } else { health.check_health() };
    shown(&report)
}

async fn breakers(app: Arc<App>, value: Value) -> Answer {
    let super::Nothing {} = input(value)?;
    let breakers = app.services().health_manager().breakers();
    shown(&breakers)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reset {
    name: String,
}

async fn reset_breaker(app: Arc<App>, value: Value) -> Answer {
    let Reset { name } = input(value)?;
    let health = app.services().health_manager();
    health.reset_breaker(&name).map_err(|_unknown| {
        let known: Vec<String> = health.breakers().into_keys().collect();
        Problem::invalid(format!("there is no breaker `{name}`")).with("known", known)
    })?;
    Ok(json!({"reset": name}))
}
