//! Behind a real PgBouncer in transaction mode: many clients on few connections, and nobody meets another's leavings.

use crate::{cancel::Polls, support::*};
use futures_util::TryStreamExt;
use local_stack::{Database, PostgresOptions, SharedStack, Stack, wait_for};
use postgres_pool_manager::{
    Config, ConnectFailure, Endpoint, Error, PoolState, PostgresPoolManager, ReadToken, ReplicaEndpoint, sqlx,
};
use resilience::Deadline;
use sqlx::{Executor, SqlStr};
use std::time::Instant;
use tokio::task::JoinSet;

/// Connections of PgBouncer to each database.
const SERVERS: usize = 3;

static STACK: SharedStack = SharedStack::new(|| Stack::builder().postgres(options()));

fn options() -> PostgresOptions {
    let pool_size = ("default_pool_size".to_owned(), SERVERS.to_string());
    PostgresOptions { pgbouncer: true, pgbouncer_settings: vec![pool_size], ..PostgresOptions::default() }
}

fn behind(db: &Database, size: u32) -> Config {
    let url = db.stack().postgres().pgbouncer().url_for(db.name());
    let direct = Some(Endpoint::new("direct", db.url()));
    Config { pgbouncer: true, direct, ..config(url, size) }
}

async fn pooled(size: u32) -> (PostgresPoolManager, Database) {
    let db = STACK.get().await.unwrap().database().await.unwrap();
    (behind(&db, size).connect().await.unwrap(), db)
}

/// What PgBouncer's own connections to this database say, one line each.
async fn at_the_servers(pool: &PostgresPoolManager, sql: &'static str) -> Vec<String> {
    let mut transactions = Vec::new();
    let mut answers = Vec::new();
    // Each transaction keeps its server, so that the next one gets another.
    for _ in 0..SERVERS {
        let mut tx = pool.begin(Default::default()).await.unwrap();
        let row: (i32, String) = sqlx::query_as(sql).fetch_one(&mut tx).await.unwrap();
        transactions.push(tx);
        answers.push(row);
    }
    let mut pids: Vec<_> = answers.iter().map(|(pid, _)| *pid).collect();
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), SERVERS, "each asked once");
    answers.into_iter().map(|(_, text)| text).collect()
}

