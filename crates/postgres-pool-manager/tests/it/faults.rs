//! A server that goes silent, dies and comes back.

use crate::support::*;
use local_stack::{PostgresOptions, Stack, wait_for};
use postgres_pool_manager::{Error, PoolState, sqlx};
use resilience::Deadline;
use std::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_black_hole_costs_no_permit_and_heals() {
    let (pool, proxy, _db) = proxied(|config| {
        (config.size, config.check_timeout, config.connect_timeout) = (4, millis(900), millis(900));
    })
    .await;
    let mut sessions = Vec::new();
    for _ in 0..4 {
        sessions.push(pool.write().await.unwrap());
    }
    proxy.black_hole(true);
    // In use when it happens: each statement ends with its deadline.
    for session in &mut sessions {
        session.set_deadline(Deadline::after(millis(250)));
        let error = sqlx::query("SELECT 1").execute(session).await.unwrap_err();
        assert!(matches!(Error::from(error), Error::Timeout { .. }));
    }
    drop(sessions);
    wait_for("every permit back", SOON, async || pool.pool_stats().active_connections == 0).await;
    let started = Instant::now();
    let error = pool.write().deadline(Deadline::after(millis(2500))).await.unwrap_err();
    assert!(matches!(error, Error::AcquireTimeout { .. }) && started.elapsed() < millis(5000), "{error}");
    assert!(error.to_string().contains("last connect error"), "{error}");
    proxy.heal();
    let healed = Instant::now();
    let mut sessions = Vec::new();
    for _ in 0..4 {
        let mut session = pool.write().deadline(Deadline::after(SOON)).await.unwrap();
        sqlx::query("SELECT 1").execute(&mut session).await.unwrap();
        sessions.push(session);
    }
    assert!(healed.elapsed() < millis(5000), "full capacity after {:?}", healed.elapsed());
    assert_eq!(pool.status().state, PoolState::Connected);
}

#[tokio::test]
async fn idle_connections_that_were_cut_are_never_handed_out() {
    let (pool, proxy, _db) = proxied(|config| config.size = 3).await;
    drop((pool.write().await.unwrap(), pool.write().await.unwrap(), pool.write().await.unwrap()));
    assert_eq!(pool.pool_stats().idle, 3);
    let mut first = pool.write().await.unwrap();
    proxy.cut();
    // One caller finds out; nobody else does.
    sqlx::query("SELECT 1").execute(&mut first).await.unwrap_err();
    drop(first);
    for _ in 0..6 {
        sqlx::query("SELECT 1").execute(&pool.primary()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_and_restarted_is_found_again() {
    let stack = Stack::builder().postgres(PostgresOptions::default()).start().await.unwrap();
    let db = stack.database().await.unwrap();
    let pool = config(db.url(), 3).connect().await.unwrap();
    let held = (pool.write().await.unwrap(), pool.write().await.unwrap());
    db.primary().kill().unwrap();
    let error = pool.health_check(Deadline::after(millis(500))).await.unwrap_err();
    assert!(error.to_string().contains("last connect error") || matches!(error, Error::Query(_)), "{error}");
    drop(held);
    wait_for("seen as down", SOON, async || pool.status().state == PoolState::Disconnected).await;
    db.primary().restart().await.unwrap();
    let restarted = Instant::now();
    pool.health_check(Deadline::after(SOON)).await.unwrap();
    assert!(restarted.elapsed() < millis(5000));
    wait_for("seen as up", SOON, async || pool.status().state == PoolState::Connected).await;
    assert_eq!(pool.pool_stats().active_connections, 0);
}

#[tokio::test]
async fn a_full_server_is_waited_for() {
    let options = PostgresOptions { max_connections: 10, ..PostgresOptions::default() };
    let stack = Stack::builder().postgres(options).start().await.unwrap();
    let db = stack.database().await.unwrap();
    // Ordinary users get what is left of ten after the three kept for superusers.
    db.sql("CREATE ROLE plain LOGIN PASSWORD 'p'").await.unwrap();
    let url = || db.primary().url_as("plain", "p", db.name());
    let other = config(url(), 10).connect().await.unwrap();
    let mut taken = Vec::new();
    loop {
        match other.write().deadline(Deadline::after(millis(1000))).await {
            Ok(session) => taken.push(session),
            Err(e) if e.to_string().contains("no connection left") => break,
            Err(_slow) => {}
        }
    }
    assert!(!taken.is_empty());
    let settings = postgres_pool_manager::Config { lazy_connect: true, ..config(url(), 2) };
    let pool = settings.connect().await.unwrap();
    let error = pool.write().deadline(Deadline::after(millis(1000))).await.unwrap_err();
    assert!(error.to_string().contains("no connection left"), "{error}");
    drop(taken);
    other.shutdown(SOON).await;
    pool.write().await.unwrap();
}
