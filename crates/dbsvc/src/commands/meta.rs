//! `dbsvc completion` and `dbsvc version`: what needs no instance and no settings.

use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::json;

use crate::cli::Cli;
use crate::exit::{Exit, Outcome};
use crate::output::Output;

pub(crate) fn completion(shell: Shell, output: Output) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "dbsvc", &mut script);
    let script = String::from_utf8_lossy(&script);
    output.either(&json!({"shell": shell.to_string(), "script": script}), &script)?;
    Ok(Exit::Fine)
}

pub(crate) fn version(output: Output) -> Outcome {
    let version = env!("CARGO_PKG_VERSION");
    output.either(&json!({"name": "dbsvc", "version": version}), &format!("dbsvc {version}"))?;
    Ok(Exit::Fine)
}
