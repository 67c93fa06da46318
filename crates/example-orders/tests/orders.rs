//! The service on real servers: in parallel, each test on a database of its own, and under faults.

use std::time::Duration;

use database_services::distributed_lock_manager::LockOptions;
use database_services::health_manager::Status;
use database_services::pubsub_manager::Event;
use example_orders::{ARCHIVE, Error, Orders, SCHEMA};
use test_services::{Builder, PostgresOptions, TestServices, wait_for};

const SOON: Duration = Duration::from_secs(10);

fn ground() -> Builder {
    TestServices::builder().template_sql(SCHEMA)
}

fn orders(ground: &TestServices) -> Orders {
    Orders::new(ground.services().clone())
}

#[tokio::test]
async fn a_paid_order_is_seen_as_paid_at_once() {
    let ground = ground().start().await.unwrap();
    let orders = orders(&ground);
    let order = orders.place("ada", 1200).await.unwrap();
    assert_eq!(orders.get(order.id).await.unwrap(), Some(order.clone()));
    let paid = orders.pay(order.id).await.unwrap();
    assert_eq!(orders.get(order.id).await.unwrap(), paid);
    assert_eq!(orders.pay(order.id).await.unwrap(), None, "paid twice");
}

#[tokio::test]
async fn another_process_hears_of_an_order_and_sees_it_change() {
    let ground = ground().start().await.unwrap();
    let other = ground.another().await.unwrap();
    let mut changes = orders(&other).changes().await.unwrap();
    let order = orders(&ground).place("grace", 300).await.unwrap();
    assert!(matches!(changes.next().await, Some(Event::Message(m)) if m.value == order));
    assert_eq!(orders(&other).get(order.id).await.unwrap(), Some(order.clone()));
    let paid = orders(&ground).pay(order.id).await.unwrap();
    wait_for("it is paid there too", SOON, async || orders(&other).get(order.id).await.unwrap() == paid)
        .await;
}

#[tokio::test]
async fn tests_see_nothing_of_each_other() {
    let (one, two) = tokio::try_join!(ground().start(), ground().start()).unwrap();
    let order = orders(&one).place("ada", 1200).await.unwrap();
    assert_eq!(orders(&two).get(order.id).await.unwrap(), None);
    let other = orders(&two).place("alan", 1).await.unwrap();
    assert_eq!(other.id, order.id, "each counts for itself");
    assert_eq!(orders(&one).get(order.id).await.unwrap(), Some(order));
}

#[tokio::test]
async fn what_is_paid_is_archived() {
    let ground = ground().start().await.unwrap();
    let orders = orders(&ground);
    let order = orders.place("ada", 1200).await.unwrap();
    orders.pay(order.id).await.unwrap();
    assert_eq!(orders.archive().await.unwrap(), 1);
    assert_eq!(orders.get(order.id).await.unwrap().unwrap().state, "archived");
}

#[tokio::test]
async fn without_redis_orders_are_read_and_paid() {
    let ground = ground().with_faults().start().await.unwrap();
    let (orders, health) = (orders(&ground), ground.services().health_manager());
    let order = orders.place("ada", 1200).await.unwrap();
    ground.redis().cut_and_refuse();
    assert_eq!(orders.get(order.id).await.unwrap(), Some(order.clone()));
    let paid = orders.pay(order.id).await.unwrap();
    assert_eq!(orders.get(order.id).await.unwrap(), paid);
    ground.redis().heal();
    wait_for("healthy again", SOON, async || health.check_health().status == Status::Healthy).await;
}

#[tokio::test]
async fn without_postgres_known_orders_are_read() {
    let ground = ground().own_postgres(PostgresOptions::default()).start().await.unwrap();
    let orders = orders(&ground);
    let order = orders.place("ada", 1200).await.unwrap();
    orders.get(order.id).await.unwrap();
    ground.postgres_server().kill().unwrap();
    assert_eq!(orders.get(order.id).await.unwrap(), Some(order.clone()));
    ground.postgres_server().restart().await.unwrap();
    wait_for("it can be paid", SOON, async || orders.pay(order.id).await.is_ok_and(|paid| paid.is_some()))
        .await;
}

#[tokio::test]
async fn who_has_lost_the_lock_archives_nothing() {
    let late = ground().with_faults().settings([("LOCK_DEFAULT_LEASE", "500ms")]).start().await.unwrap();
    let other = late.another().await.unwrap();
    let order = orders(&late).place("ada", 1200).await.unwrap();
    orders(&late).pay(order.id).await.unwrap();
    let lock = late.services().lock_manager().acquire(ARCHIVE, LockOptions::default()).await.unwrap();
    late.redis().cut_and_refuse();
    assert_eq!(orders(&other).archive().await.unwrap(), 1);
    let refused = orders(&late).archive_under(&lock).await;
    assert!(matches!(refused, Err(Error::Lock(_))), "{refused:?}");
}
