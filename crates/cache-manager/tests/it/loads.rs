//! One load for many, and what happens when it fails, hangs, panics or is left alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cache_manager::{CacheError, Config, Deps, Level, LoadCtx, LoadError, Loaded, RegionOptions};

use crate::world::{Memory, Source, World, brisk, eventually};

type Answer = Result<Loaded<u64>, std::io::Error>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stampede_of_1000_callers_is_one_load() {
    let memory = Memory::new();
    let cache = memory.manager(brisk()).await.region::<u64>("numbers", RegionOptions::default()).unwrap();
    let source = Source::default();
    source.set(7);
    let began = Instant::now();
    let callers = (0..1000).map(|_| {
        let (source, cache) = (source.clone(), cache.clone());
        tokio::spawn(async move { source.read_slowly(&cache, "k", Duration::from_millis(50)).await })
    });
    for caller in callers.collect::<Vec<_>>() {
        assert_eq!(caller.await.unwrap(), 7);
    }
    assert_eq!(source.loads(), 1);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stampede_on_two_processes_is_one_load() {
    let world = World::shared().await;
    let (one, two) = (world.node(brisk()).await, world.node(brisk()).await);
    let source = Source::default();
    source.set(9);
    let callers = (0..200).map(|n| {
        let cache = if n % 2 == 0 { one.region() } else { two.region() };
        let source = source.clone();
        tokio::spawn(async move { source.read_slowly(&cache, "k", Duration::from_millis(100)).await })
    });
    for caller in callers.collect::<Vec<_>>() {
        assert_eq!(caller.await.unwrap(), 9);
    }
    assert_eq!(source.loads(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_load_is_shared_and_then_backs_off() {
    let memory = Memory::new();
    let config = Config { failure_backoff: Duration::from_millis(300), ..brisk() };
    let cache = memory.manager(config).await.region::<u64>("numbers", RegionOptions::default()).unwrap();
    let loads = Arc::new(AtomicU64::new(0));
    let attempt = || {
        let (cache, loads) = (cache.clone(), Arc::clone(&loads));
        async move {
            let loader = move |_: LoadCtx<u64>| async move {
                loads.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(50)).await;
                Answer::Err(std::io::Error::other("the database is away"))
            };
            cache.get_or_load("k", loader).await.unwrap_err()
        }
    };
    let callers: Vec<_> = (0..100).map(|_| tokio::spawn(attempt())).collect();
    for caller in callers {
        let CacheError::Load(LoadError::Loader(error)) = caller.await.unwrap() else {
            panic!("another error")
        };
        assert!(error.to_string().contains("away"));
    }
    attempt().await;
    assert_eq!(loads.load(Ordering::SeqCst), 1, "the error is handed out during the back-off");
    eventually("the back-off ends", async || {
        attempt().await;
        loads.load(Ordering::SeqCst) > 1
    })
    .await;
}

#[tokio::test]
async fn a_panic_is_an_error_to_all_and_the_key_is_not_stuck() {
    let memory = Memory::new();
    let config = Config { failure_backoff: Duration::ZERO, ..brisk() };
    let cache = memory.manager(config).await.region::<u64>("numbers", RegionOptions::default()).unwrap();
    let loader = |_: LoadCtx<u64>| async { if true { panic!("boom") } else { Answer::Ok(Loaded::Absent) } };
    let error = cache.get_or_load("k", loader).await.unwrap_err();
    assert!(
        matches!(&error, CacheError::Load(LoadError::Panicked { message }) if message == "boom"),
        "{error:?}"
    );
    assert_eq!(Source::default().read(&cache, "k").await, 0);
}

#[tokio::test]
async fn a_hanging_load_ends_at_the_hard_time_out() {
    let memory = Memory::new();
    let config = Config {
        soft_timeout: Duration::from_millis(50),
        hard_timeout: Duration::from_millis(150),
        failure_backoff: Duration::ZERO,
        ..brisk()
    };
    let cache = memory.manager(config).await.region::<u64>("numbers", RegionOptions::default()).unwrap();
    let error = cache.get_or_load("k", |_| std::future::pending::<Answer>()).await.unwrap_err();
    assert!(matches!(error, CacheError::Load(LoadError::TimedOut { .. })), "{error:?}");
    assert_eq!(Source::default().read(&cache, "k").await, 0);
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_cancel_the_load_of_others() {
    let memory = Memory::new();
    let cache = memory.manager(brisk()).await.region::<u64>("numbers", RegionOptions::default()).unwrap();
    let source = Source::default();
    source.set(3);
    let first = {
        let (source, cache) = (source.clone(), cache.clone());
        tokio::spawn(async move { source.read_slowly(&cache, "k", Duration::from_millis(100)).await })
    };
    eventually("the load began", async || source.loads() == 1).await;
    first.abort();
    assert_eq!(source.read(&cache, "k").await, 3);
    assert_eq!(source.loads(), 1);
}

#[tokio::test]
async fn an_expired_value_is_served_when_the_load_fails_or_is_slow() {
    let memory = Memory::new();
    let config = Config {
        ttl: Duration::from_millis(30),
        soft_timeout: Duration::from_millis(50),
        failure_backoff: Duration::ZERO,
        ..brisk()
    };
    let cache = memory.manager(config).await.region::<u64>("numbers", RegionOptions::default()).unwrap();
    let source = Source::default();
    source.set(1);
    assert_eq!(source.read(&cache, "k").await, 1);
    eventually("expired everywhere", async || cache.get("k").await.unwrap().is_none()).await;
    let hit = cache.get_or_load("k", |_| async { Answer::Err(std::io::Error::other("no")) }).await.unwrap();
    assert!(hit.stale && hit.value.as_deref() == Some(&1));
    let began = Instant::now();
    let slow = source.clone();
    slow.set(2);
    let hit = cache.get_or_load("k", move |_| slow.load(Duration::from_millis(300))).await.unwrap();
    assert!(hit.stale && hit.value.as_deref() == Some(&1));
    assert!(began.elapsed() < Duration::from_millis(250), "{:?}", began.elapsed());
    eventually("the slow load's value", async || {
        cache.peek("k").is_some_and(|hit| hit.value.as_deref() == Some(&2))
    })
    .await;
}

#[tokio::test]
async fn absence_is_cached_and_not_modified_renews() {
    let memory = Memory::new();
    let cache = memory.manager(brisk()).await.region::<u64>("numbers", RegionOptions::default()).unwrap();
    let hit = cache.get_or_load("none", |_| async { Answer::Ok(Loaded::Absent) }).await.unwrap();
    assert!(hit.value.is_none() && hit.level == Level::Loader);
    let hit = cache.get_or_load("none", |_| async { Answer::Ok(Loaded::value(1)) }).await.unwrap();
    assert!(hit.value.is_none() && hit.level == Level::L1);

    let brief = RegionOptions { ttl: Some(Duration::from_millis(20)), ..RegionOptions::default() };
    let cache = memory.manager(brisk()).await.region::<u64>("brief", brief).unwrap();
    let source = Source::default();
    source.set(5);
    source.read(&cache, "k").await;
    eventually("expired everywhere", async || cache.get("k").await.unwrap().is_none()).await;
    let loader = |ctx: LoadCtx<u64>| async move {
        assert_eq!(ctx.previous.as_deref(), Some(&5));
        Answer::Ok(Loaded::NotModified)
    };
    let hit = cache.get_or_load("k", loader).await.unwrap();
    assert!(!hit.stale && hit.value.as_deref() == Some(&5));
    let error = cache.get_or_load("new", |_| async { Answer::Ok(Loaded::NotModified) }).await.unwrap_err();
    assert!(matches!(error, CacheError::Load(LoadError::NothingToRenew)));
}

#[tokio::test]
async fn an_invalidation_in_the_middle_of_a_load_voids_its_value() {
    let memory = Memory::new();
    let cache = memory.manager(brisk()).await.region::<u64>("numbers", RegionOptions::default()).unwrap();
    let source = Source::default();
    source.set(1);
    let early = {
        let (source, cache) = (source.clone(), cache.clone());
        tokio::spawn(async move { source.read_slowly(&cache, "k", Duration::from_millis(150)).await })
    };
    eventually("the load began", async || source.loads() == 1).await;
    source.set(2);
    cache.invalidate("k").await.unwrap();
    assert_eq!(source.read(&cache, "k").await, 2, "does not join the old load");
    assert_eq!(early.await.unwrap(), 2, "what those who come now read, although it began before");
    assert_eq!(source.read(&cache, "k").await, 2, "the old load stored nothing in L1");
    let other = memory.manager(brisk()).await.region::<u64>("numbers", RegionOptions::default()).unwrap();
    assert_eq!(source.read(&other, "k").await, 2, "nor in the tiers");
}

#[tokio::test]
async fn a_set_in_the_middle_of_a_load_outlives_it() {
    for memory in [Some(Memory::new()), None] {
        let manager = match &memory {
            Some(memory) => memory.manager(brisk()).await,
            None => brisk().build(Deps::default()).unwrap(),
        };
        let cache = manager.region::<u64>("numbers", RegionOptions::default()).unwrap();
        let source = Source::default();
        source.set(1);
        let early = {
            let (source, cache) = (source.clone(), cache.clone());
            tokio::spawn(async move { source.read_slowly(&cache, "k", Duration::from_millis(50)).await })
        };
        eventually("the load began", async || source.loads() == 1).await;
        cache.set("k", 2).await.unwrap();
        assert_eq!(early.await.unwrap(), 2);
        assert_eq!(cache.get("k").await.unwrap().as_deref(), Some(&2));
    }
}

#[tokio::test]
async fn readers_that_come_back_at_once_get_their_key_into_l1_after_an_invalidation() {
    let manager = brisk().build(Deps::default()).unwrap();
    let cache = manager.region::<u64>("numbers", RegionOptions::default()).unwrap();
    let source = Source::default();
    let readers: Vec<_> = (0..20)
        .map(|_| {
            let (source, cache) = (source.clone(), cache.clone());
            tokio::spawn(async move {
                for _ in 0..2000 {
                    source.read_slowly(&cache, "k", Duration::from_millis(20)).await;
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    eventually("a load began", async || source.loads() == 1).await;
    cache.invalidate("k").await.unwrap();
    for reader in readers {
        reader.await.unwrap();
    }
    assert!(source.loads() <= 4, "{} loads", source.loads());
}

#[tokio::test]
async fn one_request_is_one_hit_or_one_miss() {
    let memory = Memory::new();
    let manager = memory.manager(brisk()).await;
    let cache = manager.region::<u64>("numbers", RegionOptions::default()).unwrap();
    let source = Source::default();
    source.read(&cache, "a").await;
    source.read(&cache, "a").await;
    cache.get("a").await.unwrap();
    cache.get("b").await.unwrap();
    let other = memory.manager(brisk()).await;
    let second = other.region::<u64>("numbers", RegionOptions::default()).unwrap();
    source.read(&second, "a").await;
    let stats = manager.stats();
    assert_eq!((stats.total_requests, stats.l1_hits, stats.loaded, stats.not_found), (4, 2, 1, 1));
    let stats = other.stats();
    assert_eq!((stats.total_requests, stats.l2_hits, stats.loaded), (1, 1, 0));
}
