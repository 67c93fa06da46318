//! Making a standby the primary, after looking whether that is wise.

use super::{ServerState, promote_now, refuse, seen, server_of};
use crate::insight::{Insight, InsightError, link::within};
use resilience::Deadline;
use serde::Serialize;
use tokio::time::Instant;

const OPERATION: &str = "the promotion";

/// Which standby, and how strict.
#[derive(Clone, Debug, Default)]
pub struct PromoteOptions {
    /// The standby; `None`: the one that has received most.
    pub server: Option<String>,
    /// Promote although a primary still answers, or although another standby has received more. Two primaries that take
    /// writes are two histories, one of which is lost. Default `false`.
    pub force: bool,
}

/// A promotion that was done.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Promoted {
    /// The new primary.
    pub server: String,
    /// Its history before.
    pub timeline_before: i64,
    /// Its history now.
    pub timeline: i64,
    /// Log bytes that another server was known to have and it had not; 0: none known.
    pub lost_bytes: i64,
    /// From the order to the first moment at which it was writable, s.
    pub seconds: f64,
    /// All servers as they were before.
    pub before: Vec<ServerState>,
}

impl Insight {
    /// Promotes a standby and waits until it can be written.
    ///
    /// Refused, with all reasons at once, while any primary of the settings answers, when servers are not of one
    /// system, and when another standby has received more, unless forced; what is no standby is never promoted.
    ///
    /// Cancel safety: a promotion that was begun goes on at the server.
    ///
    /// # Errors
    /// [`InsightError::Unfit`], [`InsightError::UnknownServer`], [`InsightError::Forbidden`]; not writable within
    /// `deadline`.
    pub async fn promote(
        &self,
        options: &PromoteOptions,
        deadline: Deadline,
    ) -> Result<Promoted, InsightError> {
        if let Some(name) = &options.server {
            self.server(Some(name))?;
        }
        let before = self.survey(deadline).await;
        let (target, lost_bytes) = choose(&before, options)?;
        let (server, timeline_before) =
            (target.server.clone(), target.seen.as_ref().map_or(0, |seen| seen.timeline));
        let work = async {
            let mut link = self.open(server_of(self, target)?).await?;
            let started = Instant::now();
            promote_now(&mut link).await?;
            let seconds = started.elapsed().as_secs_f64();
            Ok::<_, InsightError>((seen(&mut link).await?.timeline, seconds))
        };
        let (timeline, seconds) = within(deadline, OPERATION, Box::pin(work)).await??;
        Ok(Promoted { server, timeline_before, timeline, lost_bytes, seconds, before })
    }
}

/// The standby to promote, and what would be lost.
fn choose<'s>(
    states: &'s [ServerState],
    options: &PromoteOptions,
) -> Result<(&'s ServerState, i64), InsightError> {
    let standbys = || states.iter().filter(|state| state.seen.as_ref().is_some_and(|seen| seen.is_standby));
    let position =
        |state: &ServerState| state.seen.as_ref().map_or((0, 0), |seen| (seen.timeline, seen.position));
    let mut reasons = Vec::new();
    for state in states.iter().filter(|state| state.answers && !options.force) {
        match &state.seen {
            Some(seen) if !seen.is_standby => {
                let fenced = if seen.read_only { " (read-only by default)" } else { "" };
                reasons.push(format!("{} answers and is a primary{fenced}; stop it first", state.server));
            }
            // It is there, and could be a primary that takes writes from others.
            None if state.configured_as == crate::Role::Primary => {
                let why = state.error.as_deref().unwrap_or("it tells nothing");
                reasons.push(format!("{} answers and may be the primary still: {why}", state.server));
            }
            _ => {}
        }
    }
    let mut systems: Vec<_> =
        states.iter().filter_map(|state| Some(&state.seen.as_ref()?.system_id)).collect();
    systems.sort_unstable();
    systems.dedup();
    if systems.len() > 1 {
        let ids: Vec<_> = states
            .iter()
            .filter_map(|s| Some(format!("{} {}", s.server, s.seen.as_ref()?.system_id)))
            .collect();
        reasons.push(format!("the servers are not of one system: {}", ids.join(", ")));
    }
    let best = standbys().max_by_key(|state| position(state));
    let target = match &options.server {
        Some(name) => states.iter().find(|state| state.server == *name),
        None => best,
    };
    let Some(target) = target else {
        reasons.push("no standby answers".to_owned());
        return refuse(OPERATION, reasons);
    };
    match &target.seen {
        Some(seen) if seen.is_standby => {}
        Some(_) => reasons.push(format!("{} is no standby", target.server)),
        None => {
            let why = target.error.as_deref().unwrap_or("it tells nothing");
            reasons.push(format!("{} cannot be promoted: {why}", target.server));
        }
    }
    let mut lost = 0;
    for other in standbys().filter(|other| position(other) > position(target)) {
        let more = position(other).1 - position(target).1;
        lost = lost.max(more);
        if !options.force {
            reasons.push(format!("{} has received {more} bytes more than {}", other.server, target.server));
        }
    }
    // A primary that still answers may have written what nobody has received.
    let written = states.iter().filter(|state| state.is_primary()).map(|state| position(state).1).max();
    lost = lost.max(written.map_or(0, |written| written - position(target).1)).max(0);
    if reasons.is_empty() { Ok((target, lost)) } else { refuse(OPERATION, reasons) }
}
