//! `pubsub/groups|group|dead_letters|resolve`: durable channels, their groups and dead letters, for the whole fleet.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use database_services::pubsub_manager::{
    DeadLetter, DurableChannel, DurableGroup, DurableId, Error, PubSubManager, StartFrom,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::{Action, Answer, deadline, failed, input};
use crate::app::App;
use crate::problem::Problem;

pub(super) const ACTIONS: &[Action] = &[
    Action {
        component: "pubsub",
        name: "groups",
        summary: "the groups of a durable channel, or of all: {channel?}",
        target: "channel",
        run: |app, value| Box::pin(groups(app, value)),
    },
    Action {
        component: "pubsub",
        name: "group",
        summary: "change a group: {channel, group, change: pause|resume|replay|delete, from?: earliest|now|ID|SECONDS}",
        target: "group",
        run: |app, value| Box::pin(group(app, value)),
    },
    Action {
        component: "pubsub",
        name: "dead_letters",
        summary: "messages that could not be handled: {channel?, group?, after?, limit?}",
        target: "channel",
        run: |app, value| Box::pin(dead_letters(app, value)),
    },
    Action {
        component: "pubsub",
        name: "resolve",
        summary: "deliver dead letters again, or drop them: {channel, group, how: retry|drop, ids?: [ID], all?}",
        target: "group",
        run: |app, value| Box::pin(resolve(app, value)),
    },
];

/// Dead letters of one answer, unless asked for fewer; and at most.
const LETTERS: usize = 100;
const MOST_LETTERS: usize = 1_000;
/// Bytes of a dead letter that are shown.
const SHOWN: usize = 4_096;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Groups {
    channel: Option<String>,
}

async fn groups(app: Arc<App>, value: Value) -> Answer {
    let Groups { channel } = input(value)?;
    let pubsub = app.running()?.pubsub();
    let mut rows = Vec::new();
    for channel in channels(&app, &pubsub, channel).await? {
        let groups = durable(&pubsub, &channel)?.groups().await.map_err(|error| refused(&error))?;
        rows.extend(groups.iter().map(group_row));
    }
    Ok(json!({"groups": rows}))
}

/// The one that was named, or all that were ever used.
async fn channels(app: &App, pubsub: &PubSubManager, named: Option<String>) -> Result<Vec<String>, Problem> {
    match named {
        Some(channel) => Ok(vec![channel]),
        None => pubsub.durable_channels(deadline(app)).await.map_err(|error| refused(&error)),
    }
}

fn durable(pubsub: &PubSubManager, channel: &str) -> Result<DurableChannel<Value>, Problem> {
    pubsub.durable_channel(channel).map_err(|error| refused(&error))
}

