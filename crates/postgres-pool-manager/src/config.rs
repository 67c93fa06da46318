//! Settings of the pool as plain values. It reads no environment and no file; the composition root does.

use crate::{
    Cancel, CredentialProvider, Error, PostgresPoolManager, comment::Traceparent, error::Problem,
    schema::Schema,
};
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::PgConnectOptions;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// A server that takes reads and writes.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its name in messages, metrics and statistics.
    pub name: String,
    /// `postgres://user:password@host:port/database?sslmode=…`; a Unix socket as `postgres://%2Fdir/database`.
    pub url: SecretString,
}

impl Endpoint {
    /// An endpoint with this name and address.
    pub fn new(name: impl Into<String>, url: impl Into<String>) -> Self {
        Self { name: name.into(), url: SecretString::from(url.into()) }
    }
}

/// A streaming replica that takes reads.
#[derive(Clone, Debug)]
pub struct ReplicaEndpoint {
    /// Its name in messages, metrics and statistics; unique.
    pub name: String,
    /// As [`Endpoint::url`].
    pub url: SecretString,
    /// Its share of the reads beside the other replicas' weights; 0: none until re-weighted.
    pub weight: i32,
}

impl ReplicaEndpoint {
    /// A replica with this name, address and weight.
    pub fn new(name: impl Into<String>, url: impl Into<String>, weight: i32) -> Self {
        Self { name: name.into(), url: SecretString::from(url.into()), weight }
    }
}

/// How a replica is chosen among those that may serve a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Balance {
    /// One after another, in proportion to their weights (smooth weighted round robin).
    #[default]
    RoundRobin,
    /// The one with the fewest sessions in use in proportion to its weight: for statements of very different length.
    LeastOutstanding,
}

