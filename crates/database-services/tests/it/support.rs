//! A database and a namespace of its own for each test.

use std::time::Duration;

use database_services::access_control::{SecurityContext, Tier};
use database_services::settings::Settings;
use database_services::{DatabaseServices, ManagerMode, create_database_services};
use local_stack::{Database, Stack};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What a test stands on.
pub(crate) struct Ground {
    pub(crate) database: Database,
    pub(crate) pairs: Vec<(String, String)>,
}

impl Ground {
    pub(crate) async fn new() -> Self {
        Self::on(&Stack::shared().await.unwrap()).await
    }

    pub(crate) async fn on(stack: &Stack) -> Self {
        let database = stack.database().await.unwrap();
        let mut ground = Self { pairs: Vec::new(), database };
        ground.set("DATABASE_URL", ground.database.url());
        ground.set("DATABASE_POOL_SIZE", "4");
        ground.set("DATABASE_MAX_OVERFLOW", "2");
        ground.set("REDIS_URL", stack.redis_url());
        ground.set("REDIS_NAMESPACE", stack.redis_namespace());
        ground.set("REDIS_POOL_MIN_SIZE", "1");
        ground.set("HEALTH_INTERVAL", "500ms");
        ground
    }

    /// Without Redis.
    pub(crate) async fn without_redis() -> Self {
        let mut ground = Self::new().await;
        ground.pairs.retain(|(name, _)| !name.starts_with("REDIS_"));
        ground
    }

    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.pairs.retain(|(known, _)| known != name);
        self.pairs.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings::from_pairs(self.pairs.clone()).unwrap()
    }

    pub(crate) fn services(&self) -> DatabaseServices {
        let context = SecurityContext::new("tests", Tier::Enterprise).unwrap();
        create_database_services(ManagerMode::HighAvailability, self.settings(), context).unwrap()
    }

    pub(crate) async fn running(&self) -> DatabaseServices {
        let services = self.services();
        services.initialize().await.unwrap();
        services
    }

    /// Connections of services to this test's database, as the server counts them.
    pub(crate) async fn connections(&self) -> usize {
        let sql = "select pid from pg_stat_activity where datname = current_database() \
                   and application_name like 'database-services%'";
        self.database.sql(sql).await.unwrap().len()
    }

    pub(crate) async fn no_connections_left(&self) {
        let gone = async || self.connections().await == 0;
        local_stack::wait_for("no connection is left", PATIENCE, gone).await;
    }
}

/// An address on which nothing listens.
pub(crate) fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}
