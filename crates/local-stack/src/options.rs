//! What a stack is made of, as plain values. Not here: reading the environment (`provider`) and starting anything.

use std::fmt;
use std::time::Duration;

use crate::images::Images;

/// How a Postgres primary and its streaming replicas are started.
#[derive(Clone)]
pub struct PostgresOptions {
    /// Streaming replicas; default 0.
    pub replicas: usize,
    /// Let every commit on the primary wait until all replicas have written it, too; default false. With a replica away
    /// commits wait for its return. A promoted replica waits for nobody.
    pub synchronous: bool,
    /// How clients on 127.0.0.1 log in; default [`Auth::Password`].
    pub auth: Auth,
    /// Password of the superuser `postgres`; default: drawn at random.
    pub password: Option<String>,
    /// `max_connections`; default 100, the server's own.
    pub max_connections: u32,
    /// Keep the stack's data on a disk and wait for it at commit. Default false: `fsync` and `full_page_writes` off, and
    /// data in memory where there is plenty, since a stack never outlives a crash of the machine; what a killed server
    /// had committed is still there after a restart.
    pub durable: bool,
    /// Further settings, written last into `postgresql.conf` of every server.
    pub settings: Vec<(String, String)>,
    /// Speak TLS over TCP, and nothing else; default none. The Unix socket stays as it is.
    pub tls: Option<TlsOptions>,
    /// Also start PgBouncer before the primary, in transaction mode, with the same user and password (and TLS); default
    /// false. Other roles come in with their passwords, too. See [`Postgres::pgbouncer`](crate::Postgres::pgbouncer).
    pub pgbouncer: bool,
    /// Further settings, written last into `pgbouncer.ini`.
    pub pgbouncer_settings: Vec<(String, String)>,
    /// Give this cluster a system identifier of its own by running `initdb` afresh (about a second) instead of
    /// copying the cached data directory. Default false.
    pub own_identity: bool,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            replicas: 0,
            synchronous: false,
            auth: Auth::Password,
            password: None,
            max_connections: 100,
            durable: false,
            tls: None,
            settings: Vec::new(),
            pgbouncer: false,
            pgbouncer_settings: Vec::new(),
            own_identity: false,
        }
    }
}

impl PostgresOptions {
    /// The default with this many streaming replicas.
    pub fn with_replicas(replicas: usize) -> Self {
        Self { replicas, ..Self::default() }
    }
}

/// How a client on 127.0.0.1 logs in to Postgres. (The socket in the stack's private directory trusts its user.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Auth {
    /// The password in clear over loopback: as safe as the machine, and free of the key derivation that costs an
    /// unoptimised test binary tens of milliseconds a connection. The default.
    #[default]
    Password,
    /// SCRAM-SHA-256, as in production.
    Scram,
    /// No password. Every local user is then superuser of this server, and with `COPY … PROGRAM` acts as its
    /// operating-system user: for machines of one user only.
    Trust,
}

impl Auth {
    /// As the servers' access rules call it.
    pub(crate) fn method(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Scram => "scram-sha-256",
            Self::Trust => "trust",
        }
    }
}

/// How Redis is started: a master with replicas, alone or watched by Sentinels, or a cluster.
#[derive(Clone)]
pub struct RedisOptions {
    /// Replicas, of a cluster those of each master; default 0.
    pub replicas: usize,
    /// Password of the default user; default none: every local user may then use the server.
    pub password: Option<String>,
    /// Further lines for `redis.conf` of every server, last.
    pub config: Vec<String>,
    /// The text of an ACL file for every server. A user `local-stack` with all rights is added for our own use, for
    /// replication and for the Sentinels, as it is without a file.
    pub acl: Option<String>,
    /// Sentinels that watch the master under the name [`Redis::MASTER_NAME`](crate::Redis::MASTER_NAME); default 0.
    /// Their quorum is the majority.
    pub sentinels: usize,
    /// How long a server must be silent before a Sentinel takes it for dead; default [`SENTINEL_DOWN_AFTER`].
    pub sentinel_down_after: Duration,
    /// Password of the Sentinels themselves; default none.
    pub sentinel_password: Option<String>,
    /// Masters of a Redis Cluster, with an equal part of the slots each; default 0: no cluster. Three are needed for
    /// failing over.
    pub cluster_masters: usize,
    /// How long a node must be silent before the others take it for dead; default [`CLUSTER_NODE_TIMEOUT`].
    pub cluster_node_timeout: Duration,
    /// Speak TLS over TCP, and nothing else, replication, Sentinels and the cluster's nodes among themselves included;
    /// default none. The Unix socket stays as it is.
    pub tls: Option<TlsOptions>,
    /// Keep the data over a kill (append-only file, no fsync). Default true; false saves a write per command.
    pub persistent: bool,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            replicas: 0,
            password: None,
            config: Vec::new(),
            acl: None,
            sentinels: 0,
            sentinel_down_after: SENTINEL_DOWN_AFTER,
            sentinel_password: None,
            cluster_masters: 0,
            cluster_node_timeout: CLUSTER_NODE_TIMEOUT,
            tls: None,
            persistent: true,
        }
    }
}

