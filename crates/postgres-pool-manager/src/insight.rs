//! What an operator asks the servers: what runs, what is slow, what is big, what is unused, who follows whom; and the
//! few things that an operator does about it. It routes nothing, and nothing in the crate reads its answers.
//!
//! Each question opens a connection of its own and closes it after the answer: it works while the pool is exhausted,
//! which is when it is asked, and whatever it sets on its session ends with it. At most four are open at a time in a
//! process. Every list is bounded, and says when it was cut off; what the user's rights hide is said, not left out
//! silently ([`MissingRight`]).

mod activity;
mod advice;
mod error;
mod explain;
mod failover;
mod guard;
mod indexes;
mod kill;
mod link;
mod maintain;
mod plan;
mod replication;
mod scan;
mod sizes;
pub(crate) mod sketch;
mod slow;
mod vacuum;

pub use activity::{Backend, BackendId, InvalidBackendId, Scope, Transaction};
pub use advice::{Advice, AdviceKind};
pub use error::InsightError;
pub use explain::{OptimizeOptions, Optimized};
pub use failover::{
    BackOptions, PromoteOptions, Promoted, Repointed, Seen, ServerState, StandbyOutcome, StandbyReport,
    WentBack,
};
pub use indexes::IndexUsage;
pub use kill::{KillOptions, KillOutcome, Killed};
pub use link::{MissingRight, Report};
pub use maintain::{Maintained, MaintenanceProgress, ReindexOptions, Skipped, Target, VacuumOptions};
pub use replication::{Receiver, Replication, Slot, Standby, WalRate};
pub use sizes::{DatabaseSize, Sizes, TableSize};
pub use slow::{SlowQueries, SlowQuery, SlowSource};
pub use vacuum::{TableVacuum, VacuumState};

use crate::{
    Config, Error, PostgresPoolManager, Role, connect, direct::names_password, door::Door, error::Problem,
    recorder::Recorder,
};
use resilience::Deadline;
use secrecy::SecretString;
use sqlx::postgres::PgConnectOptions;
use std::{sync::Arc, time::Duration};

/// Questions to the servers of one pool, or of settings without a pool. Cheap to make; holds no connection.
#[derive(Debug)]
pub struct Insight {
    servers: Vec<Server>,
    config: Arc<Config>,
}

/// A server that can be asked.
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) options: PgConnectOptions,
    pub(crate) door: Door,
    /// What this process measured there; none without a pool.
    recorder: Option<Arc<Recorder>>,
}

impl std::fmt::Debug for Server {
    /// Not the options: the driver would print the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("name", &self.name).field("role", &self.role).finish_non_exhaustive()
    }
}

impl Server {
    /// Behind PgBouncer the primary's direct address: what is asked here is about one server, and one session.
    fn new(config: &Config, name: &str, role: Role, url: &SecretString) -> Result<Self, Error> {
        let direct = config.direct.as_ref().filter(|_| role == Role::Primary && config.pgbouncer);
        let url = direct.map_or(url, |direct| &direct.url);
        let options = if direct.is_some() {
            connect::direct_options(url, config)
        } else {
            connect::options(url, config)
        };
        let options = options.map_err(|e| {
            Error::Invalid(vec![Problem { setting: format!("{name}.url"), message: e.to_string() }])
        })?;
        let own = direct.is_some() && names_password(url);
        let door = Door::new(url, config.credentials.clone().filter(|_| !own), &Arc::default());
        Ok(Self { name: name.to_owned(), role, options, door, recorder: None })
    }
}

impl Insight {
    /// Of the servers that these settings name, without a pool. Opens nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`]: all problems of the settings.
    pub fn of(config: Config) -> Result<Self, Error> {
        config.validate().map_err(Error::Invalid)?;
        let mut servers =
            vec![Server::new(&config, &config.primary.name, Role::Primary, &config.primary.url)?];
        for replica in &config.replicas {
            servers.push(Server::new(&config, &replica.name, Role::Replica, &replica.url)?);
        }
        Ok(Self { servers, config: Arc::new(config) })
    }

    /// The names of the servers, the primary's first.
    pub fn servers(&self) -> impl Iterator<Item = &str> {
        self.servers.iter().map(|server| server.name.as_str())
    }

    /// The server of this name; without a name the primary.
    pub(crate) fn server(&self, name: Option<&str>) -> Result<&Server, InsightError> {
        let Some(name) = name else { return Ok(&self.servers[0]) };
        let known = || self.servers().map(str::to_owned).collect();
        let found = self.servers.iter().find(|server| server.name == name);
        found.ok_or_else(|| InsightError::UnknownServer { name: name.to_owned(), known: known() })
    }

    pub(crate) fn replicas(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().filter(|server| server.role == Role::Replica)
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }
}

impl PostgresPoolManager {
    /// Questions to the servers of this pool, the primary's first.
    #[must_use]
    pub fn insight(&self) -> Insight {
        let config = &self.router().config;
        let pools = self.router().pools();
        // Addresses that a pool was made of can be read.
        let servers = pools.iter().filter_map(|pool| {
            let server = Server::new(config, &pool.name, pool.role(), &pool.door.url).ok()?;
            Some(Server { recorder: Some(Arc::clone(&pool.recorder)), ..server })
        });
        Insight { servers: servers.collect(), config: Arc::clone(config) }
    }

    /// [`Insight::slow_queries`] of the primary, within `acquire_timeout`.
    ///
    /// # Errors
    /// As there.
    pub async fn slow_queries(&self, limit: usize) -> Result<SlowQueries, InsightError> {
        self.insight().slow_queries(None, limit, self.patience()).await
    }

    /// [`Insight::optimize_query`] on the primary, within `acquire_timeout` and the statement's own limit.
    ///
    /// # Errors
    /// As there.
    pub async fn optimize_query(
        &self,
        sql: &str,
        options: &OptimizeOptions,
    ) -> Result<Optimized, InsightError> {
        let limit = self.config().acquire_timeout + options.timeout;
        self.insight().optimize_query(None, sql, options, Deadline::after(limit)).await
    }

    /// [`Insight::kill_slow_queries`] on the primary with the defaults, older than `older_than` (the replaced system's
    /// default: 5 s).
    ///
    /// # Errors
    /// As there.
    pub async fn kill_slow_queries(&self, older_than: Duration) -> Result<Report<Killed>, InsightError> {
        let options = KillOptions { older_than, ..KillOptions::slow_queries() };
        self.insight().kill_slow_queries(None, &options, self.patience()).await
    }

    /// [`Insight::kill_idle_sessions`] on the primary with the defaults, idle for longer than `older_than` (the
    /// replaced system's default: 5 min).
    ///
    /// # Errors
    /// As there.
    pub async fn kill_idle_sessions(&self, older_than: Duration) -> Result<Report<Killed>, InsightError> {
        let options = KillOptions { older_than, ..KillOptions::idle_sessions() };
        self.insight().kill_idle_sessions(None, &options, self.patience()).await
    }

    fn patience(&self) -> Deadline {
        Deadline::after(self.config().acquire_timeout)
    }
}
