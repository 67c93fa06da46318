//! `dbsvc pubsub …`: messages of a running instance.

use serde_json::json;

use crate::cli::{Instance, PubsubCommand};
use crate::client::Client;
use crate::commands::json_or_text;
use crate::exit::{Exit, Outcome};
use crate::output::Output;

pub(crate) async fn run(command: &PubsubCommand, instance: &Instance, output: Output) -> Outcome {
    let (action, input) = match command {
        PubsubCommand::Stats => ("stats", json!({})),
        PubsubCommand::Publish { channel, message } => {
            ("publish", json!({"channel": channel, "message": json_or_text(message)}))
        }
    };
    output.value(&Client::find(instance)?.admin("pubsub", action, &input).await?)?;
    Ok(Exit::Fine)
}
