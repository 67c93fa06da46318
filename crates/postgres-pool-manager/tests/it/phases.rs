//! Suspended, resumed, drained, shut down: who is served, who waits, who is refused, and what becomes of what is out.

use crate::support::*;
use local_stack::{Database, wait_for};
use postgres_pool_manager::{Config, Error, PoolEvent, PostgresPoolManager, sqlx};
use resilience::Deadline;
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

async fn connected(db: &Database) -> String {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'database-services' \
        AND datname = current_database()";
    scalar(db, sql).await
}

async fn queued(pool: &PostgresPoolManager, n: u32) {
    wait_for("callers in the queue", SOON, async || pool.pool_stats().connection_queue_size == n).await;
}

#[tokio::test]
async fn suspended_it_leaves_what_is_out_alone_and_resumed_it_serves_in_order() {
    let db = database().await;
    let pool = Config { min_idle: 2, ..config(db.url(), 3) }.connect().await.unwrap();
    wait_for("min_idle", SOON, async || pool.pool_stats().idle == 2).await;
    let mut events = pool.events();
    let mut out = pool.write().await.unwrap();
    pool.suspend();
    // In use it stays usable, back it is kept, and nothing is opened for those who wait.
    sqlx::query("SELECT 1").execute(&mut out).await.unwrap();
    let open = pool.pool_stats().opened_total;
    let (served, mut waiters) = (Arc::new(Mutex::new(Vec::new())), JoinSet::new());
    for n in 0..6 {
        let (pool, served) = (pool.clone(), Arc::clone(&served));
        let watched = pool.clone();
        waiters.spawn(async move {
            let _session = pool.write().await.unwrap();
            served.lock().unwrap().push(n);
            tokio::time::sleep(millis(5)).await;
        });
        queued(&watched, n + 1).await;
    }
    drop(out);
    let began = Instant::now();
    wait_for("a round of maintenance", SOON, async || began.elapsed() > millis(700)).await;
    let stats = pool.pool_stats();
    assert_eq!((stats.active_connections, stats.connection_queue_size, stats.opened_total), (0, 6, open));
    assert!(served.lock().unwrap().is_empty());
    pool.resume();
    waiters.join_all().await;
    let served = served.lock().unwrap().clone();
    // Those served together may say so in either order; nobody comes before one of an earlier turn.
    assert!(served.iter().enumerate().all(|(at, n)| at.abs_diff(*n as usize) < 3), "{served:?}");
    assert_eq!(events.next().await, Some(PoolEvent::Suspended));
    assert_eq!(events.next().await, Some(PoolEvent::Resumed));
}

#[tokio::test]
async fn a_caller_of_a_suspended_pool_waits_no_longer_than_its_deadline() {
    let (pool, _db) = pool(1).await;
    drop(pool.write().await.unwrap());
    pool.suspend();
    let began = Instant::now();
    let error = pool.write().deadline(Deadline::after(millis(200))).await.unwrap_err();
    let (took, text) = (began.elapsed(), error.to_string());
    assert!(took >= millis(200) && took < millis(2000), "{took:?}");
    assert!(text.contains("active 0, idle 1, waiting 1"), "{text}");
    assert_eq!(pool.pool_stats().connection_queue_size, 0);
    pool.resume();
    drop(pool.write().await.unwrap());
}

#[tokio::test]
async fn a_shutdown_waits_for_what_is_out_and_for_what_is_being_cleaned_and_refuses_the_rest() {
    let (pool, db) = pool(2).await;
    let (mut session, tx) = (pool.write().await.unwrap(), pool.begin(Default::default()).await.unwrap());
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.write().await.map(drop) }
    });
    queued(&pool, 1).await;
    let draining = tokio::spawn({
        let pool = pool.clone();
        async move { (pool.shutdown(SOON).await, Instant::now()) }
    });
    // Whoever waited is refused at once, whoever has a session may finish.
    assert!(matches!(waiting.await.unwrap(), Err(Error::Closed)));
    sqlx::query("SELECT 1").execute(&mut session).await.unwrap();
    assert!(matches!(pool.write().await, Err(Error::Closed)));
    assert!(!draining.is_finished());
    drop(tx);
    wait_idle_but(&pool, 1).await;
    assert!(!draining.is_finished(), "one is still out");
    let last = Instant::now();
    drop(session);
    let (out, ended) = draining.await.unwrap();
    assert_eq!(out, 0);
    assert!(ended - last < Duration::from_secs(3), "{:?}", ended - last);
    wait_for("nobody connected", SOON, async || connected(&db).await == "0").await;
    // Closed is for good: neither resuming nor a new size brings anything back.
    pool.resume();
    assert!(matches!(pool.resize(5, 0), Err(Error::Closed)));
    assert!(matches!(pool.write().await, Err(Error::Closed)));
    assert_eq!(pool.shutdown(SOON).await, 0);
}

async fn wait_idle_but(pool: &PostgresPoolManager, out: u32) {
    wait_for("the other one cleaned", SOON, async || pool.pool_stats().active_connections == out).await;
}

#[tokio::test]
async fn a_shutdown_while_connecting_leaves_nothing_open() {
    let (pool, proxy, db) = proxied(|config| config.size = 4).await;
    let held = pool.write().await.unwrap();
    proxy.delay(millis(30));
    let mut callers = JoinSet::new();
    for _ in 0..8 {
        let pool = pool.clone();
        callers.spawn(async move { pool.write().await.map(drop) });
    }
    wait_for("an attempt under way", SOON, async || pool.pool_stats().connecting > 0).await;
    let draining = tokio::spawn({
        let pool = pool.clone();
        async move { pool.shutdown(SOON).await }
    });
    let ended = callers.join_all().await;
    assert!(ended.iter().all(|end| matches!(end, Err(Error::Closed))), "{ended:?}");
    drop(held);
    assert_eq!(draining.await.unwrap(), 0);
    wait_for("no attempt left", SOON, async || pool.pool_stats().connecting == 0).await;
    wait_for("nobody connected", SOON, async || connected(&db).await == "0").await;
}

/// What is in use when its time has come is replaced when it comes back, and that is no failure.
#[tokio::test]
async fn a_connection_too_old_is_replaced_when_it_comes_back() {
    let db = database().await;
    let pool = Config { max_lifetime: millis(300), ..config(db.url(), 1) }.connect().await.unwrap();
    let mut session = pool.write().await.unwrap();
    let first = backend(&mut session).await;
    let began = Instant::now();
    wait_for("its time", SOON, async || began.elapsed() > millis(400)).await;
    assert_eq!(backend(&mut session).await, first, "not under whoever uses it");
    drop(session);
    assert_ne!(backend(&mut pool.write().await.unwrap()).await, first);
    assert_eq!(pool.pool_stats().discarded_total, 0);
    let gone = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {first}");
    wait_for("the old one closed", SOON, async || scalar(&db, &gone).await == "0").await;
}
