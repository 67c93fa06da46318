//! Settings, mode, templates: what the builder is asked for, and what it says when that makes no sense.

use std::sync::atomic::{AtomicU32, Ordering};

use database_services::cache_manager::BoxError;
use database_services::distributed_lock_manager::{LockError, LockOptions};
use database_services::{ManagerMode, Settings, sqlx};
use test_services::{Template, TestServices};

use crate::read;

#[tokio::test]
async fn settings_and_mode_are_the_tests() {
    let pairs = [("DB_POOL_SIZE", "2"), ("CACHE_TTL", "1m"), ("REDIS_NAMESPACE", "mine")];
    let ground =
        TestServices::builder().settings(pairs).mode(ManagerMode::HighAvailability).start().await.unwrap();
    assert_eq!(ground.services().mode(), ManagerMode::HighAvailability);
    let settings = ground.settings();
    assert_eq!((settings.database_pool_size, settings.cache_ttl.as_secs()), (2, 60));
    assert_eq!(settings.redis_namespace.as_deref(), Some("mine"));
    // A process of one's own is told the same.
    let told = Settings::from_pairs(ground.environment()).unwrap();
    assert_eq!(told.changed(&settings), []);
    let mode = [("DATABASE_SERVICES_MODE", "admin")];
    let ground = TestServices::builder().settings(mode).start().await.unwrap();
    assert_eq!(ground.services().mode(), ManagerMode::Admin);
}

#[tokio::test]
async fn wrong_settings_are_told_all_at_once() {
    let wrong = [("DATABASE_POOL_SIZE", "many"), ("CACHE_TTL", "soon")];
    let error = TestServices::builder().settings(wrong).start().await.unwrap_err();
    let told = format!("{error:?}");
    assert!(told.contains("DATABASE_POOL_SIZE") && told.contains("CACHE_TTL"), "{told}");
}

static PREPARED: AtomicU32 = AtomicU32::new(0);

async fn prepare(template: Template) -> Result<(), BoxError> {
    PREPARED.fetch_add(1, Ordering::SeqCst);
    let database = template.services().database();
    sqlx::query("insert into parents select generate_series(1, 3)").execute(&database.primary()).await?;
    assert!(template.url().starts_with("postgres"));
    Ok(())
}

#[tokio::test]
async fn sql_and_code_prepare_the_template_once_and_in_order() {
    let wanted =
        || TestServices::builder().template_sql("create table parents (id int)").template("three", prepare);
    for _ in 0..3 {
        let ground = wanted().start().await.unwrap();
        assert_eq!(ground.sql("select count(*) from parents").await.unwrap(), [[Some("3".to_owned())]]);
        ground.sql("delete from parents").await.unwrap();
    }
    assert_eq!(PREPARED.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_schema_of_another_name_is_migrated_too() {
    let schema = [("DATABASE_SCHEMA", "elsewhere")];
    let ground = TestServices::builder().settings(schema).start().await.unwrap();
    let tables = "select count(*) from pg_tables where schemaname = 'database_services'";
    assert_eq!(ground.sql(tables).await.unwrap(), [[Some("0".to_owned())]]);
}

#[tokio::test]
async fn a_template_that_fails_says_why_and_is_tried_again() {
    let wanted = || TestServices::builder().template_sql("create tabel t (x int)");
    for _ in 0..2 {
        let told = format!("{:?}", wanted().start().await.unwrap_err());
        assert!(told.contains("syntax error") && told.contains("create tabel"), "{told}");
    }
    let refuse = |_| async { Err::<(), BoxError>("not today".into()) };
    let told = format!("{:?}", TestServices::builder().template("no", refuse).start().await.unwrap_err());
    assert!(told.contains("\"no\"") && told.contains("not today"), "{told}");
}

#[tokio::test]
async fn without_redis_there_is_a_cache_and_no_lock() {
    let ground = TestServices::builder().without_redis().with_faults().start().await.unwrap();
    assert_eq!(read(ground.services(), "x", 1).await, 1);
    let refused = ground.services().lock_manager().acquire("job", LockOptions::default()).await;
    assert!(matches!(refused, Err(LockError::Unavailable { .. })), "{refused:?}");
}

#[tokio::test]
#[should_panic(expected = "own_redis()")]
async fn a_shared_redis_is_not_handed_out() {
    let ground = TestServices::start().await.unwrap();
    ground.redis_server();
}

#[tokio::test]
#[should_panic(expected = "own_postgres()")]
async fn a_shared_postgres_is_not_handed_out() {
    let ground = TestServices::start().await.unwrap();
    ground.postgres_server();
}

#[tokio::test]
#[should_panic(expected = "with_faults()")]
async fn proxies_are_there_on_request() {
    let ground = TestServices::start().await.unwrap();
    ground.redis();
}
