//! The queue, the limits and the ways to change them.

use crate::support::*;
use local_stack::wait_for;
use postgres_pool_manager::{Config, Error, PoolState};
use resilience::Deadline;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Instant,
};
use tokio::task::JoinSet;

#[tokio::test]
async fn waiters_are_served_in_the_order_of_their_arrival() {
    let (pool, _db) = pool(1).await;
    let (held, served) = (pool.write().await.unwrap(), Arc::new(Mutex::new(Vec::new())));
    let mut waiters = JoinSet::new();
    for n in 0..20_u32 {
        let (pool, served) = (pool.clone(), Arc::clone(&served));
        let queued = pool.clone();
        waiters.spawn(async move {
            let _session = pool.write().await.unwrap();
            served.lock().unwrap().push(n);
        });
        wait_for("the waiter in the queue", SOON, async || {
            queued.pool_stats().connection_queue_size == n + 1
        })
        .await;
    }
    drop(held);
    waiters.join_all().await;
    assert_eq!(*served.lock().unwrap(), (0..20).collect::<Vec<_>>());
}

/// Counted in turns, not in time: whoever queues is overtaken by nobody that queues later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_workers_share_ten_connections_fairly() {
    let (pool, _db) = pool(10).await;
    let (mut workers, served) = (JoinSet::new(), Arc::new(AtomicU32::new(0)));
    for _ in 0..100 {
        let (pool, served) = (pool.clone(), Arc::clone(&served));
        workers.spawn(async move {
            let mut most = 0;
            for _ in 0..20 {
                let before = served.load(Relaxed);
                let _session = pool.write().await.unwrap();
                most = most.max(served.fetch_add(1, Relaxed) - before);
                tokio::time::sleep(millis(2)).await;
            }
            most
        });
    }
    let most = workers.join_all().await.into_iter().max().unwrap();
    // The other 99, and those that are counted while this one's thread stands still between queueing and counting: on a
    // machine that is that busy as many again. Without order it would be hundreds.
    assert!(most < 2 * 99, "{most} were served before one that waited");
}

#[tokio::test]
async fn an_exhausted_pool_says_what_it_is_full_of() {
    let (pool, _db) = pool(2).await;
    let _held = (pool.write().await.unwrap(), pool.write().await.unwrap());
    let started = Instant::now();
    let error = pool.write().deadline(Deadline::after(millis(50))).await.unwrap_err();
    assert!(started.elapsed() < millis(1000));
    let text = error.to_string();
    assert!(text.contains("total 2, active 2, idle 0, waiting 1"), "{text}");
    assert!(text.contains("primary (127.0.0.1:"), "{text}");
    let stats = pool.pool_stats();
    assert_eq!((stats.acquire_timeouts_total, stats.utilization), (1, 1.0));
}

#[tokio::test]
async fn the_queue_is_bounded() {
    let db = database().await;
    let pool = Config { queue_limit: 1, ..config(db.url(), 1) }.connect().await.unwrap();
    let _held = pool.write().await.unwrap();
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.write().await.map(drop) }
    });
    wait_for("the first waiter", SOON, async || pool.pool_stats().connection_queue_size == 1).await;
    assert!(matches!(pool.write().await, Err(Error::QueueFull { waiting: 1, .. })));
    waiting.abort();
}

#[tokio::test]
async fn overflow_connections_are_opened_under_pressure_and_closed_soon_after() {
    let db = database().await;
    let settings = Config { max_overflow: 2, overflow_idle_timeout: millis(50), ..config(db.url(), 1) };
    let pool = settings.connect().await.unwrap();
    let held = (pool.write().await.unwrap(), pool.write().await.unwrap(), pool.write().await.unwrap());
    assert_eq!((pool.pool_stats().overflow_in_use, pool.pool_stats().max_connections), (2, 3));
    drop(held);
    wait_for("overflow closed", SOON, async || pool.pool_stats().idle == 1).await;
}

#[tokio::test]
async fn resizing_works_while_exhausted_and_while_empty() {
    let (pool, _db) = pool(1).await;
    let first = pool.write().await.unwrap();
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.write().await.unwrap() }
    });
    wait_for("a waiter", SOON, async || pool.pool_stats().connection_queue_size == 1).await;
    pool.resize(3, 0).unwrap();
    let (second, third) = (waiting.await.unwrap(), pool.write().await.unwrap());
    pool.resize(1, 0).unwrap();
    assert_eq!(pool.pool_stats().active_connections, 3, "no checkout is broken");
    drop((first, second));
    assert_eq!((pool.pool_stats().active_connections, pool.pool_stats().idle), (1, 0));
    assert!(pool.write().deadline(Deadline::after(millis(50))).await.is_err(), "the new limit holds");
    drop(third);
    let _again = pool.write().await.unwrap();
    assert!(pool.resize(0, 0).is_err());
}

#[tokio::test]
async fn a_shrink_does_not_make_it_forget_how_many_to_keep_ready() {
    let db = database().await;
    let pool = Config { min_idle: 3, ..config(db.url(), 5) }.connect().await.unwrap();
    pool.resize(1, 0).unwrap();
    pool.resize(5, 0).unwrap();
    wait_for("min_idle", SOON, async || pool.pool_stats().idle == 3).await;
}

