//! `cargo xtask soak`: one part again and again for a long time, and a verdict file about it.
//!
//! Parts so far: `demo` (the main job under `--chaos`). A part that does not exist is an error, not a pass.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::Value;

use crate::{demo, servers, workspace};

/// Length of one run of the demo. Long enough for its faults to be injected and recovered from.
const RUN_SECONDS: u64 = 60;
/// A fault kind that was injected less often than this proves nothing.
const LEAST_FAULTS: u64 = 10;
/// Share of the intended operations that must have run.
const LEAST_SHARE: f64 = 0.9;

/// What `cargo xtask soak` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The verdict fails when an anomaly was seen, when a fault kind was injected fewer than 10 \
    times (so give it 15 minutes or more), or when less than 90 % of the intended operations ran."
)]
pub(crate) struct Args {
    /// How long to go on. The run that is under way at the end is finished.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    minutes: u64,
    /// Which part.
    #[arg(long, default_value = "demo", value_parser = ["demo"])]
    part: String,
    /// The verdict file.
    #[arg(long, value_name = "FILE", default_value = "target/soak-verdict.json")]
    json: PathBuf,
    /// Installs missing servers without asking.
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Serialize)]
struct Verdict {
    part: String,
    /// The demo draws no seed of its own yet; its keys and values follow from the row numbers.
    seed: Option<u64>,
    commit: String,
    started_unix: u64,
    seconds: f64,
    runs: u64,
    operations: Operations,
    /// Injected faults by kind.
    faults: std::collections::BTreeMap<String, u64>,
    /// What went wrong, run by run.
    anomalies: Vec<String>,
    passed: bool,
    reasons: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
struct Operations {
    reads: u64,
    updates: u64,
    updates_intended: u64,
}

/// Repeats the demo until the time is over; exit 1 unless the verdict is a pass.
pub(crate) fn run(args: &Args) -> Result<u8> {
    servers::require(servers::Consent::given(args.yes))?;
    let binary = demo::build(demo::Source::Native)?;
    let scratch = tempfile::tempdir().context("cannot create a temporary folder")?;
    let report = scratch.path().join("demo.json");
    let started = Instant::now();
    let mut verdict = Verdict {
        part: args.part.clone(),
        seed: None,
        commit: workspace::commit(),
        started_unix: std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()),
        seconds: 0.0,
        runs: 0,
        operations: Operations::default(),
        faults: std::collections::BTreeMap::new(),
        anomalies: Vec::new(),
        passed: false,
        reasons: Vec::new(),
    };
    while started.elapsed() < Duration::from_secs(args.minutes * 60) {
        verdict.runs += 1;
        let _ = std::fs::remove_file(&report);
        let mut demo = Command::new(&binary);
        demo.args(["run", "--chaos", "--yes", "--seconds", &RUN_SECONDS.to_string(), "--json"]).arg(&report);
        let status = workspace::run(demo)?;
        if workspace::code(status) == 130 {
            anyhow::bail!("interrupted in run {}; no verdict written", verdict.runs);
        }
        match std::fs::read(&report).ok().and_then(|text| serde_json::from_slice(&text).ok()) {
            Some(json) => verdict.add(&json),
            None => verdict.anomalies.push(format!("run {}: no report", verdict.runs)),
        }
        if !status.success() {
            verdict.anomalies.push(format!("run {}: {status}", verdict.runs));
        }
        verdict.seconds = started.elapsed().as_secs_f64();
        verdict.judge();
        // Written after each run: what was seen so far survives a crash of the machine.
        write(&args.json, &verdict)?;
    }
    eprintln!("verdict: {} ({})", if verdict.passed { "pass" } else { "fail" }, args.json.display());
    for reason in &verdict.reasons {
        eprintln!("  {reason}");
    }
    Ok(u8::from(!verdict.passed))
}

impl Verdict {
    /// Takes in one report of the demo.
    fn add(&mut self, report: &Value) {
        let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_f64).unwrap_or(0.0);
        let reads = ["l1", "l2", "l3", "loader"].map(|level| number(&format!("/levels/{level}")));
        self.operations.reads += reads.iter().sum::<f64>() as u64;
        self.operations.updates += number("/updates") as u64;
        // The demo knows for how long it wrote at its fixed rate, the one rate that is intended rather than found.
        match report.pointer("/updates_intended").and_then(Value::as_u64) {
            Some(intended) if intended > 0 => self.operations.updates_intended += intended,
            _ => self.anomalies.push(format!("run {}: the report says no updates_intended", self.runs)),
        }
        for fault in report["faults"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            // "3.1 s: Redis master killed": the kind is what follows the time.
            let kind = fault.split_once(": ").map_or(fault, |(_, kind)| kind);
            *self.faults.entry(kind.to_owned()).or_default() += 1;
        }
        for problem in report["problems"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            self.anomalies.push(format!("run {}: {problem}", self.runs));
        }
    }

    fn judge(&mut self) {
        self.reasons.clear();
        if !self.anomalies.is_empty() {
            self.reasons.push(format!("{} anomalies", self.anomalies.len()));
        }
        if self.faults.is_empty() {
            self.reasons.push("no fault was injected".to_owned());
        }
        for (kind, times) in &self.faults {
            if *times < LEAST_FAULTS {
                self.reasons.push(format!("{kind}: {times} times, fewer than {LEAST_FAULTS}"));
            }
        }
        let Operations { updates, updates_intended, .. } = self.operations;
        if (updates as f64) < updates_intended as f64 * LEAST_SHARE {
            self.reasons.push(format!("{updates} of {updates_intended} intended updates ran"));
        }
        self.passed = self.reasons.is_empty();
    }
}

/// Whole or not at all; a failure leaves nothing beside it.
fn write(path: &Path, verdict: &Verdict) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).with_context(failed)?;
    // As readable as any file that is written: the verdict holds no secret.
    let readable = std::fs::Permissions::from_mode(0o644);
    let mut beside =
        tempfile::Builder::new().permissions(readable).tempfile_in(folder).with_context(failed)?;
    beside.write_all(&serde_json::to_vec_pretty(verdict)?).with_context(failed)?;
    beside.persist(path).with_context(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests;
