//! `pubsub/stats|channels|subscribers|publish`: messages of this instance, and in files of their own durable channels and the
//! outbox. `tail`, which goes on, has a path of its own.

mod durable;
mod outbox;

use std::sync::Arc;

use database_services::pubsub_manager::{Codec, DurablePublish, Error, PublishOptions};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Action, Answer, Nothing, deadline, failed, input, shown};
use crate::app::App;
use crate::problem::Problem;

/// With those of durable channels and of the outbox.
pub(super) const ALL: [&[Action]; 3] = [ACTIONS, durable::ACTIONS, outbox::ACTIONS];

const ACTIONS: &[Action] = &[
    Action {
        component: "pubsub",
        name: "stats",
        summary: "published, received, gaps, with the bus and what is wrong with it",
        target: "",
        run: |app, value| Box::pin(stats(app, value)),
    },
    Action {
        component: "pubsub",
        name: "channels",
        summary: "the channels that this instance publishes on",
        target: "",
        run: |app, value| Box::pin(channels(app, value)),
    },
    Action {
        component: "pubsub",
        name: "subscribers",
        summary: "the names and patterns that this instance is subscribed to, with lag, gaps and subscribers",
        target: "",
        run: |app, value| Box::pin(subscribers(app, value)),
    },
    Action {
        component: "pubsub",
        name: "publish",
        summary: "publish a message: {channel, message, lane?: plain|sharded|raw|durable, codec?: message_pack|json|cloud_events}",
        target: "channel",
        run: |app, value| Box::pin(publish(app, value)),
    },
];

async fn stats(app: Arc<App>, value: Value) -> Answer {
    let Nothing {} = input(value)?;
    let mut status = shown(&app.running()?.pubsub().status())?;
    // One level: the counts are what is asked for.
    let stats = status["stats"].take();
    if let (Some(status), Value::Object(stats)) = (status.as_object_mut(), stats) {
        status.remove("stats");
        status.extend(stats);
    }
    Ok(status)
}

async fn channels(app: Arc<App>, value: Value) -> Answer {
    let Nothing {} = input(value)?;
    Ok(json!({"channels": shown(&app.running()?.pubsub().channels())?}))
}

async fn subscribers(app: Arc<App>, value: Value) -> Answer {
    let Nothing {} = input(value)?;
    Ok(json!({"subscriptions": shown(&app.running()?.pubsub().subscriptions())?}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Publish {
    channel: String,
    message: Value,
    #[serde(default)]
    lane: Target,
    codec: Option<Codec>,
}

/// The lanes, and the other kind of channel.
#[derive(Clone, Copy, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Target {
    #[default]
    Plain,
    Sharded,
    Raw,
    Durable,
}

async fn publish(app: Arc<App>, value: Value) -> Answer {
    let Publish { channel, message, lane, codec } = input(value)?;
    let pubsub = app.running()?.pubsub();
    let options = PublishOptions { deadline: Some(deadline(&app)), ..PublishOptions::default() };
    let (id, receivers) = match lane {
        Target::Raw => {
            let payload = message.as_str().map_or_else(|| message.to_string(), str::to_owned);
            let raw = pubsub.raw_channel(&channel).map_err(|error| refused(&error))?;
            (None, raw.publish(payload, options).await.map_err(|error| refused(&error))?)
        }
        Target::Durable => {
            let mut durable = pubsub.durable_channel::<Value>(&channel).map_err(|error| refused(&error))?;
            if let Some(codec) = codec {
                durable = durable.with_codec(codec);
            }
            let options = DurablePublish { deadline: options.deadline, ..DurablePublish::default() };
            let id = durable.publish_with(&message, options).await.map_err(|error| refused(&error))?;
            (Some(id.to_string()), None)
        }
        lane => {
            let typed = match lane {
                Target::Sharded => pubsub.sharded_channel::<Value>(&channel),
                _ => pubsub.channel::<Value>(&channel),
            };
            let mut typed = typed.map_err(|error| refused(&error))?;
            if let Some(codec) = codec {
                typed = typed.with_codec(codec);
            }
            let published = typed.publish_with(&message, options).await.map_err(|error| refused(&error))?;
            (Some(published.id.to_string()), published.receivers)
        }
    };
    Ok(json!({"channel": channel, "lane": lane, "published": true, "id": id, "receivers": receivers}))
}

fn refused(error: &Error) -> Problem {
    match error {
        Error::InvalidSubject { .. } | Error::TooLarge { .. } => Problem::invalid(error.to_string()),
        error => failed("publishing", error, error.is_retryable()),
    }
}
