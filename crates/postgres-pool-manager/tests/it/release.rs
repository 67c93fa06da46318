//! The way back of a connection that is not clean, ended at any of its awaits: its runtime is shut down while it reads
//! an abandoned answer, rolls back or resets. Also the drivers' own bookkeeping, which has to be clean as well.

use crate::support::*;
use local_stack::wait_for;
use postgres_pool_manager::sqlx;
use sqlx::{Connection, Executor};
use std::time::Instant;

/// What is left behind on the connection.
#[derive(Clone, Copy, Debug)]
enum Left {
    Transaction,
    State,
    Answer,
    AnswerInTransaction,
}

#[test]
fn a_cleaning_ended_at_any_await_gives_its_permit_back() {
    let outside = tokio::runtime::Runtime::new().unwrap();
    let (mut ended_inside, mut ended_after) = (0, 0);
    for left in [Left::Transaction, Left::State, Left::Answer, Left::AnswerInTransaction] {
        for step in 0..8 {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (pool, proxy, db, before) = runtime.block_on(async {
                let (pool, proxy, db) = proxied(|_| {}).await;
                proxy.delay(millis(5));
                let mut session = pool.write().await.unwrap();
                match left {
                    Left::Transaction | Left::AnswerInTransaction => {
                        (&mut session).execute("BEGIN").await.unwrap();
                    }
                    Left::State => {
                        session.raw().execute("SET work_mem = '1MB'").await.unwrap();
                    }
                    Left::Answer => {}
                }
                if matches!(left, Left::Answer | Left::AnswerInTransaction) {
                    let sleep = sqlx::query("SELECT pg_sleep(0.01)").execute(&mut session);
                    tokio::time::timeout(millis(2), sleep).await.unwrap_err();
                }
                drop(session);
                let before = pool.pool_stats().active_connections;
                let began = Instant::now();
                // The runtime turns for as long, then stops for good.
                while began.elapsed() < millis(5 * step) {
                    tokio::time::sleep(millis(1)).await;
                }
                (pool, proxy, db, before)
            });
            assert_eq!(before, 1, "{left:?}: being cleaned");
            let inside = pool.pool_stats().active_connections == 1;
            drop(runtime);
            assert_eq!(pool.pool_stats().active_connections, 0, "{left:?} ended after {step} steps");
            if inside {
                ended_inside += 1
            } else {
                ended_after += 1
            }
            drop(pool);
            outside.block_on(async {
                wait_for("nothing open at the server", SOON, async || {
                    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                        AND application_name = 'database-services'";
                    scalar(&db, open).await == "0"
                })
                .await;
            });
            drop(proxy);
        }
    }
    eprintln!("cleanings: {ended_inside} ended at an await, {ended_after} had ended before");
    assert!(ended_inside >= 8 && ended_after > 0, "{ended_inside} {ended_after}");
}

/// The driver counts transactions itself: one that was forgotten would turn the next user's BEGIN into a SAVEPOINT.
#[tokio::test]
async fn a_forgotten_transaction_of_the_driver_is_nobody_elses() {
    let (pool, _db) = pool(1).await;
    let mut session = pool.write().await.unwrap();
    std::mem::forget(session.raw().begin().await.unwrap());
    drop(session);
    let mut session = pool.write().await.unwrap();
    let mut tx = session.raw().begin().await.unwrap();
    let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(one, 1);
}
