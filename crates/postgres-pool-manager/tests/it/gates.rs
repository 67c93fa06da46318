//! The pool core's gates, as figures: what each test prints is what is held against the bar. Bars that are times on a
//! quiet machine grow here with what the machine was seen to take, and with nothing else.

use crate::support::*;
use local_stack::{Existing, FaultProxy, wait_for};
use postgres_pool_manager::{Config, PostgresPoolManager, sqlx};
use resilience::Deadline;
use sqlx::Executor;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

#[tokio::test]
async fn gate_a_warm_session_costs_no_round_trip_and_raw_use_one_in_the_background() {
    const TURNS: u64 = 500;
    // On a machine that stops for half a second a check would be due in between.
    let (pool, proxy, _db) = proxied(|config| config.check_after_idle = Duration::from_secs(60)).await;
    backend(&mut pool.write().await.unwrap()).await;
    proxy.reset_counts();
    for _ in 0..TURNS {
        drop(pool.write().await.unwrap());
    }
    let plain = proxy.round_trips();
    for _ in 0..TURNS {
        let mut session = pool.write().await.unwrap();
        session.raw().execute("SET work_mem = '1MB'").await.unwrap();
        drop(session);
    }
    wait_idle(&pool, "the last reset").await;
    let raw = proxy.round_trips() - plain - TURNS;
    eprintln!("{TURNS} turns: {plain} round trips by checkout and return, {raw} by the reset after raw use");
    assert_eq!((plain, raw), (0, TURNS));
    assert_eq!(pool.pool_stats().opened_total, 1);
}

/// As many sessions at once as the pool has, each with an answer.
async fn full(pool: &PostgresPoolManager, size: usize) {
    let mut sessions = Vec::new();
    while sessions.len() < size {
        let mut session = pool.write().deadline(Deadline::after(SOON)).await.unwrap();
        if sqlx::query("SELECT 1").execute(&mut session).await.is_ok() {
            sessions.push(session);
        }
    }
}