#[derive(Debug, PartialEq, sqlx::Type)]
#[sqlx(type_name = "mood", rename_all = "lowercase")]
enum Mood {
    Happy,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_share_few_connections_and_get_their_own_answers() {
    let (pool, db) = pooled(20).await;
    db.sql("CREATE TYPE mood AS ENUM ('happy'); CREATE TABLE t (n int PRIMARY KEY, mood mood NOT NULL)")
        .await
        .unwrap();
    let mut clients = JoinSet::new();
    for client in 0..30_i32 {
        let pool = pool.clone();
        clients.spawn(async move {
            for round in 0..10 {
                let n = client * 100 + round;
                // Outside of a transaction, with arguments, of a type that the driver has to ask for.
                sqlx::query("INSERT INTO t VALUES ($1, $2)")
                    .bind(n)
                    .bind(Mood::Happy)
                    .execute(&pool.primary())
                    .await
                    .unwrap();
                let (echo, mood): (i32, Mood) = sqlx::query_as("SELECT n, mood FROM t WHERE n = $1")
                    .bind(n)
                    .fetch_one(&pool.primary())
                    .await
                    .unwrap();
                assert_eq!((echo, mood), (n, Mood::Happy));
                let streamed: Vec<i32> =
                    sqlx::query_scalar::<_, i32>("SELECT generate_series($1::int, $1 + 50)")
                        .bind(n)
                        .fetch(&pool.primary())
                        .try_collect()
                        .await
                        .unwrap();
                assert_eq!(streamed, (n..=n + 50).collect::<Vec<_>>());
                let mut session = pool.write().await.unwrap();
                let text: String = sqlx::query_scalar("SELECT $1::text")
                    .bind(format!("{n}"))
                    .fetch_one(&mut session)
                    .await
                    .unwrap();
                assert_eq!(text, n.to_string());
                let row = (&mut session).fetch_one("SELECT 'simple'").await.unwrap();
                assert_eq!(sqlx::Row::get::<String, _>(&row, 0), "simple");
                drop(session);
                let mut tx = pool.begin(Default::default()).await.unwrap();
                let mood: Mood = sqlx::query_scalar("SELECT mood FROM t WHERE n = $1")
                    .bind(n)
                    .fetch_one(&mut tx)
                    .await
                    .unwrap();
                assert_eq!(mood, Mood::Happy);
                let gone = sqlx::query("DELETE FROM t WHERE n = $1").bind(n).execute(&mut tx).await.unwrap();
                assert_eq!(gone.rows_affected(), 1);
                tx.commit().await.unwrap();
            }
        });
    }
    clients.join_all().await;
    assert_eq!(scalar(&db, "SELECT count(*) FROM t").await, "0");
    let backends = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'database-services'";
    let backends: usize = scalar(&db, backends).await.parse().unwrap();
    assert!((1..=SERVERS).contains(&backends), "{backends} connections for 20");
    assert_eq!(pool.pool_stats().discarded_total, 0, "{:?}", pool.pool_stats());
}

#[tokio::test]
async fn transactions_have_their_limits_their_one_commit_and_their_token() {
    let (pool, db) = pooled(2).await;
    db.sql("CREATE TABLE t (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)").await.unwrap();
    let mut tx = pool.begin(Default::default()).await.unwrap();
    let limits: (String, String, String) = sqlx::query_as(
        "SELECT current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout'), \
         current_setting('client_connection_check_interval')",
    )
    .fetch_one(&mut tx)
    .await
    .unwrap();
    assert_eq!(limits, ("30s".into(), "1min".into(), "1s".into()));
    let alone: String = sqlx::query_scalar("SELECT current_setting($1)")
        .bind("statement_timeout")
        .fetch_one(&pool.primary())
        .await
        .unwrap();
    assert_eq!(alone, "30s", "a statement with arguments has them too");
    sqlx::query("INSERT INTO t VALUES ($1)").bind(1).execute(&mut tx).await.unwrap();
    tx.before_commit("INSERT INTO t VALUES (2)");
    let token = tx.commit().await.unwrap();
    assert_ne!(token, ReadToken::PRIMARY_ONLY);
    let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM t WHERE n < $1")
        .bind(9)
        .fetch_one(&pool.replica_after(&token))
        .await
        .unwrap();
    assert_eq!(seen, 2);
    // What only COMMIT finds out: of a transaction, and of a statement by itself.
    let mut tx = pool.begin(Default::default()).await.unwrap();
    sqlx::query("INSERT INTO t VALUES ($1)").bind(1).execute(&mut tx).await.unwrap();
    assert!(
        matches!(tx.commit().await, Err(Error::RolledBack { sqlstate: Some(code), .. }) if code == "23505")
    );
    let error = sqlx::query("INSERT INTO t VALUES ($1)").bind(1).execute(&pool.primary()).await.unwrap_err();
    assert_eq!(Error::from(error).sqlstate().as_deref(), Some("23505"));
    // A failed statement ends its own transaction, and the session goes on.
    let mut session = pool.write().await.unwrap();
    sqlx::query("SELECT 1 / $1").bind(0).execute(&mut session).await.unwrap_err();
    let one: i32 = sqlx::query_scalar("SELECT $1").bind(1).fetch_one(&mut session).await.unwrap();
    assert_eq!(one, 1);
    drop(session);
    let mut tx = pool.begin(Default::default()).await.unwrap();
    tx.before_commit("SET work_mem = '1MB'");
    assert!(matches!(tx.commit().await, Err(Error::SessionState { .. })));
    wait_idle(&pool, "every session back").await;
    assert_eq!(scalar(&db, "SELECT count(*) FROM t").await, "2");
}

#[tokio::test]
async fn what_would_stay_at_a_server_is_refused_and_nothing_stays() {
    let (pool, db) = pooled(5).await;
    db.sql("CREATE TABLE t (n int)").await.unwrap();
    for sql in
        ["SET work_mem = '1MB'", "LISTEN x", "CREATE TEMP TABLE x ()", "SELECT pg_advisory_lock(1)", "BEGIN"]
    {
        let error = Error::from((&pool.primary()).execute(sql).await.unwrap_err());
        assert!(matches!(error, Error::SessionState { .. }), "{sql}: {error}");
        let mut tx = pool.begin(Default::default()).await.unwrap();
        let error = Error::from((&mut tx).execute(sql).await.unwrap_err());
        assert!(
            matches!(error, Error::SessionState { .. } | Error::TransactionControl { .. }),
            "{sql}: {error}"
        );
        tx.rollback().await.unwrap();
    }
    let error = (&pool.primary()).prepare(SqlStr::from_static("SELECT 1")).await.unwrap_err();
    assert!(matches!(Error::from(error), Error::SessionState { .. }));
    // What is allowed: state of the transaction, statements of several parts, code.
    let mut tx = pool.begin(Default::default()).await.unwrap();
    for sql in [
        "SET LOCAL work_mem = '1MB'",
        "SELECT set_config('app.user', 'me', true)",
        "SELECT pg_advisory_xact_lock(1)",
        "CREATE TEMP TABLE own (n int) ON COMMIT DROP",
        "DECLARE c CURSOR FOR SELECT 1",
        "SAVEPOINT a",
        "SELECT 1; SELECT 2",
    ] {
        (&mut tx).execute(sql).await.unwrap();
    }
    sqlx::query("INSERT INTO own VALUES ($1)").bind(1).execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    (&pool.primary()).execute("DO $$ BEGIN INSERT INTO t VALUES (1); END $$").await.unwrap();
    // The driver's own connection: COPY, in a transaction. It is given up afterwards.
    let mut session = pool.write().await.unwrap();
    let mut copy = session.raw().copy_in_raw("COPY t FROM STDIN").await.unwrap();
    copy.send(b"2\n3\n".as_slice()).await.unwrap();
    assert_eq!(copy.finish().await.unwrap(), 2);
    drop(session);
    wait_idle(&pool, "every session back").await;
    assert_eq!(pool.pool_stats().discarded_total, 1);
    let left = "SELECT pg_backend_pid(), concat_ws(' ', current_setting('work_mem'), \
        nullif(current_setting('app.user', true), ''), \
        (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'), \
        (SELECT count(*) FROM pg_prepared_statements WHERE name <> ''), (SELECT count(*) FROM pg_cursors WHERE name <> ''), \
        to_regclass('own'), (SELECT count(*) FROM pg_listening_channels()), \
        (SELECT setting FROM pg_settings WHERE name = 'statement_timeout' AND source <> 'session'))";
    for left in at_the_servers(&pool, left).await {
        assert_eq!(left, "4MB 0 0 0 0");
    }
    let timeout: String = (&pool.primary())
        .fetch_one("SHOW statement_timeout")
        .await
        .map(|row| sqlx::Row::get(&row, 0))
        .unwrap();
    assert_eq!(timeout, "0", "the limits end with each transaction");
    assert_eq!(scalar(&db, "SELECT count(*) FROM t").await, "3");
}

/// Whatever is cancelled wherever: no connection lies, no server is left in a transaction, and no later statement
/// ends up in a transaction that a cancelled one left open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancellations_poison_nothing() {
    let (pool, db) = pooled(5).await;
    db.sql("CREATE TABLE t (n int); CREATE TABLE sure (n int)").await.unwrap();
    let (mut tasks, mut cancelled) = (JoinSet::new(), 0);
    let started = Instant::now();
    for n in 0..400_u32 {
        let pool = pool.clone();
        tasks.spawn(async move {
            let mut session = pool.write().await.unwrap();
            let work = async {
                match n % 3 {
                    0 => {
                        sqlx::query("INSERT INTO t VALUES ($1)")
                            .bind(n as i32)
                            .execute(&mut session)
                            .await
                            .unwrap();
                    }
                    1 => {
                        let rows: Vec<i32> = sqlx::query_scalar::<_, i32>("SELECT generate_series(1, $1)")
                            .bind(200)
                            .fetch(&mut session)
                            .try_collect()
                            .await
                            .unwrap();
                        assert_eq!(rows.len(), 200);
                    }
                    _ => drop((&mut session).execute("SELECT pg_sleep(0.001)").await.unwrap()),
                }
            };
            let finished = Polls { future: Box::pin(work), left: (n / 3) % 9 }.await.is_some();
            // The same session goes on, in a transaction of its own or in none.
            if n % 2 == 0 {
                sqlx::query("INSERT INTO sure VALUES ($1)")
                    .bind(n as i32)
                    .execute(&mut session)
                    .await
                    .unwrap();
            } else {
                (&mut session).execute("INSERT INTO sure VALUES (1)").await.unwrap();
            }
            finished
        });
        if tasks.len() >= 12 {
            cancelled += usize::from(!tasks.join_next().await.unwrap().unwrap());
        }
    }
    while let Some(finished) = tasks.join_next().await {
        cancelled += usize::from(!finished.unwrap());
    }
    println!("{cancelled} of 400 cancelled in {:?}, {:?}", started.elapsed(), pool.pool_stats());
    assert!(cancelled >= 50, "{cancelled}");
    wait_idle(&pool, "every permit back").await;
    assert_eq!(
        scalar(&db, "SELECT count(*) FROM sure").await,
        "400",
        "no write after a cancellation is lost"
    );
    wait_for("no server in a transaction", SOON, async || {
        let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'";
        scalar(&db, open).await == "0"
    })
    .await;
    for n in 0..20 {
        let echo: i32 = sqlx::query_scalar("SELECT $1").bind(n).fetch_one(&pool.primary()).await.unwrap();
        assert_eq!(echo, n);
    }
}

