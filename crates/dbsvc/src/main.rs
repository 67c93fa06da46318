//! The command line of database-services: serve, health, stats, settings, migrations, admin.
//!
//! A command is a function from its arguments to an exit code; `main` alone prints failures. Every command of a
//! running instance goes through the admin transport of `ops-http`, and none opens a database behind its back;
//! `migrate`, `db` and `failover` act on the servers that the settings name.
//! Not yet: the other runbook jobs (`check`, `bench`, `tune`, `export`, `diagnose`, `maintenance`, …).

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

mod audit;
mod cli;
mod client;
mod commands;
mod confirm;
mod exit;
mod logging;
mod output;
mod preflight;
mod services;
mod settings;

use crate::cli::{Cli, Command, Instance};
use crate::exit::{Exit, Failed, Outcome};
use crate::output::Output;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error).into(),
    };
    let output = Output::new(cli.json);
    match run(cli.command, &cli.instance, output) {
        Ok(exit) => exit.into(),
        Err(failed) => report(&failed, output).into(),
    }
}

/// Help and version are results; everything else that clap says is a usage error with our own code for it.
fn usage(error: &clap::Error) -> Exit {
    let printed = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => match printed {
            Ok(()) => Exit::Fine,
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Exit::Fine,
            Err(_) => Exit::Failure,
        },
        _ => Exit::Usage,
    }
}

fn report(failed: &Failed, output: Output) -> Exit {
    if output.is_json() {
        let report = failed.report.clone().unwrap_or_else(|| {
            serde_json::json!({"status": "failed", "exit": failed.exit as u8, "error": format!("{:#}", failed.error)})
        });
        // If stdout is gone too, the exit code still tells.
        let _unread = output.value(&report);
    }
    output::complain(&format!("dbsvc: {:#}", failed.error));
    failed.exit
}

fn run(command: Command, instance: &Instance, output: Output) -> Outcome {
    match command {
        Command::Serve(args) => commands::serve::run(&args, instance.token_file.as_deref(), output),
        Command::Config(command) => commands::config::run(&command, output),
        Command::Completion { shell } => commands::meta::completion(shell, output),
        Command::Version => commands::meta::version(output),
        Command::Migrate(args) => in_runtime(commands::migrate::run(&args, output)),
        Command::Health => in_runtime(commands::health::run(instance, output)),
        Command::Stats { component } => {
            in_runtime(commands::stats::run(component.as_deref(), instance, output))
        }
        Command::Admin { component, action, input } => {
            in_runtime(commands::admin::run(component, action, input, instance, output))
        }
        Command::Cache(command) => in_runtime(commands::cache::run(&command, instance, output)),
        Command::Pool(command) => in_runtime(commands::pool::run(&command, instance, output)),
        Command::Replicas(command) => in_runtime(commands::replicas::run(&command, instance, output)),
        Command::Db(command) => in_runtime(commands::db::run(&command, output)),
        Command::Failover(command) => in_runtime(commands::failover::run(&command, output)),
        Command::Redis(command) => in_runtime(commands::redis::run(&command, instance, output)),
        Command::Locks(command) => in_runtime(commands::locks::run(&command, instance, output)),
        Command::Pubsub(command) => in_runtime(commands::pubsub::run(&command, instance, output)),
    }
}

/// Runs a short command on a runtime of its own.
fn in_runtime(command: impl Future<Output = Outcome>) -> Outcome {
    logging::init_short()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}