fn group_row(group: &DurableGroup) -> Value {
    json!({
        "channel": group.channel,
        "group": group.group,
        "paused": group.paused,
        "consumers": group.consumers,
        "pending": group.pending,
        "waiting": group.waiting,
        "lag": group.lag,
        "oldest_unacked_seconds": group.oldest_unacked.as_ref().map(Duration::as_secs_f64),
        "dead_letters": group.dead_letters,
        "losses": group.losses,
        "delivered": group.delivered,
        "redelivered": group.redelivered,
        "acknowledged": group.acknowledged,
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Change {
    Pause,
    Resume,
    Replay,
    Delete,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    channel: String,
    group: String,
    change: Change,
    from: Option<String>,
}

async fn group(app: Arc<App>, value: Value) -> Answer {
    let Group { channel, group, change, from } = input(value)?;
    let durable = durable(&app.running()?.pubsub(), &channel)?;
    let changed = match (change, from) {
        (Change::Replay, Some(from)) => durable.replay(&group, place(&from)?).await,
        (Change::Replay, None) => return Err(Problem::invalid("`from` is missing: from where to replay")),
        (_, Some(_)) => return Err(Problem::invalid("`from` goes with the change `replay` only")),
        (Change::Pause, None) => durable.pause(&group).await,
        (Change::Resume, None) => durable.resume(&group).await,
        (Change::Delete, None) => durable.delete_group(&group).await,
    };
    changed.map_err(|error| refused(&error))?;
    Ok(json!({"channel": channel, "group": group, "changed": true}))
}

/// `earliest`, `now`, a position, or seconds since 1970.
fn place(text: &str) -> Result<StartFrom, Problem> {
    Ok(match text {
        "earliest" => StartFrom::Earliest,
        "now" => StartFrom::Now,
        id if id.contains('-') => StartFrom::Id(position(id)?),
        seconds => {
            let time = seconds.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            let time = time.and_then(|time| UNIX_EPOCH.checked_add(time));
            StartFrom::Time(time.ok_or_else(|| {
                Problem::invalid(format!(
                    "`from`: {text:?} is not earliest, now, a position or seconds since 1970"
                ))
            })?)
        }
    })
}

fn position(text: &str) -> Result<DurableId, Problem> {
    text.parse().map_err(|_unreadable| {
        Problem::invalid(format!("{text:?} is no position, which looks like 1732225000123-7"))
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Letters {
    channel: Option<String>,
    group: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

async fn dead_letters(app: Arc<App>, value: Value) -> Answer {
    let Letters { channel, group, after, limit } = input(value)?;
    let limit = limit.unwrap_or(LETTERS);
    if !(1..=MOST_LETTERS).contains(&limit) {
        return Err(Problem::invalid(format!("`limit`: {limit} is outside 1 to {MOST_LETTERS}")));
    }
    if after.is_some() && group.is_none() {
        return Err(Problem::invalid(
            "`after` needs `channel` and `group`: each group has positions of its own",
        ));
    }
    if group.is_some() && channel.is_none() {
        return Err(Problem::invalid("`group` needs `channel`"));
    }
    let after = after.as_deref().map(position).transpose()?;
    let pubsub = app.running()?.pubsub();
    let mut rows = Vec::new();
    for channel in channels(&app, &pubsub, channel).await? {
        let durable = durable(&pubsub, &channel)?;
        let groups = match &group {
            Some(group) => vec![group.clone()],
            None => with_letters(&durable).await?,
        };
        for group in groups {
            let room = limit - rows.len();
            if room == 0 {
                break;
            }
            let letters = durable.dead_letters(&group, after, room).await.map_err(|error| refused(&error))?;
            rows.extend(letters.iter().map(|letter| letter_row(&channel, &group, letter)));
        }
    }
    Ok(json!({"more": rows.len() == limit, "dead_letters": rows}))
}

async fn with_letters(durable: &DurableChannel<Value>) -> Result<Vec<String>, Problem> {
    let groups = durable.groups().await.map_err(|error| refused(&error))?;
    Ok(groups.into_iter().filter(|group| group.dead_letters > 0).map(|group| group.group).collect())
}

fn letter_row(channel: &str, group: &str, letter: &DeadLetter) -> Value {
    let record = letter.record.as_ref();
    let shown = record.map(|record| {
        let value = record.value::<Value>().ok().filter(|value| value.to_string().len() <= SHOWN);
        value.unwrap_or_else(|| json!(format!("{} bytes of {}", record.payload.len(), record.codec.name())))
    });
    let since = |at: std::time::SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    json!({
        "channel": channel,
        "group": group,
        "id": letter.id.to_string(),
        "died_at": Duration::from_millis(letter.id.millis).as_secs_f64(),
        "position": letter.position.to_string(),
        "message": record.map(|record| record.id.to_string()),
        "published_at": record.map(|record| since(record.published_at)),
        "deliveries": letter.deliveries,
        "reason": letter.reason,
        "value": shown,
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
    channel: String,
    group: String,
    how: How,
    #[serde(default)]
    ids: Vec<String>,
    #[serde(default)]
    all: bool,
}

async fn resolve(app: Arc<App>, value: Value) -> Answer {
    let Resolve { channel, group, how, ids, all } = input(value)?;
    if ids.is_empty() != all {
        return Err(Problem::invalid("give either `ids` or `all`"));
    }
    let durable = durable(&app.running()?.pubsub(), &channel)?;
    let limit = deadline(&app);
    let mut resolved = 0;
    if !all {
        let ids = ids.iter().map(|id| position(id)).collect::<Result<Vec<_>, _>>()?;
        for id in ids {
            one(&durable, &group, id, how).await?;
            resolved += 1;
        }
        return Ok(json!({"channel": channel, "group": group, "resolved": resolved, "left": false}));
    }
    // What dies while it goes on is not meant.
    let mut after = None;
    loop {
        let letters = durable.dead_letters(&group, after, LETTERS).await.map_err(|error| refused(&error))?;
        let Some(last) = letters.last().map(|letter| letter.id) else { break };
        for letter in &letters {
            if limit.is_expired() {
                return Ok(json!({"channel": channel, "group": group, "resolved": resolved, "left": true}));
            }
            one(&durable, &group, letter.id, how).await?;
            resolved += 1;
        }
        after = Some(last);
    }
    Ok(json!({"channel": channel, "group": group, "resolved": resolved, "left": false}))
}

async fn one(durable: &DurableChannel<Value>, group: &str, id: DurableId, how: How) -> Result<(), Problem> {
    let done = match how {
        How::Retry => durable.retry_dead_letter(group, id).await,
        How::Drop => durable.drop_dead_letter(group, id).await,
    };
    done.map_err(|error| refused(&error))
}

fn refused(error: &Error) -> Problem {
    match error {
        Error::UnknownGroup { .. } | Error::UnknownDeadLetter { .. } => Problem::new(
            axum::http::StatusCode::NOT_FOUND,
            if matches!(error, Error::UnknownGroup { .. }) { "unknown_group" } else { "unknown_dead_letter" },
            error.to_string(),
        ),
        Error::InvalidSubject { .. } | Error::InvalidName { .. } => Problem::invalid(error.to_string()),
        error => failed("durable channels", error, error.is_retryable()),
    }
}
