//! `dbsvc db …`: the Postgres servers that the settings name, asked directly: they answer also while no instance runs.

use std::time::Duration;

use database_services::postgres_pool_manager::insight::{Insight, InsightError, Scope};
use database_services::resilience::Deadline;
use database_services::{ManagerMode, postgres_config};
use serde_json::{Value, json};

use crate::cli::{At, DbCommand, SettingsArgs};
use crate::commands::pool::sessions;
use crate::exit::{Exit, Failed, Outcome};
use crate::output::{Output, cell, remarks, table, tables};
use crate::{services, settings};

mod maintenance;

/// Longest answer of a question; figures of very many tables take a while.
const PATIENCE: Duration = Duration::from_secs(60);

/// Transactions open for longer are worth a word.
const LONG: Duration = Duration::from_secs(60);

pub(crate) async fn run(command: &DbCommand, output: Output) -> Outcome {
    match command {
        DbCommand::Activity(at) => activity(at, output).await,
        DbCommand::Indexes(at) => indexes(at, output).await,
        DbCommand::Sizes(at) => sizes(at, output).await,
        DbCommand::Replication(at) => replication(at, output).await,
        DbCommand::Vacuum { .. } | DbCommand::Analyze { .. } | DbCommand::Reindex { .. } => {
            maintenance::run(command, output).await
        }
    }
}

/// The servers of the settings.
pub(crate) fn insight(args: &SettingsArgs) -> Result<Insight, Failed> {
    let settings = settings::load(args)?;
    let config = postgres_config(ManagerMode::Admin, &settings).map_err(|error| services::failed(&error))?;
    Insight::of(config).map_err(Failed::usage)
}

/// The error with its exit code, and with what the server said.
pub(crate) fn failed(error: &InsightError) -> Failed {
    let source = std::error::Error::source(error).map_or_else(String::new, |source| format!(": {source}"));
    let exit = match error {
        error if error.is_usage() => Exit::Usage,
        InsightError::Database(e) if e.is_retryable() => Exit::Unreachable,
        InsightError::Timeout { .. } => Exit::Failure,
        InsightError::Database(database_services::postgres_pool_manager::Error::Connect { .. }) => {
            Exit::Usage
        }
        _ => Exit::Failure,
    };
    Failed::new(exit, anyhow::anyhow!("{error}{source}"))
}

async fn activity(at: &At, output: Output) -> Outcome {
    let (insight, server, limit) = (insight(&at.settings)?, at.server.as_deref(), limit(at));
    let deadline = Deadline::after(PATIENCE);
    let seen = insight.activity(server, Scope::Database, limit, deadline).await.map_err(|e| failed(&e))?;
    let long = insight.long_transactions(server, LONG, limit, deadline).await.map_err(|e| failed(&e))?;
    let (seen, long) = (value(&seen)?, value(&long)?);
    let open = !list(&long, "rows").is_empty();
    let mut text = sessions(&seen);
    if open {
        text.push_str(&format!("\n\ntransactions open for more than a minute\n{}", tables(&long["rows"])));
    }
    output.either(&json!({"sessions": seen, "long_transactions": long}), &text)?;
    Ok(if open { Exit::Warning } else { Exit::Fine })
}

async fn indexes(at: &At, output: Output) -> Outcome {
    if at.server.is_some() {
        return Err(Failed::usage("indexes are judged by their use at all servers; leave --server away"));
    }
    let insight = insight(&at.settings)?;
    let seen =
        insight.index_usage(None, limit(at), Deadline::after(PATIENCE)).await.map_err(|e| failed(&e))?;
    let seen = value(&seen)?;
    let row = |row: &Value| {
        let name = format!("{}.{}", cell(&row["schema"]), cell(&row["index"]));
        let what = match (row["is_valid"] == false, row["is_unique"] == true, row["is_needed"] == true) {
            (true, _, _) => "broken",
            (_, _, true) => "constraint",
            (_, true, _) => "unique",
            _ => "",
        };
        let figures = ["scans", "other_scans", "bytes"].map(|name| cell(&row[name]));
        let (table, drop_it) = (cell(&row["table"]), row["drop_it"].as_str().unwrap_or("").to_owned());
        [name, table].into_iter().chain(figures).chain([what.to_owned(), drop_it]).collect()
    };
    let headings = ["INDEX", "TABLE", "SCANS", "ELSEWHERE", "BYTES", "FOR", "MAY GO"];
    let rows = list(&seen, "rows");
    output.either(&seen, &format!("{}{}", table(&headings, rows.iter().map(row)), remarks(&seen)))?;
    Ok(if rows.iter().any(|row| !row["drop_it"].is_null()) { Exit::Warning } else { Exit::Fine })
}

async fn sizes(at: &At, output: Output) -> Outcome {
    let (insight, server) = (insight(&at.settings)?, at.server.as_deref());
    let seen = insight.sizes(server, limit(at), Deadline::after(PATIENCE)).await.map_err(|e| failed(&e))?;
    let seen = value(&seen)?;
    let text = format!(
        "databases\n{}\n\ntables\n{}{}",
        tables(&seen["databases"]),
        tables(&seen["tables"]),
        remarks(&seen)
    );
    output.either(&seen, &text)?;
    Ok(Exit::Fine)
}

async fn replication(at: &At, output: Output) -> Outcome {
    let (insight, server) = (insight(&at.settings)?, at.server.as_deref());
    let deadline = Deadline::after(PATIENCE);
    let mut seen = value(&insight.replication(server, deadline).await.map_err(|e| failed(&e))?)?;
    if seen["is_standby"] == false && server.is_none() {
        let rate = insight.wal_rate(Duration::from_secs(1), deadline).await.map_err(|e| failed(&e))?;
        seen["wal_rate"] = value(&rate)?;
    }
    let mut amiss = Vec::new();
    if seen["is_standby"] == true && seen["receiver"]["status"] != "streaming" {
        amiss.push("it is a standby and follows nobody".to_owned());
    }
    for slot in list(&seen, "slots").iter().filter(|slot| slot["active"] == false) {
        let (name, kept) = (cell(&slot["name"]), cell(&slot["retained_bytes"]));
        amiss.push(format!("slot {name} is used by nobody and keeps {kept} bytes of log"));
    }
    for standby in list(&seen, "standbys").iter().filter(|one| one["state"] != "streaming") {
        amiss.push(format!(
            "{} is not streaming: {}",
            cell(&standby["application_name"]),
            cell(&standby["state"])
        ));
    }
    let said: String = amiss.iter().map(|what| format!("warning: {what}\n")).collect();
    seen["warnings"] = json!(amiss);
    let mut shown = seen.clone();
    if let Some(members) = shown.as_object_mut() {
        ["warnings", "missing"].iter().for_each(|told| drop(members.remove(*told)));
    }
    output.either(&seen, &format!("{said}{}{}", tables(&shown), remarks(&seen)))?;
    Ok(if amiss.is_empty() { Exit::Fine } else { Exit::Warning })
}

fn limit(at: &At) -> usize {
    usize::try_from(at.limit).unwrap_or(usize::MAX)
}

pub(crate) fn value(of: &impl serde::Serialize) -> Result<Value, Failed> {
    serde_json::to_value(of)
        .map_err(|error| Failed::failure(format!("the answer cannot be written: {error}")))
}

fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value[name].as_array().map(Vec::as_slice).unwrap_or_default()
}
