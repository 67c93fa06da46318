//! Where parts meet that were made apart: reclaim and retries, a start without the primary, cancellations during a
//! failover.

use crate::{replicas::replicated_with, support::*};
use local_stack::{FaultProxy, PostgresOptions, Stack, via, wait_for};
use postgres_pool_manager::{Config, Error, ReplicaEndpoint, sqlx};
use resilience::Deadline;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_was_taken_back_is_not_run_again() {
    let db = database().await;
    let settings = Config { reclaim_after: Some(millis(1000)), ..config(db.url(), 2) };
    let pool = settings.connect().await.unwrap();
    let runs = AtomicU32::new(0);
    let ended = pool
        .transaction(Default::default(), |tx| {
            runs.fetch_add(1, Relaxed);
            Box::pin(async move { sqlx::query("SELECT pg_sleep(8)").execute(&mut *tx).await.map(drop) })
        })
        .await;
    assert!(ended.is_err());
    assert_eq!(runs.load(Relaxed), 1, "{ended:?}");
    wait_idle(&pool, "the permit back").await;
}

/// Once with the standby promoted before the start, once after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_is_silent_at_the_start_is_replaced() {
    for promoted_before in [true, false] {
        let stack = Stack::builder().postgres(PostgresOptions::with_replicas(1)).start().await.unwrap();
        let db = stack.database().await.unwrap();
        let proxy = FaultProxy::start(db.primary().target()).await.unwrap();
        proxy.black_hole(true);
        let standby = &db.stack().postgres().replicas()[0];
        if promoted_before {
            standby.promote().await.unwrap();
        }
        let replicas = vec![ReplicaEndpoint::new("replica0", db.replica_url(0).unwrap(), 1)];
        let lazy_connect = !promoted_before;
        let settings = Config { replicas, lazy_connect, ..config(via(&db.url(), proxy.addr()), 3) };
        let began = Instant::now();
        let pool = settings.connect().await.unwrap();
        let connected = began.elapsed();
        let waiting = {
            let pool = pool.clone();
            tokio::spawn(async move { pool.write().await.map(|session| session.host().to_owned()) })
        };
        if !promoted_before {
            standby.promote().await.unwrap();
        }
        assert_eq!(waiting.await.unwrap().unwrap(), "replica0");
        eprintln!(
            "promoted before {promoted_before}: connected after {connected:?}, written after {:?}",
            began.elapsed()
        );
        proxy.black_hole(false);
        // The former one, healed, is in an older history.
        let since = Instant::now();
        wait_for("looks", SOON, async || since.elapsed() > millis(1500)).await;
        assert_eq!(pool.write().await.unwrap().host(), "replica0");
        assert_eq!(pool.read().await.unwrap().host(), "replica0");
    }
}

/// Callers who leave at any moment, while the primary is replaced under them: nothing is written twice, everything that
/// was acknowledged at the new primary is there, and no permit is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_who_leave_during_a_failover_cost_no_permit_and_write_nothing_twice() {
    let (pool, db) = replicated_with(1, |_| {}).await;
    let standby = db.stack().postgres().replicas()[0].clone();
    db.sql("CREATE TABLE t (id bigint)").await.unwrap();
    let token = pool.read_token().await.unwrap();
    wait_for("the table there", SOON, async || pool.read_after(&token).await.unwrap().is_replica()).await;
    let (stop, ids, mut callers) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)), JoinSet::new());
    for n in 0..40_u32 {
        let (pool, stop, ids) = (pool.clone(), Arc::clone(&stop), Arc::clone(&ids));
        callers.spawn(async move {
            let (mut done, mut turn) = (Vec::new(), n);
            while !stop.load(Relaxed) {
                let id = i64::from(ids.fetch_add(1, Relaxed));
                turn = turn.wrapping_mul(1_103_515_245).wrapping_add(12_345);
                let patience = Duration::from_micros(u64::from(turn >> 16) % 40_000);
                let writing = pool.transaction(Default::default(), |tx| {
                    Box::pin(async move {
                        sqlx::query("INSERT INTO t VALUES ($1)").bind(id).execute(&mut *tx).await?;
                        sqlx::query("SELECT count(*) FROM generate_series(1, 500)")
                            .execute(&mut *tx)
                            .await
                            .map(drop)
                    })
                });
                if let Ok(Ok(())) = tokio::time::timeout(patience, writing).await {
                    done.push((id, Instant::now()));
                }
            }
            done
        });
    }
    wait_for("rows", SOON, async || {
        scalar(&db, "SELECT count(*) FROM t").await.parse::<u32>().unwrap() > 100
    })
    .await;
    standby.promote().await.unwrap();
    wait_for("replica0 written to", SOON, async || pool.load_balancer()[0].name == "replica0").await;
    let switched = Instant::now();
    wait_for("a while", SOON, async || switched.elapsed() > millis(1500)).await;
    stop.store(true, Relaxed);
    let done: Vec<_> = callers.join_all().await.into_iter().flatten().collect();
    wait_idle(&pool, "every permit back").await;
    let rows = standby.sql(db.name(), "SELECT id FROM t").await.unwrap();
    let mut times: HashMap<i64, u32> = HashMap::new();
    for row in &rows {
        *times.entry(row[0].as_deref().unwrap().parse().unwrap()).or_default() += 1;
    }
    assert!(times.values().all(|n| *n == 1), "written twice");
    let after: Vec<_> = done.iter().filter(|(_, at)| *at > switched + millis(300)).collect();
    let missing = after.iter().filter(|(id, _)| !times.contains_key(id)).count();
    eprintln!("{} acknowledged, {} of them after the failover, {missing} missing", done.len(), after.len());
    assert!(after.len() > 100 && missing == 0, "{missing} of {}", after.len());
    let mut all = Vec::new();
    for _ in 0..5 {
        all.push(pool.write().await.unwrap());
    }
    let sixth = pool.write().deadline(Deadline::after(millis(300))).await;
    assert!(matches!(sixth, Err(Error::AcquireTimeout { .. })), "five and no more");
    assert!(all.iter().all(|session| session.host() == "replica0"));
}

/// Tokens come from cookies. One of a position that will never be reached is waited for once, and others as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_beyond_all_positions_does_not_keep_later_ones_from_a_replica() {
    let (pool, db) = replicated_with(1, |config| config.read_after_wait = millis(2000)).await;
    db.sql("CREATE TABLE t (n int)").await.unwrap();
    let token = pool.read_token().await.unwrap().to_string();
    let (history, _) = token.rsplit_once('/').unwrap();
    let forged = format!("{history}/{:x}", u64::MAX).parse().unwrap();
    assert!(!pool.read_after(&forged).await.unwrap().is_replica());
    for n in 0..3 {
        let mut tx = pool.begin(Default::default()).await.unwrap();
        sqlx::query("INSERT INTO t VALUES ($1)").bind(n).execute(&mut tx).await.unwrap();
        let token = tx.commit().await.unwrap();
        let read = pool.read_after(&token).await.unwrap();
        let (replica, reason) = (read.is_replica(), read.route_reason());
        assert!(replica, "{n}: {reason:?} {:?}", pool.route_explain(Some(&token)));
    }
}
