//! Databases, listeners, managers and journals over PostgreSQL for the tests. No assertions about what is tested.

use crate::support::{PATIENCE, quick};
use local_stack::{Database, PostgresOptions, SharedStack, Stack};
use postgres_pool_manager::{Config, MigrateOptions, PostgresPoolManager};
use pubsub_manager::{
    Deps, Journal, JournalConfig, PostgresBus, PostgresBusConfig, PostgresJournal, PostgresJournalConfig,
    PostgresListener, PubSubManager, migrations,
};
use std::{sync::Arc, time::Duration};

/// For tests that do no harm to the server.
static HARMLESS: SharedStack = SharedStack::new(|| Stack::builder().postgres(PostgresOptions::default()));

pub(crate) async fn shared_stack() -> Stack {
    HARMLESS.get().await.expect("Postgres starts")
}

/// For tests that do.
pub(crate) async fn own_stack() -> Stack {
    Stack::builder().postgres(PostgresOptions::default()).start().await.expect("Postgres starts")
}

/// A database of its own with this crate's tables.
pub(crate) async fn database() -> Database {
    database_of(&shared_stack().await).await
}

pub(crate) async fn database_of(stack: &Stack) -> Database {
    let database = stack.database().await.expect("a database");
    let pool = pool(&database.url()).await;
    pool.migrate(&[migrations()], MigrateOptions::default()).await.expect("migrated");
    pool.shutdown(PATIENCE).await;
    database
}

pub(crate) async fn pool(url: &str) -> PostgresPoolManager {
    pool_of(url, 4).await
}

pub(crate) async fn pool_of(url: &str, size: u32) -> PostgresPoolManager {
    let config =
        Config { size, max_overflow: 0, connect_timeout: Duration::from_secs(10), ..Config::new(url) };
    config.connect().await.expect("connected")
}

pub(crate) async fn listener(url: &str) -> PostgresListener {
    PostgresListener::new(pool(url).await).expect("a runtime")
}

pub(crate) async fn bus(url: &str) -> PostgresBus {
    PostgresBus::new(listener(url).await, &PostgresBusConfig::default())
}

pub(crate) async fn manager(url: &str) -> PubSubManager {
    quick().build(Deps::over(bus(url).await)).expect("good settings")
}

pub(crate) async fn journal(url: &str) -> Journal {
    journal_of(url, 100_000).await
}

pub(crate) async fn journal_of(url: &str, max_len: u32) -> Journal {
    let config = PostgresJournalConfig { max_len, ..PostgresJournalConfig::default() };
    let backend = PostgresJournal::new(listener(url).await, &config).expect("a good name");
    let config = JournalConfig { append_timeout: Duration::from_secs(10), ..JournalConfig::default() };
    Journal::new(Arc::new(backend), config).expect("a runtime")
}
