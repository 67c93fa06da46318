//! `config/show`: the settings in effect, secrets hidden.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Action, Answer, Nothing, input};
use crate::app::App;

pub(super) const ACTIONS: &[Action] = &[Action {
    component: "config",
    name: "show",
    summary: "settings in effect, each with its source; secrets hidden",
    target: "",
    run: |app, value| Box::pin(show(app, value)),
}];

async fn show(app: Arc<App>, value: Value) -> Answer {
    let Nothing {} = input(value)?;
    let rows: Vec<Value> = app
        .services()
        .settings()
        .show()
        .into_iter()
        .map(|one| json!({"name": one.name, "value": one.value, "source": one.source.to_string()}))
        .collect();
    Ok(Value::Array(rows))
}
