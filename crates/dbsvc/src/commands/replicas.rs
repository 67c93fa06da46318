//! `dbsvc replicas …`: the balancer of a running instance. Nothing is changed at the servers.

use serde_json::{Value, json};

use crate::cli::{Instance, OnOff, ReplicasCommand};
use crate::client::Client;
use crate::exit::{Exit, Outcome};
use crate::output::{Output, cell, table};

pub(crate) async fn run(command: &ReplicasCommand, instance: &Instance, output: Output) -> Outcome {
    let client = Client::find(instance)?;
    let (action, input) = match command {
        ReplicasCommand::List => {
            let seen = client.admin("replicas", "list", &json!({})).await?;
            output.either(&seen, &list(&seen))?;
            let amiss = |server: &Value| server["state"] != "up" && server["state"] != "drained";
            let amiss = seen["servers"].as_array().is_some_and(|servers| servers.iter().any(amiss));
            return Ok(if amiss { Exit::Warning } else { Exit::Fine });
        }
        ReplicasCommand::Add { replica, weight } => ("add", json!({"replica": replica, "weight": weight})),
        ReplicasCommand::Drain { replica, undo } => ("drain", json!({"replica": replica, "drained": !undo})),
        ReplicasCommand::Remove { replica, confirm } => {
            confirm.ask(&format!("replica {replica} will be forgotten by this instance"))?;
            ("remove", json!({"replica": replica}))
        }
        ReplicasCommand::Weight { replica, weight } => {
            ("weight", json!({"replica": replica, "weight": weight}))
        }
        ReplicasCommand::ForcePrimary { state } => ("force_primary", json!({"on": *state == OnOff::On})),
    };
    output.value(&client.admin("replicas", action, &input).await?)?;
    Ok(Exit::Fine)
}

fn list(seen: &Value) -> String {
    let row = |server: &Value| {
        let column = |name: &str| cell(&server[name]);
        ["name", "role", "state", "weight", "lag_seconds", "lag_bytes", "requests", "last_error"]
            .iter()
            .map(|name| column(name))
            .collect()
    };
    let headings = ["SERVER", "ROLE", "STATE", "WEIGHT", "LAG S", "LAG BYTES", "REQUESTS", "LAST ERROR"];
    let servers = seen["servers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let forced =
        if seen["force_primary_reads"] == true { "all reads go to the primary, by order\n" } else { "" };
    format!("{forced}{}", table(&headings, servers.iter().map(row)))
}
