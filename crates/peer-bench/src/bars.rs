//! The bars: what ours is held to, read from `bars.csv` and from nowhere else.

use anyhow::{Context as _, Result};

use crate::ratio::Ratio;

const TABLE: &str = include_str!("../bars.csv");

/// One row of the table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bar {
    pub(crate) suite: String,
    pub(crate) op: String,
    pub(crate) tasks: usize,
    pub(crate) against: String,
    pub(crate) bar: f64,
    pub(crate) kind: Kind,
}

/// When a bar holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The interval reaches it.
    Parity,
    /// The whole interval lies above it.
    Win,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Parity => "parity",
            Self::Win => "win",
        }
    }
}

impl Bar {
    /// Whether ours holds it.
    pub(crate) fn holds(&self, ratio: Ratio) -> bool {
        match self.kind {
            Kind::Parity => ratio.hi >= self.bar,
            Kind::Win => ratio.lo >= self.bar,
        }
    }
}

/// All bars, in the order of the file.
pub(crate) fn all() -> Result<Vec<Bar>> {
    TABLE.lines().skip(1).filter(|line| !line.is_empty()).map(parse).collect()
}

fn parse(line: &str) -> Result<Bar> {
    let fields: Vec<&str> = line.split(',').collect();
    let [suite, op, tasks, against, bar, kind] = fields[..] else {
        anyhow::bail!("bars.csv: {line:?} has {} fields, not 6", fields.len());
    };
    let kind = match kind {
        "parity" => Kind::Parity,
        "win" => Kind::Win,
        other => anyhow::bail!("bars.csv: {other:?} is neither parity nor win"),
    };
    let tasks = tasks.parse().with_context(|| format!("bars.csv: {line:?}"))?;
    let bar = bar.parse().with_context(|| format!("bars.csv: {line:?}"))?;
    Ok(Bar { suite: suite.into(), op: op.into(), tasks, against: against.into(), bar, kind })
}

#[cfg(test)]
mod tests {
    use super::{Kind, all};
    use crate::ratio::Ratio;

    #[test]
    fn every_row_of_the_table_is_read() {
        let bars = all().expect("the table is well-formed");
        assert_eq!(bars.len(), super::TABLE.lines().count() - 1);
        let first = &bars[0];
        assert_eq!(
            (first.op.as_str(), first.tasks, first.against.as_str()),
            ("l1_hit", 1, "floor:quick_cache")
        );
    }

    #[test]
    fn parity_may_touch_the_bar_and_a_win_must_clear_it() {
        let mut bar = all().expect("the table is well-formed").remove(0);
        let around = Ratio { ratio: bar.bar, lo: bar.bar - 0.1, hi: bar.bar + 0.1 };
        assert!(bar.holds(around));
        bar.kind = Kind::Win;
        assert!(!bar.holds(around));
        assert!(bar.holds(Ratio { lo: bar.bar, ..around }));
    }
}
