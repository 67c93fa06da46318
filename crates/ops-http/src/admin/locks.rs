//! `locks/stats`: figures of the lock manager of this process. Not yet: `list`, which needs the holders' registry.

use std::sync::Arc;

use serde_json::Value;

use super::{Action, Answer, Nothing, input, shown};
use crate::app::App;

pub(super) const ACTIONS: &[Action] = &[Action {
    component: "locks",
    name: "stats",
    summary: "acquires by outcome, time-outs, contention, hold times",
    target: "",
    run: |app, value| Box::pin(stats(app, value)),
}];

async fn stats(app: Arc<App>, value: Value) -> Answer {
    let Nothing {} = input(value)?;
    shown(&app.running()?.lock_manager().stats())
}
