//! How services reach the servers of a stack: straight, or each through a fault proxy of its own; and how that is said in
//! settings. Nothing is decided here about which servers those are.

use std::net::SocketAddr;

use database_services::settings::LoadOptions;
use local_stack::{Database, FaultProxy, Postgres, Redis, Server, Stack, via};

use crate::Error;

/// A setting's name and its text.
pub(crate) type Pair = (&'static str, String);

/// The proxies between one set of services and the servers.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) postgres: FaultProxy,
    pub(crate) postgres_replicas: Vec<FaultProxy>,
    pub(crate) redis: Option<FaultProxy>,
    pub(crate) redis_replicas: Vec<FaultProxy>,
}

impl Network {
    /// Proxies before every server. Sentinels and clusters tell their clients where the servers are, past any proxy.
    pub(crate) fn start(postgres: &Postgres, redis: Option<&Redis>) -> Result<Self, Error> {
        let before = |server: &Server| FaultProxy::start_blocking(server.target());
        let all = |servers: &[Server]| servers.iter().map(before).collect::<Result<Vec<_>, _>>();
        if redis.is_some_and(tells_addresses) {
            return Err(Error::Options {
                option: "with_faults",
                reason: "clients of Sentinels and clusters are told addresses past any proxy; \
                         do without it and use the faults of the servers",
            });
        }
        Ok(Self {
            postgres: before(postgres.primary())?,
            postgres_replicas: all(postgres.replicas())?,
            redis: redis.map(|redis| before(redis.master())).transpose()?,
            redis_replicas: redis.map_or(Ok(Vec::new()), |redis| all(redis.replicas()))?,
        })
    }
}

fn tells_addresses(redis: &Redis) -> bool {
    !redis.sentinels().is_empty() || redis.masters().len() > 1
}

/// Where Postgres is.
pub(crate) fn postgres(database: &Database, network: Option<&Network>) -> Vec<Pair> {
    let stack = database.stack();
    let url = network.map_or_else(|| database.url(), |network| database.url_via(network.postgres.addr()));
    let mut pairs = vec![("DATABASE_URL", url)];
    let replicas = match network {
        Some(network) => addresses(&network.postgres_replicas),
        None => targets(stack.postgres().replicas()),
    };
    if !replicas.is_empty() {
        pairs.push(("DATABASE_REPLICAS", replicas));
    }
    pairs
}

/// Where Redis is, and what belongs to this test in it.
pub(crate) fn redis(stack: &Stack, namespace: &str, network: Option<&Network>) -> Vec<Pair> {
    let redis = stack.redis();
    let url = stack.redis_url();
    let mut pairs = vec![("REDIS_NAMESPACE", namespace.to_owned())];
    if url.starts_with("rediss:")
        && let Ok(authority) = stack.try_authority()
    {
        let client = authority.client();
        let files = [
            ("REDIS_SSL_CA_PATH", authority.ca_file()),
            ("REDIS_SSL_CERT_PATH", client.cert_file),
            ("REDIS_SSL_KEY_PATH", client.key_file),
        ];
        pairs.extend(files.map(|(name, file)| (name, file.display().to_string())));
    }
    if !tells_addresses(redis) {
        let proxies = network.and_then(|network| Some((network.redis.as_ref()?, &network.redis_replicas)));
        let (url, replicas) = match proxies {
            Some((master, replicas)) => (via(&url, master.addr()), addresses(replicas)),
            None => (url, targets(redis.replicas())),
        };
        pairs.push(("REDIS_URL", url));
        if !replicas.is_empty() {
            pairs.push(("REDIS_REPLICA_HOST", replicas));
        }
        return pairs;
    }
    let sentinels = redis.sentinels();
    match sentinels.first() {
        Some(first) => {
            pairs.push(("REDIS_SENTINELS", targets(sentinels)));
            pairs.push(("REDIS_SENTINEL_MASTER", Redis::MASTER_NAME.to_owned()));
            pairs.extend(first.password().map(|password| ("REDIS_SENTINEL_PASSWORD", password.to_owned())));
        }
        None => pairs.push(("REDIS_CLUSTER_NODES", targets(redis.masters()))),
    }
    let master = redis.master();
    pairs.extend(master.user().map(|user| ("REDIS_USERNAME", user.to_owned())));
    pairs.extend(master.password().map(|password| ("REDIS_PASSWORD", password.to_owned())));
    if url.starts_with("rediss:") {
        pairs.push(("REDIS_USE_SSL", "true".to_owned()));
    }
    pairs
}

fn targets(servers: &[Server]) -> String {
    servers.iter().map(Server::target).collect::<Vec<_>>().join(",")
}

fn addresses(proxies: &[FaultProxy]) -> String {
    proxies
        .iter()
        .map(FaultProxy::addr)
        .map(|addr: SocketAddr| addr.to_string())
        .collect::<Vec<_>>()
        .join(",")
}

/// Ours as the environment, and the test's own above it, which need not agree with ours.
pub(crate) fn load_options(ours: &[Pair], over: &[(String, String)]) -> LoadOptions {
    LoadOptions::new().env(ours.iter().cloned()).over(over.iter().cloned())
}
