//! A database and a Redis namespace of a test's own, and services on them.

use std::collections::BTreeMap;
use std::time::Duration;

use database_services::access_control::{SecurityContext, Tier};
use database_services::{DatabaseServices, ManagerMode, Settings, create_database_services};
use local_stack::{Database, RedisOptions, Stack};

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