#[tokio::test]
async fn a_caller_in_a_hurry_does_not_cost_the_connection_under_check() {
    let (pool, proxy, _db) = proxied(|settings| settings.check_after_idle = millis(1)).await;
    // The answer that nobody waits for any more has to come within milliseconds of the caller's going away: repeated,
    // so that a busy machine fails nobody.
    wait_for("a check that outlived its caller", SOON, async || {
        backend(&mut pool.write().await.unwrap()).await;
        wait_idle(&pool, "back").await;
        let back = Instant::now();
        wait_for("due for a check", SOON, async || back.elapsed() > millis(10)).await;
        let discarded = pool.pool_stats().discarded_total;
        proxy.black_hole(true);
        let hurried = pool.write().deadline(Deadline::after(millis(5))).await;
        proxy.heal();
        wait_idle(&pool, "back").await;
        hurried.is_err() && pool.pool_stats().discarded_total == discarded
    })
    .await;
}

#[tokio::test]
async fn a_short_burst_on_a_live_pool_opens_next_to_nothing() {
    let db = database().await;
    let proxy = local_stack::FaultProxy::start(db.primary().target()).await.unwrap();
    let settings = Config { min_idle: 5, ..config(db.url_via(proxy.addr()), 20) };
    let pool = settings.connect().await.unwrap();
    wait_for("min_idle", SOON, async || pool.pool_stats().idle == 5).await;
    proxy.delay(millis(20));
    let mut callers = JoinSet::new();
    for _ in 0..50 {
        let pool = pool.clone();
        // Held without a statement: the proxy delays statements as it does connecting.
        callers.spawn(async move {
            let _session = pool.write().await.unwrap();
            tokio::time::sleep(millis(2)).await;
        });
    }
    callers.join_all().await;
    wait_idle(&pool, "all back").await;
    assert!(pool.pool_stats().idle <= 6, "{:?}", pool.pool_stats());
}

#[tokio::test]
async fn suspended_it_hands_out_nothing_and_resumed_everything() {
    let (pool, _db) = pool(1).await;
    pool.suspend();
    assert_eq!(pool.status().state, PoolState::Suspended);
    assert!(pool.write().deadline(Deadline::after(millis(50))).await.is_err());
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.write().await.map(drop) }
    });
    wait_for("a waiter", SOON, async || pool.pool_stats().connection_queue_size == 1).await;
    pool.resume();
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn shutdown_waits_for_sessions_and_refuses_new_ones() {
    let (pool, db) = pool(2).await;
    let session = pool.write().await.unwrap();
    assert_eq!(pool.shutdown(millis(20)).await, 1, "one is still out");
    assert!(matches!(pool.write().await, Err(Error::Closed)));
    assert_eq!(pool.status().state, PoolState::Closed);
    drop(session);
    assert_eq!(pool.shutdown(SOON).await, 0);
    wait_for("nobody connected", SOON, async || connected(&db).await == "0").await;
}

#[tokio::test]
async fn the_last_handle_closes_the_pool() {
    let (pool, db) = pool(2).await;
    drop((pool.write().await.unwrap(), pool.write().await.unwrap()));
    drop(pool);
    wait_for("nobody connected", SOON, async || connected(&db).await == "0").await;
}

#[tokio::test]
async fn connections_are_replaced_by_age_and_kept_alive_when_idle() {
    let db = database().await;
    let (max_lifetime, keepalive) = (millis(1500), millis(100));
    let settings = Config { max_lifetime, keepalive, min_idle: 1, ..config(db.url(), 1) };
    let pool = settings.connect().await.unwrap();
    let first = backend(&mut pool.write().await.unwrap()).await;
    let asked = format!("SELECT query LIKE '%standby%' FROM pg_stat_activity WHERE pid = {first}");
    wait_for("a keepalive", SOON, async || scalar(&db, &asked).await == "t").await;
    wait_for("another connection", SOON, async || pool.pool_stats().opened_total >= 2).await;
    assert_ne!(backend(&mut pool.write().await.unwrap()).await, first);
}

/// Being kept alive is no use: what nobody takes is closed in its time.
#[tokio::test]
async fn a_connection_kept_alive_grows_idle_all_the_same() {
    let db = database().await;
    let (idle_timeout, keepalive) = (millis(3000), millis(50));
    let settings = Config { idle_timeout, keepalive, ..config(db.url(), 3) };
    let pool = settings.connect().await.unwrap();
    drop((pool.write().await.unwrap(), pool.write().await.unwrap(), pool.write().await.unwrap()));
    let began = Instant::now();
    wait_for("all closed", SOON, async || {
        let stats = pool.pool_stats();
        stats.idle + stats.active_connections == 0
    })
    .await;
    assert!(began.elapsed() > millis(2500), "in its time: after {:?}", began.elapsed());
    assert_eq!(pool.pool_stats().opened_total, 3);
}

#[tokio::test]
async fn health_check_and_statistics_agree_with_reality() {
    let (pool, _db) = pool(3).await;
    assert!(pool.health_check(Deadline::after(SOON)).await.unwrap() < SOON);
    let _held = pool.write().await.unwrap();
    let stats = pool.pool_stats();
    assert_eq!((stats.active_connections, stats.pool_size, stats.overflow, stats.hosts.len()), (1, 3, 0, 1));
    assert_eq!(pool.status().state, PoolState::Connected);
    let json = serde_json::to_value(&stats).unwrap();
    for field in
        ["active_connections", "idle", "pool_size", "overflow", "utilization", "connection_queue_size"]
    {
        assert!(json.get(field).is_some(), "{field}");
    }
}

async fn connected(db: &local_stack::Database) -> String {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'database-services' \
        AND datname = current_database()";
    scalar(db, sql).await
}
