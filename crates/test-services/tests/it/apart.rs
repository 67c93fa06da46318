//! Two tests on the same servers see nothing of each other; two processes of one test see everything.

use database_services::distributed_lock_manager::LockOptions;
use database_services::pubsub_manager::{Event, SubscribeOptions};
use database_services::{DatabaseServices, sqlx};
use test_services::{TestServices, wait_for};

use crate::{SOON, numbers, read};

const ROWS: &str = "create table rows (id int primary key); insert into rows values (1)";

async fn rows(services: &DatabaseServices) -> i64 {
    sqlx::query_scalar("select count(*) from rows").fetch_one(&services.database().primary()).await.unwrap()
}

async fn everything_is_its_own(one: &TestServices, two: &TestServices) {
    let (a, b) = (one.services(), two.services());
    // Rows.
    sqlx::query("insert into rows values (2)").execute(&a.database().primary()).await.unwrap();
    assert_eq!((rows(a).await, rows(b).await), (2, 1));
    // Cached values, and their invalidation.
    assert_eq!((read(a, "x", 1).await, read(b, "x", 2).await), (1, 2));
    numbers(a).invalidate("x").await.unwrap();
    assert_eq!((read(a, "x", 3).await, read(b, "x", 4).await), (3, 2));
    // Locks.
    let mine = a.lock_manager().try_acquire("job", LockOptions::default()).await.unwrap();
    let theirs = b.lock_manager().try_acquire("job", LockOptions::default()).await.unwrap();
    mine.release().await.unwrap();
    theirs.release().await.unwrap();
    // Messages: the first that arrives is one's own.
    let channels = [a, b].map(|services| services.pubsub().channel::<u32>("news").unwrap());
    let mut heard = channels[1].subscribe(SubscribeOptions::default()).await.unwrap();
    channels[0].publish(&1).await.unwrap();
    channels[1].publish(&2).await.unwrap();
    let first = heard.next().await;
    assert!(matches!(&first, Some(Event::Message(message)) if message.value == 2), "{first:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_tests_see_nothing_of_each_other() {
    let start = || TestServices::builder().template_sql(ROWS).start();
    let (one, two) = tokio::try_join!(start(), start()).unwrap();
    everything_is_its_own(&one, &two).await;
}

#[tokio::test]
async fn on_one_thread_as_well() {
    let start = || TestServices::builder().template_sql(ROWS).start();
    let (one, two) = tokio::try_join!(start(), start()).unwrap();
    everything_is_its_own(&one, &two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twelve_at_once_each_have_their_own() {
    let mut tests = tokio::task::JoinSet::new();
    for number in 0..12_u32 {
        tests.spawn(async move {
            let ground = TestServices::builder().template_sql(ROWS).start().await.unwrap();
            let services = ground.services();
            sqlx::query("insert into rows values (2)").execute(&services.database().primary()).await.unwrap();
            assert_eq!(rows(services).await, 2);
            assert_eq!(read(services, "x", number).await, number);
            ground.database().name().to_owned()
        });
    }
    let names: std::collections::BTreeSet<_> = tests.join_all().await.into_iter().collect();
    assert_eq!(names.len(), 12);
}

#[tokio::test]
async fn another_is_a_second_process_of_the_same_service() {
    let one = TestServices::builder().template_sql(ROWS).start().await.unwrap();
    let two = one.another().await.unwrap();
    let (a, b) = (one.services(), two.services());
    assert_eq!((read(a, "x", 1).await, read(b, "x", 2).await), (1, 1));
    let held = a.lock_manager().try_acquire("job", LockOptions::default()).await.unwrap();
    b.lock_manager().try_acquire("job", LockOptions::default()).await.unwrap_err();
    held.release().await.unwrap();
    numbers(a).invalidate("x").await.unwrap();
    let told = async || numbers(b).get("x").await.unwrap().is_none();
    wait_for("the other hears of it", SOON, told).await;
    // The ground stays for who is left on it.
    one.shutdown().await;
    assert_eq!(rows(b).await, 1);
}
