//! The rights that we ship are enough: the whole system under `deploy/redis/users.acl` and under the run-time role of
//! `deploy/postgres/roles.sql`, and no more than enough where that can be seen.

use std::time::Duration;

use database_services::cache_manager::{ClearScope, Loaded, RegionOptions, TxInvalidate};
use database_services::distributed_lock_manager::LockOptions;
use database_services::postgres_pool_manager::{MigrateOptions, TransactionOptions, Tx};
use database_services::pubsub_manager::{Event, SubscribeOptions};
use database_services::{DatabaseServices, sqlx};
use futures_util::future::BoxFuture;
use local_stack::{PostgresOptions, RedisOptions, Stack};

use crate::fixture::{Fixture, SOON};

const ACL: &str = include_str!("../../deploy/redis/users.acl");
const ROLES: &str = include_str!("../../deploy/postgres/roles.sql");
const OWNER: &str = "database_services_owner";
const RUNTIME: &str = "database_services_runtime";
const PASSWORD: &str = "a-password-for-this-test";

/// Servers of its own: the shipped roles have fixed names, and belong to a whole server.
async fn place() -> Fixture {
    let redis = RedisOptions { acl: Some(ACL.replace("CHANGE_ME", PASSWORD)), ..RedisOptions::default() };
    let stack = Stack::builder().postgres(PostgresOptions::default()).redis(redis).start().await.unwrap();
    let master = stack.redis().master().clone();
    let url = format!("redis://database-services:{PASSWORD}@{}:{}", master.host(), master.port());
    let fixture = Fixture::of(stack).await.set("REDIS_URL", &url).set("REDIS_NAMESPACE", "database-services");
    fixture.sql(ROLES).await;
    for role in [OWNER, RUNTIME] {
        fixture.sql(&format!("ALTER ROLE {role} PASSWORD '{PASSWORD}'")).await;
    }
    // The service's own table, granted as deploy/README.md says.
    fixture.sql(&format!("CREATE TABLE items (id int PRIMARY KEY, v int NOT NULL); INSERT INTO items VALUES (1, 1); GRANT SELECT, UPDATE ON items TO {RUNTIME}")).await;
    fixture
}

fn as_role(fixture: Fixture, role: &str) -> Fixture {
    let database = &fixture.database;
    let url = database.primary().url_as(role, PASSWORD, database.name());
    fixture.set("DATABASE_URL", &url).set("DATABASE_AUTO_MIGRATE", "false")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_part_works_with_the_shipped_rights() {
    let fixture = as_role(place().await, OWNER);
    let migrator = fixture.create("migrator");
    assert!(!migrator.migrate(MigrateOptions::default()).await.unwrap().applied.is_empty());

    let fixture = as_role(fixture, RUNTIME);
    let services = fixture.services("one").await;
    cache(&services).await;
    locks_and_messages(&services).await;
    local_stack::wait_for("health", SOON, async || {
        services.health_manager().check_health().status.to_string() == "healthy"
    })
    .await;
    let denied =
        fixture.redis.as_ref().unwrap().redis().master().redis_command(&["ACL", "LOG"]).await.unwrap();
    assert!(
        format!("{denied:?}").to_lowercase().matches("reason").count() == 0,
        "refused commands: {denied:?}"
    );
    for forbidden in [
        "CREATE TABLE database_services.mine ()",
        "TRUNCATE database_services.migrations",
        "CREATE SCHEMA mine",
        "CREATE ROLE mine",
    ] {
        let refused = sqlx::query(forbidden).execute(&services.database().primary()).await.unwrap_err();
        let code = refused.as_database_error().and_then(|e| e.code()).map(std::borrow::Cow::into_owned);
        assert_eq!(code.as_deref(), Some("42501"), "{forbidden}: {refused}");
    }
    services.shutdown(Duration::from_secs(5)).await;
}

/// Every level is read and written, also L3: what L1 and L2 forget is found there.
async fn cache(services: &DatabaseServices) {
    let region = services.cache().region::<u32>("r", RegionOptions::default()).unwrap();
    let load = |_| async { Ok::<_, std::convert::Infallible>(Loaded::value(7)) };
    for key in ["a", "b"] {
        assert_eq!(region.get_or_load(key, load).await.unwrap().value.as_deref(), Some(&7));
        region.set(key, 8).await.unwrap();
        region.invalidate(key).await.unwrap();
    }
    let db = services.database();
    // L3 takes what is dear to load, by what reading from it costs now.
    let dear = services.cache().region::<u32>("dear", RegionOptions::default()).unwrap();
    let slow = |_| async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok::<_, std::convert::Infallible>(Loaded::value(9))
    };
    let mut n = 0;
    local_stack::wait_for("an entry in L3", SOON, async || {
        n += 1;
        dear.get_or_load(&format!("kept{n}"), slow).await.unwrap();
        let rows = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM database_services.cache_entries");
        rows.fetch_one(&db.primary()).await.unwrap() > 0
    })
    .await;
    let item = dear.clone();
    db.transaction(TransactionOptions::default(), move |tx| {
        let item = item.clone();
        Box::pin(async move {
            sqlx::query("UPDATE items SET v = v + 1 WHERE id = 1").execute(&mut *tx).await?;
            tx.invalidate(&item, "kept1").expect("the key is valid");
            Ok::<_, sqlx::Error>(())
        })
    })
    .await
    .unwrap();
    region.clear().await.unwrap();
    dear.clear().await.unwrap();
    services.cache().clear(ClearScope::All).await.unwrap();
}

fn fenced(tx: &mut Tx) -> BoxFuture<'_, Result<(), sqlx::Error>> {
    Box::pin(async move { sqlx::query("UPDATE items SET v = v + 1").execute(tx).await.map(drop) })
}

async fn locks_and_messages(services: &DatabaseServices) {
    let guard = services.lock_manager().acquire("job", LockOptions::default()).await.unwrap();
    guard.transaction(&services.database(), TransactionOptions::default(), fenced).await.unwrap();
    guard.release().await.unwrap();
    let channel = services.pubsub().channel::<u32>("c").unwrap();
    let mut heard = channel.subscribe(SubscribeOptions::default()).await.unwrap();
    channel.publish(&1).await.unwrap();
    let event = tokio::time::timeout(SOON, heard.next()).await.unwrap();
    assert!(matches!(event, Some(Event::Message(message)) if message.value == 1));
}
