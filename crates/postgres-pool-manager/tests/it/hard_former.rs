//! What still holds on to a former primary that is in perfect health: a COMMIT under way, a session that is used raw,
//! connections that are being opened, direct connections.

use crate::{replicas::replicated_with, support::*};
use local_stack::{Database, FaultProxy, PostgresOptions, Server, Stack, via, wait_for};
use postgres_pool_manager::{
    CommitOutcome, Config, Endpoint, Error, PostgresPoolManager, ReplicaEndpoint, TransactionError, sqlx,
};
use resilience::Deadline;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

fn replica(db: &Database) -> &Server {
    &db.stack().postgres().replicas()[0]
}

async fn primary_is(pool: &PostgresPoolManager, name: &str) {
    wait_for(&format!("{name} written to"), SOON, async || pool.load_balancer()[0].name == name).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_under_way_when_another_server_is_promoted_is_unknown_and_not_repeated() {
    let (pool, db) = replicated_with(1, |_| {}).await;
    db.sql(
        "CREATE TABLE t (n int); CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \
        $$ BEGIN PERFORM pg_sleep(20); RETURN NULL; END $$; CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON t \
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()",
    )
    .await
    .unwrap();
    let token = pool.read_token().await.unwrap();
    wait_for("the table there", SOON, async || pool.read_after(&token).await.unwrap().is_replica()).await;
    let runs = Arc::new(AtomicU32::new(0));
    let (told, mut outcome) = tokio::sync::mpsc::channel(8);
    let (manager, count) = (pool.clone(), Arc::clone(&runs));
    let writing = tokio::spawn(async move {
        manager
            .transaction(Default::default(), |tx| {
                let (count, told) = (Arc::clone(&count), told.clone());
                Box::pin(async move {
                    count.fetch_add(1, Relaxed);
                    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *tx).await?;
                    tx.on_commit(move |outcome| Box::pin(async move { told.send(outcome).await.unwrap() }));
                    Ok::<_, sqlx::Error>(())
                })
            })
            .await
    });
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    wait_for("COMMIT under way", SOON, async || scalar(&db, sleeping).await == "1").await;
    let began = Instant::now();
    replica(&db).promote().await.unwrap();
    let error = writing.await.unwrap().unwrap_err();
    assert!(matches!(error, TransactionError::Database(Error::OutcomeUnknown { .. })), "{error:?}");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_eq!(outcome.recv().await, Some(CommitOutcome::Unknown));
    assert_eq!((outcome.recv().await, runs.load(Relaxed)), (None, 1), "once");
    primary_is(&pool, "replica0").await;
    wait_idle(&pool, "the permit back").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_used_raw_does_not_go_on_writing_to_the_former_primary() {
    let (pool, db) = replicated_with(1, |_| {}).await;
    db.sql("CREATE TABLE t (n int)").await.unwrap();
    let mut session = pool.write().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (1)").execute(session.raw()).await.unwrap();
    replica(&db).promote().await.unwrap();
    primary_is(&pool, "replica0").await;
    let since = Instant::now();
    let mut written = 0;
    while sqlx::query("INSERT INTO t VALUES (2)").execute(session.raw()).await.is_ok() {
        written += 1;
        assert!(since.elapsed() < SOON, "{written} rows written where they are lost");
        tokio::task::yield_now().await;
    }
    eprintln!("{written} rows more within {:?}", since.elapsed());
    drop(session);
    wait_idle(&pool, "the permit back").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_direct_connection_to_the_former_primary_is_refused() {
    let stack = Stack::builder().postgres(PostgresOptions::with_replicas(1)).start().await.unwrap();
    let db = stack.database().await.unwrap();
    let replicas = vec![ReplicaEndpoint::new("replica0", db.replica_url(0).unwrap(), 1)];
    let direct = Some(Endpoint { name: "direct".into(), url: db.url().into() });
    let pool = Config { replicas, direct, ..config(db.url(), 2) }.connect().await.unwrap();
    drop(pool.open_direct(Deadline::after(SOON)).await.unwrap());
    drop(pool.open_listener(Deadline::after(SOON)).await.unwrap());
    replica(&db).promote().await.unwrap();
    primary_is(&pool, "replica0").await;
    let direct = pool.open_direct(Deadline::after(SOON)).await;
    assert!(matches!(direct, Err(Error::Connect { .. })), "a migration would run there");
    let listener = pool.open_listener(Deadline::after(SOON)).await;
    assert!(matches!(listener, Err(Error::Connect { .. })), "nobody notifies there any more");
}

/// Connections live for a moment and take long to open, so that many are half open when the role changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_half_open_at_the_promotion_are_not_written_to() {
    let stack = Stack::builder().postgres(PostgresOptions::with_replicas(1)).start().await.unwrap();
    let db = stack.database().await.unwrap();
    let proxy = FaultProxy::start(db.primary().target()).await.unwrap();
    let replicas = vec![ReplicaEndpoint::new("replica0", db.replica_url(0).unwrap(), 1)];
    let (lifetime, connecting) = (Duration::from_millis(60), 8);
    let settings = config(via(&db.url(), proxy.addr()), 16);
    let settings = Config { replicas, max_lifetime: lifetime, max_connecting: connecting, ..settings };
    let pool = settings.connect().await.unwrap();
    let mut session = pool.write().await.unwrap();
    sqlx::query("CREATE TABLE t (n int)").execute(&mut session).await.unwrap();
    drop(session);
    let token = pool.read_token().await.unwrap();
    wait_for("the table there", SOON, async || pool.read_after(&token).await.unwrap().is_replica()).await;
    proxy.delay(millis(15));
    let (stop, mut writers) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
    for n in 0..24 {
        let (pool, stop) = (pool.clone(), Arc::clone(&stop));
        writers.spawn(async move {
            while !stop.load(Relaxed) {
                let _ = sqlx::query("INSERT INTO t VALUES ($1)").bind(n).execute(&pool.primary()).await;
            }
        });
    }
    let count = "SELECT count(*) FROM t";
    wait_for("rows", SOON, async || scalar(&db, count).await.parse::<u32>().unwrap() > 200).await;
    replica(&db).promote().await.unwrap();
    primary_is(&pool, "replica0").await;
    let since = Instant::now();
    // What was on its way.
    wait_for("quiet", SOON, async || since.elapsed() > millis(500)).await;
    let before = scalar(&db, count).await;
    wait_for("more", SOON, async || since.elapsed() > millis(2500)).await;
    assert_eq!(scalar(&db, count).await, before, "written to the former primary");
    stop.store(true, Relaxed);
    while writers.join_next().await.is_some() {}
    wait_idle(&pool, "every permit back").await;
}
