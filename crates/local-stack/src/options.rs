//! What a stack is made of, as plain values. Not here: reading the environment (`provider`) and starting anything.

use std::fmt;
use std::time::Duration;

/// How a Postgres primary and its streaming replicas are started.
#[derive(Clone)]
pub struct PostgresOptions {
    /// Streaming replicas; default 0.
    pub replicas: usize,
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
    /// Give this cluster a system identifier of its own by running `initdb` afresh (about a second) instead of
    /// copying the cached data directory. Default false.
    pub own_identity: bool,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            replicas: 0,
            auth: Auth::Password,
            password: None,
            max_connections: 100,
            durable: false,
            settings: Vec::new(),
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

/// How a Redis master and its replicas are started.
#[derive(Clone)]
pub struct RedisOptions {
    /// Replicas; default 0.
    pub replicas: usize,
    /// Password of the default user; default none: every local user may then use the server.
    pub password: Option<String>,
    /// Further lines for `redis.conf` of every server, last.
    pub config: Vec<String>,
    /// The text of an ACL file for every server. A user `local-stack` with all rights is added for our own use.
    pub acl: Option<String>,
    /// Keep the data over a kill (append-only file, no fsync). Default true; false saves a write per command.
    pub persistent: bool,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self { replicas: 0, password: None, config: Vec::new(), acl: None, persistent: true }
    }
}

impl RedisOptions {
    /// The default with this many replicas.
    pub fn with_replicas(replicas: usize) -> Self {
        Self { replicas, ..Self::default() }
    }
}

/// Where the servers come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Provider {
    /// [`Provider::External`] with the URLs of the environment if one of them is set, else [`Provider::Native`].
    #[default]
    Auto,
    /// Processes of our own on this machine.
    Native,
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

// Passwords are shown as being there.
impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("replicas", &self.replicas)
            .field("auth", &self.auth)
            .field("password", &self.password.as_ref().map(|_| "…"))
            .field("max_connections", &self.max_connections)
            .field("durable", &self.durable)
            .field("settings", &self.settings)
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
