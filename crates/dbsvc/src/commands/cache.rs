//! `dbsvc cache …`: the cache of a running instance.

use serde_json::{Value, json};

use crate::cli::{CacheCommand, Instance};
use crate::client::Client;
use crate::commands::json_or_text;
use crate::exit::{Exit, Outcome};
use crate::output::Output;

pub(crate) async fn run(command: &CacheCommand, instance: &Instance, output: Output) -> Outcome {
    let (action, input) = match command {
        CacheCommand::Stats => ("stats", json!({})),
        CacheCommand::Get { key } => ("get", json!({"key": key})),
        CacheCommand::Set { key, value, ttl } => {
            let mut input = json!({"key": key, "value": json_or_text(value)});
            if let Some(seconds) = ttl {
                input["ttl_seconds"] = json!(seconds);
            }
            ("set", input)
        }
        CacheCommand::Invalidate { keys } => ("invalidate", json!({"keys": keys})),
        CacheCommand::Clear { l1 } => ("clear", json!({"scope": if *l1 { "l1" } else { "all" }})),
    };
    let answer = Client::find(instance)?.admin("cache", action, &input).await?;
    output.value(&answer)?;
    let missing = answer.get("found").and_then(Value::as_bool) == Some(false);
    Ok(if missing { Exit::Warning } else { Exit::Fine })
}
