//! A database for every test, and names in a shared Redis.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use local_stack::{Error, PostgresOptions, Stack, wait_for};

use crate::{PATIENCE, first};

#[tokio::test]
async fn a_clone_is_fast_and_of_its_own() {
    let stack = Stack::shared().await.expect("the shared stack");
    let (one, two) = (stack.database().await.expect("one"), stack.database().await.expect("two"));
    one.sql("create table t (x int); insert into t values (1)").await.expect("created");
    assert!(
        matches!(two.sql("select * from t").await, Err(Error::Refused { message, .. }) if message.starts_with("42P01"))
    );

    let start = Instant::now();
    for _ in 0..5 {
        let _database = stack.database().await.expect("a clone");
    }
    let each = start.elapsed() / 5;
    println!("a clone of the empty template takes {each:?}");
    assert!(each < Duration::from_secs(2), "took {each:?}");
}

#[tokio::test]
async fn a_database_goes_with_its_handle_even_when_in_use() {
    let stack = Stack::shared().await.expect("the shared stack");
    let database = stack.database().await.expect("a database");
    let (name, primary) = (database.name().to_owned(), database.primary().clone());
    let user = {
        let (primary, name) = (primary.clone(), name.clone());
        tokio::spawn(async move { primary.sql(&name, "select pg_sleep(60)").await })
    };
    let count = |what: &'static str| {
        let (primary, name) = (primary.clone(), name.clone());
        async move {
            let rows = primary
                .sql("postgres", &format!("select count(*) from {what} where datname = '{name}'"))
                .await;
            first(&rows.expect("counted")).map(str::to_owned)
        }
    };
    wait_for("it is in use", PATIENCE, async || count("pg_stat_activity").await.as_deref() == Some("1"))
        .await;
    drop(database);
    wait_for("it is dropped", PATIENCE, async || count("pg_database").await.as_deref() == Some("0")).await;
    assert!(user.await.expect("no panic").is_err(), "its user was sent home");
}

#[tokio::test]
async fn a_template_of_sql_is_prepared_once() {
    let stack = Stack::builder()
        .postgres(PostgresOptions::with_replicas(1))
        .template_sql(
            "create table goods (id int primary key); insert into goods select generate_series(1, 10)",
        )
        .start()
        .await
        .expect("it starts");
    let (one, two) = tokio::join!(stack.database(), stack.database());
    let (one, two) = (one.expect("one"), two.expect("two"));
    one.sql("delete from goods").await.expect("deleted");
    let count = two.sql("select count(*) from goods").await.expect("counted");
    assert_eq!(first(&count), Some("10"));
    // It has arrived at the replica already.
    let replica = &stack.postgres().replicas()[0];
    let count = replica.sql(two.name(), "select count(*) from goods").await.expect("there too");
    assert_eq!(first(&count), Some("10"));
    assert!(two.replica_url(0).expect("a URL").contains(&replica.port().to_string()));
    assert!(matches!(two.replica_url(1), Err(Error::NoSuchPart { .. })));
}

#[tokio::test]
async fn a_template_of_a_closure_is_prepared_once_and_again_after_a_failure() {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let stack = Stack::shared().await.expect("the shared stack");
    let failed = stack.database_from("Closure!", async |_url| Err::<(), _>("no migrations today")).await;
    assert!(
        matches!(&failed, Err(Error::Template { reason, .. }) if reason == "no migrations today"),
        "{failed:?}"
    );

    let primary = stack.postgres().primary().clone();
    let prepare = async |url: String| {
        RUNS.fetch_add(1, Ordering::SeqCst);
        let database = url.rsplit('/').next().unwrap_or_default().to_owned();
        primary.sql(&database, "create table made (x int)").await.map(drop)
    };
    let (one, two) =
        tokio::join!(stack.database_from("Closure!", &prepare), stack.database_from("Closure!", &prepare));
    for database in [one.expect("one"), two.expect("two")] {
        database.sql("select * from made").await.expect("the table is there");
    }
    assert_eq!(RUNS.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn names_in_redis_are_never_the_same() {
    let stack = Stack::shared().await.expect("the shared stack");
    let names: std::collections::HashSet<_> = (0..1000).map(|_| stack.redis_namespace()).collect();
    assert_eq!(names.len(), 1000);
}
