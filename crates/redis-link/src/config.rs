//! The settings of a link, each with its default and the reason for it. Reading them from files or the environment
//! is the composition root's job.

use crate::{CredentialProvider, Endpoint, EpochAuthority, Error, RedisLink, TlsConfig, Topology, Verify};
use resilience::BackoffConfig;
use secrecy::SecretString;
use serde::Deserialize;
use std::{sync::Arc, time::Duration};

/// The settings of one link.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Names the server group towards the [`EpochAuthority`]. Default `redis`. Links to different servers that share
    /// an authority need different names.
    pub name: String,
    /// Where the servers are. Default: a master on 127.0.0.1:6379.
    pub topology: Topology,
    /// ACL user, unless [`Deps::credentials`] says. Default: the server's `default` user.
    pub username: Option<String>,
    /// Password, unless [`Deps::credentials`] says. Default: none.
    pub password: Option<SecretString>,
    /// Database to select. Default 0. Pub/sub ignores it, hence the namespace; a cluster has no other.
    pub database: u8,
    /// TLS. Default: off.
    pub tls: Option<TlsConfig>,
    /// Prefix of every key and channel, 1–64 of `A–Z a–z 0–9 _ - .`. Default `dbsvc`.
    pub namespace: String,
    /// For one attempt to connect to a master, and as much for claiming its epoch. Default 5 s.
    pub connect_timeout: Duration,
    /// No command waits longer, whatever its deadline. Default 5 s.
    pub command_timeout: Duration,
    /// Blocking commands get this beyond the time that they may block. Default 1 s.
    pub blocking_margin: Duration,
    /// Connections to each master, 1–64. Default 2: one already carries all that a Redis thread answers, the second
    /// keeps large values from delaying the rest.
    pub pool_size: usize,
    /// Calls under way at each master; more wait for their turn until their deadline. Default 50,000.
    pub max_in_flight: usize,
    /// Commands queued for one connection, also those whose caller has gone. Beyond it: [`Error::Overloaded`], and the
    /// next generation. Default 100,000.
    pub max_queued: usize,
    /// Bytes of one command's arguments. Default 64 MiB.
    pub max_request: usize,
    /// Bytes of one reply. Beyond it: [`Error::ReplyTooLarge`]; it is received nevertheless, as the driver knows no limit.
    /// Default 64 MiB.
    pub max_reply: usize,
    /// Every connection is asked for a sign of life so often, the first also for role, replication id and epoch key.
    /// Default 1 s.
    pub probe_interval: Duration,
    /// A connection that owes the sign of life, and answers nothing else for so long, is dead, and its generation with
    /// it. Default 3 s: longer than a slow script should take, short enough to leave a black hole quickly.
    pub probe_timeout: Duration,
    /// The credential provider and the certificate files are looked at so often, and the connections replaced when they
    /// have changed. Default 30 s.
    pub renew_interval: Duration,
    /// Waits between attempts to open a generation. Default 50 ms doubling to 1 s, half of it random.
    pub reconnect: BackoffConfig,
    /// The server's clock is read so often. Default 1 minute.
    pub clock_interval: Duration,
    /// Replicas are looked at so often, on a connection made for it. Default 5 s.
    pub replica_interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "redis".to_owned(),
            topology: Topology::standalone(Endpoint::new("127.0.0.1", 6379)),
            username: None,
            password: None,
            database: 0,
            tls: None,
            namespace: "dbsvc".to_owned(),
            connect_timeout: Duration::from_secs(5),
            command_timeout: Duration::from_secs(5),
            blocking_margin: Duration::from_secs(1),
            pool_size: 2,
            max_in_flight: 50_000,
            max_queued: 100_000,
            max_request: 64 << 20,
            max_reply: 64 << 20,
            probe_interval: Duration::from_secs(1),
            probe_timeout: Duration::from_secs(3),
            renew_interval: Duration::from_secs(30),
            reconnect: BackoffConfig::default(),
            clock_interval: Duration::from_secs(60),
            replica_interval: Duration::from_secs(5),
        }
    }
}

/// One thing that is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {message}")]
#[non_exhaustive]
pub struct Problem {
    /// The field of [`Config`].
    pub setting: &'static str,
    /// What is wrong and what is allowed.
    pub message: String,
}

