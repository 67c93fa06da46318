//! Failover by hand: who is there, promote a standby, point the others at it, and go back. By SQL at the servers of the
//! settings alone; nothing here stops, starts or rewinds a server, and no pool is told: pools find out by themselves.

mod back;
mod conninfo;
mod promote;
mod repoint;

pub use back::{BackOptions, WentBack};
pub use promote::{PromoteOptions, Promoted};
pub use repoint::{Repointed, StandbyOutcome, StandbyReport};

use super::{
    Insight, InsightError, Server,
    link::{Link, within},
};
use crate::{Error, Role, error::ConnectFailure};
use futures_util::future::join_all;
use resilience::Deadline;
use serde::Serialize;
use std::time::Duration;

/// Between two looks at a server that is on its way.
const LOOK: Duration = Duration::from_millis(100);

/// A server as a failover sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ServerState {
    /// Its name in the settings.
    pub server: String,
    /// What the settings take it for.
    pub configured_as: Role,
    /// Whether anything answers at its address, be it with a refusal.
    pub answers: bool,
    /// Why nothing more is known of it.
    pub error: Option<String>,
    /// What is known of it.
    #[serde(flatten)]
    pub seen: Option<Seen>,
}

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, sqlx::FromRow)]
#[non_exhaustive]
pub struct Seen {
    /// Whether it replays another's log.
    pub is_standby: bool,
    /// The identity that it shares with its standbys.
    pub system_id: String,
    /// Its history.
    pub timeline: i64,
    /// Its position in the log, bytes: written, of a standby received.
    pub position: i64,
    /// Bytes received and not replayed.
    pub unreplayed_bytes: i64,
    /// Whether new transactions are read-only unless they say otherwise: fenced off by hand.
    pub read_only: bool,
    /// Whom it receives from now, as host:port; `(hidden)` from a user without pg_read_all_stats.
    pub follows: Option<String>,
}

const SEEN: &str = "SELECT s.standby AS is_standby, (SELECT system_identifier::text FROM pg_control_system()) AS system_id, \
    CASE WHEN s.standby THEN greatest(r.received_tli, (SELECT timeline_id FROM pg_control_checkpoint()), \
        (SELECT min_recovery_end_timeline FROM pg_control_recovery()))::bigint \
    ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint END AS timeline, \
    pg_wal_lsn_diff(CASE WHEN s.standby THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) \
        ELSE pg_current_wal_lsn() END, '0/0')::bigint AS position, \
    CASE WHEN s.standby THEN greatest(0, pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())) \
        ELSE 0 END::bigint AS unreplayed_bytes, current_setting('default_transaction_read_only')::bool AS read_only, \
    CASE WHEN r.status = 'streaming' THEN r.sender_host || ':' || r.sender_port \
        WHEN r.pid IS NOT NULL AND r.status IS NULL THEN '(hidden)' END AS follows \
    FROM (SELECT pg_is_in_recovery() AS standby) s LEFT JOIN pg_catalog.pg_stat_wal_receiver r ON true";

impl Insight {
    /// All servers at once, each within the settings' `connect_timeout` and `deadline`. One that does not answer is in
    /// the answer, not an error.
    pub async fn survey(&self, deadline: Deadline) -> Vec<ServerState> {
        join_all(self.servers.iter().map(|server| async move {
            let work = async { seen(&mut self.open(server).await?).await };
            let found = within(deadline, "the look at a server", work).await.and_then(|seen| seen);
            let (server, configured_as) = (server.name.clone(), server.role);
            let silent = matches!(
                &found,
                Err(InsightError::Timeout { .. }
                    | InsightError::Database(Error::Connect { failure: ConnectFailure::Unreachable, .. }))
            );
            let error = found.as_ref().err().map(told);
            ServerState { server, configured_as, answers: !silent, error, seen: found.ok() }
        }))
        .await
    }
}

async fn seen(link: &mut Link) -> Result<Seen, InsightError> {
    Ok(sqlx::query_as(SEEN).fetch_one(&mut link.pg).await?)
}

/// An error with its cause.
fn told(error: &InsightError) -> String {
    crate::connect::describe(error)
}

impl ServerState {
    /// Whether it is a primary: fenced off or not.
    fn is_primary(&self) -> bool {
        self.seen.as_ref().is_some_and(|seen| !seen.is_standby)
    }
}

fn refuse<T>(operation: &'static str, reasons: Vec<String>) -> Result<T, InsightError> {
    Err(InsightError::Unfit { operation, reasons })
}

/// The only primary among the servers.
fn primary_of<'s>(
    states: &'s [ServerState],
    operation: &'static str,
) -> Result<&'s ServerState, InsightError> {
    let primaries: Vec<_> = states.iter().filter(|state| state.is_primary()).collect();
    match primaries[..] {
        [one] => Ok(one),
        [] => refuse(operation, vec!["no server is a primary; promote one first".to_owned()]),
        _ => {
            let names = primaries.iter().map(|state| state.server.as_str()).collect::<Vec<_>>().join(" and ");
            refuse(operation, vec![format!("{names} are primaries, all of them; stop all but one")])
        }
    }
}

/// `pg_promote`, and wait until it is done.
async fn promote_now(link: &mut Link) -> Result<(), InsightError> {
    let forbidden = |e: sqlx::Error| match crate::error::sqlstate(&e).as_deref() {
        Some("42501") => InsightError::Forbidden {
            user: link.rights.username.clone(),
            what: "promote a standby".to_owned(),
            mend: "GRANT EXECUTE ON FUNCTION pg_catalog.pg_promote TO it, or use a superuser".to_owned(),
        },
        _ => e.into(),
    };
    sqlx::query("SELECT pg_catalog.pg_promote(false)").execute(&mut link.pg).await.map_err(forbidden)?;
    while sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(&mut link.pg).await? {
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// The server of a state.
fn server_of<'i>(insight: &'i Insight, state: &ServerState) -> Result<&'i Server, InsightError> {
    insight.server(Some(&state.server))
}

/// `ALTER SYSTEM` and its right.
async fn alter_system(link: &mut Link, setting: String) -> Result<(), InsightError> {
    for sql in [format!("ALTER SYSTEM {setting}"), "SELECT pg_reload_conf()".to_owned()] {
        let name = setting.split_whitespace().nth(1).unwrap_or_default().to_owned();
        link.run(sql).await.map_err(|e| match crate::error::sqlstate(&e).as_deref() {
            Some("42501") => InsightError::Forbidden {
                user: link.rights.username.clone(),
                what: format!("change {name} at {}", link.server),
                mend: "use a superuser".to_owned(),
            },
            _ => e.into(),
        })?;
    }
    Ok(())
}
