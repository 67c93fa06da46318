//! Back to the primary of the settings, once it follows again and has caught up.
//!
//! The present primary is made read-only by default and its sessions are ended; when the old one has replayed all of
//! its log, the other standbys are pointed at it, and it is promoted. What is left is a former primary that SQL cannot
//! turn into a standby: it stays read-only by default until somebody stops and rewinds it. A session that asks for a
//! read-write transaction of its own accord still gets one there: stop it soon.

use super::{
    LOOK, Seen, ServerState, alter_system, primary_of, promote_now, refuse, repoint::Repointed, seen,
    server_of,
};
use crate::insight::{
    Insight, InsightError,
    link::{Link, within},
};
use resilience::Deadline;
use serde::Serialize;
use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};
use tokio::time::Instant;

const OPERATION: &str = "the way back";

/// Log that may be missing at the start: what is replayed within a moment, while nobody can write.
const NEAR: i64 = 16 * 1024 * 1024;

/// How long the present primary may stand still before all is undone.
const STANDSTILL: Duration = Duration::from_secs(30);

/// Longest undoing.
const UNDOING: Duration = Duration::from_secs(10);

/// How to go back.
#[derive(Clone, Debug, Default)]
pub struct BackOptions {
    /// `HOST[:PORT]` under which the other standbys reach the old primary; `None`: as in the settings.
    pub address: Option<String>,
}

/// What was done.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct WentBack {
    /// The primary now: that of the settings.
    pub server: String,
    /// The primary before; read-only by default, and to be stopped.
    pub former: String,
    /// The new history.
    pub timeline: i64,
    /// From the fence to the first moment at which it was writable, s.
    pub seconds: f64,
    /// The other standbys.
    pub standbys: Repointed,
}

impl Insight {
    /// Makes the settings' primary the primary again. Refused, with everything that is missing, unless it answers, is
    /// a standby of the present primary, streams, and is at most 16 MiB behind.
    ///
    /// Cancel safety: none while it runs: the present primary may stay read-only by default. What fails before the order
    /// to promote, the deadline included, or the old primary not catching up within 30 s, undoes that.
    ///
    /// # Errors
    /// [`InsightError::Unfit`], [`InsightError::Forbidden`]; not done within `deadline`.
    pub async fn back(&self, options: &BackOptions, deadline: Deadline) -> Result<WentBack, InsightError> {
        let states = self.survey(deadline).await;
        let (old, present) = check(&states)?;
        let (started, ordered) = (Instant::now(), AtomicBool::new(false));
        let switch = Box::pin(self.switch(old, present, options, &states, &ordered, deadline));
        match within(deadline, OPERATION, switch).await.and_then(|switched| switched) {
            Ok((standbys, timeline)) => {
                let (server, former) = (old.server.clone(), present.server.clone());
                Ok(WentBack { server, former, timeline, seconds: started.elapsed().as_secs_f64(), standbys })
            }
            // Once the order is out it may be obeyed at any moment: then the fence is right.
            Err(e) if ordered.load(Relaxed) => Err(e),
            Err(e) => {
                self.unfence(present).await?;
                Err(e)
            }
        }
    }

    async fn switch(
        &self,
        old: &ServerState,
        present: &ServerState,
        options: &BackOptions,
        states: &[ServerState],
        ordered: &AtomicBool,
        deadline: Deadline,
    ) -> Result<(Repointed, i64), InsightError> {
        let mut old_link = self.open(server_of(self, old)?).await?;
        let mut present_link = self.open(server_of(self, present)?).await?;
        alter_system(&mut present_link, "SET default_transaction_read_only = on".to_owned()).await?;
        let end = "SELECT pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity \
            WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
        sqlx::query(end).execute(&mut present_link.pg).await?;
        within(deadline.capped(STANDSTILL), "catching up", caught_up(&mut old_link, &mut present_link))
            .await??;
        let is_standby = |state: &&ServerState| state.seen.as_ref().is_some_and(|seen| seen.is_standby);
        let others: Vec<_> = states.iter().filter(is_standby).cloned().collect();
        let standbys = self.point_at(old, options.address.as_deref(), &others, deadline).await?;
        ordered.store(true, Relaxed);
        promote_now(&mut old_link).await?;
        Ok((standbys, seen(&mut old_link).await?.timeline))
    }

    /// Lets the present primary take writes again, on a connection of its own and in a time of its own.
    async fn unfence(&self, present: &ServerState) -> Result<(), InsightError> {
        let work = async {
            let mut link = self.open(server_of(self, present)?).await?;
            alter_system(&mut link, "RESET default_transaction_read_only".to_owned()).await
        };
        within(Deadline::after(UNDOING), "letting writes go on", Box::pin(work)).await?
    }
}

/// Until the old primary has replayed all that the present one wrote up to the fence.
async fn caught_up(old: &mut Link, present: &mut Link) -> Result<(), InsightError> {
    let fence = seen(present).await?.position;
    loop {
        let Seen { position, unreplayed_bytes, .. } = seen(old).await?;
        if position - unreplayed_bytes >= fence {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The settings' primary and the present one, or everything that is missing.
fn check(states: &[ServerState]) -> Result<(&ServerState, &ServerState), InsightError> {
    let present = primary_of(states, OPERATION)?;
    let Some(old) = states.first() else {
        return refuse(OPERATION, vec!["the settings name no server".to_owned()]);
    };
    let (name, mut missing) = (&old.server, Vec::new());
    if old.server == present.server {
        return refuse(OPERATION, vec![format!("{name} is the primary already")]);
    }
    match (&old.seen, &present.seen) {
        (Some(seen), Some(above)) => {
            if seen.system_id != above.system_id {
                missing.push(format!("{name} is of another system than {}", present.server));
            }
            if seen.follows.is_none() {
                missing.push(format!(
                    "{name} does not stream from {}; point it there (primary_conninfo)",
                    present.server
                ));
            }
            if seen.timeline != above.timeline {
                let (is, wanted) = (seen.timeline, above.timeline);
                missing.push(format!(
                    "{name} is in history {is}, {} in {wanted}; rewind it (pg_rewind)",
                    present.server
                ));
            }
            let behind = above.position - seen.position + seen.unreplayed_bytes;
            if behind > NEAR {
                missing.push(format!("{name} is {behind} bytes behind; wait until it has caught up"));
            }
        }
        _ => {
            let why = old.error.as_deref().unwrap_or("it tells nothing");
            missing.push(format!("{name} has to run as a standby of {}: {why}", present.server));
        }
    }
    if missing.is_empty() { Ok((old, present)) } else { refuse(OPERATION, missing) }
}
