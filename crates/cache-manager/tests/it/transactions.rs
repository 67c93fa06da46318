//! `tx.invalidate`: after COMMIT, never on rollback, in every level and process.

use std::time::Duration;

use cache_manager::{Cache, LoadCtx, Loaded, TxInvalidate};
use postgres_pool_manager::sqlx::{self, AssertSqlSafe};
use postgres_pool_manager::{PostgresPoolManager, TransactionOptions};

use crate::world::{World, brisk, eventually};

async fn table(pool: &PostgresPoolManager) {
    for sql in
        ["CREATE TABLE item (id bigint PRIMARY KEY, n bigint NOT NULL)", "INSERT INTO item VALUES (1, 0)"]
    {
        sqlx::query(AssertSqlSafe(sql)).execute(&pool.primary()).await.unwrap();
    }
}

/// Reads through the cache, on a miss the row, as the context asks for it.
async fn read(cache: &Cache<u64>, pool: &PostgresPoolManager) -> u64 {
    let pool = pool.clone();
    let loader = |ctx: LoadCtx<u64>| async move {
        let mut session = pool.read_after(&ctx.read_token).await?;
        let n: i64 = sqlx::query_scalar("SELECT n FROM item WHERE id = 1").fetch_one(&mut session).await?;
        Ok::<_, cache_manager::BoxError>(Loaded::value(n.unsigned_abs()))
    };
    *cache.get_or_load("1", loader).await.unwrap().value.unwrap()
}

async fn update(pool: &PostgresPoolManager, cache: &Cache<u64>, n: u64, commit: bool) {
    let mut tx = pool.begin(TransactionOptions::default()).await.unwrap();
    sqlx::query("UPDATE item SET n = $1 WHERE id = 1").bind(n.cast_signed()).execute(&mut tx).await.unwrap();
    tx.invalidate(cache, "1").unwrap();
    if commit {
        tx.commit().await.unwrap();
    } else {
        tx.rollback().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commit_invalidates_everywhere_and_rollback_nothing() {
    let world = World::shared().await;
    let (one, two) = (world.node(brisk()).await, world.node(brisk()).await);
    table(&one.pool).await;
    let (here, there) = (one.region(), two.region());
    for n in 1..50 {
        assert_eq!(read(&there, &two.pool).await, n - 1);
        update(&one.pool, &here, n, true).await;
        assert_eq!(read(&here, &one.pool).await, n, "at once in the same process");
        eventually("the other process follows", async || read(&there, &two.pool).await == n).await;
        let before = one.cache.stats().loaded;
        update(&one.pool, &here, 1000, false).await;
        assert_eq!(read(&here, &one.pool).await, n);
        assert_eq!(one.cache.stats().loaded, before, "a rollback invalidates nothing");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loads_leave_a_replica_that_stands_still_alone() {
    let world = World::with_replica().await;
    let (one, two) = (world.node(brisk()).await, world.node(brisk()).await);
    table(&one.pool).await;
    let replica = &world.stack.postgres().replicas()[0];
    replica.sql("postgres", "SELECT pg_wal_replay_pause()").await.unwrap();
    let (here, there) = (one.region(), two.region());
    for n in 1..300 {
        update(&one.pool, &here, n, true).await;
        assert_eq!(read(&here, &one.pool).await, n);
        eventually("the other process follows", async || read(&there, &two.pool).await == n).await;
    }
    replica.sql("postgres", "SELECT pg_wal_replay_resume()").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_tables_of_l3_commits_and_reads_go_on_and_with_them_it_comes_back() {
    let world = World::shared().await;
    let node = world.node(brisk()).await;
    table(&node.pool).await;
    let cache = node.region();
    let renamed = |from: &str, to: &str| {
        let schema = node.pool.schema();
        let tables = ["cache_incarnation", "cache_entries", "cache_tombstones"];
        tables.map(|t| {
            format!(
                "ALTER TABLE {} RENAME TO {}",
                schema.table(&format!("{from}{t}")),
                format_args!("{to}{t}")
            )
        })
    };
    for sql in renamed("", "no_") {
        sqlx::query(AssertSqlSafe(sql)).execute(&node.pool.primary()).await.unwrap();
    }
    for n in 1..5 {
        update(&node.pool, &cache, n, true).await;
        assert_eq!(read(&cache, &node.pool).await, n);
        cache.invalidate("1").await.unwrap();
    }
    assert!(!node.cache.status().healthy && node.cache.status().pending_invalidations == 0);
    for sql in renamed("no_", "") {
        sqlx::query(AssertSqlSafe(sql)).execute(&node.pool.primary()).await.unwrap();
    }
    eventually("L3 is back", async || node.cache.status().healthy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_of_another_database_tells_l3_after_its_commit() {
    let (world, elsewhere) = (World::shared().await, World::shared().await);
    let node = world.node(brisk()).await;
    let other = elsewhere.pool().await;
    table(&other).await;
    let cache = node.region();
    let burials = async |pool: &PostgresPoolManager| {
        let sql = format!("SELECT count(*) FROM {}", pool.schema().table("cache_tombstones"));
        sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql)).fetch_one(&pool.primary()).await.unwrap()
    };
    // The tables of L3 are known to be there from here on.
    cache.invalidate("2").await.unwrap();
    let before = burials(&node.pool).await;
    update(&other, &cache, 1, true).await;
    assert_eq!((burials(&node.pool).await - before, burials(&other).await), (1, 0));
    // And on its own pool inside the transaction.
    table(&node.pool).await;
    update(&node.pool, &cache, 1, true).await;
    assert_eq!(burials(&node.pool).await - before, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_transactions_that_invalidate_the_same_keys_never_wait_for_each_other() {
    let world = World::shared().await;
    let node = world.node(brisk()).await;
    let cache = node.region();
    let mut one = node.pool.begin(TransactionOptions::default()).await.unwrap();
    let mut two = node.pool.begin(TransactionOptions::default()).await.unwrap();
    one.invalidate_many(&cache, &["a", "b"]).unwrap();
    two.invalidate_many(&cache, &["b", "a"]).unwrap();
    let both = async { tokio::join!(one.commit(), two.commit()) };
    let (one, two) = tokio::time::timeout(Duration::from_secs(5), both).await.unwrap();
    assert!(one.is_ok() && two.is_ok());
}
