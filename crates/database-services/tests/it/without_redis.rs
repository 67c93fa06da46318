//! No Redis configured: L1 and L3 serve, locks and channels say that they cannot.

use std::time::Duration;

use database_services::cache_manager::{Level, Loaded, RegionOptions};
use database_services::distributed_lock_manager::{LockError, LockOptions};
use database_services::health_manager::Status;
use database_services::resilience::Deadline;
use database_services::{pubsub_manager, sqlx};

use crate::support::{Ground, PATIENCE};

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_serves_and_the_rest_is_unavailable() {
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
    let published = services.pubsub().channel::<u32>("numbers").unwrap().publish(&1).await;
    assert!(matches!(published, Err(pubsub_manager::Error::Unavailable { .. })), "{published:?}");
    let report = services.health_manager().check_now(Deadline::after(PATIENCE)).await;
    assert_eq!(report.status, Status::Healthy, "what is not configured cannot be down: {report:#?}");
    assert_eq!(report.components["redis"].reason.as_deref(), Some("no Redis is configured"));
    assert!(services.stats().unwrap()["redis"].is_null());
    services.shutdown(Duration::from_secs(5)).await;
    ground.no_connections_left().await;
}
