//! Cancelling and ending sessions: the right ones, and no others.

use crate::{
    insight::{poor, soon},
    support::*,
};
use local_stack::{Database, wait_for};
use postgres_pool_manager::{
    Config, PostgresPoolManager,
    insight::{BackendId, InsightError, KillOptions, KillOutcome, Scope},
    sqlx,
};

/// Runs `sql` on a session of its own until something ends it; how it ended.
async fn running(
    pool: &PostgresPoolManager,
    db: &Database,
    sql: &'static str,
) -> tokio::task::JoinHandle<Option<String>> {
    let (own, mark) = (pool.clone(), sql);
    let task = tokio::spawn(async move {
        let error = sqlx::query(sql).execute(&own.primary()).await.unwrap_err();
        error.as_database_error().and_then(|db| db.code()).map(|code| code.into_owned())
    });
    let question = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = '{}' AND datname = current_database()",
        mark.replace('\'', "''")
    );
    wait_for("the statement to run", SOON, async || scalar(db, &question).await == "1").await;
    task
}

async fn id(pool: &PostgresPoolManager, query: &str) -> BackendId {
    let seen = pool.insight().activity(None, Scope::Database, 100, soon()).await.unwrap();
    seen.rows.iter().find(|row| row.query.as_deref() == Some(query)).unwrap().id.unwrap()
}

