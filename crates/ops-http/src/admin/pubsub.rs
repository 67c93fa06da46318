//! `pubsub/stats|publish`: messages.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Action, Answer, Nothing, failed, input, shown};
use crate::app::App;

pub(super) const ACTIONS: &[Action] = &[
    Action {
        component: "pubsub",
        name: "stats",
        summary: "published, received, gaps",
        target: "",
        run: |app, value| Box::pin(stats(app, value)),
    },
    Action {
        component: "pubsub",
        name: "publish",
        summary: "publish a message: {channel, message}",
        target: "channel",
        run: |app, value| Box::pin(publish(app, value)),
    },
];

async fn stats(app: Arc<App>, value: Value) -> Answer {
    let Nothing {} = input(value)?;
    shown(&app.running()?.pubsub().stats())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Publish {
    channel: String,
    message: Value,
}

async fn publish(app: Arc<App>, value: Value) -> Answer {
    let Publish { channel, message } = input(value)?;
    let failed =
        |error: database_services::pubsub_manager::Error| failed("publishing", &error, error.is_retryable());
    let published = app.running()?.pubsub().channel::<Value>(&channel).map_err(failed)?;
    let published = published.publish(&message).await.map_err(failed)?;
    Ok(json!({"channel": channel, "published": true, "receivers": published.receivers}))
}
