//! `dbsvc health`: asks a running instance and turns its status into an exit code.

use serde_json::Value;

use crate::cli::Instance;
use crate::client::Client;
use crate::exit::{Exit, Failed, Outcome};
use crate::output::Output;

pub(crate) async fn run(instance: &Instance, output: Output) -> Outcome {
    let client = Client::find(instance)?;
    // Without a token the instance tells less, but it tells.
    let path = if client.has_token() { "/health/detailed" } else { "/health" };
    let answer = client.get(path).await?;
    let Some(status) = answer.body.get("status").and_then(Value::as_str).map(str::to_owned) else {
        return Err(answer.ok().err().unwrap_or_else(|| {
            Failed::failure("the instance's answer has no `status`; is it an instance of this service?")
        }));
    };
    // A problem's `status` is a number, so it went the other way above.
    output.value(&answer.body)?;
    Ok(match status.as_str() {
        "healthy" => Exit::Fine,
        "degraded" => Exit::Warning,
        _ => Exit::Failure,
    })
}
