//! Sessions and handles as executors, and what is left behind on a connection: nothing.

use crate::support::*;
use futures_util::TryStreamExt;
use local_stack::wait_for;
use postgres_pool_manager::{Config, Error, sqlx};
use sqlx::{Executor, QueryBuilder, Row, postgres::PgRow};

#[tokio::test]
async fn every_way_of_running_a_statement_works_on_every_executor() {
    let (pool, db) = pool(2).await;
    db.sql("CREATE TABLE t (id int PRIMARY KEY, name text); INSERT INTO t SELECT i, 'n' || i FROM generate_series(1, 9) i")
        .await
        .unwrap();
    macro_rules! all {
        ($executor:expr) => {{
            let done = sqlx::query("UPDATE t SET name = name WHERE id < $1").bind(4).execute($executor).await.unwrap();
            assert_eq!(done.rows_affected(), 3);
            let (id, name): (i32, String) =
                sqlx::query_as("SELECT id, name FROM t WHERE id = $1").bind(7).fetch_one($executor).await.unwrap();
            assert_eq!((id, name.as_str()), (7, "n7"));
            let none = sqlx::query("SELECT 1 WHERE false").fetch_optional($executor).await.unwrap();
            assert!(none.is_none());
            let rows: Vec<PgRow> = sqlx::query("SELECT id FROM t ORDER BY 1").fetch_all($executor).await.unwrap();
            assert_eq!(rows.len(), 9);
            let streamed: Vec<i32> =
                sqlx::query_scalar::<_, i32>("SELECT id FROM t ORDER BY 1").fetch($executor).try_collect().await.unwrap();
            assert_eq!(streamed, (1..=9).collect::<Vec<_>>());
            let mut builder = QueryBuilder::new("SELECT count(*) FROM t WHERE id IN (");
            builder.separated(", ").push_bind(1).push_bind(2);
            let count: i64 = builder.push(")").build_query_scalar().fetch_one($executor).await.unwrap();
            assert_eq!(count, 2);
            let text = ($executor).fetch_one("SELECT 'simple' AS kind").await.unwrap();
            assert_eq!(text.get::<String, _>("kind"), "simple");
            let described = ($executor).describe(sqlx::SqlStr::from_static("SELECT id FROM t")).await.unwrap();
            assert_eq!(described.columns().len(), 1);
            ($executor).prepare(sqlx::SqlStr::from_static("SELECT $1::int")).await.unwrap();
            let wrong = sqlx::query("SELECT no_such_column FROM t").execute($executor).await.unwrap_err();
            assert!(matches!(Error::from(wrong), e @ Error::Query(_) if e.sqlstate().as_deref() == Some("42703")));
        }};
    }
    let (primary, replica) = (pool.primary(), pool.replica());
    all!(&primary);
    all!(&replica);
    let mut session = pool.write().await.unwrap();
    all!(&mut session);
    drop(session);
    let mut tx = pool.begin(Default::default()).await.unwrap();
    let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&mut tx).await.unwrap();
    assert_eq!(one, 1);
    tx.rollback().await.unwrap();
    wait_idle(&pool, "every session back").await;
    assert_eq!(pool.pool_stats().discarded_total, 0, "errors of statements cost no connection");
}

#[tokio::test]
async fn a_warm_checkout_and_return_costs_no_round_trip() {
    let (pool, proxy, _db) = proxied(|_| {}).await;
    backend(&mut pool.write().await.unwrap()).await;
    proxy.reset_counts();
    let before = pool.pool_stats().acquired_total;
    for _ in 0..1000 {
        drop(pool.write().await.unwrap());
        drop(pool.read().await.unwrap());
    }
    assert_eq!((proxy.round_trips(), pool.pool_stats().acquired_total - before), (0, 2000));
}

#[tokio::test]
async fn a_connection_idle_for_long_is_checked_and_a_dead_one_replaced() {
    let db = database().await;
    let settings = Config { check_after_idle: millis(0), ..config(db.url(), 1) };
    let pool = settings.connect().await.unwrap();
    let first = backend(&mut pool.write().await.unwrap()).await;
    db.sql(&format!("SELECT pg_terminate_backend({first})")).await.unwrap();
    let gone = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {first}");
    wait_for("the connection to be dead", SOON, async || scalar(&db, &gone).await == "0").await;
    let second = backend(&mut pool.write().await.unwrap()).await;
    assert_ne!(first, second, "the caller never saw the dead connection");
}

/// Everything that a session can leave behind, undone by one round trip after it.
#[tokio::test]
async fn raw_use_is_undone_in_the_background_with_one_round_trip() {
    let (pool, proxy, _db) = proxied(|_| {}).await;
    let mut session = pool.write().await.unwrap();
    let pid = backend(&mut session).await;
    for sql in [
        "SET search_path = nowhere",
        "LISTEN something",
        "CREATE TEMP TABLE leftover ()",
        "SELECT pg_advisory_lock(42)",
        "BEGIN",
        "DECLARE c CURSOR FOR SELECT 1",
    ] {
        session.raw().execute(sql).await.unwrap();
    }
    proxy.reset_counts();
    drop(session);
    wait_idle(&pool, "the reset").await;
    assert_eq!(proxy.round_trips(), 1);
    let mut session = pool.write().await.unwrap();
    assert_eq!(backend(&mut session).await, pid, "kept, with its prepared statements");
    let left = "SELECT current_setting('search_path') || (SELECT count(*) FROM pg_listening_channels()) \
        || coalesce(to_regclass('leftover')::text, '-') \
        || (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) \
        || (SELECT count(*) FROM pg_cursors WHERE name = 'c')";
    let left: String = sqlx::query_scalar(left).fetch_one(&mut session).await.unwrap();
    assert_eq!(left, "\"$user\", public0-00");
}

