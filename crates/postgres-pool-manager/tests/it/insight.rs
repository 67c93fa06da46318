//! Questions to a server: what is slow, big, unused, behind; with the rights to see it and without.

use crate::support::*;
use local_stack::{Database, PostgresOptions, SharedStack, Stack, wait_for};
use postgres_pool_manager::{
    PostgresPoolManager,
    insight::{InsightError, Scope, SlowSource},
    sqlx,
};
use resilience::Deadline;

/// A server with `pg_stat_statements` loaded.
static STATEMENTS: SharedStack = SharedStack::new(|| {
    let settings = vec![
        ("shared_preload_libraries".to_owned(), "pg_stat_statements".to_owned()),
        ("max_prepared_transactions".to_owned(), "5".to_owned()),
    ];
    Stack::builder().postgres(PostgresOptions { settings, ..PostgresOptions::default() })
});

pub(crate) fn soon() -> Deadline {
    Deadline::after(SOON)
}

/// A pool of a user without any right but those of its own tables.
pub(crate) async fn poor(db: &Database) -> (PostgresPoolManager, String) {
    let user = format!("{}_poor", db.name());
    db.sql(&format!("CREATE ROLE \"{user}\" LOGIN PASSWORD 'secret'")).await.unwrap();
    db.sql(&format!("GRANT CREATE ON SCHEMA public TO \"{user}\"")).await.unwrap();
    let url = db.primary().url_as(&user, "secret", db.name());
    (config(url, 2).connect().await.unwrap(), user)
}

#[tokio::test]
async fn slow_queries_come_from_pg_stat_statements_where_it_is_installed() {
    let db = STATEMENTS.get().await.unwrap().database().await.unwrap();
    db.sql("CREATE SCHEMA \"Odd\"; CREATE EXTENSION pg_stat_statements SCHEMA \"Odd\"").await.unwrap();
    let pool = config(db.url(), 2).connect().await.unwrap();
    for n in 0..3 {
        sqlx::query("SELECT pg_sleep(0.05), $1::int AS slowest")
            .bind(n)
            .execute(&pool.primary())
            .await
            .unwrap();
        sqlx::query("SELECT 1 AS quick").execute(&pool.primary()).await.unwrap();
    }
    let slow = pool.slow_queries(20).await.unwrap();
    assert_eq!((slow.source, slow.sampled_every, &slow.note), (SlowSource::PgStatStatements, 1, &None));
    // The statements that set this test up may have taken longer on a busy machine.
    assert!(slow.queries.windows(2).all(|pair| pair[0].mean_exec_time >= pair[1].mean_exec_time), "{slow:?}");
    let first = slow.queries.iter().find(|query| query.query.contains("slowest")).unwrap();
    assert_eq!(first.calls, 3);
    assert!(first.mean_exec_time >= 50.0 && first.max_exec_time >= first.mean_exec_time, "{first:?}");
    assert!(slow.queries.iter().any(|query| query.query.contains("quick")), "{slow:?}");
    assert_eq!(pool.slow_queries(1).await.unwrap().queries.len(), 1);
    let json = serde_json::to_value(&slow).unwrap();
    assert_eq!(json["source"], "pg_stat_statements");
    for name in ["query", "calls", "mean_exec_time", "max_exec_time", "stddev_exec_time"] {
        assert!(json["queries"][0].get(name).is_some(), "{name} in {json}");
    }

    // Another user sees its own, and is told what it does not see.
    let (poor, user) = poor(&db).await;
    db.sql(&format!("GRANT USAGE ON SCHEMA \"Odd\" TO \"{user}\"")).await.unwrap();
    sqlx::query("SELECT 2 AS mine").execute(&poor.primary()).await.unwrap();
    let own = poor.slow_queries(20).await.unwrap();
    assert_eq!(own.source, SlowSource::PgStatStatements);
    assert!(own.queries.iter().any(|query| query.query.contains("mine")), "{own:?}");
    assert!(!own.queries.iter().any(|query| query.query.contains("slowest")), "{own:?}");
    assert_eq!(own.missing[0].right, "pg_read_all_stats");
    assert_eq!(own.missing[0].grant, format!("GRANT pg_read_all_stats TO \"{user}\""));
}

