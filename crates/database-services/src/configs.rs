//! Turns settings into the components' own configurations. Pure; nothing is opened here.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use access_control::Rates;
use health_manager::Group;
use redis_link::{CredentialProvider, Endpoint, PasswordFile, SentinelTopology, TlsConfig, Topology, Verify};
use secrecy::{ExposeSecret, SecretString};

use crate::settings::{Settings, hosts};
use crate::{Error, ManagerMode};

mod postgres;
mod validate;
pub(crate) use validate::{check, problems};

/// The replication group of the cache's server, and of the coordination server where it is another one.
pub(crate) const CACHE_LINK: &str = "redis";
pub(crate) const COORDINATION_LINK: &str = "redis-coordination";

const SENTINEL_PORT: u16 = 26_379;

/// Longest attempt to connect to Redis.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Where Postgres is, for messages.
pub(crate) fn postgres_address(settings: &Settings) -> String {
    if settings.database_host.starts_with('/') {
        format!("{} ({})", settings.database_host, settings.database_port)
    } else {
        format!("{}:{}", settings.database_host, settings.database_port)
    }
}

/// The primary's address at another server.
pub(crate) fn replica_url(settings: &Settings, host: &str, port: u16) -> Result<String, Error> {
    postgres::Address::main(settings).at(host.to_owned(), port).url()
}

pub(crate) fn pool(mode: ManagerMode, s: &Settings) -> Result<postgres_pool_manager::Config, Error> {
    use postgres_pool_manager::{Balance, Cancel, Config, Endpoint, ReplicaEndpoint};
    let main = postgres::Address::main(s);
    let mut replicas = Vec::new();
    let single = s.database_replica_host.iter();
    for item in s.database_replicas.iter().chain(single) {
        let host = hosts::parse(item, s.database_port).map_err(|()| broken("Postgres", item))?;
        let name = format!("{}:{}", host.host, host.port);
        if replicas.iter().any(|known: &ReplicaEndpoint| known.name == name) {
            continue; // Named by both settings.
        }
        let weight = i32::try_from(host.weight).unwrap_or(i32::MAX);
        let url = replica_url(s, &host.host, host.port)?;
        replicas.push(ReplicaEndpoint::new(name, url, weight));
    }
    let direct = postgres::Address::direct(s)?.map(|address| address.url()).transpose()?;
    Ok(Config {
        primary: Endpoint::new(postgres_address(s), main.url()?),
        replicas,
        direct: direct.map(|url| Endpoint::new("DATABASE_DIRECT_URL", url)),
        pgbouncer: s.database_pgbouncer,
        // Behind PgBouncer the server's connections are PgBouncer's, and so is sharing them.
        fleet_budget: (!s.database_pgbouncer).then_some(s.database_max_connections),
        credentials: postgres::credentials(s),
        size: s.database_pool_size,
        max_overflow: s.database_max_overflow,
        min_idle: s.database_min_idle,
        acquire_timeout: s.database_acquire_timeout,
        statement_timeout: s.database_statement_timeout,
        idle_timeout: s.database_idle_timeout,
        max_lifetime: s.database_max_lifetime,
        replica_lag_limit: s.database_replica_lag_limit,
        leak_threshold: Some(s.database_leak_threshold).filter(|after| !after.is_zero()),
        reclaim_after: s.database_reclaim_after,
        cancel: if s.database_cancel == "eager" { Cancel::Eager } else { Cancel::Connection },
        failover: s.database_failover,
        balance: match s.database_replica_balance.as_str() {
            "least_outstanding" => Balance::LeastOutstanding,
            _ => Balance::RoundRobin,
        },
        read_after_wait: s.database_read_after_wait,
        replica_ban: s.database_replica_ban,
        schema: s.database_schema.clone(),
        application_name: format!("database-services/{mode}"),
        ..Config::default()
    })
}

/// The link of the cache; `None`: no Redis is configured.
pub(crate) fn redis(s: &Settings) -> Result<Option<redis_link::Config>, Error> {
    let Some(topology) = topology(s)? else { return Ok(None) };
    Ok(Some(redis_link::Config {
        name: CACHE_LINK.to_owned(),
        topology,
        username: s.redis_username.clone(),
        password: s.redis_password.clone(),
        database: s.redis_database,
        tls: s.redis_use_ssl.then(|| tls(s)),
        ..redis_common(s)
    }))
}