/// With the settings that a service has by default, and with callers that go on calling.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_after_ten_seconds_of_black_hole_the_whole_pool_is_back_within_five() {
    const SIZE: usize = 10;
    let (pool, proxy, _db) = proxied(|config| config.size = SIZE as u32).await;
    full(&pool, SIZE).await;
    let (over, mut callers) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
    for _ in 0..2 * SIZE {
        let (pool, over) = (pool.clone(), Arc::clone(&over));
        callers.spawn(async move {
            let (mut served, mut refused) = (0, 0);
            while !over.load(Relaxed) {
                let query = sqlx::query("SELECT pg_sleep(0.01)");
                let call = async {
                    let mut session = pool.write().deadline(Deadline::after(millis(1000))).await?;
                    query.execute(&mut session).await.map_err(postgres_pool_manager::Error::from)
                };
                if call.await.is_ok() { served += 1 } else { refused += 1 }
            }
            (served, refused)
        });
    }
    proxy.black_hole(true);
    tokio::time::sleep(Duration::from_secs(10)).await;
    over.store(true, Relaxed);
    let counts = callers.join_all().await;
    let (served, refused) = counts.iter().fold((0, 0), |sum, n| (sum.0 + n.0, sum.1 + n.1));
    let held = pool.pool_stats().active_connections;
    proxy.heal();
    let healed = Instant::now();
    full(&pool, SIZE).await;
    let took = healed.elapsed();
    eprintln!(
        "black hole of 10 s: {served} served, {refused} refused; full capacity {took:?} after it, {held} held then"
    );
    assert!(refused >= 2 * SIZE, "nobody noticed");
    assert!(took < Duration::from_secs(5), "full capacity after {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_a_hundred_workers_on_ten_connections_wait_no_longer_than_their_turn() {
    const HOLD: Duration = Duration::from_millis(200);
    let (pool, _db) = pool(10).await;
    full(&pool, 10).await;
    let mut workers = JoinSet::new();
    for _ in 0..100 {
        let pool = pool.clone();
        workers.spawn(async move {
            let (mut longest_wait, mut longest_hold) = (Duration::ZERO, Duration::ZERO);
            for _ in 0..3 {
                let asked = Instant::now();
                let session = pool.write().await.unwrap();
                let got = Instant::now();
                tokio::time::sleep(HOLD).await;
                drop(session);
                longest_wait = longest_wait.max(got - asked);
                longest_hold = longest_hold.max(got.elapsed());
            }
            (longest_wait, longest_hold)
        });
    }
    let all = workers.join_all().await;
    let wait = all.iter().map(|(wait, _)| *wait).max().unwrap();
    let hold = all.iter().map(|(_, hold)| *hold).max().unwrap();
    // Nine turns before one's own, 1.8 s; the bar of 2.2 s is eleven. A slow machine's turn is as long as it was held.
    let bar = hold * 11;
    eprintln!("100 workers, 10 connections: longest wait {wait:?}, longest turn {hold:?}, bar {bar:?}");
    assert!(wait <= bar, "{wait:?} waited, bar {bar:?}");
    assert_eq!(pool.pool_stats().opened_total, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_a_shrink_while_empty_or_exhausted_holds_the_new_limit() {
    let db = database().await;
    let proxy = FaultProxy::start(db.primary().target()).await.unwrap();
    proxy.refuse(true);
    let settings = Config { lazy_connect: true, ..config(db.url_via(proxy.addr()), 6) };
    let pool = settings.connect().await.unwrap();
    let (held, most, mut callers) =
        (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)), JoinSet::new());
    let mut call = |pool: &PostgresPoolManager| {
        let (pool, held, most) = (pool.clone(), Arc::clone(&held), Arc::clone(&most));
        callers.spawn(async move {
            let _session = pool.write().await.unwrap();
            most.fetch_max(held.fetch_add(1, Relaxed) + 1, Relaxed);
            tokio::time::sleep(millis(20)).await;
            held.fetch_sub(1, Relaxed);
        });
    };
    // Empty: nothing is open, callers wait, attempts are under way.
    (0..12).for_each(|_| call(&pool));
    wait_for("callers in the queue", SOON, async || pool.pool_stats().connection_queue_size == 12).await;
    pool.resize(2, 0).unwrap();
    proxy.heal();
    wait_for("all served", SOON, async || pool.pool_stats().acquired_total == 12).await;
    let empty = most.load(Relaxed);
    // Exhausted: everything is out, callers wait, and none of those that are out is broken.
    wait_idle(&pool, "all back").await;
    pool.resize(5, 0).unwrap();
    let mut out = Vec::new();
    for _ in 0..5 {
        out.push(pool.write().await.unwrap());
    }
    most.store(0, Relaxed);
    (0..12).for_each(|_| call(&pool));
    wait_for("callers in the queue", SOON, async || pool.pool_stats().connection_queue_size == 12).await;
    pool.resize(2, 0).unwrap();
    for session in &mut out {
        sqlx::query("SELECT 1").execute(session).await.unwrap();
    }
    drop(out);
    callers.join_all().await;
    let exhausted = most.load(Relaxed);
    wait_idle(&pool, "all back").await;
    eprintln!("shrunk to 2: at most {empty} at once when it was empty, {exhausted} when it was exhausted");
    assert_eq!((empty, exhausted, pool.pool_stats().idle), (2, 2, 2));
}

/// Five connections that answer in 2 ms, fifty callers at once, and 150 ms to open another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_a_spike_on_a_live_pool_ends_at_six_connections() {
    let db = database().await;
    let front = FaultProxy::start(db.primary().target()).await.unwrap();
    let settings = Config { min_idle: 5, ..config(db.url_via(front.addr()), 20) };
    let pool = settings.connect().await.unwrap();
    wait_for("min_idle", SOON, async || pool.pool_stats().idle == 5 && pool.pool_stats().connecting == 0)
        .await;
    // New connections take another way, on which each of a handshake's messages takes its time.
    let slow = FaultProxy::start(db.primary().target()).await.unwrap();
    slow.delay(millis(15));
    let asked = Instant::now();
    config(db.url_via(slow.addr()), 1).connect().await.unwrap();
    let connect = asked.elapsed();
    front.retarget(slow.addr().to_string(), Existing::Keep);
    slow.reset_counts();
    let (mut callers, began) = (JoinSet::new(), Instant::now());
    for _ in 0..50 {
        let pool = pool.clone();
        callers.spawn(async move {
            sqlx::query("SELECT pg_sleep(0.002)").execute(&pool.primary()).await.unwrap();
        });
    }
    callers.join_all().await;
    let took = began.elapsed();
    wait_idle(&pool, "all back").await;
    let (open, attempts) = (pool.pool_stats().idle, slow.connections());
    eprintln!(
        "spike of 50: {took:?}, a connect takes {connect:?}, ends at {open} connections, {attempts} attempts"
    );
    assert!(connect > millis(100), "connecting is to be slow: {connect:?}");
    // One attempt at a time: a machine so slow that the spike outlasts a connect may begin the next.
    let bar = 6 + (took.as_millis() / 150) as u32;
    assert!(open <= bar, "{open} connections, bar {bar}");
}
