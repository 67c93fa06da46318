//! The one table of settings: names, aliases, type, default, accepted values, meaning. Everything else (loading,
//! `explain`, `show`, suggestions, documentation) is driven by it, so adding a setting is one line here.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::value::{FromParsed, Kind, Parsed};

/// One setting, as the table declares it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Definition {
    /// Its name in the environment; with `DATABASE_SERVICES_` before it the same setting.
    pub name: &'static str,
    /// Its key in a TOML file, and its field in [`Values`].
    pub key: &'static str,
    /// Other names of it.
    pub aliases: &'static [&'static str],
    /// Which part of the service it belongs to.
    pub group: Group,
    /// What its value looks like.
    pub kind: Kind,
    /// The default as it would be written; `None`: unset.
    pub default: Option<&'static str>,
    /// What it means.
    pub doc: &'static str,
    /// The first version that knew it.
    pub since: &'static str,
    /// Set but without effect yet: told as a note.
    pub inert: Option<&'static str>,
    /// Not supported yet: setting it is refused.
    pub refused: Option<&'static str>,
}

impl Definition {
    const BASE: Self = Self {
        name: "",
        key: "",
        aliases: &[],
        group: Group::Service,
        kind: Kind::Text,
        default: None,
        doc: "",
        since: "0.1.0",
        inert: None,
        refused: None,
    };

    /// The name and all aliases.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }
}

/// The part of the service that a setting belongs to: a change of it rebuilds that part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Group {
    /// The process as a whole.
    Service,
    /// The Postgres pool.
    Postgres,
    /// The Redis links.
    Redis,
    /// The cache.
    Cache,
    /// Cache warming.
    Warming,
    /// Locks.
    Locks,
    /// Health probes.
    Health,
    /// Tiers and rates.
    Security,
}