#[tokio::test]
async fn migrations_and_listening_take_the_direct_way() {
    let (pool, db) = pooled(2).await;
    let report = crate::migrations::migrate(&pool, crate::migrations::SETS).await.unwrap();
    assert_eq!(report.applied.len(), 1);
    let mut listener = pool.open_listener(Deadline::after(SOON)).await.unwrap();
    listener.listen("news").await.unwrap();
    sqlx::query("SELECT pg_notify($1, $2)")
        .bind("news")
        .bind("hello")
        .execute(&pool.primary())
        .await
        .unwrap();
    let heard = Deadline::after(SOON).run(listener.recv()).await.unwrap().unwrap();
    assert_eq!((heard.channel(), heard.payload()), ("news", "hello"));
    let mut direct = pool.open_direct(Deadline::after(SOON)).await.unwrap();
    direct.execute("SET work_mem = '1MB'").await.unwrap();
    let memory: String = direct.fetch_one("SHOW work_mem").await.map(|row| sqlx::Row::get(&row, 0)).unwrap();
    assert_eq!(memory, "1MB");
    direct.close().await.unwrap();
    let without = Config { direct: None, ..behind(&db, 1) };
    let error = without.connect().await.unwrap_err().to_string();
    assert!(error.contains("direct: is needed with pgbouncer"), "{error}");
}

