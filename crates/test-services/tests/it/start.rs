//! What a start gives and costs.

use std::time::{Duration, Instant};

use database_services::ServiceState;
use database_services::health_manager::{Group, Status};
use test_services::{Builder, PostgresOptions, RedisOptions, TestServices};

/// Generous for a machine that does other things too; what it takes is printed.
const AT_MOST: Duration = Duration::from_secs(2);

#[tokio::test]
async fn it_is_migrated_running_and_healthy() {
    let ground = TestServices::start().await.unwrap();
    let health = ground.services().health_manager();
    assert_eq!(ground.services().state(), ServiceState::Running);
    assert_eq!(health.check_health().status, Status::Healthy, "{:?}", health.check_health());
    assert!(health.group(Group::Readiness).passing);
    let missing = ground.services().migrate(Default::default()).await.unwrap().applied;
    assert_eq!(missing, []);
}

/// Starts and ends so many times; the median and the slowest start.
async fn measured(times: usize, wanted: Builder) -> (Duration, Duration) {
    let mut all = Vec::new();
    for _ in 0..times {
        let begun = Instant::now();
        let ground = wanted.clone().start().await.unwrap();
        all.push(begun.elapsed());
        ground.shutdown().await;
    }
    all.sort();
    (all[all.len() / 2], all[all.len() - 1])
}

#[tokio::test]
async fn a_start_takes_a_fraction_of_a_second() {
    let own_redis = || TestServices::builder().own_redis(RedisOptions::default());
    let (first, _) = measured(1, TestServices::builder()).await;
    let (shared, slowest) = measured(20, TestServices::builder()).await;
    let (redis, _) = measured(5, own_redis()).await;
    let (postgres, _) = measured(3, own_redis().own_postgres(PostgresOptions::default())).await;
    println!(
        "start: {shared:?} (median of 20, the slowest {slowest:?}), the first of the process {first:?}; \
         with a Redis of its own {redis:?}, with a Postgres too {postgres:?}"
    );
    assert!(shared < AT_MOST, "{shared:?}");
}

#[tokio::test]
async fn the_future_may_be_spawned() {
    let ground = tokio::spawn(TestServices::start()).await.unwrap().unwrap();
    let another = tokio::spawn(async move { ground.another().await.unwrap().services().state() });
    assert_eq!(another.await.unwrap(), ServiceState::Running);
}

#[test]
fn an_error_is_told_in_words_by_unwrap() {
    let missing = test_services::local_stack::Error::Missing {
        what: "redis-server".into(),
        looked_in: "PATH".into(),
        install_line: "apt-get install redis-server".into(),
    };
    let told = format!("{:?}", test_services::Error::from(missing));
    assert_eq!(told, "redis-server not found (looked in PATH); install it: apt-get install redis-server");
}
