//! Publishing with a transaction.

use crate::support::{PATIENCE, next};
use local_stack::{PostgresOptions, Stack};
use postgres_pool_manager::{PostgresPoolManager, TransactionOptions, sqlx};
use pubsub_manager::{Config, Deps, Event, MemoryBus, SubscribeOptions, TxPublish};
use std::time::Duration;

async fn database() -> (local_stack::Database, PostgresPoolManager) {
    let stack = Stack::builder().postgres(PostgresOptions::default()).start().await.expect("Postgres starts");
    let database = stack.database().await.expect("a database");
    let config = postgres_pool_manager::Config::new(database.url());
    (database, config.connect().await.expect("connected"))
}

#[tokio::test]
async fn published_after_commit_and_only_then() {
    let (_database, pool) = database().await;
    let manager = Config::default().build(Deps::over(MemoryBus::new())).expect("good settings");
    let channel = manager.channel::<u64>("n").expect("a good name");
    let mut subscription = channel.subscribe(SubscribeOptions::default()).await.expect("subscribed");

    let mut rolled_back = pool.begin(TransactionOptions::default()).await.expect("begun");
    rolled_back.publish_on_commit(&channel, &1).expect("encoded");
    rolled_back.rollback().await.expect("rolled back");

    let mut tx = pool.begin(TransactionOptions::default()).await.expect("begun");
    tx.publish_on_commit(&channel, &2).expect("encoded");
    tx.publish_on_commit(&channel, &3).expect("encoded");
    sqlx::query("SELECT 1").execute(&mut tx).await.expect("executed");
    let early = tokio::time::timeout(Duration::from_millis(50), subscription.next()).await;
    assert!(early.is_err(), "{early:?} before the commit");
    tx.commit().await.expect("committed");
    assert_eq!(manager.stats().published, 2, "when commit returns it is published");
    for expected in [2, 3] {
        let Event::Message(message) = next(&mut subscription).await else { panic!("no message") };
        assert_eq!(message.value, expected);
    }
    pool.shutdown(PATIENCE).await;
}