#[tokio::test]
async fn statements_prepared_or_deallocated_by_text_cost_the_connection() {
    let (pool, _db) = pool(1).await;
    for sql in ["PREPARE stranger AS SELECT 1", "DEALLOCATE ALL"] {
        let mut session = pool.write().await.unwrap();
        let pid = backend(&mut session).await;
        (&mut session).execute(sql).await.unwrap();
        drop(session);
        assert_ne!(backend(&mut pool.write().await.unwrap()).await, pid, "{sql}");
    }
}

#[tokio::test]
async fn state_changed_by_ordinary_text_is_recognised_and_undone() {
    let (pool, db) = pool(1).await;
    for sql in
        ["SET statement_timeout = 1", "BEGIN", "SELECT 1; BEGIN", "SELECT pg_advisory_lock(7)", "LISTEN x"]
    {
        let mut session = pool.write().await.unwrap();
        sqlx::raw_sql(sql).execute(&mut session).await.unwrap();
        drop(session);
        let mut session = pool.write().await.unwrap();
        let timeout: String =
            sqlx::query_scalar("SHOW statement_timeout").fetch_one(&mut session).await.unwrap();
        assert_eq!(timeout, "30s", "{sql}");
    }
    wait_idle(&pool, "the reset").await;
    let open =
        "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%' AND datname = current_database()";
    assert_eq!(scalar(&db, open).await, "0");
    assert_eq!(pool.pool_stats().discarded_total, 0);
}

#[tokio::test]
async fn a_stream_dropped_early_is_drained_or_its_connection_given_up() {
    let (pool, _db) = pool(1).await;
    let mut session = pool.write().await.unwrap();
    let pid = backend(&mut session).await;
    {
        let mut rows = sqlx::query("SELECT generate_series(1, 100)").fetch(&mut session);
        rows.try_next().await.unwrap();
    }
    drop(session);
    let mut session = pool.write().await.unwrap();
    assert_eq!(backend(&mut session).await, pid, "a short rest is read");
    {
        let mut rows =
            sqlx::query("SELECT repeat('x', 1000), generate_series(1, 100000000)").fetch(&mut session);
        rows.try_next().await.unwrap();
    }
    drop(session);
    assert_ne!(backend(&mut pool.write().await.unwrap()).await, pid, "a long one is not");
}

#[tokio::test]
async fn a_statement_beyond_its_deadline_ends_at_client_and_server() {
    let (pool, db) = pool(1).await;
    let deadline = resilience::Deadline::after(millis(100));
    let mut session = pool.write().deadline(deadline).await.unwrap();
    let error = sqlx::query("SELECT pg_sleep(60)").execute(&mut session).await.unwrap_err();
    assert!(matches!(Error::from(error), Error::Timeout { operation: "a statement", .. }));
    drop(session);
    wait_idle(&pool, "the connection given up").await;
    assert_eq!(pool.pool_stats().discarded_total, 1);
    wait_for("the server to end the statement of a client that left", SOON, async || {
        let running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid() \
            AND state = 'active'";
        scalar(&db, running).await == "0"
    })
    .await;
}

#[tokio::test]
async fn statements_say_whose_they_are_where_that_is_wanted() {
    let db = database().await;
    let mut settings = config(db.url(), 1);
    settings.statement_tags.insert("service".into(), "orders".into());
    settings.traceparent = Some(|| Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()));
    let pool = settings.connect().await.unwrap();
    let own = "SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid() AND $1";
    for _ in 0..3 {
        let text: String = sqlx::query_scalar(own).bind(true).fetch_one(&pool.primary()).await.unwrap();
        let tags =
            "/*service='orders',traceparent='00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'*/";
        assert_eq!(text, format!("{own} {tags}"));
    }
    let mut tx = pool.begin(Default::default()).await.unwrap();
    let prepared: i64 =
        sqlx::query_scalar("SELECT count(*) FROM pg_prepared_statements").fetch_one(&mut tx).await.unwrap();
    assert!(prepared <= 1, "none for each trace: {prepared}");
    let text: String = sqlx::query_scalar(own).bind(true).fetch_one(&mut tx).await.unwrap();
    assert!(text.contains("service='orders'"), "{text}");
    tx.commit().await.unwrap();
}

/// Rows that come without a pause leave no moment in which somebody looks at the clock, unless it is looked at.
#[tokio::test]
async fn a_stream_that_never_pauses_ends_at_its_deadline() {
    let (pool, _db) = pool(1).await;
    let mut session = pool.write().await.unwrap();
    let began = std::time::Instant::now();
    session.set_deadline(resilience::Deadline::after(millis(300)));
    let mut rows = sqlx::query("SELECT generate_series(1, 1000000000)").fetch(&mut session);
    let mut count = 0_u64;
    let error = loop {
        match rows.try_next().await {
            Ok(row) => {
                assert!(row.is_some() && began.elapsed() < SOON, "it went on for {:?}", began.elapsed())
            }
            Err(error) => break error,
        }
        count += 1;
    };
    drop(rows);
    assert!(matches!(Error::from(error), Error::Timeout { .. }));
    assert!(began.elapsed() < millis(3000), "{count} rows in {:?}", began.elapsed());
}
