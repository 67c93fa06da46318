//! `dbsvc pool …`: the connection pool of a running instance.

use serde_json::json;

use crate::cli::{Instance, PoolCommand};
use crate::client::Client;
use crate::exit::{Exit, Outcome};
use crate::output::Output;

pub(crate) async fn run(command: &PoolCommand, instance: &Instance, output: Output) -> Outcome {
    let (action, input) = match command {
        PoolCommand::Stats => ("stats", json!({})),
        PoolCommand::Resize { size, overflow } => {
            let mut input = json!({"size": size});
            if let Some(overflow) = overflow {
                input["max_overflow"] = json!(overflow);
            }
            ("resize", input)
        }
    };
    output.value(&Client::find(instance)?.admin("pool", action, &input).await?)?;
    Ok(Exit::Fine)
}
