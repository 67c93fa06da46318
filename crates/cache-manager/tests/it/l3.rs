//! L3 on a real Postgres: nothing stale, whatever commits when.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cache_manager::{
    Claim, Config, Deps, Fresh, Level, PostgresTier, RegionOptions, Stored, Ticket, Tier, TierKey,
};
use postgres_pool_manager::TransactionOptions;
use postgres_pool_manager::sqlx::{self, AssertSqlSafe};
use resilience::Deadline;

use crate::world::{Source, World, brisk, eventually};

fn key(name: &str) -> TierKey {
    TierKey { region: "r".into(), key: name.into() }
}

fn fresh(body: &'static str) -> Fresh {
    let minute = Duration::from_secs(60);
    Fresh {
        body: Some(Bytes::from_static(body.as_bytes())),
        fresh_for: minute,
        keep_for: minute,
        age: Duration::ZERO,
    }
}

async fn claim(tier: &PostgresTier, name: &str) -> Ticket {
    match tier.claim(&key(name), true, Deadline::never()).await.unwrap() {
        Claim::Granted { ticket, .. } => ticket,
        other => panic!("{other:?}"),
    }
}

async fn read(tier: &PostgresTier, name: &str) -> Option<Stored> {
    tier.read(&[key(name)], Deadline::never()).await.unwrap().remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_are_filled_read_and_invalidated() {
    let world = World::shared().await;
    let pool = world.pool().await;
    let tier = PostgresTier::new(pool, Duration::from_secs(10));
    assert_eq!(read(&tier, "a").await, None);
    let ticket = claim(&tier, "a").await;
    assert!(tier.fill(&key("a"), ticket, fresh("1"), Deadline::never()).await.unwrap());
    let stored = read(&tier, "a").await.unwrap();
    assert!(stored.body.as_deref() == Some(b"1") && stored.fresh_for > Duration::from_secs(50));
    assert!(matches!(tier.claim(&key("a"), false, Deadline::never()).await.unwrap(), Claim::Found(_)));
    tier.invalidate(&[key("a")], Deadline::never()).await.unwrap();
    assert_eq!(read(&tier, "a").await, None);
    let (seized, loads) = (tier.seize(&key("a"), Deadline::never()).await.unwrap(), claim(&tier, "a").await);
    assert!(tier.put(&key("a"), seized, fresh("2"), Deadline::never()).await.unwrap());
    assert_eq!(read(&tier, "a").await.unwrap().body.as_deref(), Some(&b"2"[..]));
    assert!(!tier.fill(&key("a"), loads, fresh("old"), Deadline::never()).await.unwrap(), "set meanwhile");
    let late = tier.seize(&key("a"), Deadline::never()).await.unwrap();
    tier.invalidate(&[key("a")], Deadline::never()).await.unwrap();
    assert!(
        !tier.put(&key("a"), late, fresh("3"), Deadline::never()).await.unwrap(),
        "invalidated meanwhile"
    );
    assert_eq!(read(&tier, "a").await, None);
    let seized = tier.seize(&key("a"), Deadline::never()).await.unwrap();
    assert!(tier.put(&key("a"), seized, fresh("4"), Deadline::never()).await.unwrap());
    tier.clear("r", Deadline::never()).await.unwrap();
    assert_eq!(read(&tier, "a").await, None);
    let ticket = claim(&tier, "a").await;
    let absent = Fresh { body: None, ..fresh("") };
    assert!(tier.fill(&key("a"), ticket, absent, Deadline::never()).await.unwrap());
    assert_eq!(read(&tier, "a").await.unwrap().body, None);
    tier.clear(cache_manager::EVERYTHING, Deadline::never()).await.unwrap();
    assert_eq!(read(&tier, "a").await, None);
    let many = tier.read(&[key("x"), key("a"), key("x")], Deadline::never()).await.unwrap();
    assert_eq!(many, [None, None, None]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_that_may_not_store_its_value_voids_claims_all_the_same() {
    let world = World::shared().await;
    let pool = world.pool().await;
    let tier = PostgresTier::new(pool.clone(), Duration::from_secs(10));
    let seized = tier.seize(&key("a"), Deadline::never()).await.unwrap();
    // As if the tables had been emptied.
    let empty = format!("DELETE FROM {}", pool.schema().table("cache_incarnation"));
    sqlx::query(AssertSqlSafe(empty)).execute(&pool.primary()).await.unwrap();
    let other = claim(&tier, "a").await;
    assert!(!tier.put(&key("a"), seized, fresh("set"), Deadline::never()).await.unwrap());
    assert!(!tier.fill(&key("a"), other, fresh("old"), Deadline::never()).await.unwrap());
    assert_eq!(read(&tier, "a").await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_from_before_a_commit_never_counts() {
    let world = World::shared().await;
    let pool = world.pool().await;
    let tier = PostgresTier::new(pool.clone(), Duration::from_secs(10));
    let bury = format!(
        "INSERT INTO {} (id) VALUES (convert_to('r:a', 'UTF8'))",
        pool.schema().table("cache_tombstones")
    );
    // Claimed before the transaction began; filled while it is open, and again after its commit.
    let (early, late) = (claim(&tier, "a").await, claim(&tier, "a").await);
    let mut tx = pool.begin(TransactionOptions::default()).await.unwrap();
    sqlx::query(AssertSqlSafe(bury.clone())).execute(&mut tx).await.unwrap();
    let during = claim(&tier, "a").await;
    assert!(tier.fill(&key("a"), early, fresh("old"), Deadline::never()).await.unwrap(), "waits for nobody");
    assert!(read(&tier, "a").await.is_some(), "not committed yet");
    tx.commit().await.unwrap();
    assert_eq!(read(&tier, "a").await, None);
    assert!(!tier.fill(&key("a"), late, fresh("old"), Deadline::never()).await.unwrap());
    assert!(!tier.fill(&key("a"), during, fresh("old"), Deadline::never()).await.unwrap());
    let after = claim(&tier, "a").await;
    assert!(tier.fill(&key("a"), after, fresh("new"), Deadline::never()).await.unwrap());
    assert_eq!(read(&tier, "a").await.unwrap().body.as_deref(), Some(&b"new"[..]));
    // A rollback voids nothing, and a transaction that stays open for long holds up no key.
    let mut open = pool.begin(TransactionOptions::default()).await.unwrap();
    sqlx::query(AssertSqlSafe(bury)).execute(&mut open).await.unwrap();
    tier.invalidate(&[key("b")], Deadline::never()).await.unwrap();
    let beside = claim(&tier, "b").await;
    assert!(tier.fill(&key("b"), beside, fresh("b"), Deadline::never()).await.unwrap());
    assert!(read(&tier, "b").await.is_some());
    open.rollback().await.unwrap();
    assert!(read(&tier, "a").await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_emptied_by_a_crash_refuse_the_fills_from_before() {
    let world = World::own().await;
    let pool = world.pool().await;
    let tier = PostgresTier::new(pool.clone(), Duration::from_secs(10));
    let before = claim(&tier, "a").await;
    tier.invalidate(&[key("a")], Deadline::never()).await.unwrap();
    let postgres = world.stack.postgres().primary();
    postgres.kill().unwrap();
    postgres.restart().await.unwrap();
    eventually("Postgres is back", async || tier.ping(Deadline::after(Duration::from_secs(1))).await.is_ok())
        .await;
    let filled = tier.fill(&key("a"), before, fresh("old"), Deadline::never()).await;
    assert!(matches!(filled, Ok(false)), "{filled:?}");
    assert_eq!(read(&tier, "a").await, None);
    let after = claim(&tier, "a").await;
    assert!(tier.fill(&key("a"), after, fresh("new"), Deadline::never()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pruning_removes_tombstones_with_what_they_void_and_nothing_else() {
    let world = World::shared().await;
    let pool = world.pool().await;
    // A load may take no time at all: everything is old at once.
    let tier = PostgresTier::with_retention(pool.clone(), Duration::from_secs(10), Duration::ZERO);
    let (void, good) = (claim(&tier, "void").await, claim(&tier, "good").await);
    assert!(tier.fill(&key("void"), void, fresh("1"), Deadline::never()).await.unwrap());
    tier.invalidate(&[key("void")], Deadline::never()).await.unwrap();
    assert!(tier.fill(&key("good"), good, fresh("1"), Deadline::never()).await.unwrap());
    for _ in 0..3 {
        tier.tend(Deadline::never()).await;
    }
    let count = async |table: &str| {
        let sql = format!("SELECT count(*) FROM {}", pool.schema().table(table));
        sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql)).fetch_one(&pool.primary()).await.unwrap()
    };
    assert_eq!((count("cache_tombstones").await, count("cache_entries").await), (0, 1));
    assert!(read(&tier, "void").await.is_none() && read(&tier, "good").await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_a_dear_load_is_kept_in_l3() {
    let world = World::shared().await;
    let build = async |config: Config| {
        let deps = Deps { postgres: Some(world.pool().await), ..Deps::default() };
        config.build(deps).unwrap()
    };
    let (one, two) = (build(brisk()).await, build(brisk()).await);
    let source = Source::default();
    source.set(1);
    let (here, there) = (
        one.region::<u64>("numbers", RegionOptions::default()).unwrap(),
        two.region::<u64>("numbers", RegionOptions::default()).unwrap(),
    );
    source.read_slowly(&here, "k", Duration::from_millis(20)).await;
    eventually("in L3", async || {
        there.get_with("k", None).await.unwrap().is_some_and(|hit| hit.level == Level::L3)
    })
    .await;
    assert_eq!(source.loads(), 1);
    let fixed: Arc<str> = "set".into();
    here.set(&fixed, 3).await.unwrap();
    assert_eq!(there.get(&fixed).await.unwrap().as_deref(), Some(&3));
    here.invalidate(&fixed).await.unwrap();
    let third = build(brisk()).await.region::<u64>("numbers", RegionOptions::default()).unwrap();
    assert_eq!(third.get(&fixed).await.unwrap(), None);
}
