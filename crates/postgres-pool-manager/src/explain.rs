//! Why a session went where it went, in words. It decides nothing.

use crate::{
    PostgresPoolManager, ReadToken,
    router::Route,
    stats::{HostState, Role},
};
use serde::Serialize;
use std::fmt;

/// Why a session was taken from the server that it was taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RouteReason {
    /// From the primary: it was asked for.
    Write,
    /// From a replica whose turn it was.
    Replica,
    /// From the primary: there are no replicas.
    NoReplicas,
    /// From the primary: `force_primary_reads` is on, by order or because every replica is far behind.
    Forced,
    /// From the primary: no replica may serve.
    NoneServes,
    /// From the primary: no replica had replayed the token in time.
    TokenAhead,
    /// From the primary: the replica whose turn it was had no session to give.
    ReplicaGaveUp,
}

impl fmt::Display for RouteReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Write => "the primary was asked for",
            Self::Replica => "a replica, by its turn",
            Self::NoReplicas => "there are no replicas",
            Self::Forced => "force_primary_reads is on",
            Self::NoneServes => "no replica may serve",
            Self::TokenAhead => "no replica had replayed the token in time",
            Self::ReplicaGaveUp => "the replica whose turn it was had no session to give",
        })
    }
}

/// Where a read would go now, and what every server says to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RouteExplanation {
    /// The server's name.
    pub goes_to: String,
    /// Why there.
    pub reason: RouteReason,
    /// Every server.
    pub hosts: Vec<HostExplanation>,
}

/// What one server says to a read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HostExplanation {
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Its state.
    pub state: HostState,
    /// Why it may not serve the read; `None`: it may.
    pub refusal: Option<String>,
}

impl PostgresPoolManager {
    /// Where a read would go now (with a token: one that has to see what was written before it), and why each
    /// server may or may not serve it. From what is known; it asks nobody and takes nobody's turn.
    #[must_use]
    pub fn route_explain(&self, token: Option<&ReadToken>) -> RouteExplanation {
        let router = self.router();
        let servers = router.servers.load();
        let hosts = servers.all().map(|host| {
            let role = host.pool.role();
            let refusal = if role == Role::Primary { None } else { host.refusal(token) };
            HostExplanation { name: host.pool.name.clone(), role, state: host.status().state, refusal }
        });
        let serving = servers.replicas.iter().find(|host| host.serves(token));
        let (goes_to, reason) = match serving.filter(|_| !router.forced()) {
            Some(host) => (host, RouteReason::Replica),
            // With nobody to choose it takes no turn.
            None => (
                &servers.primary,
                router
                    .choose(&token.map_or(Route::Read, |t| Route::ReadAfter(*t)))
                    .err()
                    .unwrap_or(RouteReason::NoneServes),
            ),
        };
        RouteExplanation { goes_to: goes_to.pool.name.clone(), reason, hosts: hosts.collect() }
    }
}
