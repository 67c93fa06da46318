//! The assembled system while Sentinels and clusters replace masters: nothing stale, nothing twice, and it goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use database_services::cache_manager::{Cache, Loaded, RegionOptions};
use database_services::distributed_lock_manager::LockOptions;
use database_services::{DatabaseServices, sqlx};
use local_stack::{RedisOptions, Stack, wait_for};

use crate::fixture::{Fixture, SOON};

const KEYS: usize = 50;
/// Longer than a failover takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn numbers(services: &DatabaseServices) -> Cache<i64> {
    services.cache().region("numbers", RegionOptions::default()).unwrap()
}

async fn read(services: &DatabaseServices, numbers: &Cache<i64>, id: usize) -> i64 {
    let db = services.database();
    let load = move |_| async move {
        let row = sqlx::query_scalar("SELECT v FROM numbers WHERE id = $1");
        let row = row.bind(i32::try_from(id).unwrap()).fetch_optional(&db.primary()).await;
        row.map(Loaded::<i64>::from)
    };
    *numbers.get_or_load(&id.to_string(), load).await.unwrap().value.unwrap()
}

/// Counts up and invalidates, again and again, while others read; every read of the same process that begins after an
/// invalidation has returned sees it.
async fn write_and_read(services: DatabaseServices, stop: Arc<AtomicBool>) -> u64 {
    let (numbers, db) = (numbers(&services), services.database());
    let mut updates = 0;
    while !stop.load(Ordering::SeqCst) {
        let id = rand_id(updates);
        let next: i64 = sqlx::query_scalar("UPDATE numbers SET v = v + 1 WHERE id = $1 RETURNING v")
            .bind(i32::try_from(id).unwrap())
            .fetch_one(&db.primary())
            .await
            .unwrap();
        // Redis may be away: then it is told so, and this process keeps the promise all the same.
        let _ = numbers.invalidate(&id.to_string()).await;
        let seen = read(&services, &numbers, id).await;
        assert!(seen >= next, "stale: {seen} after {next}");
        updates += 1;
    }
    updates
}

fn rand_id(updates: u64) -> usize {
    usize::try_from(updates.wrapping_mul(2_654_435_761) % KEYS as u64).unwrap() + 1
}

async fn under_load(fixture: Fixture, replace: impl AsyncFnOnce(&Stack)) {
    fixture.sql("CREATE TABLE numbers (id int PRIMARY KEY, v bigint NOT NULL)").await;
    fixture.sql(&format!("INSERT INTO numbers SELECT n, 0 FROM generate_series(1, {KEYS}) n")).await;
    let (one, two) = (fixture.services("one").await, fixture.services("two").await);
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> =
        [&one, &two].map(|services| tokio::spawn(write_and_read(services.clone(), Arc::clone(&stop)))).into();
    let tokens = AtomicU64::new(0);
    let lock = async |services: &DatabaseServices| {
        let options = LockOptions { wait: Some(Duration::from_secs(1)), ..LockOptions::default() };
        let Ok(guard) = services.lock_manager().acquire("job", options).await else { return false };
        let before = tokens.swap(guard.token(), Ordering::SeqCst);
        assert!(guard.token() > before, "{} after {before}", guard.token());
        guard.release().await.is_ok()
    };
    assert!(lock(&one).await && lock(&two).await, "locks work before");
    let began = Instant::now();
    replace(fixture.redis.as_ref().unwrap()).await;
    wait_for("locks", PATIENCE, async || lock(&one).await && lock(&two).await).await;
    eprintln!("locks were there again {:?} after the master was lost", began.elapsed());
    wait_for("both to be current", PATIENCE, async || {
        [&one, &two].iter().all(|services| services.cache().coherence().is_current())
    })
    .await;
    stop.store(true, Ordering::SeqCst);
    let mut updates = 0;
    for writer in writers {
        updates += writer.await.unwrap();
    }
    assert!(updates > 100, "{updates}");
    // When it is quiet both see what Postgres has.
    for id in 1..=KEYS {
        let row = format!("SELECT v FROM numbers WHERE id = {id}");
        let truth = fixture.database.sql(&row).await.unwrap();
        let truth: i64 = truth[0][0].as_deref().unwrap().parse().unwrap();
        for services in [&one, &two] {
            let numbers = numbers(services);
            wait_for("the truth", SOON, async || read(services, &numbers, id).await == truth).await;
        }
    }
    one.shutdown(SOON).await;
    two.shutdown(SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_replace_the_master() {
    let stack = Stack::builder().redis(RedisOptions::with_sentinels(2)).start().await.unwrap();
    under_load(Fixture::under_sentinels(stack).await, async |stack: &Stack| {
        let old = stack.redis().master();
        old.kill().unwrap();
        wait_for("another master", PATIENCE, async || {
            stack.redis().sentinel_master().await.is_ok_and(|now| now.port() != old.port())
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_replaces_each_of_its_masters() {
    let stack = Stack::builder().redis(RedisOptions::cluster()).start().await.unwrap();
    under_load(Fixture::on_a_cluster(stack).await, async |stack: &Stack| {
        let redis = stack.redis();
        for master in redis.masters() {
            redis.failover_to(redis.replica_of(master).unwrap()).await.unwrap();
        }
        // And one without being asked.
        let now = redis.slot_owner(0).await.unwrap();
        now.kill().unwrap();
        wait_for("another master", PATIENCE, async || {
            redis.slot_owner(0).await.is_ok_and(|owner| owner.port() != now.port())
        })
        .await;
    })
    .await;
}