#[tokio::test]
async fn without_the_extension_slow_queries_are_this_process_own_samples_and_say_so() {
    let (pool, _db) = pool(1).await;
    for n in 0..160 {
        let sql = if n % 2 == 0 { "SELECT pg_sleep(0.005), 7" } else { "SELECT 'quick'" };
        sqlx::query(sql).execute(&pool.primary()).await.unwrap();
    }
    let slow = pool.slow_queries(20).await.unwrap();
    assert_eq!((slow.source, slow.sampled_every), (SlowSource::ClientSampled, 16));
    assert!(slow.note.as_ref().unwrap().contains("shared_preload_libraries"), "{slow:?}");
    assert_eq!(
        slow.queries.iter().map(|query| query.calls).sum::<i64>(),
        10,
        "one in sixteen of 160: {slow:?}"
    );
    let first = &slow.queries[0];
    assert_eq!(first.query, "SELECT pg_sleep(?), ?", "no literal is kept");
    assert!(first.mean_exec_time >= 5.0, "{first:?}");

    // Created where the library is not loaded: no error either.
    _db.sql("CREATE EXTENSION pg_stat_statements").await.unwrap();
    let slow = pool.slow_queries(20).await.unwrap();
    assert_eq!(slow.source, SlowSource::ClientSampled);
    assert!(slow.note.as_ref().unwrap().contains("not loaded"), "{slow:?}");
}

#[tokio::test]
async fn a_full_pool_is_no_obstacle_to_looking_at_it() {
    let (pool, _db) = pool(1).await;
    let mut held = pool.write().await.unwrap();
    let pid = backend(&mut held).await;
    let seen = pool.insight().activity(None, Scope::Own, 100, soon()).await.unwrap();
    let row = seen.rows.iter().find(|row| row.pid == pid).unwrap();
    assert_eq!(row.state.as_deref(), Some("idle"));
    assert_eq!(row.application_name.as_deref(), Some("database-services"));
    assert_eq!(row.id.unwrap().pid, pid);
    assert!(seen.missing.is_empty() && !seen.truncated, "{seen:?}");
    assert_eq!(pool.pool_stats().active_connections, 1);
    let unknown = pool.insight().activity(Some("nobody"), Scope::Own, 1, soon()).await.unwrap_err();
    assert!(
        matches!(&unknown, InsightError::UnknownServer { known, .. } if known == &["primary"]),
        "{unknown}"
    );
}

#[tokio::test]
async fn sessions_are_shown_with_their_transactions_locks_and_ages() {
    let db = STATEMENTS.get().await.unwrap().database().await.unwrap();
    let pool = config(db.url(), 3).connect().await.unwrap();
    db.sql("CREATE TABLE t (id int); INSERT INTO t VALUES (1)").await.unwrap();
    let mut holder = pool.begin(Default::default()).await.unwrap();
    sqlx::query("UPDATE t SET id = 2").execute(&mut holder).await.unwrap();
    let (blocked, insight) = (pool.clone(), pool.insight());
    let blocked = tokio::spawn(async move {
        sqlx::query("UPDATE t SET id = 3").execute(&blocked.primary()).await.unwrap();
    });
    wait_for("the second writer to wait for the first", SOON, async || {
        let seen = insight.activity(None, Scope::Database, 100, soon()).await.unwrap();
        let holder = seen.rows.iter().find(|row| row.state.as_deref() == Some("idle in transaction"));
        let waiting = seen.rows.iter().find(|row| !row.blocked_by.is_empty());
        match (holder, waiting) {
            (Some(holder), Some(waiting)) => {
                assert_eq!(waiting.blocked_by, [holder.pid]);
                assert!(waiting.waits_for.as_ref().unwrap().starts_with("Lock"), "{waiting:?}");
                assert!(waiting.query_seconds.is_some() && holder.transaction_seconds.is_some());
                true
            }
            _ => false,
        }
    })
    .await;
    db.sql("CREATE TABLE p (id int)").await.unwrap();
    db.sql("BEGIN; INSERT INTO p VALUES (1); PREPARE TRANSACTION 'forgotten'").await.unwrap();
    let long = insight.long_transactions(None, millis(0), 100, soon()).await.unwrap();
    let kinds: Vec<_> = long.rows.iter().map(|row| (row.kind.as_str(), row.id.as_deref())).collect();
    assert!(kinds.contains(&("prepared", Some("forgotten"))), "{long:?}");
    assert_eq!(kinds.iter().filter(|(kind, _)| *kind == "session").count(), 2, "{long:?}");
    assert!(long.rows.windows(2).all(|pair| pair[0].seconds >= pair[1].seconds), "{long:?}");
    assert!(insight.long_transactions(None, SOON * 100, 9, soon()).await.unwrap().rows.is_empty());
    let cut = insight.long_transactions(None, millis(0), 1, soon()).await.unwrap();
    assert!(cut.truncated && cut.rows.len() == 1, "{cut:?}");
    db.sql("ROLLBACK PREPARED 'forgotten'").await.unwrap();

    // What the rights hide is said.
    let (poor, _) = poor(&db).await;
    let seen = poor.insight().activity(None, Scope::Database, 100, soon()).await.unwrap();
    assert_eq!(seen.missing[0].right, "pg_read_all_stats", "{seen:?}");
    assert!(seen.rows.iter().any(|row| row.id.is_none() && row.state.is_none()), "{seen:?}");
    holder.rollback().await.unwrap();
    blocked.await.unwrap();
}

