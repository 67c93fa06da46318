//! What is refused, with an error that names the limit, and what is a counted miss.

use std::time::Duration;

use cache_manager::{CacheError, Config, Deps, Fresh, MAX_KEY, MAX_TTL, RegionOptions, Tier, TierKey};
use resilience::Deadline;

use crate::world::{Memory, Source, brisk};

#[tokio::test]
async fn keys_values_and_times_have_limits() {
    let memory = Memory::new();
    let manager = memory.manager(Config { max_value: 100, ..brisk() }).await;
    let cache = manager.region::<String>("texts", RegionOptions::default()).unwrap();
    for key in [String::new(), "k".repeat(MAX_KEY + 1), format!("%{}", "k".repeat(MAX_KEY - 1))] {
        assert!(matches!(cache.get(&key).await, Err(CacheError::Key { .. })));
        assert!(matches!(cache.set(&key, String::new()).await, Err(CacheError::Key { .. })));
        assert!(matches!(cache.invalidate(&key).await, Err(CacheError::Key { .. })));
    }
    let error = cache.set("k", "x".repeat(200)).await.unwrap_err();
    assert!(matches!(&error, CacheError::TooLarge { limit: 100, .. }) && error.to_string().contains("100"));
    assert_eq!(cache.get("k").await.unwrap(), None);
    for ttl in [Duration::ZERO, MAX_TTL + Duration::from_secs(1), Duration::MAX] {
        assert!(matches!(cache.set_with_ttl("k", String::new(), ttl).await, Err(CacheError::Ttl { .. })));
        let options = RegionOptions { ttl: Some(ttl), ..RegionOptions::default() };
        assert!(matches!(manager.region::<u8>("other", options), Err(CacheError::Ttl { .. })));
    }
    for name in ["", "a:b", "a b", "*", &"r".repeat(65)] {
        assert!(matches!(
            manager.region::<u8>(name, RegionOptions::default()),
            Err(CacheError::RegionName { .. })
        ));
    }
    let error = manager.region::<u8>("texts", RegionOptions::default()).unwrap_err();
    assert!(error.to_string().contains("String") && error.to_string().contains("u8"), "{error}");
}

#[tokio::test]
async fn all_wrong_settings_are_reported_at_once() {
    let config =
        Config { l1_entries: 0, ttl: Duration::ZERO, l2_timeout: Duration::ZERO, ..Config::default() };
    let CacheError::Settings(problems) = config.build(Deps::default()).unwrap_err() else {
        panic!("another error")
    };
    let named: Vec<_> = problems.iter().map(|problem| problem.setting).collect();
    assert_eq!(named, ["l1_entries", "ttl", "l2_timeout"]);
}

#[tokio::test]
async fn bytes_that_are_not_a_value_are_a_counted_miss_and_overwritten() {
    let memory = Memory::new();
    let manager = memory.manager(brisk()).await;
    let cache = manager.region::<u64>("numbers", RegionOptions::default()).unwrap();
    let key = TierKey { region: "numbers".into(), key: "k".into() };
    let minute = Duration::from_secs(60);
    for poison in [&b"garbage"[..], b"", &[1; 20]] {
        let value = Fresh {
            body: Some(poison.to_vec().into()),
            fresh_for: minute,
            keep_for: minute,
            age: Duration::ZERO,
        };
        let ticket = memory.l2.seize(&key, Deadline::never()).await.unwrap();
        assert!(memory.l2.put(&key, ticket, value, Deadline::never()).await.unwrap());
        let before = manager.stats().undecodable;
        assert_eq!(cache.get("k").await.unwrap(), None);
        assert!(manager.stats().undecodable > before);
    }
    let source = Source::default();
    source.set(4);
    assert_eq!(source.read(&cache, "k").await, 4);
    crate::world::eventually("overwritten in L2", async || {
        let other = memory.manager(brisk()).await.region::<u64>("numbers", RegionOptions::default()).unwrap();
        other.get("k").await.unwrap().as_deref() == Some(&4)
    })
    .await;
}

#[tokio::test]
async fn another_type_or_schema_version_is_a_miss() {
    let memory = Memory::new();
    let one = memory.manager(brisk()).await.region::<u64>("r", RegionOptions::default()).unwrap();
    one.set("k", 1).await.unwrap();
    let other = memory.manager(brisk()).await;
    let options = RegionOptions { schema_version: 2, ..RegionOptions::default() };
    assert_eq!(other.region::<u64>("r", options).unwrap().get("k").await.unwrap(), None);
    let third = memory.manager(brisk()).await.region::<u32>("r", RegionOptions::default()).unwrap();
    assert_eq!(third.get("k").await.unwrap(), None);
}

#[tokio::test]
async fn without_tiers_it_is_an_l1() {
    let manager = Config::default().build(Deps::default()).unwrap();
    manager.set("k", 5_u32, None).await.unwrap();
    assert_eq!(manager.get::<u32>("k").await.unwrap().as_deref(), Some(&5));
    assert_eq!(manager.get::<String>("k").await.unwrap(), None, "the region default holds any type");
    manager.remove("k").await.unwrap();
    assert_eq!(manager.get::<u32>("k").await.unwrap(), None);
    assert!(manager.status().healthy);
    manager.resize_l1(10);
    for n in 0..1000 {
        manager.set(&n.to_string(), n, None).await.unwrap();
    }
    assert!(manager.stats().l1_size <= 20);
    manager.shutdown(Duration::from_secs(1)).await;
    assert!(matches!(manager.get::<u32>("x").await, Err(CacheError::Shutdown)));
}
