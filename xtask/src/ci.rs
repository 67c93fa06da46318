//! `cargo xtask ci`: the steps that a merge needs, in the order in which they fail fastest, with a table at the end.
//!
//! Decides which steps run and how the outcome is told; what a step does is in `steps` and `downstream`.

mod downstream;
mod steps;

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;

/// What `cargo xtask ci` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only these steps.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "STEPS", conflicts_with = "skip")]
    only: Vec<Step>,
    /// All but these steps.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "STEPS")]
    skip: Vec<Step>,
    /// Goes on after a step that failed.
    #[arg(long)]
    keep_going: bool,
    /// Also checks known vulnerabilities. Needs the network, for the advisory database.
    #[arg(long)]
    advisories: bool,
}

/// A step, in the order of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// The formatting of every file.
    Fmt,
    /// The layout of the workspace: arrows, headers, lengths.
    Tidy,
    /// Compiler and clippy lints, warnings denied, over all targets.
    Clippy,
    /// The documentation, warnings denied.
    Docs,
    /// Each choice of storage backends builds.
    Features,
    /// Crates outside of the workspace that use ours build, with many and few sqlx features.
    Downstream,
    /// Licences, sources and banned crates.
    Deny,
    /// Interleavings of the pool's core and shell.
    Model,
    /// The whole suite on real servers.
    Test,
    /// The tests of the benchmark, which is no default member.
    Peers,
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed(String),
    /// An earlier step failed, or the step was not chosen.
    NotRun,
}

/// Runs the chosen steps; exit 1 when one failed.
pub(crate) fn run(args: &Args) -> Result<u8> {
    let mut table = Vec::new();
    let mut failed = false;
    for step in Step::value_variants() {
        let chosen = if args.only.is_empty() { !args.skip.contains(step) } else { args.only.contains(step) };
        if !chosen || (failed && !args.keep_going) {
            table.push((*step, Outcome::NotRun, Duration::ZERO));
            continue;
        }
        eprintln!("\n== {} ==", name(*step));
        let started = Instant::now();
        let outcome = match steps::run(*step, args.advisories) {
            Ok(()) => Outcome::Passed,
            Err(error) => Outcome::Failed(format!("{error:#}")),
        };
        failed |= outcome != Outcome::Passed;
        table.push((*step, outcome, started.elapsed()));
    }
    eprintln!();
    for (step, outcome, took) in &table {
        let took = format!("{:.1} s", took.as_secs_f64());
        match outcome {
            Outcome::Passed => eprintln!("{:<12} {took:>9}  passed", name(*step)),
            Outcome::Failed(why) => eprintln!("{:<12} {took:>9}  FAILED: {why}", name(*step)),
            Outcome::NotRun => eprintln!("{:<12} {:>9}  not run", name(*step), "-"),
        }
    }
    if !args.advisories {
        eprintln!(
            "known vulnerabilities: not checked (`cargo xtask ci --advisories` fetches the database and does)"
        );
    }
    Ok(u8::from(failed))
}

fn name(step: Step) -> String {
    step.to_possible_value().map_or_else(|| format!("{step:?}"), |value| value.get_name().to_owned())
}
