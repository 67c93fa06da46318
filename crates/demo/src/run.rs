//! `demo run`: starts the servers and the service processes, runs the measured phases, judges them.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

use crate::args::RunArgs;
use crate::chaos::Chaos;
use crate::child::Children;
use crate::progress::Progress;
use crate::protocol::{Levels, Messages, Path, Phase, Start};
use crate::report::{Comparison, Report, Total, write_whole};
use crate::servers::Stack;
use crate::workload::Workload;

/// Baseline concurrencies; the best counts.
const BASELINE_TASKS: [usize; 3] = [8, 32, 64];
/// Updates a second over all processes in the mixed phase.
const UPDATES_PER_SECOND: f64 = 200.0;
/// Unmeasured time before a measured run: fills caches and pools, by the same load.
const WARMUP: Duration = Duration::from_secs(2);
/// Another process must obey an invalidation within this time ...
const STALENESS: Duration = Duration::from_millis(250);
/// ... or, when servers are killed under it, within `disconnected_max_age` (5 s) + 1 s.
const STALENESS_CHAOS: Duration = Duration::from_secs(6);
/// The faults need room: kill, restart, recovery and the second kill each have to show.
const SHORTEST_CHAOS: Duration = Duration::from_secs(16);

/// Returns whether every check held.
pub(crate) async fn run(args: &RunArgs) -> anyhow::Result<bool> {
    let workload = Workload::load(args.trace.as_deref(), 1)?;
    let step = Progress::step("starting Postgres (primary, replica) and Redis (master, replica)");
    let stack = Stack::start(args.servers, args.yes).await?;
    step.finish_with_message(stack.summary());
    let step = Progress::step(&format!("loading {} catalogue rows", workload.rows()));
    let rows = workload.rows();
    stack
        .load_catalogue(rows, |done| {
            step.set_message(format!("loading the catalogue: {done} of {rows} rows"))
        })
        .await?;
    step.set_message("starting the service processes");
    let children = Children::start(starts(args, &stack)?).await?;
    step.finish_and_clear();
    let mut runner = Runner { children, processes: usize::from(args.processes) };
    let mut report = measure(args, &mut runner, &stack).await?;
    report.messages = runner.children.stop().await.context("the service processes did not drain")?;
    report.judge();
    println_report(&report, args.json.as_ref())?;
    stack.stop().await?;
    Ok(report.problems.is_empty())
}

fn starts(args: &RunArgs, stack: &Stack) -> anyhow::Result<Vec<Start>> {
    let trace = args.trace.as_ref().map(std::path::absolute).transpose()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = (cores / usize::from(args.processes)).max(1);
    let start = |process| Start {
        settings: stack.settings(),
        process,
        threads,
        seed: 1 + u64::from(process),
        trace: trace.clone(),
    };
    Ok((0..args.processes).map(start).collect())
}

struct Runner {
    children: Children,
    processes: usize,
}

impl Runner {
    async fn phase(
        &mut self,
        name: &str,
        phase: Phase,
        chaos: Option<Chaos<'_>>,
    ) -> anyhow::Result<(Total, Vec<String>)> {
        let length = phase.warmup + phase.run;
        let progress = std::cell::RefCell::new(Progress::run(name, length, self.processes));
        let faults = async {
            match chaos {
                Some(chaos) => {
                    chaos.run(phase.warmup, phase.run, |fault| progress.borrow().note(fault)).await
                }
                None => Ok(Vec::new()),
            }
        };
        let reports = self.children.phase(&phase, |process, tick| progress.borrow_mut().tick(process, tick));
        let (reports, faults) = tokio::try_join!(reports, faults)?;
        let total = Total::of(reports);
        let hit_rate = match phase.path {
            Path::Direct => String::new(),
            Path::Cached => format!(", hit rate {:.4}", total.sum.levels.hit_rate()),
        };
        progress.into_inner().finish(&format!(
            "{:.0} reads/s, p95 {:.3} ms{hit_rate}",
            total.throughput(),
            total.sum.latencies.millis(0.95),
        ));
        Ok((total, faults))
    }
}

