//! A database and a Redis namespace of a test's own, and services on them.

use std::collections::BTreeMap;
use std::time::Duration;

use database_services::access_control::{SecurityContext, Tier};
use database_services::{DatabaseServices, ManagerMode, Settings, create_database_services};
use local_stack::{Database, Redis, RedisOptions, Server, SharedStack, Stack, TlsOptions};

const ACL: &str = include_str!("../../deploy/redis/users.acl");
const PASSWORD: &str = "a-password-for-these-tests";

static SENTINEL: SharedStack = SharedStack::new(|| Stack::builder().redis(RedisOptions::with_sentinels(1)));
static CLUSTER: SharedStack = SharedStack::new(|| Stack::builder().redis(RedisOptions::cluster()));
static SECURE: SharedStack = SharedStack::new(|| {
    // The namespaces of these tests are many; the shipped one has a test of its own.
    let acl = ACL.replace("CHANGE_ME", PASSWORD).replace("database-services:*", "*");
    let tls = Some(TlsOptions::mutual());
    Stack::builder().redis(RedisOptions { acl: Some(acl), tls, ..RedisOptions::default() })
});

pub(crate) struct Fixture {
    pub(crate) database: Database,
    /// A Redis of the test's own, if it does harm to it.
    pub(crate) redis: Option<Stack>,
    pub(crate) settings: BTreeMap<String, String>,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let stack = Stack::shared().await.unwrap();
        Self::on(stack.redis_url(), None).await
    }

    pub(crate) async fn with_own_redis(options: RedisOptions) -> Self {
        let own = Stack::builder().redis(options).start().await.unwrap();
        Self::on(own.redis_url(), Some(own)).await
    }

    /// On every layout of Redis, for what holds on all of them. Says on which it is.
    pub(crate) async fn everywhere() -> impl Iterator<Item = Self> {
        let shared = [
            ("a master under Sentinels", Self::under_sentinels(SENTINEL.get().await.unwrap()).await),
            ("a cluster", Self::on_a_cluster(CLUSTER.get().await.unwrap()).await),
            ("TLS and the shipped rights", Self::secured(&SECURE.get().await.unwrap()).await),
        ];
        std::iter::once(("one master", Self::new().await)).chain(shared).map(|(what, fixture)| {
            eprintln!("on {what}");
            fixture
        })
    }

    /// A master under the Sentinels of this stack.
    pub(crate) async fn under_sentinels(redis: Stack) -> Self {
        let sentinels = targets(redis.redis().sentinels());
        let fixture = Self::new().await.without("REDIS_URL");
        let fixture = fixture.set("REDIS_SENTINELS", &sentinels);
        Self { redis: Some(redis), ..fixture.set("REDIS_SENTINEL_MASTER", Redis::MASTER_NAME) }
    }

    /// The cluster of this stack.
    pub(crate) async fn on_a_cluster(redis: Stack) -> Self {
        let nodes = targets(redis.redis().masters());
        let fixture = Self::new().await.without("REDIS_URL").set("REDIS_CLUSTER_NODES", &nodes);
        Self { redis: Some(redis), ..fixture }
    }

    async fn secured(redis: &Stack) -> Self {
        let (authority, master) = (redis.authority(), redis.redis().master());
        let url = format!("rediss://database-services:{PASSWORD}@{}", master.target());
        let path = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
        let fixture = Self::new().await.set("REDIS_URL", &url);
        fixture
            .set("REDIS_SSL_CA_PATH", &path(authority.ca_file()))
            .set("REDIS_SSL_CERT_PATH", &path(authority.client().cert_file))
            .set("REDIS_SSL_KEY_PATH", &path(authority.client().key_file))
    }

    async fn on(redis_url: String, redis: Option<Stack>) -> Self {
        let database = Stack::shared().await.unwrap().database().await.unwrap();
        Self::with(database, redis_url, redis)
    }

    /// On Postgres and Redis of the test's own.
    pub(crate) async fn of(stack: Stack) -> Self {
        let database = stack.database().await.unwrap();
        Self::with(database, stack.redis_url(), Some(stack))
    }

    fn with(database: Database, redis_url: String, redis: Option<Stack>) -> Self {
        let settings = [
            ("DATABASE_URL", database.url()),
            ("REDIS_URL", redis_url),
            ("REDIS_NAMESPACE", database.name().replace('-', "_")),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value)).into();
        Self { database, redis, settings }
    }

    pub(crate) fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.settings.remove(name);
        self
    }

    /// Services that are not started.
    pub(crate) fn create(&self, agent: &str) -> DatabaseServices {
        let settings = Settings::from_pairs(self.settings.clone()).unwrap();
        let context = SecurityContext::new(agent, Tier::Professional).unwrap();
        create_database_services(ManagerMode::HighAvailability, settings, context).unwrap()
    }

    /// Started services: with its own L1 and its own journal reader, one stands for one process.
    pub(crate) async fn services(&self, agent: &str) -> DatabaseServices {
        let services = self.create(agent);
        services.initialize().await.unwrap();
        services
    }

    pub(crate) async fn sql(&self, sql: &str) {
        self.database.sql(sql).await.unwrap();
    }
}

pub(crate) const SOON: Duration = Duration::from_secs(10);

fn targets(servers: &[Server]) -> String {
    servers.iter().map(Server::target).collect::<Vec<_>>().join(",")
}
