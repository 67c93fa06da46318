//! Servers of other kinds reach the services as settings: replicas, TLS, Sentinels, a cluster, passwords, a stack that
//! the test has started.

use database_services::distributed_lock_manager::LockOptions;
use database_services::sqlx;
use test_services::local_stack::{Stack, TlsOptions};
use test_services::{Error, PostgresOptions, RedisOptions, TestServices, wait_for};

use crate::{SOON, read};

/// Cache, locks and Postgres all work.
async fn it_works(ground: &TestServices) {
    let services = ground.services();
    assert_eq!(read(services, "x", 1).await, 1);
    let lock = services.lock_manager().acquire("job", LockOptions::default()).await.unwrap();
    lock.release().await.unwrap();
    let one: i32 = sqlx::query_scalar("select 1").fetch_one(&services.database().replica()).await.unwrap();
    assert_eq!(one, 1);
}

#[tokio::test]
async fn replicas_with_faults_between() {
    let ground = TestServices::builder()
        .own_postgres(PostgresOptions::with_replicas(1))
        .own_redis(RedisOptions::with_replicas(1))
        .with_faults()
        .start()
        .await
        .unwrap();
    it_works(&ground).await;
    let database = ground.services().database();
    let reads = async || {
        let replica = sqlx::query_scalar("select pg_is_in_recovery()").fetch_one(&database.replica()).await;
        replica.unwrap_or(false)
    };
    wait_for("reads go to the replica", SOON, reads).await;
    ground.postgres_replicas()[0].cut_and_refuse();
    wait_for("and to the primary without it", SOON, async || !reads().await).await;
    assert_eq!(ground.redis_replicas().len(), 1);
}

#[tokio::test]
async fn tls_with_passwords_and_client_certificates() {
    let ground = TestServices::builder()
        .own_postgres(PostgresOptions { tls: Some(TlsOptions::mutual()), ..PostgresOptions::default() })
        .own_redis(RedisOptions {
            tls: Some(TlsOptions::mutual()),
            password: Some("p:@ss/word".into()),
            ..RedisOptions::default()
        })
        .with_faults()
        .start()
        .await
        .unwrap();
    it_works(&ground).await;
    assert_eq!(ground.settings().postgres_ssl_mode(), "verify-full");
}

#[tokio::test]
async fn sentinels_that_fail_over() {
    let redis = RedisOptions {
        password: Some("secret".into()),
        sentinel_password: Some("watchmen".into()),
        ..RedisOptions::with_sentinels(1)
    };
    let ground = TestServices::builder().own_redis(redis).start().await.unwrap();
    it_works(&ground).await;
    ground.redis_servers().failover().await.unwrap();
    let locks = ground.services().lock_manager();
    let works = async || locks.try_acquire("job", LockOptions::default()).await.is_ok();
    wait_for("locks are given by the new master", SOON, works).await;
}

#[tokio::test]
async fn a_cluster() {
    let cluster = RedisOptions { password: Some("secret".into()), ..RedisOptions::cluster() };
    let ground = TestServices::builder().own_redis(cluster.clone()).start().await.unwrap();
    it_works(&ground).await;
    let error = TestServices::builder().own_redis(cluster).with_faults().start().await.unwrap_err();
    assert!(matches!(error, Error::Options { option: "with_faults", .. }), "{error:?}");
}

#[tokio::test]
async fn a_stack_that_the_test_has_started() {
    let stack = Stack::builder().redis(RedisOptions::default()).start().await.unwrap();
    let ground = TestServices::builder().on(&stack).start().await.unwrap();
    assert_eq!(ground.redis_server().port(), stack.redis().master().port());
    it_works(&ground).await;
}
