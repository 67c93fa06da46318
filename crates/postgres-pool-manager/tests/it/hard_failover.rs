//! Failover where it hurts: foreign servers, tokens of histories that nobody here knows, pools that are suspended,
//! exhausted or resized meanwhile, and who else writes to the primary.

use crate::{migrations, replicas::replicated_with, support::*};
use local_stack::{Database, PostgresOptions, Server, Stack, wait_for};
use postgres_pool_manager::{
    Config, Error, HostState, PoolEvent, PostgresPoolManager, ReadToken, ReplicaEndpoint, migrations as own,
    sqlx,
};
use resilience::Deadline;
use std::time::{Duration, Instant};

fn replica(db: &Database, n: usize) -> &Server {
    &db.stack().postgres().replicas()[n]
}

async fn primary_is(pool: &PostgresPoolManager, name: &str) {
    wait_for(&format!("{name} written to"), SOON, async || pool.load_balancer()[0].name == name).await;
}

/// A token of the history that begins after the present one, as another instance may have it, or a forger.
async fn newer(pool: &PostgresPoolManager) -> ReadToken {
    let token = pool.read_token().await.unwrap().to_string();
    let parts: Vec<_> = token.split('/').collect();
    format!("{}/{:x}/{}", parts[0], u32::from_str_radix(parts[1], 16).unwrap() + 1, parts[2]).parse().unwrap()
}

