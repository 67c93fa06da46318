//! Stale tokens do not commit.

use crate::support::{PATIENCE, manager, memory, namespace, own};
use distributed_lock_manager::{FencedError, LockError, LockGuard, LockOptions, migrations};
use local_stack::{Database, PostgresOptions, SharedStack, Stack};
use postgres_pool_manager::{Config, MigrateOptions, PostgresPoolManager, TransactionOptions, sqlx};
use std::time::{Duration, Instant};

static POSTGRES: SharedStack = SharedStack::new(|| Stack::builder().postgres(PostgresOptions::default()));

async fn database() -> (Database, PostgresPoolManager) {
    let stack = POSTGRES.get().await.expect("Postgres starts");
    let database = stack.database().await.expect("a database");
    let pool = Config::new(database.url()).connect().await.expect("connected");
    pool.migrate(&[migrations()], MigrateOptions::default()).await.expect("migrated");
    database.sql("CREATE TABLE written (token numeric, value text)").await.expect("created");
    (database, pool)
}

async fn write(
    guard: &LockGuard,
    pool: &PostgresPoolManager,
    value: &str,
) -> Result<(), FencedError<sqlx::Error>> {
    let (token, value) = (guard.token().to_string(), value.to_owned());
    guard
        .transaction(pool, TransactionOptions::default(), |tx| {
            Box::pin(async move {
                let insert =
                    sqlx::query("INSERT INTO written VALUES ($1::numeric, $2)").bind(token).bind(value);
                insert.execute(tx).await.map(drop)
            })
        })
        .await
}

async fn written(database: &Database) -> Vec<String> {
    let rows = database.sql("SELECT value FROM written ORDER BY token, value").await.expect("read");
    rows.iter().map(|row| format!("{row:?}")).collect()
}

#[tokio::test]
async fn a_stale_token_is_refused() {
    let (stack, namespace) = (own().await, namespace());
    let (database, pool) = database().await;
    let master = stack.redis().master();
    let (one, two) = (manager(master.port(), &namespace).await, manager(master.port(), &namespace).await);
    let options = LockOptions::default().wait(PATIENCE).renew(false);
    let old = one.acquire("job", options).await.expect("acquired");
    write(&old, &pool, "by the first").await.expect("committed");
    write(&old, &pool, "by the first again").await.expect("the same token");
    // Redis loses everything; the old holder cannot know yet.
    master.redis_command(&["FLUSHALL"]).await.expect("flushed");
    let new = two.acquire("job", options).await.expect("acquired");
    write(&old, &pool, "by the first, before the second has written").await.expect("nobody was overtaken");
    write(&new, &pool, "by the second").await.expect("committed");
    assert!(!old.is_lost(), "it does not know, and is refused all the same");
    let refused = write(&old, &pool, "stale").await.expect_err("stale");
    let token = old.token();
    assert!(
        matches!(&refused, FencedError::Lock(LockError::Stale { name, token: refused }) if name == "job" && *refused == token),
        "{refused:?}"
    );
    let other = one.acquire("other", options).await.expect("acquired");
    write(&other, &pool, "another lock").await.expect("locks are fenced one by one");
    assert_eq!(written(&database).await.len(), 5);
    pool.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn a_stopped_holder_blocks_others_for_a_lease_at_most() {
    let (_database, pool) = database().await;
    let (one, _) = memory();
    let lease = Duration::from_secs(1);
    let stopped =
        one.acquire("job", LockOptions::default().lease(lease).renew(false)).await.expect("acquired");
    let started = Instant::now();
    let hanging = tokio::spawn({
        let pool = pool.clone();
        async move {
            let options = TransactionOptions::default();
            // Ended by the server, not by this side: the holder stands still.
            let hang =
                stopped.transaction(&pool, options, |_| Box::pin(std::future::pending::<Result<(), ()>>()));
            tokio::time::timeout(PATIENCE, hang).await.is_err()
        }
    });
    // Not patient: it waits for the lease, then for the fence's row.
    let next = one.acquire("job", LockOptions::default().wait(PATIENCE)).await.expect("acquired");
    write(&next, &pool, "by the next").await.expect("committed");
    assert!(started.elapsed() < lease * 3, "{:?}", started.elapsed());
    hanging.abort();
    pool.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn a_lost_lock_does_not_even_begin_and_an_error_rolls_back() {
    let (database, pool) = database().await;
    let (one, _) = memory();
    let options = LockOptions::default().lease(Duration::from_millis(150)).renew(false);
    let guard = one.acquire("job", options).await.expect("acquired");
    guard.lost().await;
    let refused = write(&guard, &pool, "x").await.expect_err("lost");
    assert!(matches!(refused, FencedError::Lock(LockError::Lost { .. })), "{refused:?}");
    let guard = one.acquire("other", LockOptions::default()).await.expect("acquired");
    let failed: Result<(), _> = guard
        .transaction(&pool, TransactionOptions::default(), |tx| {
            Box::pin(async move {
                sqlx::query("INSERT INTO written VALUES (1, 'x')").execute(tx).await.expect("executed");
                Err("changed my mind")
            })
        })
        .await;
    assert!(matches!(failed, Err(FencedError::Closure("changed my mind"))));
    assert!(written(&database).await.is_empty());
    pool.shutdown(PATIENCE).await;
}
