//! The assembled services behind PgBouncer in transaction mode: every path through Postgres works, and migrations take
//! the direct way.

use database_services::access_control::{SecurityContext, Tier};
use database_services::cache_manager::{Loaded, RegionOptions};
use database_services::distributed_lock_manager::LockOptions;
use database_services::health_manager::Status;
use database_services::postgres_pool_manager::TransactionOptions;
use database_services::resilience::Deadline;
use database_services::settings::Settings;
use database_services::{ManagerMode, create_database_services, sqlx};
use local_stack::{PostgresOptions, RedisOptions, SharedStack, Stack};

use crate::support::{Ground, PATIENCE};

static STACK: SharedStack = SharedStack::new(|| {
    let pool_size = ("default_pool_size".to_owned(), "3".to_owned());
    let postgres = PostgresOptions {
        pgbouncer: true,
        pgbouncer_settings: vec![pool_size],
        ..PostgresOptions::default()
    };
    Stack::builder().postgres(postgres).redis(RedisOptions::default())
});

async fn ground() -> Ground {
    let stack = STACK.get().await.unwrap();
    let mut ground = Ground::on(&stack).await;
    let pgbouncer = stack.postgres().pgbouncer().url_for(ground.database.name());
    ground.set("DATABASE_URL", pgbouncer).set("DATABASE_PGBOUNCER", "true");
    // User, password and database are as for DATABASE_URL.
    let direct = format!("postgres://{}", ground.database.primary().target());
    ground.set("DATABASE_DIRECT_URL", direct);
    ground
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_through_pgbouncer() {
    let ground = ground().await;
    let services = ground.running().await;
    let names = services.cache().region::<String>("names", RegionOptions::default()).unwrap();
    for n in 0..20 {
        let database = services.database();
        let load = move |_| async move {
            let name = sqlx::query_scalar::<_, String>("SELECT 'name ' || $1::text").bind(n);
            Ok::<_, sqlx::Error>(Loaded::value(name.fetch_one(&database.primary()).await?))
        };
        let loaded = names.get_or_load(n.to_string().as_str(), load).await.unwrap();
        assert_eq!(*loaded.value.unwrap(), format!("name {n}"));
    }
    let lock = services.lock_manager().acquire("job", LockOptions::default()).await.unwrap();
    ground.database.sql("CREATE TABLE done (n bigint)").await.unwrap();
    let database = services.database();
    let fenced = lock.transaction(&database, TransactionOptions::default(), |tx| {
        Box::pin(async move {
            sqlx::query("INSERT INTO done VALUES ($1)").bind(1_i64).execute(tx).await.map(drop)
        })
    });
    fenced.await.unwrap();
    lock.release().await.unwrap();
    let report = services.health_manager().check_now(Deadline::after(PATIENCE)).await;
    assert_eq!(report.status, Status::Healthy, "{report:#?}");
    let rows = ground.database.sql("select count(*) from done").await.unwrap();
    assert_eq!(rows[0][0].as_deref(), Some("1"));
    let stored = "select count(*) from database_services.cache_entries";
    local_stack::wait_for("something of what was loaded is in the third level", PATIENCE, async || {
        ground.database.sql(stored).await.unwrap()[0][0].as_deref() != Some("0")
    })
    .await;
    services.shutdown(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_too() {
    let mut ground = ground().await;
    ground.pairs.retain(|(name, _)| !name.starts_with("REDIS_"));
    let services = ground.running().await;
    let names = services.cache().region::<u32>("numbers", RegionOptions::default()).unwrap();
    let loaded = names.get_or_load("1", |_| async { Ok::<_, sqlx::Error>(Loaded::value(7)) }).await.unwrap();
    assert_eq!(*loaded.value.unwrap(), 7);
    services.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn pgbouncer_without_the_direct_way_is_refused_by_both_names() {
    let pairs = [("DATABASE_URL", "postgres://app:secret@bouncer:6432/app"), ("DATABASE_PGBOUNCER", "true")];
    let told = Settings::from_pairs(pairs).unwrap_err().to_string();
    assert!(
        told.contains("DATABASE_DIRECT_URL (default): is missing, and DATABASE_PGBOUNCER is on"),
        "{told}"
    );
    // And PgBouncer that nobody told us of says so itself.
    let mut ground = ground().await;
    ground.set("DATABASE_PGBOUNCER", "false");
    let context = SecurityContext::new("tests", Tier::Basic).unwrap();
    let services = create_database_services(ManagerMode::Admin, ground.settings(), context).unwrap();
    let told = services.initialize().await.unwrap_err().to_string();
    assert!(told.contains("set DATABASE_PGBOUNCER=true and DATABASE_DIRECT_URL"), "{told}");
}
