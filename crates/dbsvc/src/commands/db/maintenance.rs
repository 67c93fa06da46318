//! `dbsvc db vacuum|analyze|reindex`: one table, or all of a schema with a progress bar on a terminal.

use std::io::IsTerminal;
use std::time::Duration;

use database_services::postgres_pool_manager::insight::{
    Insight, InsightError, Maintained, MaintenanceProgress, ReindexOptions, Target, VacuumOptions,
};
use database_services::resilience::Deadline;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{PATIENCE, failed, insight, value};
use crate::audit::audited;
use crate::cli::{DbCommand, For, Work};
use crate::exit::{Exit, Failed, Outcome};
use crate::output::{Output, table, tables};

pub(super) async fn run(command: &DbCommand, output: Output) -> Outcome {
    let (what, work) = match command {
        DbCommand::Vacuum { state: true, limits, .. } => return state(limits, output).await,
        DbCommand::Vacuum { work, .. } => ("db/vacuum", work),
        DbCommand::Analyze { work, .. } => ("db/analyze", work),
        DbCommand::Reindex { work, .. } => ("db/reindex", work),
        _ => return Ok(Exit::Fine),
    };
    let target = work.table.as_deref().or(work.schema.as_deref()).unwrap_or_default();
    audited(what, target, Box::pin(maintain(command, output))).await
}

async fn maintain(command: &DbCommand, output: Output) -> Outcome {
    let done = match command {
        DbCommand::Vacuum { work, full, limits, confirm, .. } => {
            let target = target(work)?;
            if *full {
                confirm.ask("VACUUM FULL locks each table against everybody while it is written anew")?;
            }
            let options = VacuumOptions { full: *full, ..VacuumOptions::default() };
            with(limits, async |insight, deadline, tell| {
                insight.vacuum(&target, &options, deadline, tell).await
            })
            .await
        }
        DbCommand::Analyze { work, limits } => {
            let target = target(work)?;
            with(limits, async |insight, deadline, tell| insight.analyze(&target, deadline, tell).await).await
        }
        DbCommand::Reindex { work, blocking, limits, confirm } => {
            let target = target(work)?;
            if *blocking {
                confirm.ask("REINDEX without CONCURRENTLY keeps writers of each table waiting")?;
            }
            let options = ReindexOptions { concurrently: !blocking };
            with(limits, async |insight, deadline, tell| {
                insight.reindex(&target, &options, deadline, tell).await
            })
            .await
        }
        _ => return Ok(Exit::Fine),
    };
    told(&done?, output)
}

type Tell<'a> = &'a mut (dyn FnMut(MaintenanceProgress) + Send);

async fn with(
    limits: &For,
    work: impl AsyncFnOnce(&Insight, Deadline, Tell<'_>) -> Result<Maintained, InsightError>,
) -> Result<Maintained, Failed> {
    let insight = insight(&limits.settings)?;
    let bar = bar();
    let mut tell = |progress: MaintenanceProgress| {
        bar.set_length(progress.total as u64);
        bar.set_position(progress.done as u64);
        bar.set_message(progress.table);
    };
    let done = work(&insight, Deadline::after(Duration::from_secs(limits.run_for)), &mut tell).await;
    bar.finish_and_clear();
    done.map_err(|error| failed(&error))
}

/// On stderr, and only where a person looks.
fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{elapsed_precise} {bar:30} {pos}/{len} {msg}");
    let bar =
        ProgressBar::no_length().with_style(style.unwrap_or_else(|_faulty| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn target(work: &Work) -> Result<Target, Failed> {
    match (&work.table, &work.schema) {
        (Some(table), _) => table.parse().map_err(|_unreadable| {
            Failed::usage(format!("{table:?} is no table's name; write TABLE or SCHEMA.TABLE"))
        }),
        (None, Some(schema)) => Ok(Target::Schema(schema.clone())),
        (None, None) => Err(Failed::usage("name a table, or give --schema NAME; see --help")),
    }
}

fn told(done: &Maintained, output: Output) -> Outcome {
    let row = |(name, seconds): &(String, f64)| vec![name.clone(), format!("{seconds:.2}")];
    let mut text = table(&[done.operation, "SECONDS"], done.tables.iter().map(row));
    for skipped in &done.skipped {
        text.push_str(&format!("\nleft out {}: {}", skipped.table, skipped.why));
    }
    for index in &done.invalid_indexes {
        text.push_str(&format!(
            "\nbroken index {index}: DROP INDEX CONCURRENTLY {index}, and build it again"
        ));
    }
    let tables = done.tables.iter().map(|(table, seconds)| json!({"table": table, "seconds": seconds}));
    let json = json!({
        "server": done.server,
        "operation": done.operation,
        "tables": tables.collect::<Vec<_>>(),
        "skipped": done.skipped,
        "invalid_indexes": done.invalid_indexes,
    });
    output.either(&json, &text)?;
    let fine = done.skipped.is_empty() && done.invalid_indexes.is_empty();
    Ok(if fine { Exit::Fine } else { Exit::Warning })
}

async fn state(limits: &For, output: Output) -> Outcome {
    let seen = insight(&limits.settings)?.vacuum_state(100, Deadline::after(PATIENCE)).await;
    let seen = value(&seen.map_err(|error| failed(&error))?)?;
    output.either(&seen, &tables(&seen))?;
    // Half of the way to standstill: the server's own vacuum should have come long before.
    let near = seen["wraparound_share"].as_f64().is_some_and(|share| share > 0.5);
    Ok(if near || seen["autovacuum"] == false { Exit::Warning } else { Exit::Fine })
}
