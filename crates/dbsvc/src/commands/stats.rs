//! `dbsvc stats`: figures of a running instance, of all components or of one.

use serde_json::Value;

use crate::cli::Instance;
use crate::client::Client;
use crate::exit::{Exit, Failed, Outcome};
use crate::output::Output;

pub(crate) async fn run(component: Option<&str>, instance: &Instance, output: Output) -> Outcome {
    let stats = Client::find(instance)?.get_ok("/metrics/database-services").await?;
    match component {
        None => output.value(&stats)?,
        Some(name) => {
            let members =
                stats.as_object().ok_or_else(|| Failed::failure("the instance's answer is no object"))?;
            let part = members.get(name).ok_or_else(|| {
                let known: Vec<&str> = members.keys().map(String::as_str).collect();
                Failed::usage(format!("there is no component `{name}`; known: {}", known.join(", ")))
            })?;
            output.value(&Value::clone(part))?;
        }
    }
    Ok(Exit::Fine)
}
