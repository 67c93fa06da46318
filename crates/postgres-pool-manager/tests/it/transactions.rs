//! Transactions: hooks, retries, and the three outcomes of a COMMIT.

use crate::support::*;
use local_stack::Database;
use postgres_pool_manager::{
    CommitOutcome, Error, Isolation, PostgresPoolManager, ReadToken, TransactionError, TransactionOptions,
    Tx, sqlx,
};
use resilience::Deadline;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering::Relaxed},
};

type Seen = Arc<Mutex<Vec<CommitOutcome>>>;

fn watch(tx: &mut Tx, seen: &Seen) {
    let seen = Arc::clone(seen);
    tx.on_commit(move |outcome| {
        Box::pin(async move {
            tokio::task::yield_now().await;
            seen.lock().unwrap().push(outcome);
        })
    });
}

async fn table(db: &Database) {
    db.sql("CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL); INSERT INTO t VALUES (1, 0), (2, 0)")
        .await
        .unwrap();
}

async fn add(tx: &mut Tx, id: i32) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE t SET n = n + 1 WHERE id = $1").bind(id).execute(tx).await.map(drop)
}

#[tokio::test]
async fn hooks_run_after_commit_before_it_returns_and_not_after_rollback() {
    let (pool, db) = pool(2).await;
    table(&db).await;
    let seen = Seen::default();
    let mut tx = pool.begin(Default::default()).await.unwrap();
    watch(&mut tx, &seen);
    tx.on_commit(|_| panic!("a hook's own fault"));
    watch(&mut tx, &seen);
    add(&mut tx, 1).await.unwrap();
    let token = tx.commit().await.unwrap();
    assert_eq!(*seen.lock().unwrap(), vec![CommitOutcome::Committed(token); 2]);
    assert_ne!(token, ReadToken::PRIMARY_ONLY);
    for commit in [false, true] {
        let mut tx = pool.begin(Default::default()).await.unwrap();
        watch(&mut tx, &seen);
        add(&mut tx, 1).await.unwrap();
        if commit { tx.rollback().await.unwrap() } else { drop(tx) }
    }
    wait_idle(&pool, "rolled back").await;
    assert_eq!(seen.lock().unwrap().len(), 2);
    assert_eq!(scalar(&db, "SELECT n FROM t WHERE id = 1").await, "1");
}

#[tokio::test]
async fn before_commit_travels_with_the_commit() {
    let (pool, proxy, db) = proxied(|_| {}).await;
    table(&db).await;
    let mut tx = pool.begin(Default::default()).await.unwrap();
    add(&mut tx, 1).await.unwrap();
    tx.before_commit("UPDATE t SET n = n + 10 WHERE id = 1;");
    tx.before_commit("SELECT id AS guard FROM t -- no end of line");
    proxy.reset_counts();
    tx.commit().await.unwrap();
    assert_eq!(proxy.round_trips(), 1, "with the read token");
    assert_eq!(scalar(&db, "SELECT n FROM t WHERE id = 1").await, "11");
    let mut tx = pool.begin(Default::default()).await.unwrap();
    add(&mut tx, 1).await.unwrap();
    tx.before_commit("SELECT 1/0");
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(&error, Error::RolledBack { sqlstate: Some(code), .. } if code == "22012"), "{error}");
    wait_idle(&pool, "rolled back").await;
    assert_eq!(scalar(&db, "SELECT n FROM t WHERE id = 1").await, "11");
}

#[tokio::test]
async fn a_commit_of_a_failed_transaction_is_an_error() {
    let (pool, db) = pool(1).await;
    table(&db).await;
    let seen = Seen::default();
    let mut tx = pool.begin(Default::default()).await.unwrap();
    watch(&mut tx, &seen);
    add(&mut tx, 1).await.unwrap();
    sqlx::query("INSERT INTO t VALUES (1, 1)").execute(&mut tx).await.unwrap_err();
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(&error, Error::RolledBack { sqlstate: Some(code), .. } if code == "23505"), "{error}");
    // A constraint that is checked at COMMIT.
    db.sql("CREATE TABLE u (t int REFERENCES t DEFERRABLE INITIALLY DEFERRED)").await.unwrap();
    let mut tx = pool.begin(Default::default()).await.unwrap();
    watch(&mut tx, &seen);
    sqlx::query("INSERT INTO u VALUES (99)").execute(&mut tx).await.unwrap();
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(&error, Error::RolledBack { sqlstate: Some(code), .. } if code == "23503"), "{error}");
    assert!(seen.lock().unwrap().is_empty());
    wait_idle(&pool, "rolled back").await;
    assert_eq!((pool.pool_stats().idle, pool.pool_stats().discarded_total), (1, 0));
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_unknown_and_never_repeated() {
    let (pool, proxy, db) = proxied(|_| {}).await;
    table(&db).await;
    let (seen, runs) = (Seen::default(), Arc::new(AtomicU32::new(0)));
    let result: Result<(), TransactionError<sqlx::Error>> = pool
        .transaction(TransactionOptions::default(), |tx| {
            let (seen, proxy, runs) = (Arc::clone(&seen), proxy.clone(), Arc::clone(&runs));
            Box::pin(async move {
                runs.fetch_add(1, Relaxed);
                watch(tx, &seen);
                add(tx, 1).await?;
                proxy.reset_answers_after(0);
                Ok(())
            })
        })
        .await;
    assert!(matches!(result, Err(TransactionError::Database(Error::OutcomeUnknown { .. }))), "{result:?}");
    assert_eq!((runs.load(Relaxed), seen.lock().unwrap().clone()), (1, vec![CommitOutcome::Unknown]));
    proxy.heal();
    assert_eq!(scalar(&db, "SELECT n FROM t WHERE id = 1").await, "1", "it had been committed");
    pool.health_check(Deadline::after(SOON)).await.unwrap();
}

