//! What was measured: rows, ratios, the verdict on each bar; as tables and as JSON.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::bars::Bar;
use crate::measure::Shown;
use crate::ratio::{self, Ratio};

/// The name under which ours appears.
pub(crate) const OURS: &str = "ours";

/// An interval wider than this factor says more about the machine than about the code.
const NOISY: f64 = 1.5;

/// `bench --json`.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
    pub(crate) ratios: Vec<Compared>,
    /// What both sides had in common, and what was left out and why.
    pub(crate) notes: Vec<String>,
}

/// One implementation of one operation.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) suite: &'static str,
    pub(crate) op: &'static str,
    #[serde(rename = "impl")]
    pub(crate) implementation: String,
    pub(crate) tasks: usize,
    /// Median time of one operation over all rounds.
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    /// Median over the rounds.
    pub(crate) ops_per_s: f64,
    pub(crate) rounds: usize,
    /// Only where it is what is measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hit_rate: Option<f64>,
}

/// Ours against another.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Compared {
    pub(crate) suite: &'static str,
    pub(crate) op: &'static str,
    pub(crate) tasks: usize,
    pub(crate) against: String,
    pub(crate) ratio: f64,
    pub(crate) lo: f64,
    pub(crate) hi: f64,
}

/// Which figure of a round is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// Operations a second.
    Rate,
    /// The round's median time: for one operation at a time on a pinned core.
    Median,
}

impl Report {
    /// Adds what one operation showed, ours and everybody else's.
    pub(crate) fn add(
        &mut self,
        suite: &'static str,
        op: &'static str,
        tasks: usize,
        by: By,
        shown: &[Shown],
    ) {
        for one in shown {
            self.rows.push(Row {
                suite,
                op,
                implementation: one.name.to_owned(),
                tasks,
                p50_ns: one.times.value_at_quantile(0.5),
                p99_ns: one.times.value_at_quantile(0.99),
                ops_per_s: ratio::median(&mut one.rates.clone()).round(),
                rounds: one.rates.len(),
                hit_rate: None,
            });
        }
        let Some(ours) = shown.iter().find(|one| one.name == OURS) else { return };
        for other in shown.iter().filter(|one| one.name != OURS) {
            let ratio = match by {
                By::Rate => ratio::larger_is_better(&ours.rates, &other.rates),
                By::Median => ratio::smaller_is_better(&ours.medians, &other.medians),
            };
            self.compare(suite, op, tasks, other.name, ratio);
        }
    }

    pub(crate) fn compare(
        &mut self,
        suite: &'static str,
        op: &'static str,
        tasks: usize,
        against: &str,
        of: Ratio,
    ) {
        let Ratio { ratio, lo, hi } = of;
        self.ratios.push(Compared { suite, op, tasks, against: against.to_owned(), ratio, lo, hi });
    }

    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// What was measured, as a table.
    pub(crate) fn rows_table(&self) -> Table {
        let mut table = table(&["suite", "op", "tasks", "impl", "p50", "p99", "ops/s", "rounds"], 4);
        for row in &self.rows {
            let value = match row.hit_rate {
                Some(rate) => format!("{:.2} % hits", rate * 100.0),
                None => format!("{:.0}", row.ops_per_s),
            };
            let Row { suite, op, tasks, implementation, rounds, .. } = row;
            let mut cells: Vec<String> = [suite, op].iter().map(ToString::to_string).collect();
            cells.extend([tasks.to_string(), implementation.clone(), time(row.p50_ns), time(row.p99_ns)]);
            cells.extend([value, rounds.to_string()]);
            table.add_row(cells);
        }
        table
    }

    /// Ours against everybody, with the bar where there is one.
    pub(crate) fn ratios_table(&self, bars: &[Bar]) -> Table {
        let mut table = table(&["suite", "op", "tasks", "against", "ratio", "95 %", "bar", ""], 4);
        for compared in &self.ratios {
            let Compared { suite, op, tasks, against, ratio, lo, hi } = compared;
            let mut cells: Vec<String> = [suite, op].iter().map(ToString::to_string).collect();
            cells.extend([
                tasks.to_string(),
                against.clone(),
                format!("{ratio:.2}"),
                format!("{lo:.2}–{hi:.2}"),
            ]);
            match compared.bar(bars) {
                Some(bar) => {
                    let holds = bar.holds(Ratio { ratio: *ratio, lo: *lo, hi: *hi });
                    cells.push(format!("{} {}", bar.kind.name(), bar.bar));
                    let noisy = if hi / lo > NOISY { ", noisy" } else { "" };
                    cells.push(format!("{}{noisy}", if holds { "holds" } else { "FALLS SHORT" }));
                }
                None => cells.extend(["–".to_owned(), String::new()]),
            }
            table.add_row(cells);
        }
        table
    }

    /// The bars that were measured and missed.
    pub(crate) fn missed(&self, bars: &[Bar]) -> usize {
        let missed = |compared: &&Compared| {
            let ratio = Ratio { ratio: compared.ratio, lo: compared.lo, hi: compared.hi };
            compared.bar(bars).is_some_and(|bar| !bar.holds(ratio))
        };
        self.ratios.iter().filter(missed).count()
    }

    /// The bars for which nothing was measured.
    pub(crate) fn unmeasured<'a>(&self, bars: &'a [Bar]) -> Vec<&'a Bar> {
        bars.iter().filter(|bar| !self.ratios.iter().any(|compared| compared.is_of(bar))).collect()
    }

    /// Whole or not at all; a failure leaves nothing beside it.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let failed = || format!("cannot write {}", path.display());
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let readable = std::fs::Permissions::from_mode(0o644);
        let mut beside =
            tempfile::Builder::new().permissions(readable).tempfile_in(folder).with_context(failed)?;
        beside.write_all(&serde_json::to_vec_pretty(self)?).with_context(failed)?;
        beside.persist(path).with_context(failed)?;
        Ok(())
    }
}

impl Compared {
    fn is_of(&self, bar: &Bar) -> bool {
        (self.suite, self.op, self.tasks) == (bar.suite.as_str(), bar.op.as_str(), bar.tasks)
            && self.against == bar.against
    }

    fn bar<'a>(&self, bars: &'a [Bar]) -> Option<&'a Bar> {
        bars.iter().find(|bar| self.is_of(bar))
    }
}

/// A table whose columns from `numbers` on, and the third, hold numbers.
fn table(header: &[&str], numbers: usize) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_BORDERS_ONLY).set_header(header);
    for (index, column) in table.column_iter_mut().enumerate() {
        if index >= numbers || index == 2 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn time(nanoseconds: u64) -> String {
    match nanoseconds {
        0..10_000 => format!("{nanoseconds} ns"),
        10_000..10_000_000 => format!("{:.1} µs", nanoseconds as f64 / 1e3),
        _ => format!("{:.1} ms", nanoseconds as f64 / 1e6),
    }
}
