//! Ours beside peers and raw drivers, in one run on one machine.
//!
//! Two runs on a shared machine differ by more than most of what is compared here, so nothing is compared across
//! runs: every contender takes its turn in every round, a ratio is taken within a round, and what is reported is the
//! median of at least eleven such ratios with its 95 % bootstrap interval. The bars in `bars.csv` are held against
//! that interval. One operation at a time over a connection is measured with client, servers and peers bound to one
//! core, because otherwise it measures how an idle processor wakes up.
//!
//! Not here: the throughput of the whole system (`demo`), and statistics of one component over time (`criterion`).

mod bars;
mod cache;
mod keys;
mod measure;
mod pin;
mod pool;
mod pubsub;
mod ratio;
mod report;
mod servers;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

use measure::{Crew, Plan};
use report::Report;

/// Rounds of every row: what the interval needs to mean something.
const ROUNDS: usize = 11;
const ROUND: Duration = Duration::from_millis(300);
const QUICK_ROUND: Duration = Duration::from_millis(60);

/// Ours beside peers and raw drivers.
#[derive(Debug, Parser)]
#[command(name = "peer-bench", version, max_term_width = 110)]
#[command(
    after_help = "Exit codes: 0 measured, 1 a bar was missed (with --strict), 2 could not be measured, 64 usage."
)]
struct Cli {
    /// Only this suite.
    #[arg(long, value_parser = ["cache", "pool", "pubsub"])]
    suite: Option<String>,
    /// Writes rows and ratios as JSON to this file, whole or not at all.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Shorter rounds: a first impression, not a figure to publish.
    #[arg(long)]
    quick: bool,
    /// Exit 1 when a bar is missed.
    #[arg(long)]
    strict: bool,
}

/// A run: its report so far, and how each row of it is measured.
#[derive(Debug, Default)]
pub(crate) struct Bench {
    pub(crate) report: Report,
    quick: bool,
}

impl Bench {
    /// How a row is measured.
    pub(crate) fn plan(&self, crew: Crew, batch: usize) -> Plan {
        let round = if self.quick { QUICK_ROUND } else { ROUND };
        Plan { rounds: ROUNDS, round, crew, batch }
    }

    pub(crate) fn rounds(&self) -> usize {
        ROUNDS
    }

    /// A bar for one row; a line where nobody watches.
    pub(crate) fn progress(&self, row: &'static str, tasks: usize, entrants: usize) -> ProgressBar {
        if !std::io::stderr().is_terminal() {
            eprintln!("{row}, {tasks}");
        }
        let bar = ProgressBar::new(measure::steps(entrants, ROUNDS));
        if let Ok(style) = ProgressStyle::with_template("{prefix:32} [{bar:30}] {pos}/{len} {msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(format!("{row}, {tasks}"));
        bar
    }

    fn wants(cli: &Cli, suite: &str) -> bool {
        cli.suite.as_deref().is_none_or(|wanted| wanted == suite)
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { 64 } else { 0 };
            // Nothing is left to do about a closed terminal.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match run(&cli) {
        Ok(missed) if missed > 0 && cli.strict => ExitCode::from(1),
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Measures, prints, writes; gives back how many bars were missed.
fn run(cli: &Cli) -> Result<usize> {
    let bars = bars::all()?;
    let mut bench = Bench { quick: cli.quick, ..Bench::default() };
    if let Some(load) = busy() {
        eprintln!("this machine is busy (load {load:.1}): expect wide intervals");
        bench.report.note(format!("measured on a busy machine (load {load:.1} at the start)"));
    }
    // One at a time first: these rows have servers of their own, and want nobody beside them.
    if Bench::wants(cli, "cache") {
        pin::pinned(async || cache::l2::run_one(&mut bench).await)?;
    }
    if Bench::wants(cli, "pool") {
        pin::pinned(async || pool::point_read::run_one(&mut bench).await)?;
    }
    if Bench::wants(cli, "pubsub") {
        pin::pinned(async || pubsub::latency::run_one(&mut bench).await)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(together(&mut bench, cli))?;
    runtime.shutdown_timeout(Duration::from_secs(1));

    let report = &bench.report;
    writeln!(std::io::stdout(), "{}\n{}", report.rows_table(), report.ratios_table(&bars))?;
    report.notes.iter().for_each(|note| eprintln!("{note}"));
    let (missed, unmeasured) = (report.missed(&bars), report.unmeasured(&bars));
    eprintln!("{missed} of {} measured bars missed", bars.len() - unmeasured.len());
    let rows: Vec<String> = unmeasured
        .iter()
        .map(|bar| format!("{}/{}/{} against {}", bar.suite, bar.op, bar.tasks, bar.against))
        .collect();
    if !rows.is_empty() {
        eprintln!("not measured in this run: {}", rows.join(", "));
    }
    if let Some(path) = &cli.json {
        report.write(path)?;
    }
    Ok(missed)
}

/// The rows that may use every core.
async fn together(bench: &mut Bench, cli: &Cli) -> Result<()> {
    let stack = servers::start().await?;
    if Bench::wants(cli, "cache") {
        cache::l1::run(bench, &stack).await?;
        cache::hit_rate::run(bench, &stack).await?;
        cache::l2::run_many(bench, &stack).await?;
    }
    if Bench::wants(cli, "pubsub") {
        pubsub::throughput::run(bench, &stack).await?;
    }
    if Bench::wants(cli, "pool") {
        let database = pool::peers::database(&stack).await?;
        let pools = Arc::new(pool::peers::Pools::open(&database.url()).await?);
        pool::point_read::run_many(bench, &pools).await?;
        pool::checkout::run(bench, &pools).await?;
        drop(pools);
        pool::far::run(bench, &database).await?;
        pool::spike::run(bench, &database).await?;
    }
    Ok(())
}

/// The load of the last minute, where it leaves no core to measure on.
fn busy() -> Option<f64> {
    let load: f64 = std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (load > cores as f64 / 2.0).then_some(load)
}
