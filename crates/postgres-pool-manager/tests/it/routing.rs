//! Which replica serves a read, which does not, and how that is told and changed.

use crate::{replicas::replicated_with, support::*};
use local_stack::{Database, Server, wait_for};
use postgres_pool_manager::{
    Balance, Error, HostState, PoolEvent, PoolState, PostgresPoolManager, RouteReason, sqlx,
};
use std::{collections::BTreeMap, time::Instant};

fn replica(db: &Database, n: usize) -> &Server {
    &db.stack().postgres().replicas()[n]
}

async fn state(pool: &PostgresPoolManager, name: &str, state: HostState) {
    wait_for(&format!("{name} {state:?}"), SOON, async || {
        pool.load_balancer().iter().any(|host| host.name == name && host.state == state)
    })
    .await;
}

/// Ends every connection of the pool to the replica, so that it is lost although the server is well.
async fn lose(db: &Database, n: usize) {
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'database-services'";
    replica(db, n).sql(db.name(), sql).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_lost_again_and_again_is_banned_unless_it_is_the_last() {
    let (pool, db) = replicated_with(2, |_| {}).await;
    for times in 1..=2 {
        // Two from each.
        let sessions = [pool.read().await.unwrap(), pool.read().await.unwrap()];
        assert_ne!(sessions[0].host(), sessions[1].host());
        lose(&db, 0).await;
        for mut session in sessions {
            let lost = session.host() == "replica0";
            assert_eq!(sqlx::query("SELECT 1").execute(&mut session).await.is_err(), lost);
        }
        if times == 1 {
            state(&pool, "replica0", HostState::Up).await;
            wait_for("it to serve again", SOON, async || pool.read().await.unwrap().host() == "replica0")
                .await;
        }
    }
    state(&pool, "replica0", HostState::Banned).await;
    for _ in 0..10 {
        assert_eq!(pool.read().await.unwrap().host(), "replica1");
    }
    assert_eq!(pool.status().state, PoolState::Degraded);
    // The other goes: better one that is often lost than none.
    pool.drain_replica("replica1", true).unwrap();
    state(&pool, "replica0", HostState::Up).await;
    assert_eq!(pool.read().await.unwrap().host(), "replica0");
    // A ban by hand stays.
    pool.drain_replica("replica0", true).unwrap();
    assert_eq!(pool.read().await.unwrap().route_reason(), RouteReason::NoneServes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_are_forced_to_the_primary_while_every_replica_is_far_behind() {
    let (pool, db) = replicated_with(1, |config| {
        (config.force_primary_lag, config.replica_lag_limit) = (millis(1500), millis(1000));
    })
    .await;
    let mut events = pool.events();
    db.sql("CREATE TABLE t (n int)").await.unwrap();
    replica(&db, 0).sql(db.name(), "SELECT pg_wal_replay_pause()").await.unwrap();
    db.sql("INSERT INTO t VALUES (1)").await.unwrap();
    let forced = async |pool: &PostgresPoolManager| pool.status().force_primary_reads_automatic;
    wait_for("forced", SOON, async || forced(&pool).await).await;
    assert!(!pool.status().force_primary_reads, "not by order");
    assert_eq!(pool.read().await.unwrap().route_reason(), RouteReason::Forced);
    replica(&db, 0).sql(db.name(), "SELECT pg_wal_replay_resume()").await.unwrap();
    wait_for("free again", SOON, async || !forced(&pool).await).await;
    assert!(pool.read().await.unwrap().is_replica());
    let mut told = Vec::new();
    while told.len() < 2 {
        if let PoolEvent::ForcedPrimaryReads { on, automatic } = events.next().await.unwrap() {
            told.push((on, automatic));
        }
    }
    assert_eq!(told, [(true, true), (false, true)]);
}

/// A service that reads what it has just written, ten thousand times, while the replica is paused, delayed and well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_reads_of_what_was_just_written_are_never_stale() {
    let (pool, db) = replicated_with(1, |_| {}).await;
    db.sql("CREATE TABLE users (id int PRIMARY KEY, version int)").await.unwrap();
    db.sql("INSERT INTO users SELECT id, 0 FROM generate_series(0, 7) id").await.unwrap();
    let phases = [
        ("well", "SELECT pg_wal_replay_resume()"),
        ("paused", "SELECT pg_wal_replay_pause()"),
        ("delayed", "ALTER SYSTEM SET recovery_min_apply_delay = '200ms'"),
    ];
    let (mut reads, began) = (0, Instant::now());
    for (phase, sql) in phases {
        replica(&db, 0).sql(db.name(), sql).await.unwrap();
        if phase == "delayed" {
            replica(&db, 0).sql(db.name(), "SELECT pg_wal_replay_resume(), pg_reload_conf()").await.unwrap();
        }
        let users: Vec<_> = (0..8).map(|id| tokio::spawn(user(pool.clone(), id, phase))).collect();
        let (mut served, mut stale) = (BTreeMap::new(), 0);
        for user in users {
            let (hosts, old) = user.await.unwrap();
            stale += old;
            for (host, count) in hosts {
                *served.entry(host).or_insert(0) += count;
            }
        }
        reads += served.values().sum::<u32>();
        eprintln!("{phase}: {served:?}, {stale} stale");
        assert_eq!(stale, 0, "{phase}");
        match phase {
            "well" => assert!(served.get("replica0").is_some_and(|n| *n > 1000), "the replica is used"),
            _ => assert!(served.get("primary").is_some_and(|n| *n > 1000), "the primary is used"),
        }
    }
    eprintln!("{reads} reads in {:?}", began.elapsed());
    assert!(reads >= 10_000, "{reads}");
}

/// Writes, then reads ten times with the token.
async fn user(pool: PostgresPoolManager, id: i32, phase: &'static str) -> (BTreeMap<String, u32>, u32) {
    let (mut served, mut stale, mut last) = (BTreeMap::new(), 0, 0);
    for round in 1..=42 {
        let version =
            round + if phase == "well" { 0 } else { 1000 } + if phase == "delayed" { 1000 } else { 0 };
        let mut tx = pool.begin(Default::default()).await.unwrap();
        let update = sqlx::query("UPDATE users SET version = $2 WHERE id = $1").bind(id).bind(version);
        update.execute(&mut tx).await.unwrap();
        let token = tx.commit().await.unwrap();
        assert!(version > last);
        last = version;
        for _ in 0..10 {
            let mut session = pool.read_after(&token).await.unwrap();
            *served.entry(session.host().to_owned()).or_insert(0) += 1;
            let read = sqlx::query_scalar("SELECT version FROM users WHERE id = $1").bind(id);
            let seen: i32 = read.fetch_one(&mut session).await.unwrap();
            stale += u32::from(seen != version);
        }
    }
    (served, stale)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_says_why_it_went_where_it_went() {
    let (pool, db) = replicated_with(1, |config| config.read_after_wait = millis(1)).await;
    let reason = async |read| {
        let read: postgres_pool_manager::Acquire<'_> = read;
        read.await.unwrap().route_reason()
    };
    assert_eq!(reason(pool.write()).await, RouteReason::Write);
    assert_eq!(reason(pool.read()).await, RouteReason::Replica);
    db.sql("CREATE TABLE t (n int)").await.unwrap();
    replica(&db, 0).sql(db.name(), "SELECT pg_wal_replay_pause()").await.unwrap();
    db.sql("INSERT INTO t VALUES (1)").await.unwrap();
    let token = pool.read_token().await.unwrap();
    assert_eq!(reason(pool.read_after(&token)).await, RouteReason::TokenAhead);
    let explained = pool.route_explain(Some(&token));
    assert_eq!((explained.goes_to.as_str(), explained.reason), ("primary", RouteReason::TokenAhead));
    assert!(explained.hosts[1].refusal.as_deref().unwrap().contains("not replayed"), "{explained:?}");
    assert_eq!(pool.route_explain(None).goes_to, "replica0");
    pool.set_replica_weight("replica0", 0).unwrap();
    assert_eq!(reason(pool.read()).await, RouteReason::NoneServes);
    assert_eq!(pool.route_explain(None).hosts[1].refusal.as_deref(), Some("its weight is 0"));
    pool.force_primary_reads(true);
    assert_eq!(reason(pool.read()).await, RouteReason::Forced);
    pool.remove_replica("replica0").unwrap();
    assert_eq!(reason(pool.read()).await, RouteReason::NoReplicas);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_replica_with_the_fewest_sessions_is_chosen_where_that_is_wanted() {
    let (pool, _db) = replicated_with(2, |config| config.balance = Balance::LeastOutstanding).await;
    pool.set_replica_weight("replica0", 2).unwrap();
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(pool.read().await.unwrap());
    }
    let on = |name: &str| held.iter().filter(|session| session.host() == name).count();
    assert_eq!((on("replica0"), on("replica1")), (4, 2), "by weight");
    held.retain(|session| session.host() != "replica1");
    assert_eq!(pool.read().await.unwrap().host(), "replica1", "it has none out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_tuned_is_checked_as_a_whole_and_told() {
    let (pool, _db) = replicated_with(1, |_| {}).await;
    let mut events = pool.events();
    let before = pool.tunable();
    let error = pool
        .tune(|t| {
            (t.size, t.min_idle) = (3, 4);
            t.replicas.get_mut("replica0").unwrap().weight = -1;
        })
        .unwrap_err();
    let Error::Invalid(problems) = &error else { panic!("{error}") };
    assert_eq!(problems.len(), 2, "all of them: {error}");
    assert!(
        error.to_string().contains("min_idle 4 is above size 3")
            && error.to_string().contains("replicas.replica0.weight")
    );
    assert_eq!(pool.tunable(), before, "all or nothing");
    let now = pool
        .tune(|t| {
            (t.size, t.max_overflow, t.min_idle, t.suspended) = (3, 1, 2, true);
            t.replicas.get_mut("replica0").unwrap().drained = true;
        })
        .unwrap();
    assert_eq!((now.size, now.max_overflow, now.min_idle, now.suspended), (3, 1, 2, true));
    assert_eq!(pool.pool_stats().hosts[1].pool.pool_size, 3, "at every server");
    pool.resume();
    pool.tune(|_| {}).unwrap();
    let mut told = Vec::new();
    while told.last() != Some(&PoolEvent::Resumed) {
        told.push(events.next().await.unwrap());
    }
    let drained = PoolEvent::ReplicaDrained { host: "replica0".into(), drained: true };
    let resized = PoolEvent::Resized { size: 3, max_overflow: 1, min_idle: 2 };
    told.retain(|event| !matches!(event, PoolEvent::HostState { .. }));
    assert_eq!(told, [resized, drained, PoolEvent::Suspended, PoolEvent::Resumed]);
    assert!(matches!(pool.set_replica_weight("nobody", 1), Err(Error::UnknownHost(_))));
    assert!(matches!(pool.set_replica_weight("replica0", -1), Err(Error::Invalid(_))));
    pool.shutdown(millis(0)).await;
    assert!(matches!(pool.resize(1, 0), Err(Error::Closed)));
}