macro_rules! settings {
    ($( $group:ident { $( $name:literal $(| $alias:literal)* => $key:ident: $ty:ty = $default:expr, $kind:expr, $doc:literal
        $(, $flag:ident = $value:expr)* ; )* } )*) => {
        /// Every setting, in reading order.
        pub const TABLE: &[Definition] = &[ $( $( Definition {
            name: $name, key: stringify!($key), aliases: &[$($alias),*], group: Group::$group, kind: $kind,
            default: $default, doc: $doc, $($flag: $value,)* ..Definition::BASE
        }, )* )* ];

        /// The typed values, one field a setting. Secrets are redacted in `Debug`.
        #[derive(Clone, Debug, Default)]
        #[non_exhaustive]
        pub struct Values { $( $( #[doc = $doc] pub $key: $ty, )* )* }

        impl Values {
            pub(crate) fn from_lookup(get: impl Fn(&'static str) -> Option<Parsed>) -> Self {
                Self { $( $( $key: get(stringify!($key)).and_then(|v| FromParsed::from_parsed(&v)).unwrap_or_default(), )* )* }
            }
            /// A key whose parsed value does not fit its field's type: a mistake in the table.
            #[cfg(test)]
            pub(crate) fn misfits(parsed: &Parsed, key: &str) -> bool {
                $( $( if key == stringify!($key) { return <$ty as FromParsed>::from_parsed(parsed).is_none(); } )* )*
                true
            }
        }
    };
}

const POSTGRES: &[&str] =
    &["postgres", "postgresql", "postgresql+asyncpg", "postgresql+psycopg", "postgresql+psycopg2"];
const REDIS: &[&str] = &["redis", "rediss"];
const SSL_MODES: &[&str] = &["disable", "prefer", "require", "verify-ca", "verify-full"];
const HOUR: u64 = 3_600_000;
const DAY: u64 = 86_400_000;

const fn int(min: u64, max: u64) -> Kind {
    Kind::Int(min, max)
}
const fn span(min_ms: u64, max_ms: u64) -> Kind {
    Kind::Duration(min_ms, max_ms)
}
const WARMING: Option<&str> = Some("cache warming is not in this version yet");
const BOUND: Option<&str> =
    Some("it is checked as a bound, and a link opens REDIS_POOL_MIN_SIZE connections and no more");

use Kind::{Bool, Choice, Float, Link, List, Path, Secret, Text, Url};

#[rustfmt::skip]
settings! {
    Service {
        "DATABASE_SERVICES_PROFILE" => profile: Vec<String> = None, List, "Profiles to lay over the file, in order: development, production, high-traffic, memory-constrained, ultra-low-latency.";
        "DATABASE_SERVICES_FILE" => file: Option<PathBuf> = None, Path, "The TOML file of settings.";
        "DATABASE_SERVICES_ENVIRONMENT" => environment: String = Some("development"), Choice(&["development", "production"]), "In production unsafe settings are refused and the schema is not migrated at start.";
        "DATABASE_SERVICES_MODE" => mode: String = Some("async_modern"), Choice(&["mcp_server", "high_availability", "async_modern", "admin"]), "The mode that `dbsvc serve` runs in: L1 size, warming and response target.";
        "DATABASE_SERVICES_IGNORE" => ignore: Vec<String> = None, List, "Environment variables of other programs that look like ours and are not to be read.";
        "DATABASE_SERVICES_SHUTDOWN_GRACE" => shutdown_grace: Duration = Some("30s"), span(0, DAY), "How long a shutdown lets work in progress finish.";
        "HTTP_LISTEN" => http_listen: String = Some("127.0.0.1:8000"), Text, "Address of the HTTP face; port 0 takes a free one.";
        "HTTP_ADMIN_TOKEN" => http_admin_token: Option<SecretString> = None, Secret, "Bearer token of the admin transport; unset: `dbsvc serve` makes one and says where.";
        "HTTP_ADMIN_SOCKET" => http_admin_socket: Option<PathBuf> = None, Path, "Unix socket that also serves the HTTP face.";
        "MAINTENANCE_MODE" => maintenance_mode: bool = Some("false"), Bool, "Start in maintenance mode.";
        "LOG_LEVEL" => log_level: String = Some("info"), Text, "Filter of the log: a level, or directives such as `info,cache_manager=debug`.";
        "DEBUG" => debug: bool = Some("false"), Bool, "Log level debug unless LOG_LEVEL says otherwise.";
        "LOG_FILE" => log_file: Option<PathBuf> = None, Path, "Also log to this file.", inert = Some("logging to a file is not in this version yet");
        "LOG_RETENTION_DAYS" => log_retention_days: u32 = Some("30"), int(1, 3_650), "Days that rotated log files are kept.", inert = Some("logging to a file is not in this version yet");
        "PROMETHEUS_URL" => prometheus_url: Option<SecretString> = None, Link, "Prometheus, for alerts and history in checks.", inert = Some("checks against Prometheus are not in this version yet");
        "ALERTMANAGER_URL" => alertmanager_url: SecretString = Some("http://127.0.0.1:9093"), Link, "Alertmanager.", inert = Some("checks against Alertmanager are not in this version yet");
        "GRAFANA_URL" => grafana_url: SecretString = Some("http://127.0.0.1:3000"), Link, "Grafana.", inert = Some("Grafana links are not in this version yet");
    }
    Postgres {
        "DATABASE_URL" => database_url: Option<SecretString> = None, Url(POSTGRES), "The primary as one URL; stands for host, port, name, user, password and SSL mode.";
        "DATABASE_HOST" | "DB_PRIMARY_HOST" | "DB_HOST" => database_host: String = Some("localhost"), Text, "Host of the primary, or the directory of its Unix socket.";
        "DATABASE_PORT" | "DB_PORT" => database_port: u16 = Some("5432"), int(1, 65_535), "Port of the primary.";
        "DATABASE_NAME" | "DB_NAME" => database_name: String = Some("postgres"), Text, "Database.";
        "DATABASE_USER" | "DB_USER" => database_user: String = Some("postgres"), Text, "User.";
        "DATABASE_PASSWORD" | "DB_PASSWORD" => database_password: Option<SecretString> = None, Secret, "Password.";
        "DATABASE_USE_SSL" => database_use_ssl: Option<bool> = None, Bool, "true = at least DATABASE_SSL_MODE require; false = disable; unset = prefer.";
        "DATABASE_SSL_MODE" => database_ssl_mode: Option<String> = None, Choice(SSL_MODES), "TLS to Postgres, in libpq's words.";
        "DATABASE_SSL_CA_PATH" => database_ssl_ca_path: Option<PathBuf> = None, Path, "CA certificate that Postgres' certificate must chain to.";
        "DATABASE_SSL_CERT_PATH" => database_ssl_cert_path: Option<PathBuf> = None, Path, "Client certificate.";
        "DATABASE_SSL_KEY_PATH" => database_ssl_key_path: Option<PathBuf> = None, Path, "Client key.";
        "DATABASE_POOL_SIZE" | "DB_POOL_SIZE" => database_pool_size: u32 = Some("10"), int(1, 10_000), "Connections of this instance that stay open.";
        "DATABASE_MAX_OVERFLOW" | "DB_POOL_OVERFLOW" => database_max_overflow: u32 = Some("20"), int(0, 10_000), "Short-lived connections beyond the pool size.";
        "DATABASE_MAX_CONNECTIONS" => database_max_connections: u32 = Some("50"), int(1, 100_000), "The whole fleet's budget at each server: instances share it by leases in our schema; one instance's size + overflow must fit. Not used behind PgBouncer.";
        "DATABASE_MIN_IDLE" => database_min_idle: u32 = Some("1"), int(0, 10_000), "Idle connections kept ready.";
        "DATABASE_ACQUIRE_TIMEOUT" => database_acquire_timeout: Duration = Some("30s"), span(10, DAY), "Longest wait for a connection when the caller sets no deadline.";
        "DATABASE_STATEMENT_TIMEOUT" => database_statement_timeout: Duration = Some("60s"), span(10, DAY), "The server ends statements that run longer.";
        "DATABASE_IDLE_TIMEOUT" => database_idle_timeout: Duration = Some("10m"), span(100, DAY), "Idle connections beyond the minimum are closed after this.";
        "DATABASE_MAX_LIFETIME" => database_max_lifetime: Duration = Some("30m"), span(1_000, 7 * DAY), "A connection is replaced after this, with jitter.";
        "DATABASE_LEAK_THRESHOLD" => database_leak_threshold: Duration = Some("1m"), span(0, DAY), "A session held for longer is reported with where it was taken; 0: never.";
        "DATABASE_RECLAIM_AFTER" => database_reclaim_after: Option<Duration> = None, span(1_000, DAY), "A session held for longer loses its connection; unset: never.";
        "DATABASE_CANCEL" => database_cancel: String = Some("connection"), Choice(&["connection", "eager"]), "What ends an abandoned statement at the server: its connection's end, within a second, or an order at once.";
        "DATABASE_REPLICA_HOST" => database_replica_host: Option<String> = None, Text, "One read replica, `host` or `host:port`; same user, password and database.";
        "DATABASE_REPLICAS" => database_replicas: Vec<String> = None, List, "Read replicas with weights: `host[:port][*weight],…`.";
        "DATABASE_REPLICA_LAG_LIMIT" => database_replica_lag_limit: Duration = Some("5s"), span(10, DAY), "Reads avoid a replica that is further behind.";
        "DATABASE_FAILOVER" => database_failover: bool = Some("true"), Bool, "Write to a replica once it was promoted; a replica of weight 0 is a standby for that alone.";
        "DATABASE_REPLICA_BALANCE" => database_replica_balance: String = Some("round_robin"), Choice(&["round_robin", "least_outstanding"]), "How a replica is chosen, by weight in both cases.";
        "DATABASE_READ_AFTER_WAIT" => database_read_after_wait: Duration = Some("10ms"), span(0, 60_000), "How long a read with a token waits for a replica before it goes to the primary.";
        "DATABASE_REPLICA_BAN" => database_replica_ban: Duration = Some("1m"), span(0, DAY), "How long a replica that fails again stays out of the reads, growing; 0: never.";
        "DATABASE_SCHEMA" => database_schema: String = Some("database_services"), Text, "The schema that holds our tables.";
        "DATABASE_AUTO_MIGRATE" => database_auto_migrate: Option<bool> = None, Bool, "Migrate our schema at start; unset: yes in development, no in production.";
        "DATABASE_PGBOUNCER" => database_pgbouncer: bool = Some("false"), Bool, "DATABASE_URL (and every replica) is a PgBouncer in transaction mode; needs DATABASE_DIRECT_URL.";
        "DATABASE_DIRECT_URL" => database_direct_url: Option<SecretString> = None, Url(POSTGRES), "The primary without a pooler in between, for migrations and LISTEN; what it does not say (user, password, database, TLS) is as for the primary.";
    }
    Redis {
        "REDIS_URL" => redis_url: Option<SecretString> = None, Url(REDIS), "The master as one URL; stands for host, port, username, password, database and SSL.";
        "REDIS_HOST" => redis_host: Option<String> = None, Text, "Host of the master; neither this nor REDIS_URL, REDIS_SENTINELS, REDIS_CLUSTER_NODES: the service runs without Redis.";
        "REDIS_PORT" => redis_port: u16 = Some("6379"), int(1, 65_535), "Port of the master.";
        "REDIS_USERNAME" => redis_username: Option<String> = None, Text, "ACL user; unset: `default`.";
        "REDIS_PASSWORD" => redis_password: Option<SecretString> = None, Secret, "Password.";
        "REDIS_DATABASE" => redis_database: u8 = Some("0"), int(0, 255), "Database number.";
        "REDIS_REQUIRE_AUTH" => redis_require_auth: bool = Some("false"), Bool, "Refuse to start without a Redis password.";
        "REDIS_NAMESPACE" => redis_namespace: Option<String> = None, Text, "Prefix of every key and channel; required in production; unset: `dbsvc`.";
        "REDIS_REPLICA_HOST" => redis_replica_host: Vec<String> = None, List, "Replicas, `host[:port],…`.";
        "REDIS_COORDINATION_URL" => redis_coordination_url: Option<SecretString> = None, Url(REDIS), "Another server for locks, journal and channels (never evicting); unset: the same.";
        "REDIS_USE_SSL" => redis_use_ssl: bool = Some("false"), Bool, "TLS to Redis.";
        "REDIS_SSL_VERIFY_MODE" => redis_ssl_verify_mode: String = Some("required"), Choice(&["required", "ca", "none"]), "What is checked of Redis' certificate: everything; all but the host name; nothing.";
        "REDIS_SSL_CA_PATH" => redis_ssl_ca_path: Option<PathBuf> = None, Path, "CA certificate that Redis' certificate must chain to; unset: the system's.";
        "REDIS_SSL_CERT_PATH" => redis_ssl_cert_path: Option<PathBuf> = None, Path, "Client certificate.";
        "REDIS_SSL_KEY_PATH" => redis_ssl_key_path: Option<PathBuf> = None, Path, "Client key.";
        "REDIS_MAX_CONNECTIONS" => redis_max_connections: u32 = Some("100"), int(1, 100_000), "Upper bound of REDIS_POOL_MAX_SIZE; at least 50 in production.", inert = BOUND;
        "REDIS_POOL_MIN_SIZE" => redis_pool_min_size: u32 = Some("5"), int(1, 64), "Multiplexed connections of a link; each carries many callers at once.";
        "REDIS_POOL_MAX_SIZE" => redis_pool_max_size: u32 = Some("50"), int(1, 1_000), "Upper bound of REDIS_POOL_MIN_SIZE.", inert = BOUND;
        "REDIS_CONNECTION_TIMEOUT" => redis_connection_timeout: Duration = Some("30s"), span(10, DAY), "Longest attempt to connect; above 5 s an attempt is cut there and repeated.";
        "REDIS_SOCKET_TIMEOUT" => redis_socket_timeout: Duration = Some("5s"), span(10, HOUR), "Longest wait for an answer.";
        "REDIS_RETRY_ON_TIMEOUT" => redis_retry_on_timeout: bool = Some("false"), Bool, "Repeat a read that timed out.", inert = Some("a read that times out is not repeated: it falls through to the next cache level");
        "REDIS_SENTINELS" => redis_sentinels: Vec<String> = None, List, "Sentinels, `host[:26379],…`: they name the master, instead of REDIS_HOST.";
        "REDIS_SENTINEL_MASTER" => redis_sentinel_master: String = Some("mymaster"), Text, "Name of the master that the Sentinels watch.";
        "REDIS_SENTINEL_USERNAME" => redis_sentinel_username: Option<String> = None, Text, "ACL user at the Sentinels, who have users of their own.";
        "REDIS_SENTINEL_PASSWORD" => redis_sentinel_password: Option<SecretString> = None, Secret, "Password at the Sentinels.";
        "REDIS_CLUSTER_NODES" => redis_cluster_nodes: Vec<String> = None, List, "Some nodes of a Redis Cluster, `host[:6379],…`, instead of REDIS_HOST.";
    }
    Cache {
        "CACHE_L1_SIZE" | "UCM_L1_CACHE_SIZE" => cache_l1_size: Option<u64> = None, int(1, 100_000_000), "Entries in L1; unset: the mode's.";
        "CACHE_TTL" | "UCM_CACHE_TTL_SECONDS" => cache_ttl: Duration = Some("30m"), span(1, 365 * DAY), "How long an entry is fresh unless it says otherwise.";
        "CACHE_L2_TTL" => cache_l2_ttl: Duration = Some("5m"), span(1, 365 * DAY), "Caps an entry's stay in Redis.";
        "CACHE_L3_ENABLED" => cache_l3_enabled: bool = Some("true"), Bool, "Use the Postgres level.";
        "CACHE_DISCONNECTED_MAX_AGE" => cache_disconnected_max_age: Duration = Some("5s"), span(1, HOUR), "How long L1 serves while invalidations of others cannot arrive.";
        "CACHE_STALE_FOR" => cache_stale_for: Duration = Some("5m"), span(0, 30 * DAY), "How long after its freshness an entry may be served when its loader fails.";
        "CACHE_MAX_VALUE_SIZE" => cache_max_value_size: u64 = Some("1MiB"), Kind::Bytes(64, 256 << 20), "Largest encoded value that is stored.";
    }
    Warming {
        "UCM_ENABLE_WARMING" => warming_enabled: Option<bool> = None, Bool, "Warm the cache in the background; unset: the mode's.", inert = WARMING;
        "UCM_WARMING_INTERVAL" => warming_interval: Option<Duration> = None, span(1_000, DAY), "Time between two warming cycles; unset: the mode's (300 s in the default mode).", inert = WARMING;
        "UCM_WARMING_THRESHOLD" => warming_threshold: Option<f64> = None, Float(0.0, 1e9), "Accesses an hour that make a key worth warming; unset: the mode's.", inert = WARMING;
        "UCM_WARMING_BATCH_SIZE" => warming_batch_size: Option<u32> = None, int(1, 1_000_000), "Keys a cycle; unset: the mode's.", inert = WARMING;
        "UCM_ENABLE_STARTUP_WARMING" => startup_warming: bool = Some("false"), Bool, "Warm the hottest keys at start.", inert = WARMING;
    }
    Locks {
        "LOCK_DEFAULT_LEASE" => lock_default_lease: Duration = Some("30s"), span(100, DAY), "Lease of a lock that does not say its own.";
    }
    Health {
        "HEALTH_INTERVAL" => health_interval: Duration = Some("5s"), span(50, DAY), "Time between two probes of a component; three missed ones count as failed.";
        "HEALTH_TIMEOUT" => health_timeout: Option<Duration> = None, span(10, DAY), "A probe that takes longer has failed; at most 1.9 intervals; unset: 2 s, or 1.5 intervals where that is less.";
        "HEALTH_READINESS" => health_readiness: Vec<String> = Some("database"), List, "Probes that readiness depends on; a name that does not exist is refused at start.";
    }
    Security {
        "SECURITY_AGENT_ID" => security_agent_id: String = Some("service"), Text, "Who this process acts as.";
        "SECURITY_TIER" => security_tier: String = Some("basic"), Choice(&["basic", "professional", "enterprise"]), "The tier it acts in.";
        "SECURITY_TIER_BASIC_RATE" => tier_basic_rate: u32 = Some("10"), int(1, 4_294_967_295), "Requests a second of tier basic.";
        "SECURITY_TIER_PROFESSIONAL_RATE" => tier_professional_rate: u32 = Some("100"), int(1, 4_294_967_295), "Requests a second of tier professional.";
        "SECURITY_TIER_ENTERPRISE_RATE" => tier_enterprise_rate: u32 = Some("1000"), int(1, 4_294_967_295), "Requests a second of tier enterprise.";
    }
}

/// Finds a setting by any of its names (with or without our prefix, in any case) or by its file key.
pub(crate) fn find(name: &str) -> Option<&'static Definition> {
    let upper = name.trim().to_ascii_uppercase();
    let by_name = |wanted: &str| TABLE.iter().find(|d| d.names().any(|n| n == wanted));
    by_name(&upper)
        .or_else(|| upper.strip_prefix(PREFIX).and_then(by_name))
        .or_else(|| TABLE.iter().find(|d| d.key.eq_ignore_ascii_case(name.trim())))
}

/// Every setting may carry this before its name; under it an unknown name is an error.
pub const PREFIX: &str = "DATABASE_SERVICES_";
