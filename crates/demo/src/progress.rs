//! Live progress on standard error: which run, how far, and what the processes report. A plain line a run where
//! standard error is no terminal.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::protocol::{Levels, Tick};

/// One bar for one run.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    started: Instant,
    last: Vec<Tick>,
}

impl Progress {
    pub(crate) fn step(message: &str) -> ProgressBar {
        let bar = ProgressBar::new_spinner().with_message(message.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        if bar.is_hidden() {
            eprintln!("{message}");
        }
        bar
    }

    pub(crate) fn run(name: &str, length: Duration, processes: usize) -> Self {
        let bar = ProgressBar::new(length.as_millis() as u64);
        let style = ProgressStyle::with_template("{prefix:22} {bar:24} {elapsed_precise} {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(name.to_owned());
        if bar.is_hidden() {
            eprintln!("{name} ({:.1} s)", length.as_secs_f64());
        }
        Self { bar, started: Instant::now(), last: vec![Tick::default(); processes] }
    }

    pub(crate) fn note(&self, text: &str) {
        if self.bar.is_hidden() {
            eprintln!("  {text}");
        } else {
            self.bar.println(format!("  {text}"));
        }
    }

    pub(crate) fn tick(&mut self, process: usize, tick: &Tick) {
        self.last[process] = tick.clone();
        let mut levels = Levels::default();
        self.last.iter().for_each(|tick| levels.add(&tick.levels));
        let total = levels.total().max(1) as f64;
        let percent = |n: u64| n as f64 * 100.0 / total;
        let reads: u64 = self.last.iter().map(|tick| tick.reads).sum();
        let elapsed = self.started.elapsed();
        let p95 = self.last.iter().map(|tick| tick.p95_ms).fold(0.0, f64::max);
        let health =
            self.last.iter().map(|t| t.health.as_str()).find(|h| *h != "healthy").unwrap_or("healthy");
        self.bar.set_position(elapsed.as_millis() as u64);
        self.bar.set_message(format!(
            "{:.0} reads/s · L1 {:.1} % L2 {:.1} % L3 {:.1} % loader {:.1} % · p95 {p95:.3} ms · {health}",
            reads as f64 / elapsed.as_secs_f64().max(0.001),
            percent(levels.l1),
            percent(levels.l2),
            percent(levels.l3),
            percent(levels.loader),
        ));
    }

    pub(crate) fn finish(self, result: &str) {
        let name = self.bar.prefix();
        self.bar.finish_and_clear();
        eprintln!("{name:22} {result}");
    }
}
