//! Faults of the network and of servers: they do what they say, and to nobody else.

use std::time::{Duration, Instant};

use database_services::distributed_lock_manager::LockOptions;
use database_services::health_manager::{Group, Status};
use database_services::sqlx;
use test_services::{PostgresOptions, RedisOptions, TestServices, wait_for};

use crate::{SOON, read};

#[tokio::test]
async fn redis_is_cut_off_from_one_test_and_from_no_other() {
    let (one, two) =
        tokio::try_join!(TestServices::builder().with_faults().start(), TestServices::start()).unwrap();
    let health = one.services().health_manager();
    one.redis().cut_and_refuse();
    wait_for("degraded", SOON, async || health.check_health().status == Status::Degraded).await;
    assert_eq!(read(one.services(), "x", 1).await, 1);
    one.services().lock_manager().try_acquire("job", LockOptions::default()).await.unwrap_err();
    let lock = two.services().lock_manager().try_acquire("job", LockOptions::default()).await.unwrap();
    lock.release().await.unwrap();
    one.redis().heal();
    wait_for("healthy", SOON, async || health.check_health().status == Status::Healthy).await;
    one.services()
        .lock_manager()
        .acquire("job", LockOptions::default())
        .await
        .unwrap()
        .release()
        .await
        .unwrap();
}

#[tokio::test]
async fn postgres_is_cut_off_from_one_process_of_two() {
    let one = TestServices::builder().with_faults().start().await.unwrap();
    let two = one.another().await.unwrap();
    let health = one.services().health_manager();
    one.postgres().cut_and_refuse();
    wait_for("not ready", SOON, async || !health.group(Group::Readiness).passing).await;
    let number: i32 =
        sqlx::query_scalar("select 1").fetch_one(&two.services().database().primary()).await.unwrap();
    assert_eq!(number, 1);
    one.postgres().heal();
    wait_for("ready", SOON, async || health.group(Group::Readiness).passing).await;
}

#[tokio::test]
async fn postgres_is_slow() {
    let ground = TestServices::builder().with_faults().start().await.unwrap();
    ground.postgres().delay(Duration::from_millis(50));
    let begun = Instant::now();
    sqlx::query("select 1").execute(&ground.services().database().primary()).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(100), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_redis_of_its_own_is_killed_and_comes_back() {
    let ground = TestServices::builder().own_redis(RedisOptions::default()).start().await.unwrap();
    let locks = ground.services().lock_manager();
    ground.redis_server().kill().unwrap();
    locks.try_acquire("job", LockOptions::default()).await.unwrap_err();
    ground.redis_server().restart().await.unwrap();
    let works = async || locks.try_acquire("job", LockOptions::default()).await.is_ok();
    wait_for("locks are given again", SOON, works).await;
}

#[tokio::test]
async fn a_postgres_of_its_own_is_killed_and_comes_back_with_what_it_had() {
    let ground = TestServices::builder()
        .own_postgres(PostgresOptions::default())
        .template_sql("create table t (x int)")
        .settings([("DATABASE_ACQUIRE_TIMEOUT", "500ms")])
        .start()
        .await
        .unwrap();
    let database = ground.services().database();
    sqlx::query("insert into t values (1)").execute(&database.primary()).await.unwrap();
    ground.postgres_server().kill().unwrap();
    sqlx::query("insert into t values (2)").execute(&database.primary()).await.unwrap_err();
    ground.postgres_server().restart().await.unwrap();
    let count = async || {
        let rows =
            sqlx::query_scalar::<_, i64>("select count(*) from t").fetch_one(&database.primary()).await;
        rows.is_ok_and(|rows| rows == 1)
    };
    wait_for("the row is read", SOON, count).await;
}
