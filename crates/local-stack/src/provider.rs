//! Which provider is meant, and the `external` one: servers that run already, by their URLs. Not here: anything that
//! starts or ends one.

use crate::address::Address;
use crate::error::Error;
use crate::images::Images;
use crate::options::{ExternalUrls, PostgresOptions, Provider, RedisOptions, TlsOptions};
use crate::postgres::Postgres;
use crate::redis::Redis;
use crate::server::{Kind, Server};

const PROVIDER: &str = "LOCAL_STACK_PROVIDER";
const POSTGRES: &str = "LOCAL_STACK_POSTGRES_URL";
const POSTGRES_REPLICAS: &str = "LOCAL_STACK_POSTGRES_REPLICA_URLS";
const REDIS: &str = "LOCAL_STACK_REDIS_URL";
const REDIS_REPLICAS: &str = "LOCAL_STACK_REDIS_REPLICA_URLS";

impl ExternalUrls {
    /// Reads the `LOCAL_STACK_*_URL` variables.
    pub fn from_env() -> Self {
        let one = |name: &str| std::env::var(name).ok().filter(|url| !url.trim().is_empty());
        let many = |name: &str| {
            let list = one(name).unwrap_or_default();
            list.split(',').map(|url| url.trim().to_owned()).filter(|url| !url.is_empty()).collect()
        };
        Self {
            postgres: one(POSTGRES),
            postgres_replicas: many(POSTGRES_REPLICAS),
            redis: one(REDIS),
            redis_replicas: many(REDIS_REPLICAS),
        }
    }
}

impl Provider {
    /// The provider that [`Auto`](Self::Auto) stands for, or this one.
    pub(crate) fn resolved(&self) -> Result<Self, Error> {
        let Self::Auto = self else { return Ok(self.clone()) };
        let urls = ExternalUrls::from_env();
        let named = std::env::var_os(PROVIDER).unwrap_or_default();
        match named.to_string_lossy().trim() {
            "native" => Ok(Self::Native),
            "containers" => Ok(Self::Containers(Images::from_env())),
            "external" => Ok(Self::External(urls)),
            "" if urls.postgres.is_some() || urls.redis.is_some() => Ok(Self::External(urls)),
            "" => Ok(Self::Native),
            other => Err(Error::Setting {
                name: PROVIDER.into(),
                reason: format!("`{other}` is none of native, containers, external"),
            }),
        }
    }
}

/// The external Postgres servers.
pub(crate) fn postgres(urls: &ExternalUrls, options: &PostgresOptions) -> Result<Postgres, Error> {
    no_tls(options.tls.as_ref())?;
    if let Some((name, _)) = [("synchronous", options.synchronous), ("pgbouncer", options.pgbouncer)]
        .iter()
        .find(|(_, asked)| *asked)
    {
        let reason = "this is for the owner of an external server to arrange; it needs servers of our own";
        return Err(Error::Setting { name: (*name).into(), reason: reason.into() });
    }
    let replicas = options.replicas;
    let primary = required(urls.postgres.as_deref(), POSTGRES, "Postgres primary")?;
    enough(&urls.postgres_replicas, replicas, POSTGRES_REPLICAS)?;
    let primary = server("postgres-0", Kind::Postgres, POSTGRES, primary)?;
    let replicas = many("postgres", Kind::Postgres, POSTGRES_REPLICAS, &urls.postgres_replicas)?;
    Ok(Postgres::of(primary, replicas))
}

/// The external Redis servers.
pub(crate) fn redis(urls: &ExternalUrls, options: &RedisOptions) -> Result<Redis, Error> {
    let asked = [("sentinels", options.sentinels), ("cluster_masters", options.cluster_masters)];
    if let Some((name, _)) = asked.iter().find(|(_, number)| *number > 0) {
        let reason = "an external Redis is a master with replicas so far; Sentinels and clusters need servers of our own";
        return Err(Error::Setting { name: (*name).into(), reason: reason.into() });
    }
    no_tls(options.tls.as_ref())?;
    let replicas = options.replicas;
    let master = required(urls.redis.as_deref(), REDIS, "Redis master")?;
    enough(&urls.redis_replicas, replicas, REDIS_REPLICAS)?;
    if let Some(url) = std::iter::once(master)
        .chain(urls.redis_replicas.iter().map(String::as_str))
        .find(|url| url.starts_with("rediss:"))
    {
        let reason =
            format!("`{}…` needs TLS, which this crate does not speak; give a plain-text address", &url[..9]);
        return Err(Error::Setting { name: REDIS.into(), reason });
    }
    let master = server("redis-0", Kind::Redis, REDIS, master)?;
    let replicas = many("redis", Kind::Redis, REDIS_REPLICAS, &urls.redis_replicas)?;
    Ok(Redis::of(vec![master], replicas))
}

// Whether they speak TLS their URLs say, and certificates of ours would be nothing to them.
fn no_tls(tls: Option<&TlsOptions>) -> Result<(), Error> {
    let reason = "certificates are made for servers of our own; say `sslmode` in the URLs of external ones";
    tls.map_or(Ok(()), |_| Err(Error::Setting { name: "tls".into(), reason: reason.into() }))
}

fn server(name: &str, kind: Kind, setting: &str, url: &str) -> Result<Server, Error> {
    let address = Address::parse(setting, url)?;
    let fits = match kind {
        Kind::Postgres | Kind::PgBouncer => address.scheme.starts_with("postgres"),
        Kind::Redis | Kind::Sentinel => address.scheme.starts_with("redis"),
    };
    if !fits {
        return Err(Error::Setting {
            name: setting.into(),
            reason: format!("`{}://` is not its scheme", address.scheme),
        });
    }
    Ok(Server::external(name, kind, address))
}

fn many(name: &str, kind: Kind, setting: &str, urls: &[String]) -> Result<Vec<Server>, Error> {
    let one = |(index, url): (usize, &String)| server(&format!("{name}-{}", index + 1), kind, setting, url);
    urls.iter().enumerate().map(one).collect()
}

fn required<'a>(url: Option<&'a str>, name: &str, what: &str) -> Result<&'a str, Error> {
    url.ok_or_else(|| Error::Setting {
        name: name.into(),
        reason: format!("not set, but the external provider needs the {what}'s URL there"),
    })
}

fn enough(urls: &[String], wanted: usize, name: &str) -> Result<(), Error> {
    if urls.len() >= wanted {
        return Ok(());
    }
    let reason = format!("names {} servers, {wanted} are needed (separated by commas)", urls.len());
    Err(Error::Setting { name: name.into(), reason })
}