async fn measure(args: &RunArgs, runner: &mut Runner, stack: &Stack) -> anyhow::Result<Report> {
    let quarter = Duration::from_secs(args.seconds) / 4;
    let each = |total: usize| total.div_ceil(usize::from(args.processes));
    let phase = |path, tasks, run, updates: f64| Phase {
        path,
        tasks: each(tasks),
        warmup: WARMUP,
        run,
        updates_per_second: updates / f64::from(args.processes),
        staleness_bound: STALENESS,
        lasting: Vec::new(),
    };
    let mut best: Option<(usize, Total)> = None;
    for tasks in BASELINE_TASKS {
        let spec = Phase { warmup: WARMUP / 4, ..phase(Path::Direct, tasks, quarter / 3, 0.0) };
        let (total, _) = runner.phase(&format!("read-only, direct × {tasks}"), spec, None).await?;
        if best.as_ref().is_none_or(|(_, best)| total.throughput() > best.throughput()) {
            best = Some((tasks, total));
        }
    }
    let (baseline_tasks, read_direct) = best.context("no baseline was measured")?;
    let tasks = usize::from(args.tasks);
    let (read_cached, _) =
        runner.phase("read-only, cached", phase(Path::Cached, tasks, quarter, 0.0), None).await?;
    let direct = phase(Path::Direct, baseline_tasks, quarter, UPDATES_PER_SECOND);
    let (mixed_direct, _) = runner.phase("mixed, direct", direct, None).await?;
    let mut cached = phase(Path::Cached, tasks, quarter, UPDATES_PER_SECOND);
    if args.chaos {
        cached.run = cached.run.max(SHORTEST_CHAOS);
        cached.staleness_bound = STALENESS_CHAOS;
        // The killed replica stays dead.
        cached.lasting = vec!["database".to_owned()];
    }
    let chaos = args.chaos.then_some(Chaos(stack));
    let mixed_time = WARMUP * 2 + quarter + cached.run;
    let lasting = cached.lasting.clone();
    let (mixed_cached, faults) = runner.phase("mixed, cached", cached, chaos).await?;
    let runs = [&read_direct, &read_cached, &mixed_direct, &mixed_cached];
    let mut report = report(args, baseline_tasks, runs, faults);
    report.updates_intended = (UPDATES_PER_SECOND * mixed_time.as_secs_f64()) as u64;
    report.lasting = lasting;
    Ok(report)
}

fn report(args: &RunArgs, baseline_tasks: usize, runs: [&Total; 4], faults: Vec<String>) -> Report {
    let [read_direct, read_cached, mixed_direct, mixed_cached] = runs;
    let mut levels = Levels::default();
    levels.add(&read_cached.sum.levels);
    levels.add(&mixed_cached.sum.levels);
    let all = Total::of(runs.iter().map(|run| run.sum.clone()).collect()).sum;
    all.failures.iter().take(10).for_each(|failure| eprintln!("failed: {failure}"));
    Report {
        servers: args.servers.name(),
        processes: args.processes,
        tasks: usize::from(args.tasks),
        baseline_tasks,
        seconds: runs.iter().map(|run| run.sum.seconds).sum(),
        read_only: Comparison::of(read_direct, read_cached),
        mixed: Comparison::of(mixed_direct, mixed_cached),
        levels,
        stale_reads: all.stale.total(),
        stale_reads_by_clause: all.stale,
        failed_requests: all.failed_reads + all.failed_updates,
        updates: all.updates,
        updates_intended: 0,
        locks: all.locks,
        messages: Messages::default(),
        health: mixed_cached.sum.health.clone(),
        unwell: mixed_cached.sum.unwell.clone(),
        lasting: Vec::new(),
        late_checks: all.late_floors,
        last_fifth: mixed_cached.sum.last_fifth,
        faults,
        problems: Vec::new(),
    }
}

fn println_report(report: &Report, json: Option<&PathBuf>) -> anyhow::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", report.table()).context("cannot write to standard output")?;
    if let Some(path) = json {
        write_whole(path, &(serde_json::to_string_pretty(report)? + "\n"), 0o644)?;
    }
    Ok(())
}
