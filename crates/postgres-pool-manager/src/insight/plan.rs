//! A plan as the server writes it with `EXPLAIN (FORMAT JSON)`, as far as advice is drawn from it.

use super::InsightError;
use serde::Deserialize;
use serde_json::Value;

/// The top of a plan.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Explained {
    #[serde(rename = "Plan")]
    pub(crate) plan: Node,
    /// Milliseconds; only of a statement that was run.
    #[serde(rename = "Execution Time")]
    pub(crate) execution_ms: Option<f64>,
}

/// A step of a plan. Figures of a step that runs several times are means, except where said.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(crate) struct Node {
    #[serde(rename = "Node Type")]
    pub(crate) kind: String,
    #[serde(rename = "Schema")]
    pub(crate) schema: Option<String>,
    #[serde(rename = "Relation Name")]
    pub(crate) relation: Option<String>,
    #[serde(rename = "Filter")]
    pub(crate) filter: Option<String>,
    #[serde(rename = "Strategy")]
    pub(crate) strategy: Option<String>,
    #[serde(rename = "Total Cost")]
    pub(crate) cost: f64,
    #[serde(rename = "Plan Rows")]
    pub(crate) plan_rows: f64,
    #[serde(rename = "Plan Width")]
    pub(crate) width: f64,
    #[serde(rename = "Workers Planned")]
    pub(crate) workers: f64,
    #[serde(rename = "Parallel Aware")]
    pub(crate) parallel: bool,
    #[serde(rename = "Actual Rows")]
    pub(crate) actual_rows: Option<f64>,
    #[serde(rename = "Actual Loops")]
    pub(crate) loops: f64,
    /// `Memory` or `Disk`.
    #[serde(rename = "Sort Space Type")]
    pub(crate) sort_space: Option<String>,
    /// Kilobytes.
    #[serde(rename = "Sort Space Used")]
    pub(crate) sort_kb: f64,
    #[serde(rename = "Hash Batches")]
    pub(crate) hash_batches: f64,
    /// Kilobytes that an aggregation wrote to disk.
    #[serde(rename = "Disk Usage")]
    pub(crate) disk_kb: f64,
    #[serde(rename = "Plans")]
    pub(crate) children: Vec<Node>,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            kind: String::new(),
            schema: None,
            relation: None,
            filter: None,
            strategy: None,
            cost: 0.0,
            plan_rows: 0.0,
            width: 0.0,
            workers: 0.0,
            parallel: false,
            actual_rows: None,
            loops: 1.0,
            sort_space: None,
            sort_kb: 0.0,
            hash_batches: 0.0,
            disk_kb: 0.0,
            children: Vec::new(),
        }
    }
}

impl Explained {
    pub(crate) fn parse(plan: &Value) -> Result<Self, InsightError> {
        let top = plan.get(0).ok_or_else(|| InsightError::Plan("it is empty".to_owned()))?;
        Self::deserialize(top).map_err(|e| InsightError::Plan(e.to_string()))
    }

    /// Every step with the number of processes that share its work.
    pub(crate) fn nodes(&self) -> Vec<(&Node, f64)> {
        let mut found = Vec::new();
        collect(&self.plan, 1.0, &mut found);
        found
    }
}

fn collect<'a>(node: &'a Node, processes: f64, into: &mut Vec<(&'a Node, f64)>) {
    into.push((node, if node.parallel { processes } else { 1.0 }));
    // As the planner counts: the leader helps less the more workers it serves.
    let below =
        if node.workers > 0.0 { node.workers + (1.0 - 0.3 * node.workers).max(0.0) } else { processes };
    node.children.iter().for_each(|child| collect(child, below, into));
}
