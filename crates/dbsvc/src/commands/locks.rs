//! `dbsvc locks …`: the locks of a running instance. Not yet: listing who holds what.

use serde_json::json;

use crate::cli::{Instance, LocksCommand};
use crate::client::Client;
use crate::exit::{Exit, Outcome};
use crate::output::Output;

pub(crate) async fn run(command: &LocksCommand, instance: &Instance, output: Output) -> Outcome {
    let action = match command {
        LocksCommand::Stats => "stats",
    };
    output.value(&Client::find(instance)?.admin("locks", action, &json!({})).await?)?;
    Ok(Exit::Fine)
}