impl RedisOptions {
    /// The default with this many replicas.
    pub fn with_replicas(replicas: usize) -> Self {
        Self { replicas, ..Self::default() }
    }

    /// A master with this many replicas and three Sentinels.
    pub fn with_sentinels(replicas: usize) -> Self {
        Self { replicas, sentinels: 3, ..Self::default() }
    }

    /// A cluster of three masters with one replica each.
    pub fn cluster() -> Self {
        Self { cluster_masters: 3, replicas: 1, ..Self::default() }
    }
}

/// How servers speak TLS. Their certificates are of the stack's own [`Authority`](crate::Authority); needs the feature
/// `tls`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// What is asked of clients; default nothing.
    pub client_certificates: ClientCertificates,
}

impl TlsOptions {
    /// With client certificates required.
    pub fn mutual() -> Self {
        Self { client_certificates: ClientCertificates::Required }
    }
}

/// Whether a server wants to see its clients' certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ClientCertificates {
    /// It does not ask.
    #[default]
    NotAsked,
    /// One that is shown has to be good.
    Optional,
    /// Nobody comes in without a good one. A password is asked for all the same.
    Required,
}

/// Where the servers come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Provider {
    /// What `LOCAL_STACK_PROVIDER` says (`native`, `containers` or `external`); without it [`Provider::External`] with
    /// the URLs of the environment if one of them is set, else [`Provider::Native`].
    #[default]
    Auto,
    /// Processes of our own on this machine.
    Native,
    /// Processes of our own from images, by a container engine of this machine. Needs the feature `containers`. All
    /// that native servers can do and suffer, these can.
    Containers(Images),
    /// Servers that run already. Faults that need their process answer [`NotOurs`](crate::Error::NotOurs).
    External(ExternalUrls),
}

/// The URLs of servers that run already.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ExternalUrls {
    /// `LOCAL_STACK_POSTGRES_URL`: the primary, as a user that may create databases.
    pub postgres: Option<String>,
    /// `LOCAL_STACK_POSTGRES_REPLICA_URLS`, separated by commas.
    pub postgres_replicas: Vec<String>,
    /// `LOCAL_STACK_REDIS_URL`: the master.
    pub redis: Option<String>,
    /// `LOCAL_STACK_REDIS_REPLICA_URLS`, separated by commas.
    pub redis_replicas: Vec<String>,
}

/// How long a start may take by default: a cold, busy machine needs a few seconds, a hung one is not worth more.
pub const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Sixty times sooner than real Sentinels by default, whose networks are worse: a failover is over in two seconds.
pub const SENTINEL_DOWN_AFTER: Duration = Duration::from_millis(500);

/// Fifteen times sooner than Redis' own default, for the same reason. Nodes ask each other at half of it.
pub const CLUSTER_NODE_TIMEOUT: Duration = Duration::from_secs(1);

// Passwords are shown as being there.
impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("replicas", &self.replicas)
            .field("synchronous", &self.synchronous)
            .field("auth", &self.auth)
            .field("password", &self.password.as_ref().map(|_| "…"))
            .field("max_connections", &self.max_connections)
            .field("durable", &self.durable)
            .field("tls", &self.tls)
            .field("settings", &self.settings)
            .field("pgbouncer", &self.pgbouncer)
            .field("pgbouncer_settings", &self.pgbouncer_settings)
            .field("own_identity", &self.own_identity)
            .finish()
    }
}

impl fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions")
            .field("replicas", &self.replicas)
            .field("password", &self.password.as_ref().map(|_| "…"))
            .field("config", &self.config)
            .field("acl", &self.acl.as_ref().map(|_| "…"))
            .field("sentinels", &self.sentinels)
            .field("sentinel_down_after", &self.sentinel_down_after)
            .field("sentinel_password", &self.sentinel_password.as_ref().map(|_| "…"))
            .field("cluster_masters", &self.cluster_masters)
            .field("cluster_node_timeout", &self.cluster_node_timeout)
            .field("tls", &self.tls)
            .field("persistent", &self.persistent)
            .finish()
    }
}

impl fmt::Debug for ExternalUrls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers = |one: &Option<String>, more: &[String]| usize::from(one.is_some()) + more.len();
        f.debug_struct("ExternalUrls")
            .field("postgres_servers", &servers(&self.postgres, &self.postgres_replicas))
            .field("redis_servers", &servers(&self.redis, &self.redis_replicas))
            .finish()
    }
}