/// Settings of a [`PostgresPoolManager`]. Sizes are for each server.
#[derive(Clone, Debug)]
pub struct Config {
    /// The server that is written to.
    pub primary: Endpoint,
    /// Servers that share the reads. Default none: the primary serves them.
    pub replicas: Vec<ReplicaEndpoint>,
    /// Connections kept. Default 10: about two per core of a small server, and what the replaced system used.
    pub size: u32,
    /// Extra connections above `size` while callers wait, closed soon after. Default 20.
    pub max_overflow: u32,
    /// Idle connections held ready, at most `size`. Default 0: none opened before they are needed.
    pub min_idle: u32,
    /// Callers that may wait for a connection; one more gets an error at once. Default 10,000.
    pub queue_limit: usize,
    /// Connection attempts running at a time. Default 3; one at a time while connections are turning over.
    pub max_connecting: u32,
    /// Wait + connect + check of one acquisition, where the caller gives no deadline. Default 30 s.
    pub acquire_timeout: Duration,
    /// One connection attempt, with TLS and log-in. Default 5 s.
    pub connect_timeout: Duration,
    /// The check of a connection that was idle for [`check_after_idle`](Self::check_after_idle). Default 5 s.
    pub check_timeout: Duration,
    /// A connection idle for longer is checked before it is handed out. Default 500 ms: a busy pool never pays.
    pub check_after_idle: Duration,
    /// Age at which a connection is replaced, less up to 25 % at random. Default 30 min.
    pub max_lifetime: Duration,
    /// Idle time after which a connection above `min_idle` is closed. Default 10 min.
    pub idle_timeout: Duration,
    /// Idle time after which a connection above `size` is closed. Default 5 s.
    pub overflow_idle_timeout: Duration,
    /// Idle time after which a connection is exercised in the background, ± 20 %. Default 2 min: below the
    /// idle limits of common firewalls.
    pub keepalive: Duration,
    /// Longest run of one statement, set at the server and kept by the client. Default 30 s.
    pub statement_timeout: Duration,
    /// Longest pause inside a transaction before the server ends the session. Default 60 s.
    pub idle_in_transaction_timeout: Duration,
    /// How often the server looks, while it runs a statement, whether the client is still there. Default 1 s;
    /// `None` for servers that cannot (other systems than Linux before 15).
    pub connection_check_interval: Option<Duration>,
    /// A session held for longer is reported with where it was taken. Default 60 s; `None`: no report.
    pub leak_threshold: Option<Duration>,
    /// A session held for longer loses its connection: the server ends it, its permit is free, and its next statement
    /// fails with [`Error::Reclaimed`]. Looked for every half second. Default `None`: what is slow is not known to be
    /// forgotten.
    pub reclaim_after: Option<Duration>,
    /// What becomes of statements at the server that nobody waits for any more. Default: their connection is closed.
    pub cancel: Cancel,
    /// Reads avoid a replica that may be further behind. Default 5 s.
    pub replica_lag_limit: Duration,
    /// How long replicas go on serving reads while the primary is unreachable. Default 60 s; zero: not at all.
    pub replica_reads_without_primary: Duration,
    /// While every replica that answers is further behind than this, all reads go to the primary, until one is
    /// within `replica_lag_limit` again. Default 30 s.
    pub force_primary_lag: Duration,
    /// How long a replica that failed twice within ten minutes stays out of the reads although it answers; twice as
    /// long each further time, up to 15 minutes. While no other serves it is used. Default 60 s; zero: never.
    pub replica_ban: Duration,
    /// How long [`read_after`](crate::PostgresPoolManager::read_after) waits for a replica to replay the token before
    /// it goes to the primary. Default 10 ms: a healthy replica needs one or two.
    pub read_after_wait: Duration,
    /// How a replica is chosen. Default in turn, by weight.
    pub balance: Balance,
    /// Whether a replica that was promoted is written to. Default `true`; `false` where the address of the primary
    /// follows the primary by itself.
    pub failover: bool,
    /// How often the servers are looked at when there are replicas. Default 250 ms.
    pub probe_interval: Duration,
    /// The schema of the system's own tables. Default `database_services`.
    pub schema: String,
    /// Shown in `pg_stat_activity`. Default `database-services`.
    pub application_name: String,
    /// What every statement of a session is marked with in a comment behind it, for the servers' logs: service, region.
    /// Default nothing.
    pub statement_tags: BTreeMap<String, String>,
    /// Marks statements with the trace that they belong to. Such a statement is prepared anew each time, hence only
    /// sampled traces should be told. Default `None`.
    pub traceparent: Option<Traceparent>,
    /// Connections to each server that all instances of this schema share; a tenth of it, at most ten, is kept back.
    /// Default `None`: each has what its sizes say. Each instance holds a lease in a table of ours, made by
    /// [`migrations`](crate::migrations): takes what others leave, up to its sizes, and gives back what others lack, but
    /// never its fair share of what it needs. Until there is a table, it makes do with two connections. Below the
    /// server's `max_connections` less what other programs and superusers need.
    pub fleet_budget: Option<u32>,
    /// How long a lease lasts without being renewed: how soon a crashed instance's share returns. Default 45 s: longer
    /// than a server takes to notice that a machine is gone, so that its connections have ended by then.
    pub fleet_lease: Duration,
    /// Every server's address is that of a PgBouncer in transaction mode. Default `false`. Nothing is sent at start-up
    /// (the limits come with each transaction), session state is refused
    /// ([`Error::SessionState`]), no statement gets a name, and one with arguments outside of a transaction costs four
    /// round trips instead of two. Statements without arguments outside of a transaction have the limits of their role
    /// alone (`ALTER ROLE app SET statement_timeout = …`), beside the client's own. Needs [`direct`](Self::direct).
    pub pgbouncer: bool,
    /// The primary without a pooler in between: for the migrator, for LISTEN and for
    /// [`open_direct`](PostgresPoolManager::open_direct). Default: the primary's own address.
    pub direct: Option<Endpoint>,
    /// Knows user and password at every attempt to connect, before what the addresses say; only a [`direct`](Self::direct)
    /// address with a password of its own keeps that. Default: none, the addresses say.
    pub credentials: Option<Arc<dyn CredentialProvider>>,
    /// `true`: [`connect`](Self::connect) succeeds while the primary is unreachable and the pool keeps trying.
    /// Default `false`.
    pub lazy_connect: bool,
}

/// The longest time that Postgres takes for its own time-outs, in whole days.
const LONGEST: Duration = Duration::from_secs(24 * 24 * 3600);

impl Default for Config {
    fn default() -> Self {
        Self {
            primary: Endpoint::new("primary", ""),
            replicas: Vec::new(),
            size: 10,
            max_overflow: 20,
            min_idle: 0,
            queue_limit: 10_000,
            max_connecting: 3,
            acquire_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            check_timeout: Duration::from_secs(5),
            check_after_idle: Duration::from_millis(500),
            max_lifetime: Duration::from_secs(30 * 60),
            idle_timeout: Duration::from_secs(10 * 60),
            overflow_idle_timeout: Duration::from_secs(5),
            keepalive: Duration::from_secs(120),
            statement_timeout: Duration::from_secs(30),
            idle_in_transaction_timeout: Duration::from_secs(60),
            connection_check_interval: Some(Duration::from_secs(1)),
            leak_threshold: Some(Duration::from_secs(60)),
            reclaim_after: None,
            cancel: Cancel::Connection,
            replica_lag_limit: Duration::from_secs(5),
            replica_reads_without_primary: Duration::from_secs(60),
            force_primary_lag: Duration::from_secs(30),
            replica_ban: Duration::from_secs(60),
            read_after_wait: Duration::from_millis(10),
            balance: Balance::RoundRobin,
            failover: true,
            probe_interval: Duration::from_millis(250),
            schema: Schema::DEFAULT.to_owned(),
            application_name: "database-services".to_owned(),
            statement_tags: BTreeMap::new(),
            traceparent: None,
            fleet_budget: None,
            fleet_lease: Duration::from_secs(45),
            pgbouncer: false,
            direct: None,
            credentials: None,
            lazy_connect: false,
        }
    }
}

