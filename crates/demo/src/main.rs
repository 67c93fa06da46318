//! The main job as a program: the whole data-access layer on real servers, under load, judged.
//!
//! `demo run` is the coordinator: it starts the servers (`servers`) and two or more service processes (`child`),
//! walks them through the measured phases (`run`), injects faults on request (`chaos`) and prints the verdict
//! (`report`). `demo service` is one such process (`service`, `reader`, `updater`), `demo up` keeps a stack and
//! `dbsvc serve` running. It holds no data-access logic of its own: what it calls is what a service would call.

mod args;
mod catalogue;
mod chaos;
mod child;
mod floors;
mod load;
mod measure;
mod messages;
mod progress;
mod protocol;
mod reader;
mod report;
mod run;
mod servers;
mod service;
mod up;
mod updater;
mod workload;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};

/// As a service that decodes this much would have; both sides of every comparison run on it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Sysexits' EX_UNAVAILABLE: servers missing or unreachable.
const UNAVAILABLE: u8 = 69;
/// Interrupted, as shells number it.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 64 } else { 0 });
        }
    };
    if let Err(refused) = cli.command.check() {
        eprintln!("error: {refused}");
        return ExitCode::from(64);
    }
    match &cli.command {
        Command::Service => service::main(),
        Command::Run(args) => {
            supervise(true, async { run::run(args).await.map(u8::from).map(|good| 1 - good) })
        }
        Command::Up(args) => supervise(false, up::up(args)),
    }
}

/// Runs the job until it ends or Ctrl-C (or SIGTERM) comes. Dropping the job ends its processes and servers; a
/// second Ctrl-C does not wait for that: the servers' watchdog ends them.
fn supervise(cuts_off: bool, job: impl Future<Output = anyhow::Result<u8>>) -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("LOG_LEVEL").unwrap_or_else(|_| "warn".into()),
        )
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start the runtime: {error}");
            return ExitCode::from(2);
        }
    };
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = job => Some(outcome),
            // `up` ends by a signal and drains first; a run is cut off.
            () = up::interrupted(), if cuts_off => None,
        }
    });
    // What still blocks (the installation of servers) is not waited for.
    runtime.shutdown_background();
    match outcome {
        Some(Ok(code)) => ExitCode::from(code),
        Some(Err(error)) => {
            eprintln!("error: {error:#}");
            let missing = error.chain().any(|cause| cause.is::<servers::Unavailable>());
            ExitCode::from(if missing { UNAVAILABLE } else { 2 })
        }
        None => {
            eprintln!("interrupted: servers and processes are ended");
            ExitCode::from(INTERRUPTED)
        }
    }
}
