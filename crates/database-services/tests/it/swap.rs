//! New settings on running services, under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use database_services::cache_manager::{Loaded, RegionOptions};
use database_services::distributed_lock_manager::LockOptions;
use database_services::health_manager::Status;
use database_services::resilience::Deadline;
use database_services::{DatabaseServices, Error, ServiceState, sqlx};
use local_stack::wait_for;

use crate::support::{Ground, PATIENCE, nobody};

/// Tasks that query and read through the cache without a pause, and count what fails.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    fn on(services: &DatabaseServices) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let tasks = (0..4)
            .map(|task| {
                let (services, stop, done) = (services.clone(), Arc::clone(&stop), Arc::clone(&done));
                tokio::spawn(async move {
                    let mut failures = Vec::new();
                    let mut round = 0_u64;
                    while !stop.load(Ordering::Relaxed) {
                        round += 1;
                        if let Err(error) = once(&services, &format!("{task}-{}", round % 50)).await {
                            failures.push(error);
                        }
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    failures
                })
            })
            .collect();
        Self { stop, done, tasks }
    }

    async fn goes_on(&self) {
        let from = self.done.load(Ordering::Relaxed);
        let more = async || self.done.load(Ordering::Relaxed) > from + 200;
        local_stack::wait_for("200 more requests", PATIENCE, more).await;
    }

    async fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        for task in self.tasks {
            failures.extend(task.await.unwrap());
        }
        failures
    }
}

