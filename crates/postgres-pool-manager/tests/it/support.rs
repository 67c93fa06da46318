//! A server for all tests that do it no harm, and the few questions that most tests ask.

use local_stack::{Database, FaultProxy, PostgresOptions, SharedStack, Stack};
use postgres_pool_manager::{Config, PostgresPoolManager, Session, sqlx};
use std::time::Duration;

static STACK: SharedStack = SharedStack::new(|| {
    Stack::builder().postgres(PostgresOptions { max_connections: 200, ..PostgresOptions::default() })
});

pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// An empty database on the shared server.
pub(crate) async fn database() -> Database {
    STACK.get().await.unwrap().database().await.unwrap()
}

/// `size` connections and no more.
pub(crate) fn config(url: String, size: u32) -> Config {
    Config { size, max_overflow: 0, acquire_timeout: SOON, ..Config::new(url) }
}

pub(crate) async fn pool(size: u32) -> (PostgresPoolManager, Database) {
    let db = database().await;
    (config(db.url(), size).connect().await.unwrap(), db)
}

/// The pool behind a proxy.
pub(crate) async fn proxied(config: impl FnOnce(&mut Config)) -> (PostgresPoolManager, FaultProxy, Database) {
    let db = database().await;
    let proxy = FaultProxy::start(db.primary().target()).await.unwrap();
    let mut settings = self::config(db.url_via(proxy.addr()), 1);
    config(&mut settings);
    (settings.connect().await.unwrap(), proxy, db)
}

pub(crate) async fn backend(session: &mut Session) -> i32 {
    sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(session).await.unwrap()
}

pub(crate) async fn wait_idle(pool: &PostgresPoolManager, what: &str) {
    local_stack::wait_for(what, SOON, async || {
        let stats = pool.pool_stats();
        stats.active_connections == 0 && stats.connecting == 0
    })
    .await;
}

/// The first column of the first row.
pub(crate) async fn scalar(db: &Database, sql: &str) -> String {
    db.sql(sql).await.unwrap()[0][0].clone().unwrap_or_default()
}
