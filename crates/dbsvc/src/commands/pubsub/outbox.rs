//! `dbsvc pubsub outbox …`: the transactional outbox.

use serde_json::{Value, json};

use super::rows;
use crate::cli::{OutboxCommand, Posts};
use crate::client::Client;
use crate::exit::{Exit, Outcome};
use crate::output::{Output, cell, table};

pub(super) async fn run(client: &Client, command: &OutboxCommand, output: Output) -> Outcome {
    let (how, Posts { ids, all }) = match command {
        OutboxCommand::Status => {
            let seen = client.admin("pubsub", "outbox", &json!({})).await?;
            output.value(&seen)?;
            let amiss = seen["dead"] != 0 || !seen["blocked_by"].is_null();
            return Ok(if amiss { Exit::Warning } else { Exit::Fine });
        }
        OutboxCommand::Dead { limit, after } => {
            let seen =
                client.admin("pubsub", "outbox_dead", &json!({"limit": limit, "after": after})).await?;
            output.either(&seen, &list(&seen))?;
            return Ok(if rows(&seen, "dead").is_empty() { Exit::Fine } else { Exit::Warning });
        }
        OutboxCommand::Retry(posts) => ("retry", posts),
        OutboxCommand::Drop { posts, confirm } => {
            let which = if posts.all { "all".to_owned() } else { posts.ids.len().to_string() };
            confirm.ask(&format!("{which} messages of committed transactions will be gone"))?;
            ("drop", posts)
        }
    };
    let input = json!({"how": how, "ids": ids, "all": all});
    output.value(&client.admin("pubsub", "outbox_resolve", &input).await?)?;
    Ok(Exit::Fine)
}

fn list(seen: &Value) -> String {
    let columns = ["id", "target", "channel", "key", "bytes", "attempts", "reason"];
    let row = |row: &Value| columns.map(|name| cell(&row[name])).to_vec();
    match rows(seen, "dead") {
        [] => "no message was put aside".to_owned(),
        dead => {
            let more = if seen["more"] == true { "\nand perhaps more: --limit, or --after ID" } else { "" };
            let headings = ["ID", "TARGET", "CHANNEL", "KEY", "BYTES", "ATTEMPTS", "REASON"];
            format!("{}{more}", table(&headings, dead.iter().map(row)))
        }
    }
}
