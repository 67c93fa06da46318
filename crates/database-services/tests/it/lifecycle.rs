//! Start, use, drain.

use std::time::Duration;

use database_services::cache_manager::{Level, Loaded, RegionOptions};
use database_services::distributed_lock_manager::LockOptions;
use database_services::health_manager::{Group, Status};
use database_services::postgres_pool_manager::MigrateOptions;
use database_services::pubsub_manager::{Event, SubscribeOptions};
use database_services::resilience::Deadline;
use database_services::{Error, ServiceState, sqlx};

use crate::support::{Ground, PATIENCE};

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_after_initialize() {
    let ground = Ground::new().await;
    let services = ground.services();
    assert_eq!(services.state(), ServiceState::Created);
    services.initialize().await.unwrap();
    services.initialize().await.unwrap();
    assert_eq!(services.state(), ServiceState::Running);

    let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&services.database().primary()).await.unwrap();
    assert_eq!(one, 1);

    let names = services.cache().region::<String>("names", RegionOptions::default()).unwrap();
    let load = |_| async { Ok::<_, sqlx::Error>(Loaded::value("ada".to_owned())) };
    let first = names.get_or_load("1", load).await.unwrap();
    let second = names.get_or_load("1", load).await.unwrap();
    assert_eq!((first.level, second.level), (Level::Loader, Level::L1));

    let lock = services.lock_manager().acquire("job", LockOptions::default()).await.unwrap();
    assert!(lock.token() > 0);
    lock.release().await.unwrap();

    let channel = services.pubsub().channel::<u32>("numbers").unwrap();
    let mut heard = channel.subscribe(SubscribeOptions::default()).await.unwrap();
    channel.publish(&7).await.unwrap();
    let event = Deadline::after(PATIENCE).run(heard.next()).await.unwrap().unwrap();
    assert!(matches!(event, Event::Message(message) if message.value == 7));

    let report = services.health_manager().check_now(Deadline::after(PATIENCE)).await;
    assert_eq!(report.status, Status::Healthy, "{report:#?}");
    assert_eq!(
        report.components.keys().collect::<Vec<_>>(),
        ["cache", "database", "locks", "pubsub", "redis"]
    );
    assert!(services.health_manager().group(Group::Readiness).passing);

    let metrics = services.connection_metrics().unwrap();
    assert!(metrics.redis_master_connected && !metrics.redis_replica_connected);
    let stats = services.stats().unwrap();
    assert_eq!(stats["service"]["mode"], "high_availability");
    assert_eq!(stats["cache"]["l1_hits"], 1);
    assert!(stats["cache"]["l1_max_size"].as_u64().is_some_and(|size| (2_500..2_600).contains(&size)));
    assert_eq!(stats["redis"]["redis"]["state"], "connected");
    assert!(stats["connection_pool"]["utilization"].is_number());
    assert!(services.uptime() > Duration::ZERO);
    services.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_drains_once_whoever_calls() {
    let ground = Ground::new().await;
    let services = ground.running().await;
    let (database, cache) = (services.database(), services.cache());
    assert!(ground.connections().await > 0);
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let services = services.clone();
            tokio::spawn(async move { services.shutdown(Duration::from_secs(5)).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
        assert_eq!(services.state(), ServiceState::Stopped);
    }
    services.shutdown(Duration::ZERO).await;
    ground.no_connections_left().await;
    database.write().await.unwrap_err();
    let _ = cache.get::<String>("a").await;
    assert!(matches!(services.initialize().await, Err(Error::Shutdown)));
    assert!(!services.health_manager().group(Group::Readiness).passing);
    assert!(services.health_manager().group(Group::Liveness).passing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_that_is_dropped_goes_on() {
    let ground = Ground::new().await;
    let services = ground.running().await;
    {
        let shutdown = services.shutdown(Duration::from_secs(5));
        tokio::pin!(shutdown);
        let waker = std::task::Waker::noop();
        let _ = shutdown.as_mut().poll(&mut std::task::Context::from_waker(waker));
    }
    ground.no_connections_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_under_way_is_finished_within_grace() {
    let ground = Ground::new().await;
    let services = ground.running().await;
    let database = services.database();
    let mut session = database.write().await.unwrap();
    let (started, has_started) = tokio::sync::oneshot::channel();
    let work = tokio::spawn(async move {
        started.send(()).unwrap();
        sqlx::query("SELECT pg_sleep(0.5)").execute(&mut session).await.map(|_| ())
    });
    has_started.await.unwrap();
    services.shutdown(Duration::from_secs(10)).await;
    work.await.unwrap().unwrap();
    ground.no_connections_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_initialize_starts_once() {
    let ground = Ground::new().await;
    let services = ground.services();
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let services = services.clone();
            tokio::spawn(async move { services.initialize().await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert!(ground.connections().await <= 6, "one pool");
    services.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_auto_migrate_a_missing_schema_is_told_and_mended() {
    let mut ground = Ground::new().await;
    ground.set("DATABASE_AUTO_MIGRATE", "false").set("DATABASE_SCHEMA", "own_schema");
    let services = ground.services();
    let told = services.initialize().await.unwrap_err().to_string();
    assert!(told.starts_with("schema own_schema lacks ") && told.contains("`dbsvc migrate`"), "{told}");
    ground.no_connections_left().await;
    let look = MigrateOptions { dry_run: true, ..MigrateOptions::default() };
    let planned = services.migrate(look).await.unwrap().applied.len();
    let applied = services.migrate(MigrateOptions::default()).await.unwrap().applied.len();
    assert!(applied > 0 && planned == applied);
    services.initialize().await.unwrap();
    assert_eq!(services.migrate(MigrateOptions::default()).await.unwrap().applied.len(), 0);
    services.shutdown(Duration::from_secs(5)).await;
}
