//! `redis/status`: the Redis links of this process. Not yet: asking the Sentinels or the cluster to fail over.

use std::sync::Arc;

use serde_json::Value;

use super::{Action, Answer, Nothing, input, shown};
use crate::app::App;

pub(super) const ACTIONS: &[Action] = &[Action {
    component: "redis",
    name: "status",
    summary: "masters, epochs, replicas, failed calls, certificates of each link",
    target: "",
    run: |app, value| Box::pin(status(app, value)),
}];

/// By the link's name; nothing without Redis.
async fn status(app: Arc<App>, value: Value) -> Answer {
    let Nothing {} = input(value)?;
    shown(&app.running()?.redis_status())
}
