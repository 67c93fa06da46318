//! `service/drain|shutdown|reconfigure`: what concerns the process as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Action, Answer, Nothing, failed, input, shown};
use crate::app::App;
use crate::problem::Problem;

pub(super) const ACTIONS: &[Action] = &[
    Action {
        component: "service",
        name: "drain",
        summary: "readiness off or on: {enabled: true}; nothing else stops",
        target: "enabled",
        run: |app, value| Box::pin(drain(app, value)),
    },
    Action {
        component: "service",
        name: "shutdown",
        summary: "drain and end the process, as SIGTERM does",
        target: "",
        run: |app, value| Box::pin(shutdown(app, value)),
    },
    Action {
        component: "service",
        name: "reconfigure",
        summary: "read the settings anew, with {settings: {NAME: \"value\"}} over them, and swap what changed",
        target: "",
        run: |app, value| Box::pin(reconfigure(app, value)),
    },
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Drain {
    #[serde(default = "yes")]
    enabled: bool,
}

fn yes() -> bool {
    true
}

async fn drain(app: Arc<App>, value: Value) -> Answer {
    let Drain { enabled } = input(value)?;
    app.control().set_draining(enabled);
    Ok(json!({"draining": enabled}))
}

async fn shutdown(app: Arc<App>, value: Value) -> Answer {
    let Nothing {} = input(value)?;
    if !app.control().request_shutdown() {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "not_supported",
            "the program that embeds this does not take shutdowns from here: end it with SIGTERM",
        ));
    }
    Ok(json!({"shutting_down": true}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reconfigure {
    #[serde(default)]
    settings: BTreeMap<String, String>,
}

async fn reconfigure(app: Arc<App>, value: Value) -> Answer {
    let Reconfigure { settings: over } = input(value)?;
    let Some(reload) = app.reload() else {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "not_supported",
            "the program that embeds this gave no way to read its settings anew",
        ));
    };
    let settings = reload.load(&over).map_err(|errors| {
        let problems: Vec<Value> = errors.problems.iter().map(|problem| json!(problem.to_string())).collect();
        Problem::invalid("the settings have problems; nothing was changed").with("problems", problems)
    })?;
    let report = app.services().reconfigure(settings).await;
    shown(&report.map_err(|error| failed("reconfiguring", &error, error.is_retryable()))?)
}
