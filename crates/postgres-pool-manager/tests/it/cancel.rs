//! Futures dropped at any point: no poisoned connection, no lost permit, nothing left open at the server.

use crate::support::*;
use local_stack::{Database, wait_for};
use postgres_pool_manager::{Cancel, Config, Error, PostgresPoolManager, sqlx};
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::task::JoinSet;

/// Ends after so many polls, whatever its future is doing then.
pub(crate) struct Polls<F> {
    pub(crate) future: Pin<Box<F>>,
    pub(crate) left: u32,
}

impl<F: Future> Future for Polls<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        self.future.as_mut().poll(cx).map(Some)
    }
}

/// Acquire, begin, query, commit or roll back, release, plus plain and raw statements.
async fn work(pool: PostgresPoolManager, kind: u32) -> Result<(), Error> {
    match kind % 4 {
        0 => {
            let mut tx = pool.begin(Default::default()).await?;
            sqlx::query("UPDATE counters SET n = n + 1 WHERE id = $1")
                .bind((kind % 7) as i32)
                .execute(&mut tx)
                .await?;
            if kind.is_multiple_of(3) {
                tx.rollback().await?;
            } else {
                tx.commit().await?;
            }
        }
        1 => {
            let mut session = pool.write().await?;
            sqlx::query("SELECT id, repeat('x', 5000) FROM counters, generate_series(1, 20)")
                .fetch_all(&mut session)
                .await?;
        }
        2 => {
            let work = pool.transaction(Default::default(), |tx| {
                Box::pin(async move {
                    sqlx::query("SELECT n FROM counters WHERE id = 3 FOR UPDATE").fetch_one(&mut *tx).await?;
                    sqlx::query("SELECT pg_sleep(0.002)").execute(&mut *tx).await
                })
            });
            work.await
                .map(drop)
                .map_err(|_: postgres_pool_manager::TransactionError<sqlx::Error>| Error::Closed)?;
        }
        _ => {
            let mut session = pool.write().await?;
            sqlx::raw_sql("SET work_mem = '1MB'; SELECT pg_sleep(0.001)").execute(session.raw()).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_random_cancellations_leave_the_pool_whole() {
    let (pool, db) = pool(5).await;
    a_thousand(&pool, &db).await;
}

/// What is abandoned is cancelled at the server meanwhile: nobody else's statement may be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_random_cancellations_at_the_server_too_leave_the_pool_whole() {
    let db = database().await;
    let settings = Config { cancel: Cancel::Eager, ..config(db.url(), 5) };
    let pool = settings.connect().await.unwrap();
    // Some that would run on: they alone are worth an order.
    let mut sleepers = JoinSet::new();
    for n in 0..20_u64 {
        let pool = pool.clone();
        sleepers.spawn(async move {
            let primary = pool.primary();
            let sleep = sqlx::query("SELECT pg_sleep(30)").execute(&primary);
            tokio::time::timeout(millis(100 + 20 * n), sleep).await.unwrap_err();
        });
    }
    a_thousand(&pool, &db).await;
    sleepers.join_all().await;
    wait_idle(&pool, "every permit back").await;
}

async fn a_thousand(pool: &PostgresPoolManager, db: &Database) {
    db.sql("CREATE TABLE counters (id int PRIMARY KEY, n int DEFAULT 0); INSERT INTO counters SELECT generate_series(0, 9)")
        .await
        .unwrap();
    let (mut cancelled, mut finished, mut tasks, mut n) = (0_u32, 0_u32, JoinSet::new(), 0_u32);
    while cancelled < 1000 || finished < 100 {
        while tasks.len() < 16 {
            n += 1;
            // Few polls hit acquisition and BEGIN, many the statements, COMMIT and the way back.
            let (pool, left) = (pool.clone(), 1 + (n.wrapping_mul(2_654_435_761) >> 16) % 8);
            tasks.spawn(async move { Polls { future: Box::pin(work(pool, n)), left }.await });
        }
        match tasks.join_next().await.unwrap().unwrap() {
            None => cancelled += 1,
            Some(result) => {
                result.unwrap();
                finished += 1;
            }
        }
    }
    tasks.shutdown().await;
    wait_idle(pool, "every permit back").await;
    wait_for("no session idle in transaction at the server", SOON, async || {
        let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'";
        scalar(db, open).await == "0"
    })
    .await;
    // Every permit is there, and every connection behind it answers with its own answer.
    let mut sessions = Vec::new();
    for _ in 0..5 {
        sessions.push(pool.write().await.unwrap());
    }
    for (n, session) in sessions.iter_mut().enumerate() {
        let echo: i32 =
            sqlx::query_scalar("SELECT $1::int").bind(n as i32).fetch_one(&mut *session).await.unwrap();
        assert_eq!(echo, n as i32);
        let memory: String = sqlx::query_scalar("SHOW work_mem").fetch_one(session).await.unwrap();
        assert_eq!(memory, "4MB");
    }
    assert_eq!(pool.pool_stats().active_connections, 5);
    eprintln!(
        "{cancelled} random drops, {finished} that ended, {:?} given up",
        pool.pool_stats().discarded_total
    );
}

#[tokio::test]
async fn a_commit_whose_caller_left_still_commits_and_runs_its_hooks() {
    let (pool, db) = pool(1).await;
    db.sql("CREATE TABLE t (n int)").await.unwrap();
    let (tell, told) = tokio::sync::oneshot::channel();
    let mut tx = pool.begin(Default::default()).await.unwrap();
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut tx).await.unwrap();
    tx.before_commit("SELECT pg_sleep(0.05)");
    tx.on_commit(|outcome| Box::pin(async move { tell.send(outcome).unwrap() }));
    assert!(Polls { future: Box::pin(tx.commit()), left: 1 }.await.is_none());
    assert!(matches!(told.await.unwrap(), postgres_pool_manager::CommitOutcome::Committed(_)));
    assert_eq!(scalar(&db, "SELECT count(*) FROM t").await, "1");
    wait_idle(&pool, "the connection back").await;
    assert_eq!(pool.pool_stats().discarded_total, 0);
}

#[tokio::test]
async fn a_waiter_that_leaves_leaves_the_queue() {
    let (pool, _db) = pool(1).await;
    let held = pool.write().await.unwrap();
    assert!(Polls { future: Box::pin(async { pool.write().await }), left: 1 }.await.is_none());
    assert_eq!(pool.pool_stats().connection_queue_size, 0);
    drop(held);
    assert_eq!(pool.pool_stats().idle, 1);
}

/// Drops after the runtime is gone, outside of one, and in a panic.
#[test]
fn drops_need_no_runtime() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (pool, mut session, tx, _db) = runtime.block_on(async {
        let (pool, db) = pool(3).await;
        let (session, tx) = (pool.write().await.unwrap(), pool.begin(Default::default()).await.unwrap());
        (pool, session, tx, db)
    });
    let _ = session.raw();
    drop(tx);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _session = session;
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    let late = runtime.block_on(async { pool.write().await.unwrap() });
    drop(runtime);
    drop(late);
    assert_eq!(pool.pool_stats().active_connections, 0, "no permit is lost with the runtime");
    drop(pool);
}