async fn transactions(db: &Database) -> u64 {
    let sql = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
    scalar(db, sql).await.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_an_unknown_history_holds_no_connection_and_is_never_answered_by_the_old_primary() {
    let (pool, db) = replicated_with(1, |config| config.check_after_idle = Duration::from_secs(600)).await;
    let token = newer(&pool).await;
    pool.force_primary_reads(true);
    // All five are idle and warm.
    let mut warm = Vec::new();
    for _ in 0..5 {
        warm.push(pool.write().await.unwrap());
    }
    drop(warm);
    let (before, began) = (transactions(&db).await, Instant::now());
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let read = pool.read_after(&token).deadline(Deadline::after(millis(3000)));
                read.await.map(|session| session.host().to_owned())
            })
        })
        .collect();
    wait_for("they wait", SOON, async || began.elapsed() > millis(500)).await;
    let in_use = pool.pool_stats().hosts[0].pool.active_connections;
    let write = pool.write().deadline(Deadline::after(millis(1000))).await.map(drop);
    let mut answers = Vec::new();
    for reader in readers {
        answers.push(reader.await.unwrap());
    }
    // The server counts with a delay of about a second.
    let settled = Instant::now();
    wait_for("the count", SOON, async || settled.elapsed() > millis(1500)).await;
    let looks = transactions(&db).await - before;
    eprintln!(
        "{in_use} connections held; a write meanwhile {write:?}; answers {answers:?}; {looks} transactions"
    );
    assert!(write.is_ok() && in_use == 0, "{write:?} {in_use}");
    let timed_out = |answer: &Result<_, _>| matches!(answer, Err(Error::AcquireTimeout { .. }));
    assert!(answers.iter().all(timed_out), "{answers:?}");
    assert!(looks < 1000, "{looks} looks at one server in {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_never_promoted_is_not_taken_for_the_primary_while_that_is_down() {
    let ours = Stack::builder().postgres(PostgresOptions::default()).start().await.unwrap();
    let ours = ours.database().await.unwrap();
    // A wrong address: a primary of another cluster.
    let foreign = database().await;
    ours.primary().kill().unwrap();
    let replicas = vec![ReplicaEndpoint::new("foreign", foreign.url(), 1)];
    let settings = Config { replicas, lazy_connect: true, ..config(ours.url(), 3) };
    match settings.connect().await {
        // Of no use as a replica either.
        Err(Error::Connect { .. }) => {}
        Err(e) => panic!("{e}"),
        Ok(pool) => {
            let write = pool.write().deadline(Deadline::after(millis(1500))).await;
            assert!(write.is_err(), "written to {}", write.unwrap().host());
            ours.primary().restart().await.unwrap();
            assert_eq!(pool.write().await.unwrap().host(), "primary");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promoted_twice_over_three_servers() {
    let (pool, db) = replicated_with(2, |_| {}).await;
    let mut events = pool.events();
    sqlx::query("CREATE TABLE t (n int)").execute(&pool.primary()).await.unwrap();
    let first = pool.read_token().await.unwrap();
    db.primary().kill().unwrap();
    replica(&db, 0).promote().await.unwrap();
    primary_is(&pool, "replica0").await;
    let (next, last) = (replica(&db, 0).clone(), replica(&db, 1).clone());
    tokio::task::spawn_blocking(move || last.follow_blocking(&next)).await.unwrap().unwrap();
    sqlx::query("INSERT INTO t VALUES (2)").execute(&pool.primary()).await.unwrap();
    let second = pool.read_token().await.unwrap();
    wait_for("the last one follows", SOON, async || pool.read_after(&second).await.unwrap().is_replica())
        .await;
    replica(&db, 0).kill().unwrap();
    replica(&db, 1).promote().await.unwrap();
    primary_is(&pool, "replica1").await;
    for token in [first, second] {
        let mut session = pool.read_after(&token).await.unwrap();
        let n: i32 = sqlx::query_scalar("SELECT n FROM t").fetch_one(&mut session).await.unwrap();
        assert_eq!((n, session.host()), (2, "replica1"));
    }
    // The first one comes back with the oldest history.
    db.primary().restart().await.unwrap();
    wait_for("it to be seen", SOON, async || {
        pool.load_balancer().iter().any(|host| host.name == "primary" && host.state == HostState::Writable)
    })
    .await;
    assert_eq!(pool.write().await.unwrap().host(), "replica1");
    let mut told = Vec::new();
    while told.len() < 2 {
        if let PoolEvent::PrimaryChanged { to, timeline, .. } = events.next().await.unwrap() {
            told.push((to, timeline));
        }
    }
    assert_eq!(told, [("replica0".to_owned(), 2), ("replica1".to_owned(), 3)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_is_exhausted_suspended_and_resized_fails_over_whole() {
    let (pool, db) = replicated_with(1, |config| config.size = 1).await;
    let held = pool.write().await.unwrap();
    let waiting: Vec<_> = (0..6)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { pool.write().await.map(|session| session.host().to_owned()) })
        })
        .collect();
    wait_for("they wait", SOON, async || pool.pool_stats().hosts[0].pool.connection_queue_size == 6).await;
    pool.suspend();
    replica(&db, 0).promote().await.unwrap();
    primary_is(&pool, "replica0").await;
    // The former primary is removed while those who waited for it are on their way.
    pool.remove_replica("primary").unwrap();
    wait_for("they wait there", SOON, async || pool.pool_stats().hosts[0].pool.connection_queue_size == 6)
        .await;
    pool.resize(3, 0).unwrap();
    assert!(waiting.iter().all(|task| !task.is_finished()), "suspended");
    pool.resume();
    for task in waiting {
        assert_eq!(task.await.unwrap().unwrap(), "replica0");
    }
    drop(held);
    let three = [pool.write().await.unwrap(), pool.write().await.unwrap(), pool.write().await.unwrap()];
    assert!(pool.write().deadline(Deadline::after(millis(300))).await.is_err(), "three and no more");
    drop(three);
    wait_idle(&pool, "every permit back").await;
    assert_eq!(pool.pool_stats().hosts.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_former_primary_that_is_removed_at_once_waits_for_the_new_one() {
    for _ in 0..3 {
        let (pool, db) = replicated_with(1, |config| config.size = 1).await;
        let mut events = pool.events();
        let _held = pool.write().await.unwrap();
        let waiting: Vec<_> = (0..200)
            .map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move { pool.write().await.map(drop) })
            })
            .collect();
        wait_for("they wait", SOON, async || pool.pool_stats().hosts[0].pool.connection_queue_size == 200)
            .await;
        let promoted = tokio::spawn(async move {
            replica(&db, 0).promote().await.unwrap();
            db
        });
        loop {
            if matches!(events.next().await.unwrap(), PoolEvent::PrimaryChanged { .. }) {
                break;
            }
        }
        while pool.remove_replica("primary").is_err() {
            tokio::task::yield_now().await;
        }
        for task in waiting {
            let written = task.await.unwrap();
            assert!(written.is_ok(), "{written:?}");
        }
        drop(promoted.await.unwrap());
    }
}

/// Whoever keeps the lease has to write it where the others read it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fleets_lease_is_kept_at_the_new_primary_though_the_old_one_answers() {
    let stack = Stack::builder().postgres(PostgresOptions::with_replicas(1)).start().await.unwrap();
    let db = stack.database().await.unwrap();
    let plain = config(db.url(), 1).connect().await.unwrap();
    migrations::migrate(&plain, &[own()]).await.unwrap();
    plain.shutdown(SOON).await;
    let replicas = vec![ReplicaEndpoint::new("replica0", db.replica_url(0).unwrap(), 1)];
    let lease = Duration::from_secs(4);
    let settings = Config { replicas, fleet_budget: Some(36), fleet_lease: lease, ..config(db.url(), 5) };
    let pool = settings.connect().await.unwrap();
    assert!(pool.write().await.is_ok());
    replica(&db, 0).promote().await.unwrap();
    primary_is(&pool, "replica0").await;
    let since = Instant::now();
    let left =
        "SELECT count(*) FROM database_services.connection_leases WHERE expires_at > clock_timestamp()";
    let count = async |sql: &str| replica(&db, 0).sql(db.name(), sql).await.unwrap()[0][0].clone().unwrap();
    wait_for("the time of the old lease is over", SOON, async || since.elapsed() > lease + millis(1000))
        .await;
    assert_eq!(count(left).await, "1", "{:?}", pool.fleet_budget());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forcing_by_lag_does_not_flap_where_its_limit_is_below_that_of_a_replica() {
    let (pool, db) = replicated_with(1, |config| {
        (config.force_primary_lag, config.replica_lag_limit) = (millis(300), Duration::from_secs(60));
    })
    .await;
    db.sql("CREATE TABLE t (n int)").await.unwrap();
    let mut events = pool.events();
    replica(&db, 0).sql(db.name(), "SELECT pg_wal_replay_pause()").await.unwrap();
    let since = Instant::now();
    db.sql("INSERT INTO t VALUES (1)").await.unwrap();
    wait_for("many looks", SOON, async || since.elapsed() > millis(4000)).await;
    let mut changes = 0;
    while let Ok(Some(event)) = tokio::time::timeout(millis(50), events.next()).await {
        changes += u32::from(matches!(event, PoolEvent::ForcedPrimaryReads { .. }));
    }
    assert!(changes <= 1, "{changes} changes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_promoted_from_one_history_the_second_is_told_and_taken_by_order_alone() {
    let (pool, db) = replicated_with(2, |_| {}).await;
    let mut events = pool.events();
    db.primary().kill().unwrap();
    replica(&db, 0).promote().await.unwrap();
    primary_is(&pool, "replica0").await;
    replica(&db, 0).kill().unwrap();
    let not_writable = pool.set_primary("replica1").unwrap_err();
    assert!(not_writable.to_string().contains("promote it first"), "{not_writable}");
    replica(&db, 1).promote().await.unwrap();
    let tie = PoolEvent::TwoPrimaries { kept: "replica0".into(), refused: "replica1".into() };
    while tokio::time::timeout(SOON, events.next()).await.expect("told").unwrap() != tie {}
    assert_eq!(pool.load_balancer()[0].name, "replica0", "nobody knows which is right");
    assert!(matches!(pool.set_primary("nobody"), Err(Error::UnknownHost(_))));
    pool.set_primary("replica1").unwrap();
    let deadline = Deadline::after(SOON);
    assert_eq!(pool.write().deadline(deadline).await.unwrap().host(), "replica1");
    sqlx::query("CREATE TABLE t ()").execute(&pool.primary()).await.unwrap();
}
