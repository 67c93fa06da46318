//! Servers and settings for the tests. No assertions about the link.

use local_stack::{Redis, RedisOptions, Server, SharedStack, Stack, TlsOptions};
use redis_link::{Config, Deps, Endpoint, RedisLink, SelfKeptEpochs, TlsConfig, Topology};
use resilience::Deadline;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// For tests that do no harm to the servers: one stack for each layout.
static STANDALONE: SharedStack = SharedStack::new(|| Stack::builder().redis(RedisOptions::default()));
static SENTINEL: SharedStack = SharedStack::new(|| Stack::builder().redis(RedisOptions::with_sentinels(1)));
static SECURE: SharedStack = SharedStack::new(|| Stack::builder().redis(secure()));
/// A cluster in which nobody is taken for dead: on a busy machine a node may well be silent for a second, and then the
/// cluster refuses everybody, or fails over.
pub(crate) fn calm_cluster() -> RedisOptions {
    RedisOptions { cluster_node_timeout: Duration::from_secs(60), ..RedisOptions::cluster() }
}

static CLUSTER: SharedStack = SharedStack::new(|| Stack::builder().redis(calm_cluster()));

pub(crate) async fn shared() -> Stack {
    STANDALONE.get().await.expect("Redis starts")
}

/// One layout of servers, shared by all tests.
#[derive(Debug)]
pub(crate) enum Ground {
    Standalone(Stack),
    Sentinel(Stack),
    Cluster(Stack),
    /// TLS with certificates on both sides, and the shipped rights.
    Secure(Stack),
}

/// Every layout, for tests that hold on all of them, or the one that `GROUND` names by a part of its words. Says on which
/// it is.
pub(crate) async fn everywhere() -> impl Iterator<Item = Ground> {
    let wanted = std::env::var("GROUND").unwrap_or_default();
    let mut grounds = Vec::new();
    if ONE_MASTER.contains(&wanted) {
        grounds.push(Ground::Standalone(shared().await));
    }
    if UNDER_SENTINELS.contains(&wanted) {
        grounds.push(Ground::Sentinel(SENTINEL.get().await.expect("Redis and Sentinels start")));
    }
    if A_CLUSTER.contains(&wanted) {
        grounds.push(Ground::Cluster(CLUSTER.get().await.expect("the cluster starts")));
    }
    if SECURED.contains(&wanted) {
        grounds.push(Ground::Secure(SECURE.get().await.expect("Redis with TLS starts")));
    }
    assert!(!grounds.is_empty(), "GROUND is {wanted:?}, which is a part of no layout's words");
    grounds.into_iter().inspect(|ground| eprintln!("on {ground}"))
}

const ONE_MASTER: &str = "one master";
const UNDER_SENTINELS: &str = "a master under Sentinels";
const A_CLUSTER: &str = "a cluster";
const SECURED: &str = "TLS and the shipped rights";

impl Ground {
    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// The user has the shipped rights and no others.
    pub(crate) fn has_few_rights(&self) -> bool {
        matches!(self, Self::Secure(_))
    }

    /// Settings with a namespace of their own.
    pub(crate) fn config(&self) -> Config {
        match self {
            Self::Standalone(stack) => config(stack.redis().master()),
            Self::Sentinel(stack) => config_sentinel(stack),
            Self::Cluster(stack) => config_cluster(stack),
            Self::Secure(stack) => config_secure(stack),
        }
    }
}

impl std::fmt::Display for Ground {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Standalone(_) => ONE_MASTER,
            Self::Sentinel(_) => UNDER_SENTINELS,
            Self::Cluster(_) => A_CLUSTER,
            Self::Secure(_) => SECURED,
        })
    }
}

pub(crate) fn endpoint(server: &Server) -> Endpoint {
    Endpoint::new(server.host(), server.port())
}

/// Settings for a master under Sentinels.
pub(crate) fn config_sentinel(stack: &Stack) -> Config {
    let sentinels = stack.redis().sentinels().iter().map(endpoint).collect();
    Config { topology: Topology::sentinel(Redis::MASTER_NAME, sentinels), ..config_for(1) }
}

/// Settings for a cluster, by two of its nodes.
pub(crate) fn config_cluster(stack: &Stack) -> Config {
    let seeds = stack.redis().servers().skip(1).take(2).map(endpoint).collect();
    Config { topology: Topology::cluster(seeds), ..config_for(1) }
}

/// The user of the shipped ACL file.
pub(crate) const USER: &str = "database-services";
pub(crate) const PASSWORD: &str = "first";

/// A server with TLS, certificates on both sides, and the shipped ACL file for the namespaces of these tests. (Some of
/// the tests look at what they wrote by commands that we do not send.)
pub(crate) fn secure() -> RedisOptions {
    let shipped = include_str!("../../../../deploy/redis/users.acl");
    let acl = shipped.replace("database-services:*", "t*").replace("CHANGE_ME", PASSWORD);
    let acl = acl.replace("+punsubscribe", "+punsubscribe +rpush +lrange +incr +blpop +pttl +smembers");
    RedisOptions { acl: Some(acl), tls: Some(TlsOptions::mutual()), ..RedisOptions::default() }
}

/// How a client shows itself and what it trusts.
pub(crate) fn tls(stack: &Stack) -> TlsConfig {
    let authority = stack.authority();
    let client = authority.client();
    TlsConfig {
        ca_file: Some(authority.ca_file()),
        cert_file: Some(client.cert_file),
        key_file: Some(client.key_file),
        ..TlsConfig::default()
    }
}

/// Settings for [`secure`].
pub(crate) fn config_secure(stack: &Stack) -> Config {
    Config {
        tls: Some(tls(stack)),
        username: Some(USER.into()),
        password: Some(PASSWORD.into()),
        ..config(stack.redis().master())
    }
}

/// For tests that do.
pub(crate) async fn own(options: RedisOptions) -> Stack {
    Stack::builder().redis(options).start().await.expect("Redis starts")
}

pub(crate) fn soon() -> Deadline {
    Deadline::after(PATIENCE)
}

pub(crate) fn within(millis: u64) -> Deadline {
    Deadline::after(Duration::from_millis(millis))
}

/// Settings for an address, with a namespace of its own and a quick probe.
pub(crate) fn config_for(port: u16) -> Config {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    Config {
        topology: Topology::standalone(Endpoint::new("127.0.0.1", port)),
        namespace: format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed)),
        probe_interval: Duration::from_millis(100),
        probe_timeout: Duration::from_secs(1),
        ..Config::default()
    }
}

pub(crate) fn config(server: &Server) -> Config {
    config_for(server.port())
}

pub(crate) fn deps() -> Deps {
    Deps::new(Arc::new(SelfKeptEpochs::new()))
}

pub(crate) async fn connected(config: Config) -> RedisLink {
    let link = config.connect(deps()).await.expect("nothing is permanently wrong");
    link.ready(soon()).await.expect("connected");
    link
}
