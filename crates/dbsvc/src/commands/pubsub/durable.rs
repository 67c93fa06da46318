//! `dbsvc pubsub groups|group|dead-letters`: durable channels.

use serde_json::{Value, json};

use super::rows;
use crate::cli::{DeadLettersCommand, GroupCommand, GroupName, Letters};
use crate::client::Client;
use crate::exit::{Exit, Outcome};
use crate::output::{Output, cell, table};

pub(super) async fn groups(client: &Client, channel: Option<&str>, output: Output) -> Outcome {
    let seen = client.admin("pubsub", "groups", &json!({"channel": channel})).await?;
    let groups = rows(&seen, "groups");
    let columns = ["channel", "group", "consumers", "lag", "pending", "waiting", "oldest_unacked_seconds"];
    let more = ["dead_letters", "losses", "redelivered", "paused"];
    let row = |row: &Value| columns.iter().chain(&more).map(|name| cell(&row[name])).collect();
    let headings = [
        "CHANNEL",
        "GROUP",
        "CONSUMERS",
        "LAG",
        "PENDING",
        "WAITING",
        "OLDEST S",
        "DEAD",
        "LOSSES",
        "REDELIVERED",
        "PAUSED",
    ];
    let text = match groups {
        [] => "no group consumes a durable channel".to_owned(),
        groups => table(&headings, groups.iter().map(row)),
    };
    output.either(&seen, &text)?;
    let idle = |row: &Value| row["consumers"] == 0 && (row["lag"] != 0 || row["pending"] != 0);
    let amiss =
        |row: &Value| row["dead_letters"] != 0 || row["losses"] != 0 || row["paused"] == true || idle(row);
    Ok(if groups.iter().any(amiss) { Exit::Warning } else { Exit::Fine })
}

pub(super) async fn group(client: &Client, command: &GroupCommand, output: Output) -> Outcome {
    let (GroupName { channel, group }, change, from) = match command {
        GroupCommand::Pause(name) => (name, "pause", None),
        GroupCommand::Resume(name) => (name, "resume", None),
        GroupCommand::Replay { name, from, confirm } => {
            confirm.ask(&format!("{} of {} gets messages again, or skips some", name.group, name.channel))?;
            (name, "replay", Some(from))
        }
        GroupCommand::Delete { name, confirm } => {
            confirm.ask(&format!("{} of {} is removed with its dead letters", name.group, name.channel))?;
            (name, "delete", None)
        }
    };
    let input = json!({"channel": channel, "group": group, "change": change, "from": from});
    output.value(&client.admin("pubsub", "group", &input).await?)?;
    Ok(Exit::Fine)
}

pub(super) async fn dead_letters(client: &Client, command: &DeadLettersCommand, output: Output) -> Outcome {
    let (how, Letters { name, ids, all }) = match command {
        DeadLettersCommand::List { channel, group, limit, after } => {
            let input = json!({"channel": channel, "group": group, "limit": limit, "after": after});
            let seen = client.admin("pubsub", "dead_letters", &input).await?;
            output.either(&seen, &list(&seen))?;
            let any = !rows(&seen, "dead_letters").is_empty();
            return Ok(if any { Exit::Warning } else { Exit::Fine });
        }
        DeadLettersCommand::Retry(letters) => ("retry", letters),
        DeadLettersCommand::Drop { letters, confirm } => {
            let which = if letters.all { "all".to_owned() } else { letters.ids.len().to_string() };
            let GroupName { channel, group } = &letters.name;
            confirm.ask(&format!("{which} dead letters of {group} of {channel} will be gone"))?;
            ("drop", letters)
        }
    };
    let GroupName { channel, group } = name;
    let input = json!({"channel": channel, "group": group, "how": how, "ids": ids, "all": all});
    let done = client.admin("pubsub", "resolve", &input).await?;
    output.value(&done)?;
    Ok(if done["left"] == true { Exit::Warning } else { Exit::Fine })
}

fn list(seen: &Value) -> String {
    let row = |row: &Value| {
        let value = row["value"].as_str().map_or_else(|| row["value"].to_string(), str::to_owned);
        let mut cells: Vec<_> =
            ["channel", "group", "id", "deliveries", "reason"].map(|name| cell(&row[name])).into();
        cells.push(value.chars().take(60).collect());
        cells
    };
    let headings = ["CHANNEL", "GROUP", "ID", "DELIVERIES", "REASON", "VALUE"];
    match rows(seen, "dead_letters") {
        [] => "there are no dead letters".to_owned(),
        letters => {
            let more = if seen["more"] == true { "\nand perhaps more: --limit, or --after ID" } else { "" };
            format!("{}{more}", table(&headings, letters.iter().map(row)))
        }
    }
}
