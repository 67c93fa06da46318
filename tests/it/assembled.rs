//! Two sets of services on one database and one Redis, as two processes of a service would be.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use database_services::cache_manager::{Cache, Loaded, RegionOptions, TxInvalidate};
use database_services::distributed_lock_manager::{LockError, LockOptions};
use database_services::postgres_pool_manager::{TransactionOptions, Tx};
use database_services::pubsub_manager::{Event, SubscribeOptions, TxPublish};
use database_services::{DatabaseServices, sqlx};

use futures_util::future::BoxFuture;

use crate::fixture::{Fixture, SOON};

const ROWS: &str = "CREATE TABLE items (id int PRIMARY KEY, v int NOT NULL); INSERT INTO items VALUES (1, 1)";

fn items(services: &DatabaseServices) -> Cache<i32> {
    services.cache().region("items", RegionOptions::default()).unwrap()
}

async fn read(services: &DatabaseServices, items: &Cache<i32>) -> i32 {
    let db = services.database();
    let load = move |_| async move {
        let row = sqlx::query_scalar("SELECT v FROM items WHERE id = 1").fetch_optional(&db.primary()).await;
        row.map(Loaded::<i32>::from)
    };
    *items.get_or_load("1", load).await.unwrap().value.unwrap()
}

async fn update(services: &DatabaseServices, items: &Cache<i32>, commit: bool) -> Result<i32, sqlx::Error> {
    let items = items.clone();
    let db = services.database();
    let done = db.transaction(TransactionOptions::default(), move |tx| {
        let items = items.clone();
        Box::pin(async move {
            let next = sqlx::query_scalar("UPDATE items SET v = v + 1 WHERE id = 1 RETURNING v");
            let next = next.fetch_one(&mut *tx).await?;
            tx.invalidate(&items, "1").expect("the key is valid");
            if commit { Ok(next) } else { Err(sqlx::Error::RowNotFound) }
        })
    });
    let done = done.await;
    done.map_err(|error| sqlx::Error::Protocol(error.to_string()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_is_seen_by_its_own_process_at_once_and_by_the_other_soon() {
    for fixture in Fixture::everywhere().await {
        fixture.sql(ROWS).await;
        let (one, two) = (fixture.services("one").await, fixture.services("two").await);
        let (mine, theirs) = (items(&one), items(&two));
        let mut slowest = Duration::ZERO;
        for _ in 0..200 {
            let before = read(&two, &theirs).await;
            assert_eq!(before, read(&one, &mine).await);
            let next = update(&one, &mine, true).await.unwrap();
            let returned = Instant::now();
            assert_eq!(read(&one, &mine).await, next, "the same process was stale");
            while read(&two, &theirs).await < next {
                assert!(returned.elapsed() < Duration::from_millis(250), "the other process is still stale");
                tokio::task::yield_now().await;
            }
            slowest = slowest.max(returned.elapsed());
        }
        eprintln!("slowest of 200 invalidations in the other process: {slowest:?}");
        one.shutdown(SOON).await;
        two.shutdown(SOON).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_invalidates_nothing() {
    for fixture in Fixture::everywhere().await {
        fixture.sql(ROWS).await;
        let one = fixture.services("one").await;
        let items = items(&one);
        assert_eq!(read(&one, &items).await, 1);
        assert!(update(&one, &items, false).await.is_err());
        assert!(items.peek("1").is_some(), "a rolled-back transaction invalidated");
        assert_eq!(read(&one, &items).await, 1);
        one.shutdown(SOON).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_excludes_the_other_process_and_its_tokens_grow() {
    for fixture in Fixture::everywhere().await {
        let both = [fixture.services("one").await, fixture.services("two").await];
        let inside = Arc::new(AtomicU32::new(0));
        let tokens = Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..8 {
            let (locks, inside, tokens) = (both[task % 2].lock_manager(), inside.clone(), tokens.clone());
            tasks.spawn(async move {
                for _ in 0..10 {
                    let guard = locks
                        .acquire("job", LockOptions { wait: Some(SOON), ..LockOptions::default() })
                        .await
                        .unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two holders");
                    tokens.lock().unwrap().push(guard.token());
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                    guard.release().await.unwrap();
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        let tokens = tokens.lock().unwrap().clone();
        assert_eq!(tokens.len(), 80);
        assert!(tokens.windows(2).all(|pair| pair[0] < pair[1]), "{tokens:?}");
        for services in both {
            services.shutdown(SOON).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_follow_commits_and_reach_every_process() {
    for fixture in Fixture::everywhere().await {
        let (one, two) = (fixture.services("one").await, fixture.services("two").await);
        let mut heard = Vec::new();
        for services in [&one, &two] {
            let channel = services.pubsub().channel::<u32>("numbers").unwrap();
            heard.push(channel.subscribe(SubscribeOptions::default()).await.unwrap());
        }
        let channel = one.pubsub().channel::<u32>("numbers").unwrap();
        for (number, commit) in [(1, true), (2, false), (3, true)] {
            let mut tx = one.database().begin(TransactionOptions::default()).await.unwrap();
            tx.publish_on_commit(&channel, &number).unwrap();
            let late = number + 10;
            tx.publish(&channel, &late).await.unwrap();
            if commit {
                tx.commit().await.unwrap();
            } else {
                tx.rollback().await.unwrap();
            }
        }
        for subscription in &mut heard {
            let mut numbers = Vec::new();
            while numbers.len() < 4 {
                match tokio::time::timeout(SOON, subscription.next()).await.unwrap().unwrap() {
                    Event::Message(message) => numbers.push(message.value),
                    other => panic!("{other:?}"),
                }
            }
            let relayed: Vec<_> = numbers.iter().copied().filter(|number| *number > 10).collect();
            numbers.retain(|number| *number < 10);
            assert_eq!((numbers, relayed), (vec![1, 3], vec![11, 13]), "at COMMIT, and by the outbox");
        }
        one.shutdown(SOON).await;
        two.shutdown(SOON).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_cache_and_channels_work_and_the_rest_says_unavailable() {
    let fixture = Fixture::new().await.without("REDIS_URL").without("REDIS_NAMESPACE");
    fixture.sql(ROWS).await;
    let one = fixture.services("one").await;
    let items = items(&one);
    assert_eq!(read(&one, &items).await, 1);
    assert_eq!(update(&one, &items, true).await.unwrap(), 2);
    assert_eq!(read(&one, &items).await, 2);
    let refused = one.lock_manager().acquire("job", LockOptions::default()).await;
    assert!(matches!(refused, Err(LockError::Unavailable { .. })), "{refused:?}");
    let two = fixture.services("two").await;
    let into = two.pubsub().channel::<u32>("numbers").unwrap();
    let mut heard = into.subscribe(SubscribeOptions::default()).await.unwrap();
    let channel = one.pubsub().channel::<u32>("numbers").unwrap();
    channel.publish(&1).await.unwrap();
    let event = tokio::time::timeout(SOON, heard.next()).await.unwrap();
    assert!(matches!(&event, Some(Event::Message(message)) if message.value == 1), "{event:?}");
    let durable = one.pubsub().durable_channel::<u32>("numbers").unwrap();
    let unavailable = durable.publish(&1).await;
    assert!(
        matches!(unavailable, Err(database_services::pubsub_manager::Error::Unavailable { .. })),
        "{unavailable:?}"
    );
    let mut tx = one.database().begin(TransactionOptions::default()).await.unwrap();
    assert!(tx.publish(&durable, &1).await.is_err(), "it would wait for ever");
    one.shutdown(SOON).await;
    two.shutdown(SOON).await;
}

fn write(tx: &mut Tx) -> BoxFuture<'_, Result<(), sqlx::Error>> {
    Box::pin(async move { sqlx::query("UPDATE items SET v = v + 1").execute(tx).await.map(drop) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_write_of_a_stale_holder_is_refused() {
    for fixture in Fixture::everywhere().await {
        fixture.sql(ROWS).await;
        let (one, two) = (fixture.services("one").await, fixture.services("two").await);
        let lease = Duration::from_millis(300);
        let options =
            LockOptions { lease: Some(lease), renew: false, wait: Some(SOON), ..LockOptions::default() };
        let stale = one.lock_manager().acquire("job", options).await.unwrap();
        let fresh = two.lock_manager().acquire("job", options).await.unwrap();
        assert!(fresh.token() > stale.token());
        let db = two.database();
        fresh.transaction(&db, TransactionOptions::default(), write).await.unwrap();
        assert!(stale.transaction(&one.database(), TransactionOptions::default(), write).await.is_err());
        let v = fixture.database.sql("SELECT v FROM items").await.unwrap();
        assert_eq!(format!("{v:?}").matches("\"2\"").count(), 1, "{v:?}");
        fresh.release().await.unwrap();
        drop(stale);
        one.shutdown(SOON).await;
        two.shutdown(SOON).await;
    }
}