#[tokio::test]
async fn unused_indexes_come_first_and_needed_ones_are_not_to_be_dropped() {
    let (pool, db) = pool(2).await;
    db.sql(
        "CREATE TABLE \"Odd t\" (id int PRIMARY KEY, a int, b text, c int UNIQUE); \
         INSERT INTO \"Odd t\" SELECT i, i % 100, 'x' || i, i FROM generate_series(1, 20000) i; \
         CREATE INDEX used ON \"Odd t\" (a); CREATE INDEX \"Unused\" ON \"Odd t\" (b); \
         CREATE UNIQUE INDEX unique_alone ON \"Odd t\" (c, a); ANALYZE \"Odd t\"",
    )
    .await
    .unwrap();
    sqlx::query("SELECT count(*) FROM \"Odd t\" WHERE a = 7").execute(&pool.primary()).await.unwrap();
    let insight = pool.insight();
    wait_for("the scan to be counted", SOON, async || {
        // The server publishes a session's counts when it is idle, a moment later.
        sqlx::query("SELECT 1").execute(&pool.primary()).await.unwrap();
        let seen = insight.index_usage(None, 100, soon()).await.unwrap();
        seen.rows.iter().any(|row| row.index == "used" && row.scans > 0)
    })
    .await;
    let seen = insight.index_usage(None, 100, soon()).await.unwrap();
    assert_eq!(seen.rows.last().unwrap().index, "used", "{seen:?}");
    let row = |name: &str| seen.rows.iter().find(|row| row.index == name).unwrap();
    assert_eq!(row("Unused").drop_it.as_deref(), Some("DROP INDEX CONCURRENTLY public.\"Unused\""));
    assert_eq!(row("Unused").other_scans, Some(0));
    assert!(row("Unused").bytes > 100_000);
    for needed in ["Odd t_pkey", "Odd t_c_key", "unique_alone", "used"] {
        assert_eq!(row(needed).drop_it, None, "{needed}");
    }
    assert!(row("Odd t_pkey").is_needed && row("unique_alone").is_unique && !row("unique_alone").is_needed);
    assert!(seen.notes[0].contains("counted since"), "{seen:?}");
    assert!(insight.index_usage(Some("elsewhere"), 9, soon()).await.unwrap().rows.is_empty());
}