/// What a link needs from outside.
#[derive(Clone, Debug)]
pub struct Deps {
    /// Keeps the epochs.
    pub epochs: Arc<dyn EpochAuthority>,
    /// Knows the credentials, where they are not the settings' own.
    pub credentials: Option<Arc<dyn CredentialProvider>>,
}

impl Deps {
    /// With the credentials of the settings.
    #[must_use]
    pub fn new(epochs: Arc<dyn EpochAuthority>) -> Self {
        Self { epochs, credentials: None }
    }
}

impl Config {
    /// Checks every rule.
    ///
    /// # Errors
    /// All problems at once.
    pub fn validate(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, setting: &'static str, message: &str| {
            if !ok {
                problems.push(Problem { setting, message: message.to_owned() });
            }
        };
        let named = |text: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
            (1..=64).contains(&text.len()) && text.chars().all(allowed)
        };
        check(named(&self.name), "name", "must be 1 to 64 of A-Z a-z 0-9 _ - .");
        check(named(&self.namespace), "namespace", "must be 1 to 64 of A-Z a-z 0-9 _ - .");
        let endpoints = self.topology.endpoints();
        check(!endpoints.is_empty(), "topology", "needs at least one server");
        for endpoint in endpoints {
            let placed = !endpoint.host.is_empty() && endpoint.port != 0;
            check(placed, "topology", "a server needs a host and a port");
        }
        if let Topology::Sentinel(sentinel) = &self.topology {
            check(!sentinel.master_name.is_empty(), "topology", "Sentinel needs the name of the master");
            let complete = sentinel.username.is_none() || sentinel.password.is_some();
            check(complete, "topology", "the user at the Sentinels needs a password");
        }
        let only = !self.topology.is_cluster() || self.database == 0;
        check(only, "database", "must be 0, the only one of a cluster");
        check(self.username.is_none() || self.password.is_some(), "username", "needs a password");
        if let Some(tls) = &self.tls {
            check(
                tls.cert_file.is_some() == tls.key_file.is_some(),
                "tls",
                "cert_file and key_file go together",
            );
            check(
                tls.verify != Verify::Ca || tls.ca_file.is_some(),
                "tls",
                "verify ca needs a ca_file: without the host name, every certificate of the system's would do",
            );
        }
        check((1..=64).contains(&self.pool_size), "pool_size", "must be 1 to 64");
        check((1..=1_000_000).contains(&self.max_in_flight), "max_in_flight", "must be 1 to 1,000,000");
        check((1..=10_000_000).contains(&self.max_queued), "max_queued", "must be 1 to 10,000,000");
        check((1..=512 << 20).contains(&self.max_request), "max_request", "must be 1 byte to 512 MiB");
        check((1..=1 << 30).contains(&self.max_reply), "max_reply", "must be 1 byte to 1 GiB");
        let millisecond = Duration::from_millis(1);
        let hour = Duration::from_secs(3600);
        for (setting, value) in [
            ("connect_timeout", self.connect_timeout),
            ("command_timeout", self.command_timeout),
            ("blocking_margin", self.blocking_margin),
            ("probe_interval", self.probe_interval),
            ("probe_timeout", self.probe_timeout),
            ("renew_interval", self.renew_interval),
            ("clock_interval", self.clock_interval),
            ("replica_interval", self.replica_interval),
        ] {
            check((millisecond..=hour).contains(&value), setting, "must be 1 ms to 1 h");
        }
        check(self.reconnect.max <= Duration::from_secs(1), "reconnect", "max must be at most 1 s");
        check(self.reconnect.base >= millisecond, "reconnect", "base must be at least 1 ms");
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// Starts the link: makes a first attempt (the credentials, the masters' names, the connections: each within
    /// [`connect_timeout`](Self::connect_timeout)), then keeps a generation open in the background, on the current runtime.
    ///
    /// An unreachable or still loading server is no error: the link comes back disconnected and keeps trying.
    /// Cancel safe: dropped early, nothing stays behind.
    ///
    /// # Errors
    /// What time will not mend: wrong settings, credentials, rights, TLS, certificates, role or version; a master that the
    /// Sentinels do not know, what is no Sentinel or no cluster, slots that nobody serves.
    pub async fn connect(self, deps: Deps) -> Result<RedisLink, Error> {
        self.validate().map_err(Error::Config)?;
        RedisLink::start(self, deps).await
    }
}

#[cfg(test)]
mod tests;
