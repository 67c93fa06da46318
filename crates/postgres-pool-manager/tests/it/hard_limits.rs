//! Time limits and text where they are easily missed: a stream that is first asked late, statements that hide their end.

use crate::support::*;
use futures_util::StreamExt;
use local_stack::wait_for;
use postgres_pool_manager::{Error, sqlx};
use resilience::Deadline;
use sqlx::Executor;
use std::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_first_asked_late_ends_at_its_deadline_too() {
    let (pool, _db) = pool(1).await;
    let began = Instant::now();
    let mut session = pool.write().deadline(Deadline::after(millis(6000))).await.unwrap();
    let mut rows = (&mut session).fetch("SELECT pg_sleep(20)");
    wait_for("most of the time is gone", SOON, async || began.elapsed() > millis(3500)).await;
    let error = rows.next().await.unwrap().unwrap_err();
    let after = began.elapsed();
    eprintln!("ended after {after:?} of 6 s: {error}");
    assert!(matches!(Error::from(error), Error::Timeout { .. }));
    assert!(after < millis(7500), "{after:?}");
    drop(rows);
    drop(session);
    wait_idle(&pool, "the permit back").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_its_text_hides_is_not_handed_on() {
    let (pool, _db) = pool(1).await;
    for sql in ["/* a /* b */ SELECT 1 */ BEGIN", "SELECT 1 AS a$b$; BEGIN"] {
        let mut session = pool.write().await.unwrap();
        session.execute(sqlx::raw_sql(sql)).await.unwrap();
        drop(session);
        let mut session = pool.write().await.unwrap();
        sqlx::query("SAVEPOINT probe").execute(&mut session).await.expect_err(sql);
        drop(session);
        let mut tx = pool.begin(Default::default()).await.unwrap();
        let ended = tx.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql.replace("BEGIN", "COMMIT")))).await;
        let error = ended.expect_err(sql);
        assert!(matches!(Error::from(error), Error::TransactionControl { .. }), "{sql}");
    }
}

/// A statement whose limit is far has no timer of its own; what sets it has to outlive the pool.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_ends_at_its_deadline_whatever_became_of_its_pool() {
    for what in ["shut down", "dropped", "suspended"] {
        let (pool, _db) = pool(1).await;
        let began = Instant::now();
        let mut session = pool.write().deadline(Deadline::after(millis(4000))).await.unwrap();
        let asleep =
            tokio::spawn(
                async move { sqlx::query("SELECT pg_sleep(20)").execute(&mut session).await.map(drop) },
            );
        wait_for("it runs", SOON, async || began.elapsed() > millis(300)).await;
        match what {
            "shut down" => assert_eq!(pool.shutdown(millis(10)).await, 1),
            "dropped" => drop(pool),
            _ => pool.suspend(),
        }
        let error = asleep.await.unwrap().unwrap_err();
        let after = began.elapsed();
        assert!(matches!(Error::from(error), Error::Timeout { .. }), "{what}");
        assert!(after > millis(3900) && after < millis(5500), "{what}: {after:?}");
    }
}