#[tokio::test]
async fn sizes_vacuum_and_the_rate_of_the_log() {
    let (pool, db) = pool(2).await;
    db.sql(
        "CREATE TABLE big (id int, t text) WITH (autovacuum_enabled = off); \
         INSERT INTO big SELECT i, repeat('x', 100) FROM generate_series(1, 10000) i; CREATE INDEX ON big (id); \
         CREATE TABLE small (id int)",
    )
    .await
    .unwrap();
    let insight = pool.insight();
    let sizes = insight.sizes(None, 1, soon()).await.unwrap();
    assert_eq!((sizes.tables[0].table.as_str(), sizes.truncated), ("big", true));
    let big = &sizes.tables[0];
    assert_eq!(big.total_bytes, big.table_bytes + big.index_bytes + big.toast_bytes);
    assert!(big.table_bytes > 1_000_000 && big.index_bytes > 100_000, "{big:?}");
    let own = sizes.databases.iter().find(|database| database.database == db.name()).unwrap();
    assert!(own.bytes.unwrap() > big.total_bytes);

    db.sql("DELETE FROM big WHERE id % 2 = 0").await.unwrap();
    wait_for("the dead rows to be counted", SOON, async || {
        let state = insight.vacuum_state(10, soon()).await.unwrap();
        let big = state.tables.iter().find(|table| table.table == "big").unwrap();
        assert!(big.last_vacuum.is_none() && state.autovacuum && state.wraparound_share < 0.01);
        big.dead_rows == 5000 && (big.dead_share - 0.5).abs() < 0.01
    })
    .await;

    let writing = async {
        loop {
            db.sql("INSERT INTO big SELECT i, repeat('y', 100) FROM generate_series(1, 100) i")
                .await
                .unwrap();
        }
    };
    let rate = tokio::select! {
        rate = insight.wal_rate(millis(300), soon()) => rate,
        never = writing => never,
    };
    let rate = rate.unwrap();
    assert!(rate.seconds >= 0.3 && rate.bytes > 0, "{rate:?}");
    assert!((rate.bytes_per_second - rate.bytes as f64 / rate.seconds).abs() < 1.0, "{rate:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replication_is_seen_from_both_ends() {
    let (pool, db) = crate::replicas::replicated(1).await;
    db.sql("SELECT pg_create_physical_replication_slot('forgotten', true)").await.unwrap();
    let insight = pool.insight();
    assert_eq!(insight.servers().collect::<Vec<_>>(), ["primary", "replica0"]);
    let primary = insight.replication(None, soon()).await.unwrap();
    assert!(!primary.is_standby && primary.receiver.is_none());
    assert_eq!(primary.standbys[0].state.as_deref(), Some("streaming"));
    assert!(primary.standbys[0].lag_bytes.is_some(), "{primary:?}");
    let slot = &primary.slots[0];
    assert_eq!((slot.name.as_str(), slot.active), ("forgotten", false));
    let replica = insight.replication(Some("replica0"), soon()).await.unwrap();
    assert!(replica.is_standby && replica.standbys.is_empty());
    assert_eq!(replica.receiver.as_ref().unwrap().status.as_deref(), Some("streaming"));
    assert_eq!(replica.timeline, primary.timeline);

    // An index that only the replica uses is no candidate.
    db.sql("CREATE TABLE t AS SELECT i AS a FROM generate_series(1, 20000) i; CREATE INDEX ta ON t (a); ANALYZE t")
        .await
        .unwrap();
    db.stack().postgres().wait_replicas(SOON).await.unwrap();
    let server = db.stack().postgres().replicas()[0].clone();
    server.sql(db.name(), "SELECT * FROM t WHERE a = 5").await.unwrap();
    wait_for("the replica's scan to be counted", SOON, async || {
        let seen = insight.index_usage(None, 9, soon()).await.unwrap();
        let index = seen.rows.iter().find(|row| row.index == "ta").unwrap();
        index.scans == 0 && index.other_scans.unwrap() > 0 && index.drop_it.is_none()
    })
    .await;
    server.kill().unwrap();
    let seen = insight.index_usage(None, 9, soon()).await.unwrap();
    assert!(seen.notes.iter().any(|note| note.contains("replica0 did not answer")), "{seen:?}");
    assert!(seen.rows.iter().all(|row| row.other_scans.is_none() && row.drop_it.is_none()), "{seen:?}");
    assert!(insight.replication(Some("replica0"), soon()).await.unwrap_err().is_retryable());
}