fn topology(s: &Settings) -> Result<Option<Topology>, Error> {
    let all = |items: &[String], port| {
        let one = |item: &String| match hosts::parse(item, port) {
            Ok(host) => Ok(Endpoint::new(host.host, host.port)),
            Err(()) => Err(broken("Redis", item)),
        };
        items.iter().map(one).collect::<Result<Vec<_>, _>>()
    };
    if !s.redis_cluster_nodes.is_empty() {
        return Ok(Some(Topology::cluster(all(&s.redis_cluster_nodes, s.redis_port)?)));
    }
    if !s.redis_sentinels.is_empty() {
        return Ok(Some(Topology::Sentinel(SentinelTopology {
            master_name: s.redis_sentinel_master.clone(),
            sentinels: all(&s.redis_sentinels, SENTINEL_PORT)?,
            username: s.redis_sentinel_username.clone(),
            password: s.redis_sentinel_password.clone(),
            tls: true,
        })));
    }
    let Some(host) = &s.redis_host else { return Ok(None) };
    let replicas = all(&s.redis_replica_host, s.redis_port)?;
    Ok(Some(Topology::Standalone { master: Endpoint::new(host, s.redis_port), replicas }))
}

/// Who knows the password, where it stands in a file that may be replaced while we run.
pub(crate) fn credentials(s: &Settings) -> Option<Arc<dyn CredentialProvider>> {
    let path = s.file_of("redis_password")?.to_owned();
    Some(Arc::new(PasswordFile { username: s.redis_username.clone(), path }))
}

/// The link of locks, journal and channels where it is another server; `None`: the cache's is used.
pub(crate) fn coordination(s: &Settings) -> Result<Option<redis_link::Config>, Error> {
    let Some(url) = &s.redis_coordination_url else { return Ok(None) };
    let parts: BTreeMap<_, _> = crate::settings::url_parts_of("redis_url", url.expose_secret())
        .map_err(|why| broken("Redis", why))?
        .into_iter()
        .collect();
    let part = |key: &str| parts.get(key).filter(|text| !text.is_empty()).cloned();
    let port = part("redis_port").and_then(|p| p.parse().ok()).unwrap_or(6379);
    let host = part("redis_host").unwrap_or_default();
    Ok(Some(redis_link::Config {
        name: COORDINATION_LINK.to_owned(),
        topology: Topology::standalone(Endpoint::new(host, port)),
        username: part("redis_username"),
        password: part("redis_password").map(SecretString::from),
        database: part("redis_database").and_then(|n| n.parse().ok()).unwrap_or(0),
        tls: (part("redis_use_ssl").as_deref() == Some("true")).then(|| tls(s)),
        ..redis_common(s)
    }))
}

fn redis_common(s: &Settings) -> redis_link::Config {
    redis_link::Config {
        namespace: s.redis_namespace.clone().unwrap_or_else(|| "dbsvc".to_owned()),
        // The link tries for ever; short attempts make it notice sooner that a server is back.
        connect_timeout: s.redis_connection_timeout.min(ATTEMPT),
        command_timeout: s.redis_socket_timeout,
        pool_size: usize::try_from(s.redis_pool_min_size).unwrap_or(usize::MAX),
        ..redis_link::Config::default()
    }
}

fn tls(s: &Settings) -> TlsConfig {
    TlsConfig {
        ca_file: s.redis_ssl_ca_path.clone(),
        cert_file: s.redis_ssl_cert_path.clone(),
        key_file: s.redis_ssl_key_path.clone(),
        verify: match s.redis_ssl_verify_mode.as_str() {
            "none" => Verify::None,
            "ca" => Verify::Ca,
            _ => Verify::Full,
        },
    }
}

pub(crate) fn cache(mode: ManagerMode, s: &Settings) -> cache_manager::Config {
    cache_manager::Config {
        l1_entries: l1_entries(mode, s),
        ttl: s.cache_ttl,
        l2_ttl: s.cache_l2_ttl,
        l3_enabled: s.cache_l3_enabled,
        stale_for: s.cache_stale_for,
        disconnected_max_age: s.cache_disconnected_max_age,
        max_value: usize::try_from(s.cache_max_value_size).unwrap_or(usize::MAX),
        ..cache_manager::Config::default()
    }
}

pub(crate) fn l1_entries(mode: ManagerMode, s: &Settings) -> usize {
    usize::try_from(s.cache_l1_size.unwrap_or(mode.l1_entries())).unwrap_or(usize::MAX)
}

pub(crate) fn health(s: &Settings) -> health_manager::Config {
    health_manager::Config {
        period: s.health_interval,
        timeout: s.probe_timeout(),
        groups: BTreeMap::from([(Group::Readiness, s.health_readiness.clone())]),
        ..health_manager::Config::default()
    }
}

pub(crate) fn locks(s: &Settings) -> distributed_lock_manager::Config {
    distributed_lock_manager::Config {
        default_lease: s.lock_default_lease,
        ..distributed_lock_manager::Config::default()
    }
}

pub(crate) fn rates(s: &Settings) -> Rates {
    let rate = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
    Rates {
        basic: rate(s.tier_basic_rate),
        professional: rate(s.tier_professional_rate),
        enterprise: rate(s.tier_enterprise_rate),
    }
}

fn broken(component: &'static str, what: impl std::fmt::Display) -> Error {
    Error::Component { component, message: format!("{what} cannot be used") }
}
