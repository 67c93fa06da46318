//! `dbsvc failover …`: at the servers that the settings name, by SQL alone. Running instances find out by themselves.

use std::time::Duration;

use database_services::postgres_pool_manager::insight::{
    BackOptions, InsightError, PromoteOptions, Repointed, ServerState, StandbyOutcome,
};
use database_services::resilience::Deadline;
use serde_json::json;

use super::db::{failed, insight, value};
use crate::audit::audited;
use crate::cli::FailoverCommand;
use crate::exit::{Exit, Outcome};
use crate::output::{Output, cell, table};

pub(crate) async fn run(command: &FailoverCommand, output: Output) -> Outcome {
    let (what, target) = match command {
        FailoverCommand::Status(_) => return act(command, output).await,
        FailoverCommand::Promote { server, .. } => ("failover/promote", server),
        FailoverCommand::Repoint { server, .. } => ("failover/repoint", server),
        FailoverCommand::Back { .. } => ("failover/back", &None),
    };
    audited(what, target.as_deref().unwrap_or_default(), Box::pin(act(command, output))).await
}

async fn act(command: &FailoverCommand, output: Output) -> Outcome {
    match command {
        FailoverCommand::Status(limits) => {
            let states = insight(&limits.settings)?.survey(limits.deadline()).await;
            output.either(&json!({"servers": value(&states)?}), &servers(&states)?)?;
            let primaries =
                states.iter().filter(|state| state.seen.as_ref().is_some_and(|seen| !seen.is_standby));
            let all = states.iter().all(|state| state.seen.is_some());
            Ok(match primaries.count() {
                1 if all => Exit::Fine,
                1 => Exit::Warning,
                _ => Exit::Failure,
            })
        }
        FailoverCommand::Promote { server, force, limits, confirm } => {
            let insight = insight(&limits.settings)?;
            let which = server.as_deref().unwrap_or("the standby that has received most");
            confirm.ask(&format!("{which} will be promoted to primary, for good"))?;
            let options = PromoteOptions { server: server.clone(), force: *force };
            let done = insight.promote(&options, limits.deadline()).await.map_err(|error| failed(&error))?;
            let mut text = format!(
                "{} is the primary: writable after {:.1} s, history {} after {}",
                done.server, done.seconds, done.timeline, done.timeline_before
            );
            if done.lost_bytes > 0 {
                text.push_str(&format!(
                    "\nwarning: {} bytes of log that others had are lost",
                    done.lost_bytes
                ));
            }
            text.push_str("\nnext: `dbsvc failover repoint`, and the new primary in the settings");
            output.either(&value(&done)?, &text)?;
            Ok(if done.lost_bytes > 0 { Exit::Warning } else { Exit::Fine })
        }
        FailoverCommand::Repoint { server, address, limits, confirm } => {
            let insight = insight(&limits.settings)?;
            let which = server.as_deref().unwrap_or("the primary");
            confirm.ask(&format!("all other standbys will follow {which}"))?;
            let done = insight.repoint(server.as_deref(), address.as_deref(), limits.deadline()).await;
            let done = done.map_err(|error| failed(&error))?;
            output.either(&value(&done)?, &followers(&done)?)?;
            Ok(exit_of(&done))
        }
        FailoverCommand::Back { address, limits, confirm } => {
            let insight = insight(&limits.settings)?;
            let first = insight.servers().next().unwrap_or_default().to_owned();
            confirm.ask(&format!(
                "writes stop for a moment, all sessions end, and {first} becomes the primary"
            ))?;
            let options = BackOptions { address: address.clone() };
            let done =
                insight.back(&options, limits.deadline()).await.map_err(|error| interrupted(&error))?;
            let text = format!(
                "{} is the primary again: writes stood still for {:.1} s, history {}\n{}\nnext: stop {} and rewind it \
                 (pg_rewind) into a standby; until then it is read-only by default",
                done.server,
                done.seconds,
                done.timeline,
                followers(&done.standbys)?,
                done.former
            );
            output.either(&value(&done)?, &text)?;
            Ok(exit_of(&done.standbys))
        }
    }
}

/// What stood still goes on, unless time ran out: then somebody has to look.
fn interrupted(error: &InsightError) -> crate::exit::Failed {
    let mut failed = failed(error);
    if matches!(error, InsightError::Timeout { .. }) {
        failed.error = failed.error.context(
            "see `dbsvc failover status`: a primary that is read-only by default takes writes again after \
             ALTER SYSTEM RESET default_transaction_read_only and SELECT pg_reload_conf()",
        );
    }
    failed
}

impl crate::cli::Switch {
    fn deadline(&self) -> Deadline {
        Deadline::after(Duration::from_secs(self.wait))
    }
}

fn exit_of(done: &Repointed) -> Exit {
    let any = |outcome| done.standbys.iter().any(|standby| standby.outcome == outcome);
    if any(StandbyOutcome::Failed) {
        Exit::Failure
    } else if any(StandbyOutcome::LeftOut) {
        Exit::Warning
    } else {
        Exit::Fine
    }
}

fn followers(done: &Repointed) -> Result<String, crate::exit::Failed> {
    let mut rows = Vec::new();
    for standby in &done.standbys {
        let why = standby.why.clone().unwrap_or_default();
        rows.push(vec![standby.server.clone(), cell(&value(&standby.outcome)?), why]);
    }
    Ok(format!("upstream: {}\n{}", done.upstream, table(&["STANDBY", "OUTCOME", "WHY"], rows)))
}

fn servers(states: &[ServerState]) -> Result<String, crate::exit::Failed> {
    let mut rows = Vec::new();
    for state in states {
        let state = value(state)?;
        let is = match (&state["is_standby"], state["read_only"] == true) {
            (serde_json::Value::Bool(true), _) => "standby",
            (serde_json::Value::Bool(false), true) => "primary, read-only by default",
            (serde_json::Value::Bool(false), false) => "primary",
            _ => "unknown",
        };
        let column = |name: &str| cell(&state[name]);
        rows.push(vec![
            column("server"),
            column("configured_as"),
            is.to_owned(),
            column("timeline"),
            column("position"),
            column("unreplayed_bytes"),
            column("follows"),
            column("error"),
        ]);
    }
    let headings = ["SERVER", "SETTINGS SAY", "IS", "HISTORY", "POSITION", "UNREPLAYED", "FOLLOWS", "ERROR"];
    Ok(table(&headings, rows))
}
