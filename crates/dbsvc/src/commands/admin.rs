//! `dbsvc admin COMPONENT ACTION [JSON]`: any action of the admin transport; without arguments, what there is.

use serde_json::{Value, json};

use crate::cli::Instance;
use crate::client::Client;
use crate::exit::{Exit, Failed, Outcome};
use crate::output::Output;

pub(crate) async fn run(
    component: Option<String>,
    action: Option<String>,
    input: Option<String>,
    instance: &Instance,
    output: Output,
) -> Outcome {
    let client = Client::find(instance)?;
    let (Some(component), Some(action)) = (component, action) else {
        output.value(&client.get_ok("/v1").await?)?;
        return Ok(Exit::Fine);
    };
    let input: Value = match input.as_deref() {
        None => json!({}),
        Some(text) => serde_json::from_str(text).map_err(|error| {
            Failed::usage(format!("the input is no JSON: {error}; write an object, as '{{}}'"))
        })?,
    };
    output.value(&client.admin(&component, &action, &input).await?)?;
    Ok(Exit::Fine)
}