#[tokio::test]
async fn a_pool_that_does_not_know_of_pgbouncer_is_told() {
    let (_pool, db) = pooled(1).await;
    let error = Config { pgbouncer: false, ..behind(&db, 1) }.connect().await.unwrap_err();
    assert!(matches!(error, Error::Connect { failure: ConnectFailure::Pooler, .. }), "{error}");
    assert!(error.to_string().contains("set pgbouncer"), "{error}");
    let pgbouncer = db.stack().postgres().pgbouncer();
    let wrong = pgbouncer.url_as("postgres", "wrong", db.name());
    let error =
        Config { primary: Endpoint::new("primary", wrong), ..behind(&db, 1) }.connect().await.unwrap_err();
    assert!(matches!(error, Error::Connect { failure: ConnectFailure::Credentials, .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn either_of_them_killed_and_restarted_is_found_again() {
    let stack = Stack::builder().postgres(options()).start().await.unwrap();
    let db = stack.database().await.unwrap();
    let pool = behind(&db, 4).connect().await.unwrap();
    let ask = async || {
        let primary = pool.primary();
        let one = sqlx::query_scalar::<_, i32>("SELECT $1").bind(1).fetch_one(&primary);
        Deadline::after(millis(1000)).run(one).await.is_ok_and(|answer| answer.is_ok())
    };
    assert!(ask().await);
    for server in [stack.postgres().pgbouncer(), stack.postgres().primary()] {
        let held = pool.write().await.unwrap();
        server.kill().unwrap();
        drop(held);
        assert!(!ask().await, "{} is away", server.name());
        server.restart().await.unwrap();
        let restarted = Instant::now();
        wait_for("it answers again", SOON, ask).await;
        println!("{} found again after {:?}", server.name(), restarted.elapsed());
    }
    wait_for("seen as up", SOON, async || pool.status().state == PoolState::Connected).await;
    wait_idle(&pool, "every permit back").await;
}

/// A replica is asked its way as well; whose run of the server PgBouncer leads to nobody knows, so a token takes the
/// primary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_take_a_replica_and_reads_with_a_token_the_primary() {
    let stack =
        Stack::builder().postgres(PostgresOptions { replicas: 1, ..options() }).start().await.unwrap();
    let db = stack.database().await.unwrap();
    db.sql("CREATE TABLE t (n int)").await.unwrap();
    stack.postgres().wait_replicas(SOON).await.unwrap();
    let replicas = vec![ReplicaEndpoint::new("replica", db.replica_url(0).unwrap(), 1)];
    let pool = Config { replicas, ..behind(&db, 2) }.connect().await.unwrap();
    wait_for("the replica serves", SOON, async || pool.read().await.unwrap().is_replica()).await;
    let standby: bool = sqlx::query_scalar("SELECT pg_is_in_recovery() AND $1")
        .bind(true)
        .fetch_one(&pool.replica())
        .await
        .unwrap();
    assert!(standby);
    let mut tx = pool.begin(Default::default()).await.unwrap();
    sqlx::query("INSERT INTO t VALUES ($1)").bind(1).execute(&mut tx).await.unwrap();
    let token = tx.commit().await.unwrap();
    for _ in 0..20 {
        assert!(!pool.read_after(&token).await.unwrap().is_replica());
        let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM t WHERE n = $1")
            .bind(1)
            .fetch_one(&pool.replica_after(&token))
            .await
            .unwrap();
        assert_eq!(seen, 1);
    }
}