#[tokio::test]
async fn a_commit_beyond_its_deadline_is_unknown_and_still_runs_its_hooks() {
    let (pool, proxy, db) = proxied(|_| {}).await;
    table(&db).await;
    let seen = Seen::default();
    let deadline = Some(Deadline::after(millis(500)));
    let mut tx = pool.begin(TransactionOptions { deadline, ..Default::default() }).await.unwrap();
    watch(&mut tx, &seen);
    add(&mut tx, 1).await.unwrap();
    proxy.black_hole(true);
    assert!(matches!(tx.commit().await, Err(Error::OutcomeUnknown { .. })));
    assert_eq!(*seen.lock().unwrap(), [CommitOutcome::Unknown]);
}

#[tokio::test]
async fn beyond_the_deadline_nothing_is_sent_any_more() {
    let (pool, proxy, db) = proxied(|_| {}).await;
    table(&db).await;
    let seen = Seen::default();
    let deadline = Deadline::after(millis(800));
    let mut tx =
        pool.begin(TransactionOptions { deadline: Some(deadline), ..Default::default() }).await.unwrap();
    watch(&mut tx, &seen);
    add(&mut tx, 1).await.unwrap();
    local_stack::wait_for("the deadline", SOON, async || deadline.is_expired()).await;
    proxy.reset_counts();
    let late = Error::from(add(&mut tx, 1).await.unwrap_err());
    assert!(matches!(late, Error::Timeout { operation: "a statement", .. }), "{late:?}");
    assert_eq!(proxy.round_trips(), 0);
    let late = tx.commit().await.unwrap_err();
    assert!(matches!(late, Error::Timeout { operation: "COMMIT", .. }), "known: it was never sent: {late:?}");
    assert!(seen.lock().unwrap().is_empty());
    wait_idle(&pool, "rolled back").await;
    assert_eq!(scalar(&db, "SELECT n FROM t WHERE id = 1").await, "0");
    assert_eq!(pool.pool_stats().discarded_total, 0, "rolled back, not given up");
}

#[tokio::test]
async fn a_commit_that_the_server_ended_before_it_got_there_is_rolled_back() {
    let (pool, db) = pool(1).await;
    table(&db).await;
    let seen = Seen::default();
    let mut tx = pool.begin(Default::default()).await.unwrap();
    watch(&mut tx, &seen);
    add(&mut tx, 1).await.unwrap();
    tx.before_commit("SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(10)");
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(&error, Error::RolledBack { sqlstate: Some(code), .. } if code == "57P01"), "{error:?}");
    assert!(seen.lock().unwrap().is_empty());
    assert_eq!(scalar(&db, "SELECT n FROM t WHERE id = 1").await, "0");
}

#[tokio::test]
async fn what_travels_with_the_commit_is_looked_at_like_any_statement() {
    let (pool, db) = pool(1).await;
    table(&db).await;
    let mut tx = pool.begin(Default::default()).await.unwrap();
    add(&mut tx, 1).await.unwrap();
    tx.before_commit("COMMIT");
    let refused = tx.commit().await.unwrap_err();
    assert!(matches!(refused, Error::TransactionControl { .. }), "{refused:?}");
    wait_idle(&pool, "rolled back").await;
    assert_eq!(scalar(&db, "SELECT n FROM t WHERE id = 1").await, "0");
    for (text, expected) in [("", 0), (" -- nothing\n;", 0), ("SELECT 1; SELECT 2", 2)] {
        let mut tx = pool.begin(Default::default()).await.unwrap();
        add(&mut tx, 1).await.unwrap();
        tx.before_commit(text);
        let refused = tx.commit().await.unwrap_err();
        assert!(matches!(refused, Error::NotOneStatement { found, .. } if found == expected), "{refused:?}");
        wait_idle(&pool, "rolled back").await;
        assert_eq!(scalar(&db, "SELECT n FROM t WHERE id = 1").await, "0");
    }
    let mut tx = pool.begin(Default::default()).await.unwrap();
    tx.before_commit("SET search_path = elsewhere");
    tx.commit().await.unwrap();
    let path: String = sqlx::query_scalar("SHOW search_path").fetch_one(&pool.primary()).await.unwrap();
    assert_eq!(path, "\"$user\", public");
}

