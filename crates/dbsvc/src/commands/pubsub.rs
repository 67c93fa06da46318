//! `dbsvc pubsub …`: messages of a running instance.

mod durable;
mod outbox;

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::cli::{Instance, LaneChoice, PubsubCommand};
use crate::client::Client;
use crate::commands::json_or_text;
use crate::exit::{Exit, Failed, Outcome};
use crate::output::{Output, cell, table};

pub(crate) async fn run(command: &PubsubCommand, instance: &Instance, output: Output) -> Outcome {
    let client = Client::find(instance)?;
    match command {
        PubsubCommand::Stats => output.value(&client.admin("pubsub", "stats", &json!({})).await?)?,
        PubsubCommand::Channels => {
            let seen = client.admin("pubsub", "channels", &json!({})).await?;
            output.either(&seen, &channels(&seen))?;
        }
        PubsubCommand::Subscribers => {
            let seen = client.admin("pubsub", "subscribers", &json!({})).await?;
            output.either(&seen, &subscribers(&seen))?;
            let lost = |row: &Value| row["gaps"] != 0 || of(row, "dropped") > 0;
            return Ok(if rows(&seen, "subscriptions").iter().any(lost) {
                Exit::Warning
            } else {
                Exit::Fine
            });
        }
        PubsubCommand::Tail { pattern, max, run_for, lane } => {
            return tail(&client, (pattern, *lane), *max, run_for.map(Duration::from_secs), output).await;
        }
        PubsubCommand::Publish { channel, message, lane, codec } => {
            let codec = codec.map(|codec| codec.word());
            let message = json_or_text(message);
            let input = json!({"channel": channel, "message": message, "lane": lane.word(), "codec": codec});
            output.value(&client.admin("pubsub", "publish", &input).await?)?;
        }
        PubsubCommand::Groups { channel } => {
            return durable::groups(&client, channel.as_deref(), output).await;
        }
        PubsubCommand::Group(command) => return durable::group(&client, command, output).await,
        PubsubCommand::DeadLetters(command) => return durable::dead_letters(&client, command, output).await,
        PubsubCommand::Outbox(command) => return outbox::run(&client, command, output).await,
    }
    Ok(Exit::Fine)
}

/// Until Ctrl-C, `max` messages or `run_for`.
async fn tail(
    client: &Client,
    (pattern, lane): (&str, LaneChoice),
    max: Option<u64>,
    run_for: Option<Duration>,
    output: Output,
) -> Outcome {
    let pattern = utf8_percent_encode(pattern, NON_ALPHANUMERIC);
    let path = format!("/v1/pubsub/tail?pattern={pattern}&lane={}", lane.word());
    let mut seen = 0;
    let line = |line: &str| {
        let event: Value = serde_json::from_str(line)
            .map_err(|_not_json| Failed::failure("the instance sent a line that is no JSON"))?;
        match event["type"].as_str() {
            Some("listening" | "idle") => return Ok(true),
            Some("message") => seen += 1,
            _ => {}
        }
        output.line(&event, &shown(&event)).map_err(Failed::from)?;
        Ok(max.is_none_or(|max| seen < max))
    };
    let listening = client.lines(&path, line);
    let time = async {
        match run_for {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = listening => ended.map(|()| Exit::Fine),
        () = time => Ok(if max.is_some() { Exit::Warning } else { Exit::Fine }),
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            Ok(Exit::Fine)
        }
    }
}

fn shown(event: &Value) -> String {
    match event["type"].as_str() {
        Some("message") => {
            let value = &event["value"];
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            format!("{}  {}", cell(&event["subject"]), value)
        }
        Some("gap") => format!("-- {} missed ({})", cell(&event["missed"]), cell(&event["cause"])),
        Some(other) => format!("-- {other}"),
        None => event.to_string(),
    }
}

fn rows<'v>(seen: &'v Value, name: &str) -> &'v [Value] {
    seen[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn channels(seen: &Value) -> String {
    let row = |row: &Value| ["subject", "lane", "published", "pending"].map(|name| cell(&row[name])).to_vec();
    match rows(seen, "channels") {
        [] => "nothing was published within the last minute".to_owned(),
        channels => table(&["CHANNEL", "LANE", "PUBLISHED", "PENDING"], channels.iter().map(row)),
    }
}

/// The sum over the subscribers of a subscription.
fn of(row: &Value, name: &str) -> u64 {
    rows(row, "subscribers").iter().filter_map(|one| one[name].as_u64()).sum()
}

fn subscribers(seen: &Value) -> String {
    let row = |row: &Value| {
        let column = |name: &str| cell(&row[name]);
        let sum = |name: &str| of(row, name).to_string();
        let subscribers = rows(row, "subscribers").len().to_string();
        let mut cells = vec![column("filter"), column("lane"), subscribers, column("publishers")];
        cells.extend([column("received"), sum("waiting"), sum("dropped")]);
        cells.extend([column("gaps"), column("missed"), column("reconnects")]);
        cells
    };
    let headings = [
        "NAME OR PATTERN",
        "LANE",
        "SUBSCRIBERS",
        "PUBLISHERS",
        "RECEIVED",
        "WAITING",
        "DROPPED",
        "GAPS",
        "MISSED",
        "RECONNECTS",
    ];
    match rows(seen, "subscriptions") {
        [] => "nothing is subscribed to".to_owned(),
        subscriptions => table(&headings, subscriptions.iter().map(row)),
    }
}
