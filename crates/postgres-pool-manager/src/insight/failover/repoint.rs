//! Pointing standbys at another server, and looking whether they follow it.

use super::{LOOK, ServerState, alter_system, conninfo::pointed_at, primary_of, refuse, seen, server_of};
use crate::insight::{Insight, InsightError, link::within};
use resilience::Deadline;
use serde::Serialize;
use std::time::Duration;

const OPERATION: &str = "the repointing of standbys";

/// Longest wait for one standby to stream from its new upstream; the server itself looks every 5 s by default.
const PATIENCE: Duration = Duration::from_secs(20);

/// What became of a standby.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StandbyOutcome {
    /// It follows the new upstream.
    Streaming,
    /// It did already.
    Already,
    /// It is none that could be pointed anywhere.
    LeftOut,
    /// It was to follow, and does not.
    Failed,
}

/// A server that is not the upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StandbyReport {
    /// Its name.
    pub server: String,
    /// What became of it.
    pub outcome: StandbyOutcome,
    /// Why, unless all is well.
    pub why: Option<String>,
}

/// Standbys and their upstream.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Repointed {
    /// Whom they follow now.
    pub upstream: String,
    /// Every other server.
    pub standbys: Vec<StandbyReport>,
}

impl Insight {
    /// Sets `primary_conninfo` of every other standby by `ALTER SYSTEM`, reloads, and waits until each streams the
    /// upstream's history. User, password and TLS of the old setting are kept.
    ///
    /// `address`: `HOST[:PORT]` under which the standbys reach the upstream, where that is not its address in the
    /// settings.
    ///
    /// Cancel safety: what was set stays set.
    ///
    /// # Errors
    /// [`InsightError::Unfit`] if there is no primary, or more than one; an unknown name. What goes wrong with one
    /// standby is in the answer.
    pub async fn repoint(
        &self,
        upstream: Option<&str>,
        address: Option<&str>,
        deadline: Deadline,
    ) -> Result<Repointed, InsightError> {
        if let Some(name) = upstream {
            self.server(Some(name))?;
        }
        let states = self.survey(deadline).await;
        let primary = primary_of(&states, OPERATION)?;
        if let Some(name) = upstream.filter(|name| *name != primary.server) {
            return refuse(OPERATION, vec![format!("{name} is no primary; {} is", primary.server)]);
        }
        self.point_at(primary, address, &states, deadline).await
    }

    /// The other standbys, at this one.
    pub(super) async fn point_at(
        &self,
        upstream: &ServerState,
        address: Option<&str>,
        states: &[ServerState],
        deadline: Deadline,
    ) -> Result<Repointed, InsightError> {
        let options = &server_of(self, upstream)?.options;
        let socket = options.get_socket().map(|path| path.display().to_string());
        let own = (socket.unwrap_or_else(|| options.get_host().to_owned()), options.get_port());
        let (host, port) = address.map_or(Ok(own.clone()), |text| parse(text, own.1))?;
        let mut standbys = Vec::new();
        for state in states.iter().filter(|state| state.server != upstream.server) {
            let (server, one) = (state.server.clone(), self.follow(state, upstream, &host, port));
            let done = within(deadline.capped(PATIENCE), OPERATION, one).await.and_then(|done| done);
            let (outcome, why) = match done {
                Ok(outcome) => outcome,
                Err(InsightError::Timeout { .. }) => {
                    let why = "it does not stream; its log says why (pg_hba.conf of the upstream, or a history of its own, \
                        which pg_rewind mends)";
                    (StandbyOutcome::Failed, Some(why.to_owned()))
                }
                Err(e) => (StandbyOutcome::Failed, Some(super::told(&e))),
            };
            standbys.push(StandbyReport { server, outcome, why });
        }
        Ok(Repointed { upstream: upstream.server.clone(), standbys })
    }

    async fn follow(
        &self,
        state: &ServerState,
        upstream: &ServerState,
        host: &str,
        port: u16,
    ) -> Result<(StandbyOutcome, Option<String>), InsightError> {
        let left = |why: String| Ok((StandbyOutcome::LeftOut, Some(why)));
        let (Some(now), Some(above)) = (&state.seen, &upstream.seen) else {
            return left(state.error.clone().unwrap_or_else(|| "it does not answer".to_owned()));
        };
        if !now.is_standby {
            return left("it is no standby; stop it and rewind it (pg_rewind)".to_owned());
        }
        if now.system_id != above.system_id {
            return left("it is of another system".to_owned());
        }
        let there = format!("{host}:{port}");
        if now.follows.as_ref() == Some(&there) && now.timeline == above.timeline {
            return Ok((StandbyOutcome::Already, None));
        }
        let mut link = self.open(server_of(self, state)?).await?;
        if !link.rights.sees_all("whom it follows").is_empty() {
            let (user, what) = (link.rights.username.clone(), format!("see whom {} follows", link.server));
            let mend = "give it pg_read_all_stats, or use a superuser".to_owned();
            return Err(InsightError::Forbidden { user, what, mend });
        }
        let old: Result<String, _> =
            sqlx::query_scalar("SELECT current_setting('primary_conninfo')").fetch_one(&mut link.pg).await;
        let old = old.map_err(|e| match crate::error::sqlstate(&e).as_deref() {
            Some("42501") => InsightError::Forbidden {
                user: link.rights.username.clone(),
                what: format!("read primary_conninfo at {}", link.server),
                mend: "use a superuser".to_owned(),
            },
            _ => e.into(),
        })?;
        let Some(new) = pointed_at(&old, host, port) else {
            return left("its primary_conninfo is a URL or cannot be read; set it by hand".to_owned());
        };
        alter_system(&mut link, format!("SET primary_conninfo = '{}'", new.replace('\'', "''"))).await?;
        loop {
            let now = seen(&mut link).await?;
            if now.follows.as_ref() == Some(&there) && now.timeline >= above.timeline {
                return Ok((StandbyOutcome::Streaming, None));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn parse(address: &str, port: u16) -> Result<(String, u16), InsightError> {
    let split = match address.rsplit_once(':') {
        Some((host, digits)) if !host.contains(':') || host.ends_with(']') => {
            digits.parse().ok().map(|port| (host, port))
        }
        _ => Some((address, port)),
    };
    match split {
        Some((host, port)) if !host.is_empty() && port > 0 => {
            Ok((host.trim_start_matches('[').trim_end_matches(']').to_owned(), port))
        }
        _ => Err(InsightError::BadAddress(address.to_owned())),
    }
}
