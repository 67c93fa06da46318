//! Where reads go, and what they see there.

use crate::support::*;
use local_stack::{Database, PostgresOptions, Server, Stack, wait_for};
use postgres_pool_manager::{
    Config, Error, HostState, PoolState, PostgresPoolManager, ReplicaEndpoint, RouteReason, Session, sqlx,
};
use resilience::Deadline;

pub(crate) async fn replicated(replicas: usize) -> (PostgresPoolManager, Database) {
    replicated_with(replicas, |_| {}).await
}

pub(crate) async fn replicated_with(
    replicas: usize,
    change: impl FnOnce(&mut Config),
) -> (PostgresPoolManager, Database) {
    let stack = Stack::builder().postgres(PostgresOptions::with_replicas(replicas)).start().await.unwrap();
    let db = stack.database().await.unwrap();
    let endpoint = |n| ReplicaEndpoint::new(format!("replica{n}"), db.replica_url(n).unwrap(), 1);
    let replicas = (0..replicas).map(endpoint).collect();
    let replica_lag_limit = millis(2000);
    let mut settings = Config { replicas, replica_lag_limit, ..config(db.url(), 5) };
    change(&mut settings);
    let pool = settings.connect().await.unwrap();
    serving(&pool).await;
    (pool, db)
}

async fn serving(pool: &PostgresPoolManager) {
    wait_for("every replica serving", SOON, async || pool.status().state == PoolState::Connected).await;
}

async fn host(pool: &PostgresPoolManager) -> String {
    pool.read().await.unwrap().host().to_owned()
}

fn replica(db: &Database) -> Server {
    db.stack().postgres().replicas()[0].clone()
}