#[tokio::test]
async fn one_session_is_cancelled_or_ended_by_number_and_start() {
    let (pool, db) = pool(3).await;
    let insight = pool.insight();
    let task = running(&pool, &db, "SELECT pg_sleep(61)").await;
    let meant = id(&pool, "SELECT pg_sleep(61)").await;
    assert_eq!(meant.to_string().parse::<BackendId>().unwrap(), meant);

    // The number alone is not enough: it may have been given to another.
    let recycled = BackendId { backend_start: meant.backend_start - 1, ..meant };
    for refused in [
        insight.cancel_backend(None, recycled, soon()).await.unwrap_err(),
        insight.terminate_backend(None, recycled, soon()).await.unwrap_err(),
    ] {
        assert!(
            matches!(&refused, InsightError::Refused { why, .. } if why.contains("another session")),
            "{refused}"
        );
    }
    assert!(!task.is_finished());
    let cancelled = insight.cancel_backend(None, meant, soon()).await.unwrap();
    assert_eq!(cancelled.outcome, KillOutcome::Cancelled);
    assert_eq!(task.await.unwrap().as_deref(), Some("57014"));

    let task = running(&pool, &db, "SELECT pg_sleep(62)").await;
    let meant = id(&pool, "SELECT pg_sleep(62)").await;
    assert_eq!(
        insight.terminate_backend(None, meant, soon()).await.unwrap().outcome,
        KillOutcome::Terminated
    );
    assert_eq!(task.await.unwrap().as_deref(), Some("57P01"));
    let gone = insight.terminate_backend(None, meant, soon()).await.unwrap_err();
    assert!(matches!(&gone, InsightError::Refused { why, .. } if why.contains("no such session")), "{gone}");
    for wrong in ["", "1", "x@y", "1@", "-1@5", "0@5"] {
        assert!(wrong.parse::<BackendId>().is_err(), "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_of_the_server_and_wal_senders_are_never_touched() {
    let (pool, db) = crate::replicas::replicated(1).await;
    let processes = "SELECT pid || '@' || (extract(epoch FROM backend_start) * 1000000)::bigint, backend_type \
        FROM pg_stat_activity WHERE backend_type IN ('walsender', 'checkpointer', 'autovacuum launcher')";
    let rows = db.sql(processes).await.unwrap();
    assert_eq!(rows.len(), 3, "{rows:?}");
    for row in rows {
        let id: BackendId = row[0].as_ref().unwrap().parse().unwrap();
        let refused = pool.insight().terminate_backend(None, id, soon()).await.unwrap_err();
        let kind = row[1].as_ref().unwrap();
        assert!(matches!(&refused, InsightError::Refused { why, .. } if why.contains(kind)), "{refused}");
    }
    let options = KillOptions { older_than: millis(0), scope: Scope::Server, ..KillOptions::slow_queries() };
    let options = KillOptions { terminate: true, ..options };
    let killed = pool.insight().kill_slow_queries(None, &options, soon()).await.unwrap();
    assert_eq!(scalar(&db, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'").await, "1");
    assert!(killed.rows.iter().all(|row| row.username.is_some()), "{killed:?}");
}

#[tokio::test]
async fn slow_statements_of_our_own_application_are_cancelled_and_no_others() {
    let (pool, db) = pool(4).await;
    let other = Config { application_name: "another".into(), ..config(db.url(), 2) };
    let other = other.connect().await.unwrap();
    let own = running(&pool, &db, "SELECT pg_sleep(63)").await;
    let foreign = running(&other, &db, "SELECT pg_sleep(64)").await;
    assert!(pool.kill_slow_queries(SOON * 6).await.unwrap().rows.is_empty(), "nothing is that old");
    let dry = KillOptions { older_than: millis(0), dry_run: true, ..KillOptions::slow_queries() };
    let would = pool.insight().kill_slow_queries(None, &dry, soon()).await.unwrap();
    assert_eq!((would.rows.len(), would.rows[0].outcome), (1, KillOutcome::DryRun), "{would:?}");
    assert!(!own.is_finished());

    let killed = pool.kill_slow_queries(millis(0)).await.unwrap();
    assert_eq!(killed.rows.len(), 1, "{killed:?}");
    assert_eq!(killed.rows[0].query.as_deref(), Some("SELECT pg_sleep(63)"));
    assert_eq!(own.await.unwrap().as_deref(), Some("57014"));
    assert!(!foreign.is_finished());

    let all = KillOptions { older_than: millis(0), scope: Scope::Database, ..KillOptions::slow_queries() };
    let killed = pool.insight().kill_slow_queries(None, &all, soon()).await.unwrap();
    assert_eq!(killed.rows[0].query.as_deref(), Some("SELECT pg_sleep(64)"), "{killed:?}");
    assert_eq!(foreign.await.unwrap().as_deref(), Some("57014"));
}

#[tokio::test]
async fn idle_sessions_end_unless_they_are_idle_on_purpose() {
    let (pool, db) = pool(8).await;
    let mut open = pool.begin(Default::default()).await.unwrap();
    sqlx::query("SELECT 1 AS in_transaction").execute(&mut open).await.unwrap();
    let mut idle = pool.write().await.unwrap();
    sqlx::query("SELECT 1 AS only_idle").execute(&mut idle).await.unwrap();
    let (mut listener, mut holder) = (pool.write().await.unwrap(), pool.write().await.unwrap());
    sqlx::query("LISTEN something").execute(listener.raw()).await.unwrap();
    sqlx::query("SELECT pg_advisory_lock(9)").execute(holder.raw()).await.unwrap();

    assert!(pool.kill_idle_sessions(SOON * 6).await.unwrap().rows.is_empty(), "none is that old");
    let killed = pool.kill_idle_sessions(millis(0)).await.unwrap();
    let mut queries: Vec<_> = killed.rows.iter().filter_map(|row| row.query.as_deref()).collect();
    queries.sort_unstable();
    assert_eq!(queries, ["SELECT 1 AS in_transaction", "SELECT 1 AS only_idle"], "{killed:?}");
    assert!(killed.rows.iter().all(|row| row.outcome == KillOutcome::Terminated), "{killed:?}");
    let left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'database-services' \
        AND datname = current_database()";
    wait_for("both to have ended", SOON, async || scalar(&db, left).await == "2").await;
    assert!(sqlx::query("SELECT 1").execute(&mut open).await.is_err());
    sqlx::query("SELECT 1").execute(listener.raw()).await.unwrap();
    sqlx::query("SELECT 1").execute(holder.raw()).await.unwrap();
    // The pool serves on.
    assert!(pool.health_check(soon()).await.is_ok());
}

#[tokio::test]
async fn without_the_right_to_signal_it_is_said_and_nothing_happens() {
    let (pool, db) = pool(2).await;
    let (poor, user) = poor(&db).await;
    let task = running(&pool, &db, "SELECT pg_sleep(65)").await;
    let meant = id(&pool, "SELECT pg_sleep(65)").await;
    // It cannot even see which session it is.
    let blind = poor.insight().cancel_backend(None, meant, soon()).await.unwrap_err();
    assert!(
        matches!(&blind, InsightError::Refused { why, .. } if why.contains("pg_read_all_stats")),
        "{blind}"
    );
    db.sql(&format!("GRANT pg_read_all_stats, pg_signal_backend TO \"{user}\"")).await.unwrap();
    let refused = poor.insight().cancel_backend(None, meant, soon()).await.unwrap_err();
    assert!(matches!(&refused, InsightError::Forbidden { .. }), "a superuser's session: {refused}");
    let all = KillOptions { older_than: millis(0), scope: Scope::Database, ..KillOptions::slow_queries() };
    let killed = poor.insight().kill_slow_queries(None, &all, soon()).await.unwrap();
    assert_eq!(killed.rows[0].outcome, KillOutcome::Forbidden, "{killed:?}");
    assert!(!task.is_finished());
    pool.insight().cancel_backend(None, meant, soon()).await.unwrap();
    assert_eq!(task.await.unwrap().as_deref(), Some("57014"));

    // One of its own needs no right at all.
    db.sql(&format!("REVOKE pg_read_all_stats, pg_signal_backend FROM \"{user}\"")).await.unwrap();
    let task = running(&poor, &db, "SELECT pg_sleep(66)").await;
    assert_eq!(poor.kill_slow_queries(millis(0)).await.unwrap().rows.len(), 1);
    assert_eq!(task.await.unwrap().as_deref(), Some("57014"));
}