impl Config {
    /// The defaults with this primary.
    pub fn new(primary_url: impl Into<String>) -> Self {
        Self { primary: Endpoint::new("primary", primary_url), ..Self::default() }
    }

    /// Looks at everything at once, without I/O.
    ///
    /// # Errors
    /// All problems, each with the setting's name.
    pub fn validate(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        let mut add = |setting: String, message: String| problems.push(Problem { setting, message });
        check_url("primary.url", &self.primary.url, &mut add);
        let mut names = vec![self.primary.name.as_str()];
        for (i, replica) in self.replicas.iter().enumerate() {
            check_url(&format!("replicas[{i}].url"), &replica.url, &mut add);
            if replica.weight < 0 {
                let message = format!(
                    "replica {:?} has weight {}; it has to be 0 or more",
                    replica.name, replica.weight
                );
                add(format!("replicas[{i}].weight"), message);
            }
            if replica.name.is_empty() || names.contains(&replica.name.as_str()) {
                add(format!("replicas[{i}].name"), format!("{:?} is empty or used twice", replica.name));
            }
            names.push(&replica.name);
        }
        if let Some(direct) = &self.direct {
            check_url("direct.url", &direct.url, &mut add);
        } else if self.pgbouncer {
            let message =
                "is needed with pgbouncer: migrations and LISTEN need a session of their own; set direct";
            add("direct".into(), message.into());
        }
        match self.fleet_budget {
            Some(budget) if budget < 4 => {
                let message = format!("a budget of {budget} leaves no connection for work; use 4 or more");
                add("fleet_budget".into(), message);
            }
            Some(_) if self.pgbouncer => {
                let message = "shares a server's connections, and with pgbouncer that is PgBouncer's part";
                add("fleet_budget".into(), message.into());
            }
            _ => {}
        }
        if self.size == 0 {
            add("size".into(), "a pool of 0 connections serves nobody; use 1 or more".into());
        }
        if self.min_idle > self.size {
            let message = format!("min_idle {} is above size {}", self.min_idle, self.size);
            add("min_idle".into(), message);
        }
        if self.size.checked_add(self.max_overflow).is_none_or(|max| max > 10_000) {
            add("max_overflow".into(), "size + max_overflow is above 10000 connections".into());
        }
        if self.queue_limit == 0 {
            add("queue_limit".into(), "0 would refuse every caller that has to wait; use 1 or more".into());
        }
        if self.max_connecting == 0 {
            add("max_connecting".into(), "0 would never open a connection; use 1 or more".into());
        }
        for (name, value) in [
            ("acquire_timeout", self.acquire_timeout),
            ("connect_timeout", self.connect_timeout),
            ("check_timeout", self.check_timeout),
            ("max_lifetime", self.max_lifetime),
            ("idle_timeout", self.idle_timeout),
            ("keepalive", self.keepalive),
            ("statement_timeout", self.statement_timeout),
            ("idle_in_transaction_timeout", self.idle_in_transaction_timeout),
            ("probe_interval", self.probe_interval),
            ("reclaim_after", self.reclaim_after.unwrap_or(LONGEST)),
            ("fleet_lease", self.fleet_lease),
        ] {
            if !(Duration::from_millis(1)..=LONGEST).contains(&value) {
                let message = "has to be 1 ms to 24 days; there is no value for \"without limit\"";
                add(name.into(), message.into());
            }
        }
        if let Err(e) = Schema::new(&self.schema) {
            add("schema".into(), e.to_string());
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// Validates, makes a first attempt on every server within `connect_timeout`, and starts the background work
    /// on the current tokio runtime.
    ///
    /// A replica that cannot be reached is no error: reads avoid it until it answers.
    ///
    /// Cancel safety: dropping the future leaves nothing behind.
    ///
    /// # Errors
    /// Settings, and what time will not mend (password, database, rights, role of the server); an unreachable
    /// primary unless [`lazy_connect`](Self::lazy_connect).
    pub async fn connect(self) -> Result<PostgresPoolManager, Error> {
        PostgresPoolManager::connect(self).await
    }
}

fn check_url(setting: &str, url: &SecretString, add: &mut impl FnMut(String, String)) {
    let text = url.expose_secret();
    if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
        add(setting.to_owned(), "has to start with postgres:// or postgresql://".to_owned());
    } else if let Err(e) = text.parse::<PgConnectOptions>() {
        // The driver's message names the faulty part and never the address itself.
        add(setting.to_owned(), format!("is no Postgres address: {e}"));
    }
}

#[cfg(test)]
mod tests;
