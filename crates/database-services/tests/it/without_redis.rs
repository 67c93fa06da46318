//! No Redis configured: L1 and L3 serve, channels live in the database, locks and durable channels say that they cannot.

use std::time::Duration;

use database_services::cache_manager::{Level, Loaded, RegionOptions};
use database_services::distributed_lock_manager::{LockError, LockOptions};
use database_services::health_manager::Status;
use database_services::postgres_pool_manager::TransactionOptions;
use database_services::pubsub_manager::{self, Event, SubscribeOptions, TxPublish};
use database_services::resilience::Deadline;
use database_services::sqlx;

use crate::support::{Ground, PATIENCE};

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_serves_and_locks_are_unavailable() {
    let ground = Ground::without_redis().await;
    let services = ground.running().await;
    assert!(services.redis().is_none() && services.coordination().is_none());
    let names = services.cache().region::<String>("names", RegionOptions::default()).unwrap();
    let load = |_| async { Ok::<_, sqlx::Error>(Loaded::value("ada".to_owned())) };
    names.get_or_load("1", load).await.unwrap();
    assert_eq!(names.get_or_load("1", load).await.unwrap().level, Level::L1);
    names.invalidate("1").await.unwrap();
    assert_eq!(names.get_or_load("1", load).await.unwrap().level, Level::Loader);
    let lock = services.lock_manager().acquire("job", LockOptions::default()).await;
    assert!(matches!(lock, Err(LockError::Unavailable { .. })), "{lock:?}");
    let durable = services.pubsub().durable_channel::<u32>("numbers").unwrap().publish(&1).await;
    assert!(matches!(durable, Err(pubsub_manager::Error::Unavailable { .. })), "{durable:?}");
    let report = services.health_manager().check_now(Deadline::after(PATIENCE)).await;
    assert_eq!(report.status, Status::Healthy, "what is not configured cannot be down: {report:#?}");
    assert_eq!(report.components["redis"].reason.as_deref(), Some("no Redis is configured"));
    assert!(services.stats().unwrap()["redis"].is_null());
    services.shutdown(Duration::from_secs(5)).await;
    ground.no_connections_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_hear_each_other_through_the_database() {
    let ground = Ground::without_redis().await;
    let (one, two) = (ground.running().await, ground.running().await);
    assert_eq!(one.pubsub().status().bus, "postgresql");
    let into = two.pubsub().channel::<u32>("numbers").unwrap();
    let mut subscription = into.subscribe(SubscribeOptions::default()).await.unwrap();
    let out = one.pubsub().channel::<u32>("numbers").unwrap();
    out.publish(&1).await.unwrap();
    let mut tx = one.database().begin(TransactionOptions::default()).await.unwrap();
    tx.publish(&out, &2).await.unwrap();
    tx.commit().await.unwrap();
    for expected in [1, 2] {
        let event = tokio::time::timeout(PATIENCE, subscription.next()).await.expect("in time");
        let Some(Event::Message(message)) = event else { panic!("{event:?} is no message") };
        assert_eq!(message.value, expected);
    }
    one.shutdown(Duration::from_secs(5)).await;
    two.shutdown(Duration::from_secs(5)).await;
    ground.no_connections_left().await;
}
