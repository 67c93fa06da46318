//! The closing report: its JSON contract, its table, and the verdict.

use comfy_table::{Table, presets::UTF8_BORDERS_ONLY};
use serde::Serialize;

use crate::protocol::{Levels, Locks, Messages, PhaseReport, Stale};

/// The factor over the uncached service that the replaced system published; both phases must reach it.
const SPEEDUP: f64 = 8.4;
/// Lowest overall hit rate.
const HIT_RATE: f64 = 0.90;
/// Highest 95th percentile of a read through the cache.
const P95_MS: f64 = 100.0;

/// `demo --json`.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) servers: &'static str,
    pub(crate) processes: u16,
    /// Concurrent readers through the cache, over all processes.
    pub(crate) tasks: usize,
    /// Concurrent readers of the baseline: the best of 8, 32 and 64.
    pub(crate) baseline_tasks: usize,
    /// Measured seconds, all runs together.
    pub(crate) seconds: f64,
    pub(crate) read_only: Comparison,
    pub(crate) mixed: Comparison,
    /// Cached reads of both phases by the level that answered.
    pub(crate) levels: Levels,
    pub(crate) stale_reads: u64,
    pub(crate) stale_reads_by_clause: Stale,
    pub(crate) failed_requests: u64,
    pub(crate) updates: u64,
    /// What the fixed rate asks for in the time of both mixed runs, warm-up included.
    pub(crate) updates_intended: u64,
    pub(crate) locks: Locks,
    pub(crate) messages: Messages,
    pub(crate) health: String,
    /// Components that are not healthy at the end, and those that may not be, because a fault stays.
    pub(crate) unwell: Vec<String>,
    #[serde(skip)]
    pub(crate) lasting: Vec<String>,
    /// Invalidations of other processes that were checked later than the bound says, so less strictly.
    pub(crate) late_checks: u64,
    /// Locks acquired and messages published in the last fifth of the last run.
    #[serde(skip)]
    pub(crate) last_fifth: (u64, u64),
    /// Faults injected by `--chaos`, in order.
    pub(crate) faults: Vec<String>,
    /// What did not hold; empty when the run is good.
    pub(crate) problems: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) baseline_performance: Performance,
    pub(crate) enhanced_performance: Performance,
    /// Enhanced over baseline throughput.
    pub(crate) speedup: f64,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Performance {
    pub(crate) throughput_rps: f64,
    pub(crate) response_times_ms: ResponseTimes,
    pub(crate) overall_hit_rate: f64,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct ResponseTimes {
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
}

/// One phase over all processes.
#[derive(Debug, Default)]
pub(crate) struct Total {
    pub(crate) sum: PhaseReport,
    throughput: f64,
}

impl Total {
    pub(crate) fn of(reports: Vec<PhaseReport>) -> Self {
        let mut total = Self::default();
        for report in reports {
            total.throughput += report.reads as f64 / report.seconds.max(1e-9);
            let sum = &mut total.sum;
            sum.seconds = sum.seconds.max(report.seconds);
            sum.reads += report.reads;
            sum.levels.add(&report.levels);
            sum.latencies.add(&report.latencies);
            sum.stale.add(&report.stale);
            sum.failed_reads += report.failed_reads;
            sum.failed_updates += report.failed_updates;
            sum.failures.extend(report.failures);
            sum.updates += report.updates;
            sum.locks.add(&report.locks);
            sum.late_floors += report.late_floors;
            sum.last_fifth.0 += report.last_fifth.0;
            sum.last_fifth.1 += report.last_fifth.1;
            sum.unwell.extend(report.unwell);
            sum.unwell.sort();
            sum.unwell.dedup();
            if badness(&report.health) >= badness(&sum.health) {
                sum.health = report.health;
            }
        }
        total
    }

    pub(crate) fn throughput(&self) -> f64 {
        self.throughput
    }

    pub(crate) fn performance(&self, cached: bool) -> Performance {
        let latencies = &self.sum.latencies;
        Performance {
            throughput_rps: self.throughput,
            response_times_ms: ResponseTimes {
                mean: latencies.mean_millis(),
                p50: latencies.millis(0.50),
                p95: latencies.millis(0.95),
                p99: latencies.millis(0.99),
            },
            overall_hit_rate: if cached { self.sum.levels.hit_rate() } else { 0.0 },
        }
    }
}

/// Orders health for "the worst of all processes"; what is not known is worst.
fn badness(health: &str) -> usize {
    ["", "healthy", "degraded", "unhealthy"].iter().position(|known| *known == health).unwrap_or(usize::MAX)
}

impl Comparison {
    pub(crate) fn of(baseline: &Total, enhanced: &Total) -> Self {
        Self {
            baseline_performance: baseline.performance(false),
            enhanced_performance: enhanced.performance(true),
            speedup: enhanced.throughput / baseline.throughput.max(1e-9),
        }
    }
}

impl Report {
    /// Fills `problems`: everything that a good run must not show.
    pub(crate) fn judge(&mut self) {
        let mut problems = Vec::new();
        if self.stale_reads > 0 {
            problems.push(format!("{} stale reads: {:?}", self.stale_reads, self.stale_reads_by_clause));
        }
        if self.failed_requests > 0 {
            problems.push(format!("{} requests failed", self.failed_requests));
        }
        for (name, phase) in [("read-only", &self.read_only), ("mixed", &self.mixed)] {
            let cached = &phase.enhanced_performance;
            if phase.speedup < SPEEDUP {
                problems.push(format!("{name}: {:.1} × the baseline, below {SPEEDUP}", phase.speedup));
            }
            if cached.overall_hit_rate < HIT_RATE {
                problems.push(format!("{name}: hit rate {:.3}, below {HIT_RATE}", cached.overall_hit_rate));
            }
            if cached.response_times_ms.p95 >= P95_MS {
                problems
                    .push(format!("{name}: p95 {:.1} ms, not below {P95_MS}", cached.response_times_ms.p95));
            }
        }
        if self.locks.violations > 0 {
            problems.push(format!("{} lock violations", self.locks.violations));
        }
        if self.last_fifth.0 == 0 || self.last_fifth.1 == 0 {
            let (locks, messages) = self.last_fifth;
            problems.push(format!("{locks} locks and {messages} messages in the last fifth of the run"));
        }
        if self.late_checks > self.updates / 100 {
            problems.push(format!("{} invalidations were checked late", self.late_checks));
        }
        let Messages { published, received, gaps, refused } = self.messages;
        let expected = published * u64::from(self.processes);
        // A loss must be told (a gap), and nothing is received twice.
        if received > expected || (received < expected && gaps == 0) || published == 0 {
            problems
                .push(format!("{published} messages to {} processes: {received} received", self.processes));
        }
        if self.faults.is_empty() {
            if self.locks.unavailable > 0 {
                problems.push(format!("{} lock jobs found no lock service", self.locks.unavailable));
            }
            if gaps + refused > 0 {
                problems.push(format!("messages: {gaps} gaps and {refused} refused without a fault"));
            }
            if self.updates * 10 < self.updates_intended * 9 {
                problems.push(format!("only {} of {} updates", self.updates, self.updates_intended));
            }
        }
        // What was killed and stays dead, health has to show; and nothing else.
        let expected = if self.lasting.is_empty() { "healthy" } else { "degraded" };
        if self.health != expected || self.unwell != self.lasting {
            problems.push(format!("health at the end: {}, not well: {:?}", self.health, self.unwell));
        }
        self.problems = problems;
    }

    pub(crate) fn table(&self) -> String {
        let mut runs = Table::new();
        runs.load_preset(UTF8_BORDERS_ONLY);
        runs.set_header([
            "run",
            "reads/s",
            "mean ms",
            "p50 ms",
            "p95 ms",
            "p99 ms",
            "hit rate",
            "× baseline",
        ]);
        for (name, phase) in [("read-only", &self.read_only), ("mixed", &self.mixed)] {
            let speedup = format!("{:.1}", phase.speedup);
            for (path, run, speedup) in [
                ("direct", &phase.baseline_performance, "1.0"),
                ("cached", &phase.enhanced_performance, speedup.as_str()),
            ] {
                let times = &run.response_times_ms;
                let mut row = vec![format!("{name}, {path}"), format!("{:.0}", run.throughput_rps)];
                row.extend([times.mean, times.p50, times.p95, times.p99].map(|ms| format!("{ms:.4}")));
                row.push(if path == "cached" {
                    format!("{:.4}", run.overall_hit_rate)
                } else {
                    "–".into()
                });
                row.push(speedup.to_owned());
                runs.add_row(row);
            }
        }
        let Levels { l1, l2, l3, loader } = self.levels;
        let reads = self.levels.total().max(1) as f64;
        let share = |n: u64| format!("{:.2} %", n as f64 * 100.0 / reads);
        let mut facts = Table::new();
        facts.load_preset(UTF8_BORDERS_ONLY);
        facts.add_row([
            "levels",
            &format!("L1 {}, L2 {}, L3 {}, loader {}", share(l1), share(l2), share(l3), share(loader)),
        ]);
        facts.add_row(["stale reads", &self.stale_reads.to_string()]);
        facts.add_row(["failed requests", &self.failed_requests.to_string()]);
        facts.add_row(["updates", &format!("{} of {} intended", self.updates, self.updates_intended)]);
        let locks = &self.locks;
        facts.add_row(["locks", &format!("{} acquired, {} unavailable", locks.acquired, locks.unavailable)]);
        let Messages { published, received, gaps, refused } = self.messages;
        facts.add_row([
            "messages",
            &format!("{published} published, {received} received, {gaps} gaps, {refused} refused"),
        ]);
        facts.add_row([
            "readers",
            &format!("{} direct, {} cached, {} processes", self.baseline_tasks, self.tasks, self.processes),
        ]);
        let unwell =
            if self.unwell.is_empty() { String::new() } else { format!(" ({})", self.unwell.join(", ")) };
        facts.add_row(["health", &format!("{}{unwell}", self.health)]);
        for fault in &self.faults {
            facts.add_row(["fault", fault]);
        }
        let verdict = match self.problems.as_slice() {
            [] => "PASS: every check held".to_owned(),
            problems => format!("FAIL:\n  {}", problems.join("\n  ")),
        };
        format!("{runs}\n{facts}\n{verdict}")
    }
}

/// Writes the whole file or none: a reader never sees half a report, a full disk leaves the old one.
pub(crate) fn write_whole(path: &std::path::Path, text: &str, mode: u32) -> anyhow::Result<()> {
    use anyhow::Context;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| std::path::Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().with_context(|| {
        format!("cannot write {} (is the folder there and the disk not full?)", path.display())
    })
}
