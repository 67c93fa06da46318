//! Statements that nobody waits for any more, ended at the server: theirs, at once, and nobody else's.

use crate::support::*;
use local_stack::{Database, wait_for};
use postgres_pool_manager::{Cancel, Config, Error, PostgresPoolManager, sqlx};
use resilience::Deadline;
use sqlx::{Executor, Row};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// The server itself looks for its clients so rarely here that only a cancel can have ended what has ended.
async fn eager(size: u32) -> (PostgresPoolManager, Database) {
    let db = database().await;
    let connection_check_interval = Some(Duration::from_secs(25));
    let settings = Config { cancel: Cancel::Eager, connection_check_interval, ..config(db.url(), size) };
    (settings.connect().await.unwrap(), db)
}

async fn asleep(db: &Database) -> u32 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' \
        AND query LIKE '%pg_sleep(30)%' AND pid <> pg_backend_pid()";
    scalar(db, sql).await.parse().unwrap()
}

/// Drops a statement that is running, and says how long the server went on with it.
async fn drop_running(pool: &PostgresPoolManager, db: &Database) -> Duration {
    let running = tokio::spawn({
        let pool = pool.clone();
        async move { sqlx::query("SELECT pg_sleep(30)").execute(&pool.primary()).await.map(drop) }
    });
    wait_for("the statement to run", SOON, async || asleep(db).await == 1).await;
    let dropped = Instant::now();
    running.abort();
    wait_for("the server to end it", SOON, async || asleep(db).await == 0).await;
    dropped.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_statement_is_cancelled_at_the_server() {
    // No idle connection: the order goes over one of its own. Then over an idle one.
    for size in [1, 2] {
        let (pool, db) = eager(size).await;
        let mut all = Vec::new();
        for _ in 0..size {
            all.push(pool.write().await.unwrap());
        }
        drop(all);
        let took = drop_running(&pool, &db).await;
        eprintln!("a dropped statement, pool of {size}: gone at the server after {took:?}");
        assert!(took < Duration::from_secs(5), "{took:?}");
        wait_idle(&pool, "back").await;
        let stats = pool.pool_stats();
        assert_eq!((stats.idle, stats.discarded_total), (size, 0), "the connection is kept");
        let connected = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
            AND application_name = 'database-services'";
        wait_for("no connection more", SOON, async || scalar(&db, connected).await == size.to_string()).await;
    }
    let (pool, db) = pool(1).await;
    let took = drop_running(&pool, &db).await;
    eprintln!("a dropped statement without it: gone at the server after {took:?}");
    wait_idle(&pool, "given up").await;
    assert_eq!(pool.pool_stats().discarded_total, 1);
}

#[tokio::test]
async fn a_statement_beyond_its_deadline_is_cancelled_and_its_transaction_undone() {
    let (pool, db) = eager(1).await;
    db.sql("CREATE TABLE t (n int)").await.unwrap();
    let mut tx = pool.begin(Default::default()).await.unwrap();
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut tx).await.unwrap();
    tokio::time::timeout(millis(50), sqlx::query("SELECT pg_sleep(30)").execute(&mut tx)).await.unwrap_err();
    drop(tx);
    let mut session = pool.write().deadline(Deadline::after(SOON)).await.unwrap();
    session.set_deadline(Deadline::after(millis(100)));
    let error = sqlx::query("SELECT pg_sleep(30)").execute(&mut session).await.unwrap_err();
    assert!(matches!(Error::from(error), Error::Timeout { .. }));
    drop(session);
    let began = Instant::now();
    wait_for("the server to end it", SOON, async || asleep(&db).await == 0).await;
    wait_idle(&pool, "back").await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(scalar(&db, "SELECT count(*) FROM t").await, "0");
    assert_eq!((pool.pool_stats().idle, pool.pool_stats().discarded_total), (1, 0));
}

/// Hundreds of drops beside callers on the same connections: nobody else's statement is cancelled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_drops_cancels_nobody_elses_statement() {
    const SIZE: u32 = 8;
    let (pool, db) = eager(SIZE).await;
    let (over, mut callers) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
    for _ in 0..4 {
        let (pool, over) = (pool.clone(), Arc::clone(&over));
        callers.spawn(async move {
            let mut answers = 0;
            while !over.load(Relaxed) {
                let row = sqlx::query("SELECT pg_sleep(0.01), $1::int")
                    .bind(answers)
                    .fetch_one(&pool.primary())
                    .await;
                assert_eq!(row.unwrap().get::<i32, _>(1), answers);
                answers += 1;
            }
            answers
        });
    }
    let mut drops = JoinSet::new();
    for n in 0..200_u64 {
        let pool = pool.clone();
        drops.spawn(async move {
            let mut session = pool.write().await.unwrap();
            let sleep = sqlx::query("SELECT pg_sleep(30)").execute(&mut session);
            tokio::time::timeout(Duration::from_millis(n % 40), sleep).await.unwrap_err();
        });
    }
    drops.join_all().await;
    wait_for("all of them ended", SOON, async || asleep(&db).await == 0).await;
    over.store(true, Relaxed);
    let answers: i32 = callers.join_all().await.into_iter().sum();
    wait_idle(&pool, "all back").await;
    let stats = pool.pool_stats();
    eprintln!("200 drops: {} connections given up, {answers} answers beside them", stats.discarded_total);
    assert!(answers > 0 && stats.idle <= SIZE, "{stats:?}");
}

#[tokio::test]
async fn a_commit_is_never_cancelled_nor_what_may_be_one() {
    let (pool, db) = eager(1).await;
    db.sql("CREATE TABLE t (n int)").await.unwrap();
    let mut tx = pool.begin(Default::default()).await.unwrap();
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut tx).await.unwrap();
    tx.before_commit("SELECT pg_sleep(0.5)");
    tokio::time::timeout(millis(20), tx.commit()).await.unwrap_err();
    wait_idle(&pool, "committed").await;
    assert_eq!(scalar(&db, "SELECT count(*) FROM t").await, "1");
    assert_eq!(pool.pool_stats().discarded_total, 0);
    // Text that ends a transaction, and whatever ran on the driver's own connection: given up, not cancelled.
    for (n, raw) in [(1, false), (2, true)] {
        let mut session = pool.write().await.unwrap();
        let text = "BEGIN; INSERT INTO t VALUES (2); SELECT pg_sleep(1); COMMIT";
        let running = if raw { session.raw().execute(text) } else { (&mut session).execute(text) };
        tokio::time::timeout(millis(200), running).await.unwrap_err();
        drop(session);
        wait_idle(&pool, "given up").await;
        assert_eq!(pool.pool_stats().discarded_total, n);
        let expected = (1 + n).to_string();
        wait_for("its COMMIT", SOON, async || scalar(&db, "SELECT count(*) FROM t").await == expected).await;
    }
}
