//! `cargo xtask`: everything that is done to this repository, one subcommand a job.
//!
//! Quick to build (no async runtime, no database driver), and deliberately not a build system: every job is a
//! handful of ordinary commands that it prints before it runs them.

mod bench;
mod ci;
mod demo;
mod engine;
mod images;
mod model;
mod servers;
mod soak;
mod suite;
mod tidy;
mod workspace;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

/// A finding, or a command that failed.
const FINDING: u8 = 1;
/// Wrong usage.
const USAGE: u8 = 64;
/// The servers, or the engine for containers, are neither there nor may they be installed from here.
const UNAVAILABLE: u8 = 69;

/// Automation of this workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 110)]
#[command(
    after_help = "Exit codes: 0 fine, 1 a finding or a failed step, 64 usage, 69 servers or engine missing; \
    `test` exits with cargo's own code, `demo` and `up` with the demo's."
)]
struct Cli {
    #[command(subcommand)]
    job: Job,
}

#[derive(Debug, Subcommand)]
enum Job {
    /// Finds or installs Postgres and Redis, then runs every test (or `cargo test ARGS`).
    Test(suite::Args),
    /// Builds images of the servers from Debian's packages (as root), for containers where no registry is reached.
    Images(images::Args),
    /// Runs what a merge needs: format, lints, layout, licences, docs, feature sets, tests.
    Ci(ci::Args),
    /// Checks the layout of the workspace against `xtask/arrows.toml`.
    Tidy,
    /// Runs the main job on real servers; the arguments go to the demo.
    #[command(
        disable_help_flag = true,
        override_usage = "cargo xtask demo [--seconds N] [--json FILE] \
        [--servers native|containers|external] [--trace FILE] [--chaos] [--yes]"
    )]
    Demo {
        /// Passed on to the demo.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        args: Vec<OsString>,
    },
    /// Keeps the servers and `dbsvc serve` running until Ctrl-C; the arguments go to the demo.
    #[command(
        disable_help_flag = true,
        override_usage = "cargo xtask up [--demo-load] [--json FILE] [--yes]"
    )]
    Up {
        /// Passed on to the demo.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        args: Vec<OsString>,
    },
    /// Repeats a part for a long time and writes a verdict.
    Soak(soak::Args),
    /// Tries interleavings of the pool's core and shell, and that planted faults are found.
    Model(model::Args),
    /// Measures ours beside peers and raw drivers.
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { USAGE } else { 0 };
            // Nothing is left to do about a closed terminal.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let outcome = match cli.job {
        Job::Demo { args } if asks_for_help(&args) => help("demo"),
        Job::Up { args } if asks_for_help(&args) => help("up"),
        Job::Test(args) => suite::run(&args),
        Job::Images(args) => images::run(&args),
        Job::Ci(args) => ci::run(&args),
        Job::Tidy => tidy::run(),
        Job::Demo { args } => demo::exec("run", &args),
        Job::Up { args } => demo::exec("up", &args),
        Job::Soak(args) => soak::run(&args),
        Job::Model(args) => model::run(&args),
        Job::Bench(args) => bench::run(&args),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<servers::Missing>() { UNAVAILABLE } else { FINDING })
        }
    }
}

/// Arguments that are passed on swallow `--help`; answered here, it needs no release build.
fn asks_for_help(args: &[OsString]) -> bool {
    args.iter().any(|arg| arg == "--help" || arg == "-h")
}

fn help(job: &str) -> anyhow::Result<u8> {
    let mut cli = Cli::command();
    cli.build();
    if let Some(job) = cli.find_subcommand_mut(job) {
        job.print_long_help()?;
    }
    Ok(0)
}
