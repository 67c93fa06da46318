//! Servers that are away or refuse us, at the start and later.

use std::time::{Duration, Instant};

use database_services::cache_manager::{Loaded, RegionOptions};
use database_services::distributed_lock_manager::LockOptions;
use database_services::health_manager::{Group, Status};
use database_services::{Error, sqlx};
use local_stack::{FaultProxy, PostgresOptions, RedisOptions, SharedStack, Stack, wait_for};

use crate::support::{Ground, PATIENCE, nobody};

/// A Redis with a password and a replica.
static OWN: SharedStack = SharedStack::new(|| {
    let redis = RedisOptions { password: Some("right".to_owned()), ..RedisOptions::with_replicas(1) };
    Stack::builder().postgres(PostgresOptions::default()).redis(redis)
});

#[tokio::test(flavor = "multi_thread")]
async fn postgres_away_is_an_error_with_its_mend() {
    let mut ground = Ground::new().await;
    let nobody = nobody();
    ground.set("DATABASE_URL", format!("postgres://me:hunter2@{nobody}/app"));
    let services = ground.services();
    let started = Instant::now();
    let error = services.initialize().await.unwrap_err();
    assert!(matches!(error, Error::Postgres { .. }) && error.is_retryable());
    let told = error.to_string();
    assert_eq!(
        told,
        format!(
            "Postgres at {nobody} cannot be used; check DATABASE_URL (or DATABASE_HOST and DATABASE_PORT) and that the \
             server runs"
        )
    );
    assert!(!told.contains("hunter2") && !format!("{error:?}").contains("hunter2"));
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_by_postgres_says_what_to_check() {
    let ground = Ground::new().await;
    let primary = ground.database.primary();
    for (url, mend) in [
        (
            primary.url_as("postgres", "wrong", ground.database.name()),
            "check DATABASE_USER and DATABASE_PASSWORD",
        ),
        (primary.url_for("no_such_database"), "check DATABASE_NAME, or create the database"),
    ] {
        let mut ground = Ground::new().await;
        ground.set("DATABASE_URL", url);
        let error = ground.services().initialize().await.unwrap_err();
        assert!(error.to_string().ends_with(mend), "{error}");
        assert!(!error.is_retryable());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_by_redis_is_an_error_and_unwinds() {
    let stack = OWN.get().await.unwrap();
    let mut ground = Ground::on(&stack).await;
    ground.set("REDIS_URL", stack.redis_url().replace("right", "wrong"));
    let error = ground.services().initialize().await.unwrap_err();
    assert!(matches!(error, Error::Redis { .. }), "{error}");
    assert!(error.to_string().ends_with("check REDIS_USERNAME and REDIS_PASSWORD"), "{error}");
    assert!(!error.to_string().contains("wrong"), "{error}");
    ground.no_connections_left().await;
    ground.set("REDIS_URL", stack.redis().replicas()[0].url());
    let error = ground.services().initialize().await.unwrap_err();
    assert!(error.to_string().ends_with("point REDIS_HOST (or REDIS_URL) at the master"), "{error}");
    ground.no_connections_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_away_starts_degraded_and_recovers() {
    let mut ground = Ground::new().await;
    let stack = ground.database.stack().clone();
    let proxy = FaultProxy::start(stack.redis().master().target()).await.unwrap();
    proxy.refuse(true);
    ground.set("REDIS_URL", proxy.url(&stack.redis_url()));
    let services = ground.running().await;
    assert!(!services.connection_metrics().unwrap().redis_master_connected);
    let names = services.cache().region::<String>("names", RegionOptions::default()).unwrap();
    let load = |_| async { Ok::<_, sqlx::Error>(Loaded::value("ada".to_owned())) };
    names.get_or_load("1", load).await.unwrap();
    let health = services.health_manager();
    wait_for("degraded", PATIENCE, async || health.check_health().status == Status::Degraded).await;
    assert!(health.group(Group::Readiness).passing, "the cache is no reason to take no requests");
    let _unavailable = services.lock_manager().try_acquire("job", LockOptions::default()).await.unwrap_err();
    proxy.heal();
    wait_for("healthy", PATIENCE, async || health.check_health().status == Status::Healthy).await;
    let lock = services.lock_manager().acquire("job", LockOptions::default()).await.unwrap();
    lock.release().await.unwrap();
    let recovered = health.history().into_iter().any(|e| e.component == "redis" && e.to == Status::Healthy);
    assert!(recovered);
    services.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_going_away_makes_it_not_ready() {
    let mut ground = Ground::new().await;
    let proxy = FaultProxy::start(ground.database.primary().target()).await.unwrap();
    ground.set("DATABASE_URL", ground.database.url_via(proxy.addr())).set("HEALTH_TIMEOUT", "500ms");
    let services = ground.running().await;
    let health = services.health_manager();
    wait_for("started and ready", PATIENCE, async || {
        health.group(Group::Startup).passing && health.group(Group::Readiness).passing
    })
    .await;
    proxy.refuse(true);
    proxy.cut();
    wait_for("unhealthy", PATIENCE, async || health.check_health().status == Status::Unhealthy).await;
    assert!(!health.group(Group::Readiness).passing && health.group(Group::Liveness).passing);
    assert!(health.group(Group::Startup).passing);
    proxy.heal();
    wait_for("ready again", PATIENCE, async || health.group(Group::Readiness).passing).await;
    services.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_redis_begins_a_new_epoch_also_after_postgres_was_away() {
    let stack = Stack::builder()
        .postgres(PostgresOptions::default())
        .redis(RedisOptions::default())
        .start()
        .await
        .unwrap();
    let mut ground = Ground::on(&stack).await;
    let proxy = FaultProxy::start(ground.database.primary().target()).await.unwrap();
    ground.set("DATABASE_URL", ground.database.url_via(proxy.addr()));
    let services = ground.running().await;
    let link = services.redis().unwrap();
    let epoch = async || link.generation().map(|generation| generation.epoch());
    let first = epoch().await.unwrap();

    proxy.refuse(true);
    proxy.cut();
    stack.redis().master().kill().unwrap();
    stack.redis().master().restart_empty().await.unwrap();
    // Lost data without Postgres: no generation, whatever the link tries.
    let refused = async || link.status().last_error.is_some_and(|e| e.contains("Postgres does not answer"));
    wait_for("the epoch is refused", PATIENCE, refused).await;
    assert_eq!(epoch().await, None);
    proxy.heal();
    wait_for("a greater epoch", PATIENCE, async || epoch().await.is_some_and(|e| e > first)).await;
    let rows = ground.database.sql("select epoch from database_services.redis_epoch").await.unwrap();
    assert_eq!(rows.len(), 1);
    services.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_other_settings_can_be_changed() {
    let mut ground = Ground::new().await;
    let stack = ground.database.stack().clone();
    let proxy = FaultProxy::start(stack.redis().master().target()).await.unwrap();
    ground.set("REDIS_URL", proxy.url(&stack.redis_url()));
    let services = ground.running().await;
    proxy.refuse(true);
    proxy.cut();
    let away = async || !services.connection_metrics().unwrap().redis_master_connected;
    wait_for("Redis is missed", PATIENCE, away).await;
    for (name, value, rebuilt) in
        [("CACHE_TTL", "60s", &["cache"][..]), ("DATABASE_STATEMENT_TIMEOUT", "20s", &["database", "cache"])]
    {
        ground.set(name, value);
        assert_eq!(services.reconfigure(ground.settings()).await.unwrap().rebuilt, rebuilt, "{name}");
    }
    // A Redis setting is another matter: there the new servers must answer.
    ground.set("REDIS_SOCKET_TIMEOUT", "3s").set("REDIS_CONNECTION_TIMEOUT", "1s");
    let refused = services.reconfigure(ground.settings()).await.unwrap_err();
    assert!(matches!(&*refused.cause, Error::Unhealthy { component: "redis", .. }), "{refused}");
    proxy.heal();
    let health = services.health_manager();
    wait_for("healthy", PATIENCE, async || health.check_health().status == Status::Healthy).await;
    services.shutdown(Duration::from_secs(5)).await;
}
