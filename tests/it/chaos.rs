//! Services while Redis is killed, comes back empty, and forgets everything: requests go on, nothing stale is served.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use database_services::cache_manager::{Loaded, RegionOptions};
use local_stack::{RedisOptions, wait_for};

use crate::fixture::{Fixture, SOON};

/// The truth is a counter in this process; the loader reads it, the updater raises it and invalidates.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_dies_returns_empty_and_is_flushed_under_load() {
    let fixture =
        Fixture::with_own_redis(RedisOptions { persistent: false, ..RedisOptions::default() }).await;
    let redis = fixture.redis.as_ref().unwrap().redis().master().clone();
    let services = fixture.services("one").await;
    let region = services.cache().region::<i64>("truth", RegionOptions::default()).unwrap();
    let truth = Arc::new(AtomicI64::new(1));
    let over = Arc::new(AtomicBool::new(false));
    let reads = Arc::new(AtomicU64::new(0));
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (region, truth, over, reads) = (region.clone(), truth.clone(), over.clone(), reads.clone());
        readers.spawn(async move {
            while !over.load(Ordering::SeqCst) {
                // What an invalidation that has returned promised: nothing older than this.
                let least = truth.load(Ordering::SeqCst);
                let source = truth.clone();
                let load = move |_| async move {
                    Ok::<_, std::convert::Infallible>(Loaded::value(source.load(Ordering::SeqCst)))
                };
                let hit = region.get_or_load("key", load).await.expect("no read fails");
                let value = *hit.value.expect("the loader always has a value");
                // The value is raised before its invalidation, so a read may be ahead, never behind.
                assert!(value >= least - 1, "{value} after {least}");
                reads.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
    }
    let update = async || {
        let next = truth.fetch_add(1, Ordering::SeqCst) + 1;
        // While Redis is away this is `NotPropagated`, and still holds in this process.
        let _ = region.invalidate("key").await;
        let hit = region.get("key").await.expect("no read fails");
        assert!(hit.is_none_or(|value| *value >= next), "stale in the process that invalidated");
    };
    for step in 0..4 {
        match step {
            1 => redis.kill().unwrap(),
            2 => redis.restart_empty().await.unwrap(),
            3 => drop(redis.redis_command(&["FLUSHALL"]).await.unwrap()),
            _ => {}
        }
        let until = Instant::now() + Duration::from_millis(1500);
        while Instant::now() < until {
            update().await;
        }
    }
    over.store(true, Ordering::SeqCst);
    while let Some(reader) = readers.join_next().await {
        reader.unwrap();
    }
    assert!(reads.load(Ordering::Relaxed) > 1000);
    wait_for("health to come back", SOON, async || {
        services.health_manager().check_health().status.to_string() == "healthy"
    })
    .await;
    services.shutdown(SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_start_while_redis_is_down_and_use_it_once_it_is_there() {
    let fixture = Fixture::with_own_redis(RedisOptions::default()).await;
    let redis = fixture.redis.as_ref().unwrap().redis().master().clone();
    redis.kill().unwrap();
    let services = fixture.services("one").await;
    let region = services.cache().region::<u32>("r", RegionOptions::default()).unwrap();
    let load = |_| async { Ok::<_, std::convert::Infallible>(Loaded::value(7)) };
    assert_eq!(region.get_or_load("key", load).await.unwrap().value.as_deref(), Some(&7));
    redis.restart().await.unwrap();
    wait_for("locks to work", SOON, async || services.lock_manager().health_check(deadline()).await.is_ok())
        .await;
    let guard = services.lock_manager().acquire("job", Default::default()).await.unwrap();
    guard.release().await.unwrap();
    services.shutdown(SOON).await;
}

fn deadline() -> database_services::resilience::Deadline {
    database_services::resilience::Deadline::after(Duration::from_secs(1))
}