/// Runs `attempts` of a closure, of which all but the last fail with this SQLSTATE.
async fn flaky(
    pool: &PostgresPoolManager,
    sqlstate: &'static str,
    attempts: u32,
    seen: &Seen,
) -> (u32, bool) {
    let runs = Arc::new(AtomicU32::new(0));
    let result: Result<(), TransactionError<String>> = pool
        .transaction(TransactionOptions::default(), |tx| {
            let (runs, seen) = (Arc::clone(&runs), Arc::clone(seen));
            Box::pin(async move {
                watch(tx, &seen);
                if runs.fetch_add(1, Relaxed) + 1 < attempts {
                    let sql = format!("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{sqlstate}'; END $$");
                    // The error's type is the closure's own affair; even swallowing it would change nothing.
                    sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
                        .execute(&mut *tx)
                        .await
                        .map_err(|e| e.to_string())?;
                }
                add(tx, 1).await.map_err(|e| e.to_string())
            })
        })
        .await;
    (runs.load(Relaxed), result.is_ok())
}

#[tokio::test]
async fn only_what_the_server_asks_for_is_run_again_and_without_the_old_hooks() {
    let (pool, db) = pool(1).await;
    table(&db).await;
    for (sqlstate, expected) in [("40001", (3, true)), ("40P01", (3, true)), ("23505", (1, false))] {
        let seen = Seen::default();
        assert_eq!(flaky(&pool, sqlstate, 3, &seen).await, expected, "{sqlstate}");
        assert_eq!(
            seen.lock().unwrap().len(),
            usize::from(expected.1),
            "hooks of the attempt that committed"
        );
    }
    assert_eq!(scalar(&db, "SELECT n FROM t WHERE id = 1").await, "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_serializable_increments_all_arrive() {
    let (pool, db) = pool(4).await;
    table(&db).await;
    let options = TransactionOptions { isolation: Isolation::Serializable, ..Default::default() };
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let pool = pool.clone();
        tasks.spawn(async move {
            for _ in 0..5 {
                let done: Result<(), TransactionError<sqlx::Error>> = pool
                    .transaction(options, |tx| {
                        Box::pin(async move {
                            let n: i32 = sqlx::query_scalar("SELECT n FROM t WHERE id = 2")
                                .fetch_one(&mut *tx)
                                .await?;
                            let update = sqlx::query("UPDATE t SET n = $1 WHERE id = 2").bind(n + 1);
                            update.execute(tx).await.map(drop)
                        })
                    })
                    .await;
                done.unwrap();
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(scalar(&db, "SELECT n FROM t WHERE id = 2").await, "20");
}

#[tokio::test]
async fn transaction_statements_as_text_are_refused_and_savepoints_are_not() {
    let (pool, db) = pool(1).await;
    table(&db).await;
    let mut tx = pool.begin(Default::default()).await.unwrap();
    for sql in ["COMMIT", "rollback", "BEGIN", "SELECT 1; COMMIT"] {
        let refused = Error::from(sqlx::raw_sql(sql).execute(&mut tx).await.unwrap_err());
        assert!(matches!(refused, Error::TransactionControl { .. }), "{sql}: {refused}");
    }
    sqlx::query("SAVEPOINT a").execute(&mut tx).await.unwrap();
    sqlx::query("SELECT 1/0").execute(&mut tx).await.unwrap_err();
    sqlx::query("ROLLBACK TO a").execute(&mut tx).await.unwrap();
    add(&mut tx, 1).await.unwrap();
    tx.commit().await.unwrap();
    let read_only = TransactionOptions { read_only: true, ..Default::default() };
    let mut tx = pool.begin(read_only).await.unwrap();
    assert_eq!(Error::from(add(&mut tx, 1).await.unwrap_err()).sqlstate().as_deref(), Some("25006"));
    drop(tx);
    wait_idle(&pool, "rolled back").await;
    assert_eq!(pool.pool_stats().discarded_total, 0, "refused as ordered, not by a demoted server");
    let mut tx = pool.begin(Default::default()).await.unwrap();
    sqlx::query("SET search_path = elsewhere").execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    let path: String = sqlx::query_scalar("SHOW search_path").fetch_one(&pool.primary()).await.unwrap();
    assert_eq!(path, "\"$user\", public");
    assert_eq!(scalar(&db, "SELECT n FROM t WHERE id = 1").await, "1");
}