async fn once(services: &DatabaseServices, key: &str) -> Result<(), String> {
    let database = services.database();
    let one = sqlx::query_scalar::<_, i32>("SELECT 1").fetch_one(&database.primary()).await;
    one.map_err(|e| format!("query: {e}"))?;
    let names =
        services.cache().region::<String>("names", RegionOptions::default()).map_err(|e| e.to_string())?;
    let load = move |_| async move {
        let name = sqlx::query_scalar::<_, String>("SELECT 'ada'").fetch_one(&database.primary()).await?;
        Ok::<_, sqlx::Error>(Loaded::value(name))
    };
    names.get_or_load(key, load).await.map(|_| ()).map_err(|e| format!("cache: {e}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_is_rebuilt_and_no_request_fails() {
    let mut ground = Ground::new().await;
    ground.set("DATABASE_SERVICES_SHUTDOWN_GRACE", "2s");
    let services = ground.running().await;
    let load = Load::on(&services);
    load.goes_on().await;

    ground.set("DATABASE_POOL_SIZE", "6").set("CACHE_L1_SIZE", "777").set("LOG_LEVEL", "warn");
    let report = services.reconfigure(ground.settings()).await.unwrap();
    assert_eq!(report.changed, ["LOG_LEVEL", "DATABASE_POOL_SIZE", "CACHE_L1_SIZE"]);
    assert_eq!(report.adjusted, ["database", "cache"]);
    assert!(report.rebuilt.is_empty());
    assert_eq!(report.carried_over, ["redis", "pubsub", "locks"]);
    assert_eq!(report.needs_restart, ["LOG_LEVEL"]);
    // The listening connection may have taken one of the fleet's share for a moment.
    let resized = async || services.database().pool_stats().pool_size == 6;
    local_stack::wait_for("resized", PATIENCE, resized).await;
    assert!((777..850).contains(&services.cache().stats().l1_max_size));
    load.goes_on().await;

    ground.set("CACHE_TTL", "60s");
    let report = services.reconfigure(ground.settings()).await.unwrap();
    assert_eq!(report.rebuilt, ["cache"]);
    load.goes_on().await;

    ground.set("REDIS_NAMESPACE", ground.database.stack().redis_namespace());
    let report = services.reconfigure(ground.settings()).await.unwrap();
    assert_eq!(report.rebuilt, ["redis", "pubsub", "cache", "locks"]);
    assert_eq!(report.carried_over, ["database"]);
    load.goes_on().await;

    ground.set("DATABASE_STATEMENT_TIMEOUT", "20s");
    let report = services.reconfigure(ground.settings()).await.unwrap();
    assert_eq!(report.rebuilt, ["database", "cache"]);
    load.goes_on().await;

    let report = services.reconfigure(ground.settings()).await.unwrap();
    assert!(report.changed.is_empty() && report.rebuilt.is_empty());
    let failures = load.end().await;
    assert!(failures.is_empty(), "{} failed, first: {}", failures.len(), failures[0]);
    let lock = services.lock_manager().acquire("job", LockOptions::default()).await.unwrap();
    lock.release().await.unwrap();
    let health = services.health_manager().check_now(Deadline::after(PATIENCE)).await;
    assert_eq!(health.status, Status::Healthy, "{health:#?}");
    services.shutdown(Duration::from_secs(5)).await;
    ground.no_connections_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unhealthy_new_one_is_taken_down_and_the_old_kept() {
    let mut ground = Ground::new().await;
    let services = ground.running().await;
    let load = Load::on(&services);
    let before = services.settings();
    let good = ground.pairs.clone();

    ground
        .set("REDIS_COORDINATION_URL", format!("redis://{}", nobody()))
        .set("REDIS_CONNECTION_TIMEOUT", "1s");
    let refused = services.reconfigure(ground.settings()).await.unwrap_err();
    assert!(matches!(&*refused.cause, Error::Unhealthy { component: "redis", .. }), "{refused}");
    assert_eq!(refused.changed, ["REDIS_COORDINATION_URL", "REDIS_CONNECTION_TIMEOUT"]);
    assert!(
        refused.to_string().starts_with("the settings in force are kept: redis is not healthy: "),
        "{refused:?}"
    );
    load.goes_on().await;

    ground.pairs = good;
    ground.set("DATABASE_URL", format!("postgres://postgres@{}/app", nobody()));
    let refused = services.reconfigure(ground.settings()).await.unwrap_err();
    assert!(matches!(&*refused.cause, Error::Postgres { .. }), "{refused}");
    load.goes_on().await;

    assert!(services.settings().changed(&before).is_empty());
    assert_eq!(services.state(), ServiceState::Running);
    let failures = load.end().await;
    assert!(failures.is_empty(), "{} failed, first: {}", failures.len(), failures[0]);
    services.shutdown(Duration::from_secs(5)).await;
    ground.no_connections_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_can_be_taken_away_and_brought_back() {
    let ground = Ground::new().await;
    let mut without = Ground::without_redis().await;
    without.set("DATABASE_URL", ground.database.url());
    let services = without.running().await;
    let load = Load::on(&services);
    load.goes_on().await;
    services.reconfigure(ground.settings()).await.unwrap();
    services.lock_manager().acquire("job", LockOptions::default()).await.unwrap().release().await.unwrap();
    load.goes_on().await;
    services.reconfigure(without.settings()).await.unwrap();
    let _unavailable = services.lock_manager().acquire("job", LockOptions::default()).await.unwrap_err();
    load.goes_on().await;
    let failures = load.end().await;
    assert!(failures.is_empty(), "{} failed, first: {}", failures.len(), failures[0]);
    services.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_running_services_are_reconfigured() {
    let ground = Ground::new().await;
    let services = ground.services();
    let early = services.reconfigure(ground.settings()).await.unwrap_err();
    assert!(matches!(*early.cause, Error::NotInitialized));
    services.initialize().await.unwrap();
    services.shutdown(Duration::from_secs(5)).await;
    let late = services.reconfigure(ground.settings()).await.unwrap_err();
    assert!(matches!(*late.cause, Error::Shutdown));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_journal_the_new_cache_keeps_nothing_that_the_old_one_invalidated() {
    let mut ground = Ground::without_redis().await;
    let services = ground.running().await;
    let region = || services.cache().region::<u32>("r", RegionOptions::default()).unwrap();
    let load = |_| async { Ok::<_, sqlx::Error>(Loaded::value(1)) };
    let old = region();
    old.get_or_load("known", load).await.unwrap();
    // A session in use keeps the old parts draining until it is given back.
    let held = services.database().write().await.unwrap();
    ground.set("CACHE_TTL", "60s").set("DATABASE_STATEMENT_TIMEOUT", "20s");
    services.reconfigure(ground.settings()).await.unwrap();
    let new = region();
    new.get_or_load("key", load).await.unwrap();
    // Whether the old cache still takes this or not: the new one did not hear of it.
    let _late = old.invalidate("key").await;
    assert!(new.peek("key").is_some());
    drop(held);
    wait_for("the new cache forgets it", PATIENCE, async || new.peek("key").is_none()).await;
    assert!(old.peek("known").is_none(), "a cache that was drained serves nothing");
    services.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_waits_for_no_reconfigure() {
    let mut ground = Ground::new().await;
    let services = ground.running().await;
    let blocker = ground.running().await;
    let mut tx = blocker.database().begin(Default::default()).await.unwrap();
    sqlx::query("CREATE SCHEMA elsewhere").execute(&mut tx).await.unwrap();
    // Its migration waits for that transaction.
    ground.set("DATABASE_SCHEMA", "elsewhere");
    let (other, settings) = (services.clone(), ground.settings());
    let swap = tokio::spawn(async move { other.reconfigure(settings).await });
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let database = blocker.database();
    wait_for("the migration waits", PATIENCE, async || {
        sqlx::query_scalar::<_, i64>(waiting).fetch_one(&database.primary()).await.unwrap() > 0
    })
    .await;
    let began = std::time::Instant::now();
    services.shutdown(Duration::from_secs(4)).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(services.state(), ServiceState::Stopped);
    let refused = swap.await.unwrap().unwrap_err();
    assert!(matches!(*refused.cause, Error::Shutdown), "{refused}");
    tx.rollback().await.unwrap();
    blocker.shutdown(Duration::from_secs(5)).await;
    ground.no_connections_left().await;
}