async fn state(pool: &PostgresPoolManager, state: HostState) {
    let what = format!("the replica {state:?}");
    wait_for(&what, SOON, async || pool.load_balancer()[1].state == state).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_to_the_replica_while_it_answers_and_to_the_primary_else() {
    let (pool, db) = replicated(1).await;
    assert_eq!(host(&pool).await, "replica0");
    assert_eq!(pool.write().await.unwrap().host(), "primary");
    let lag = pool.load_balancer()[1].lag_seconds.unwrap();
    assert!(lag < 2.0, "{lag}");
    pool.force_primary_reads(true);
    assert_eq!(host(&pool).await, "primary");
    pool.force_primary_reads(false);
    pool.drain_replica("replica0", true).unwrap();
    assert_eq!(host(&pool).await, "primary");
    pool.drain_replica("replica0", false).unwrap();
    assert_eq!(host(&pool).await, "replica0");

    // Silent: the probe finds out.
    replica(&db).pause().unwrap();
    state(&pool, HostState::Unreachable).await;
    assert_eq!(host(&pool).await, "primary");
    assert_eq!(pool.status().state, PoolState::Degraded);
    replica(&db).resume().unwrap();
    serving(&pool).await;
    assert_eq!(host(&pool).await, "replica0");

    // Dead: no read fails.
    let readers: Vec<_> = (0..4).map(|_| tokio::spawn(read_on(pool.clone()))).collect();
    replica(&db).kill().unwrap();
    for reader in readers {
        reader.await.unwrap();
    }
    state(&pool, HostState::Unreachable).await;
    assert_eq!(host(&pool).await, "primary");
    replica(&db).restart().await.unwrap();
    serving(&pool).await;
    assert_eq!(host(&pool).await, "replica0");
}

/// Reads without a pause for a second, in which the replica dies.
async fn read_on(pool: PostgresPoolManager) {
    let (until, replica) = (std::time::Instant::now() + millis(1000), pool.replica());
    while std::time::Instant::now() < until {
        sqlx::query("SELECT count(*) FROM pg_class").fetch_one(&replica).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_never_answered_with_less_under_a_paused_replica() {
    let (pool, db) = replicated(1).await;
    db.sql("CREATE TABLE t (n int); INSERT INTO t VALUES (0)").await.unwrap();
    let read = "SELECT n FROM t";
    let (mut from_replica, mut n) = (0, 0);
    for paused in [false, true, false] {
        let sql = if paused { "SELECT pg_wal_replay_pause()" } else { "SELECT pg_wal_replay_resume()" };
        replica(&db).sql(db.name(), sql).await.unwrap();
        for _ in 0..50 {
            n += 1;
            let mut tx = pool.begin(Default::default()).await.unwrap();
            sqlx::query("UPDATE t SET n = $1").bind(n).execute(&mut tx).await.unwrap();
            let token = tx.commit().await.unwrap();
            let mut session = pool.read_after(&token).await.unwrap();
            let seen: i32 = sqlx::query_scalar(read).fetch_one(&mut session).await.unwrap();
            assert_eq!(seen, n, "stale, from {}", session.host());
            from_replica += u32::from(session.is_replica());
        }
    }
    let token = pool.read_token().await.unwrap();
    wait_for("a token served by the replica", SOON, async || {
        pool.read_after(&token).await.unwrap().is_replica()
    })
    .await;
    let seen: i32 = sqlx::query_scalar(read).fetch_one(&pool.replica_after(&token)).await.unwrap();
    assert_eq!((seen, from_replica < 150), (n, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_too_far_behind_is_avoided_and_used_again() {
    let (pool, db) = replicated(1).await;
    db.sql("CREATE TABLE t (n int)").await.unwrap();
    replica(&db).sql(db.name(), "SELECT pg_wal_replay_pause()").await.unwrap();
    // Nothing new to replay is no lag, however long it lasts: something has to be written.
    db.sql("INSERT INTO t VALUES (1)").await.unwrap();
    state(&pool, HostState::Lagging).await;
    let host = &pool.load_balancer()[1];
    assert!(host.lag_bytes.unwrap() > 0 && host.lag_seconds.unwrap() >= host.lag_lower_seconds.unwrap());
    assert_eq!(self::host(&pool).await, "primary");
    replica(&db).sql(db.name(), "SELECT pg_wal_replay_resume()").await.unwrap();
    serving(&pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_reads_by_weight_and_come_and_go() {
    let (pool, db) = replicated(2).await;
    pool.set_replica_weight("replica0", 3).unwrap();
    let mut counts = std::collections::BTreeMap::new();
    for _ in 0..40 {
        *counts.entry(host(&pool).await).or_insert(0) += 1;
    }
    assert_eq!(
        counts.into_iter().collect::<Vec<_>>(),
        [("replica0".to_owned(), 30), ("replica1".to_owned(), 10)]
    );
    let held = pool.read().await.unwrap();
    pool.remove_replica("replica0").unwrap();
    pool.remove_replica("replica1").unwrap();
    assert_eq!((host(&pool).await.as_str(), pool.load_balancer().len()), ("primary", 1));
    drop(held);
    pool.add_replica(&ReplicaEndpoint::new("later", db.replica_url(1).unwrap(), 1)).unwrap();
    serving(&pool).await;
    assert_eq!(host(&pool).await, "later");
    assert!(pool.remove_replica("nobody").is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_waits_for_a_replica_when_it_is_removed_goes_to_the_primary() {
    let (pool, _db) = replicated(1).await;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(pool.read().await.unwrap());
    }
    assert!(held.iter().all(Session::is_replica));
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { host(&pool).await }
    });
    wait_for("a waiter", SOON, async || pool.pool_stats().connection_queue_size == 1).await;
    pool.remove_replica("replica0").unwrap();
    assert_eq!(waiting.await.unwrap(), "primary");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_added_later_has_what_was_changed_meanwhile() {
    let (pool, db) = replicated(1).await;
    pool.remove_replica("replica0").unwrap();
    pool.resize(2, 1).unwrap();
    pool.suspend();
    let later = ReplicaEndpoint::new("later", db.replica_url(0).unwrap(), 1);
    pool.add_replica(&later).unwrap();
    let stats = pool.pool_stats();
    assert_eq!((stats.hosts[1].pool.pool_size, stats.hosts[1].pool.overflow), (2, 1));
    state(&pool, HostState::Up).await;
    assert!(pool.read().deadline(Deadline::after(millis(50))).await.is_err(), "suspended like the others");
    pool.resume();
    assert_eq!(host(&pool).await, "later");
    pool.shutdown(millis(0)).await;
    let refused = pool.add_replica(&ReplicaEndpoint { name: "after".into(), ..later });
    assert!(matches!(refused, Err(Error::Closed)), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_go_on_serving_while_the_primary_is_down() {
    let (pool, db) = replicated(1).await;
    db.primary().kill().unwrap();
    // Longer than the lag limit.
    let until = std::time::Instant::now() + millis(3000);
    while std::time::Instant::now() < until {
        let reason = pool.read().await.unwrap().route_reason();
        assert_eq!(reason, RouteReason::Replica, "{:?}", pool.route_explain(None));
        sqlx::query("SELECT 1").execute(&pool.replica()).await.unwrap();
        tokio::time::sleep(millis(50)).await;
    }
}
