//! The table of epochs on a real Postgres: never the same number for different data.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use local_stack::{Database, FaultProxy, Stack};
use postgres_pool_manager::{Config, MigrateOptions, PostgresPoolManager};
use redis_link::MAX_EPOCH;
use resilience::Deadline;

use super::{Ask, PostgresEpochs, migrations};

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// One master, or the first of several: `a,b,c` is `a` in a cluster with `b` and `c`.
fn ask(replids: &str, stored: Option<u32>, fresh: bool) -> Ask<'_> {
    let masters: Vec<_> = replids.split(',').map(str::to_owned).collect();
    let deadline = Deadline::after(Duration::from_secs(10));
    let replid = replids.split(',').next().unwrap();
    Ask { name: "redis", replid, masters: masters.leak(), all: true, stored, fresh, deadline }
}

async fn pool(url: String) -> PostgresPoolManager {
    let config = Config { connect_timeout: Duration::from_millis(500), ..Config::new(url) };
    config.connect().await.unwrap()
}

async fn migrated() -> (Database, PostgresPoolManager) {
    let database = Stack::shared().await.unwrap().database().await.unwrap();
    let pool = pool(database.url()).await;
    pool.migrate(&[migrations()], MigrateOptions::default()).await.unwrap();
    (database, pool)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_data_keeps_its_epoch_and_other_data_gets_a_greater_one() {
    let (_database, pool) = migrated().await;
    let epochs = PostgresEpochs::new(pool.clone());
    assert_eq!(epochs.ask(ask(A, None, true)).await.unwrap(), 1, "never seen");
    assert_eq!(epochs.ask(ask(A, Some(1), false)).await.unwrap(), 1, "the same");
    assert_eq!(epochs.ask(ask(A, None, true)).await.unwrap(), 2, "flushed");
    assert_eq!(epochs.ask(ask(B, Some(2), false)).await.unwrap(), 3, "another replication id");
    assert_eq!(
        epochs.ask(ask(A, Some(2), false)).await.unwrap(),
        4,
        "back to the first one is another history too"
    );
    assert_eq!(epochs.ask(ask(A, Some(9), false)).await.unwrap(), 9, "an older backup of Postgres");
    assert_eq!(epochs.ask(ask(A, Some(3), true)).await.unwrap(), 10, "an older backup of Redis");
    let other = Ask { name: "another", ..ask(A, Some(40), false) };
    assert_eq!(
        epochs.ask(other).await.unwrap(),
        41,
        "a name that is not known, with data that somebody knew"
    );
    pool.shutdown(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_masters_of_a_cluster_have_epochs_of_their_own() {
    let (_database, pool) = migrated().await;
    let epochs = PostgresEpochs::new(pool.clone());
    for (master, epoch) in [("a,b,c", 1), ("b,a,c", 2), ("c,a,b", 3)] {
        assert_eq!(epochs.ask(ask(master, None, true)).await.unwrap(), epoch);
    }
    for (master, epoch) in [("b,a,c", 2), ("c,a,b", 3), ("a,b,c", 1)] {
        assert_eq!(epochs.ask(ask(master, Some(epoch), false)).await.unwrap(), epoch, "in whatever order");
    }
    assert_eq!(epochs.ask(ask("d,a,c", Some(2), true)).await.unwrap(), 4, "promoted in place of b");
    assert_eq!(epochs.ask(ask("a,d,c", Some(1), false)).await.unwrap(), 1, "as before");
    let some = Ask { all: false, ..ask("a", Some(1), false) };
    assert_eq!(epochs.ask(some).await.unwrap(), 1, "who reaches some only says nothing about the others");
    assert_eq!(epochs.ask(ask("c,a,d", Some(3), false)).await.unwrap(), 3);
    assert_eq!(epochs.ask(ask("b,a,c", Some(2), false)).await.unwrap(), 5, "back with what it had");
    assert_eq!(epochs.ask(ask("c,b,a", Some(3), false)).await.unwrap(), 3);
    pool.shutdown(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_callers_with_lost_data_never_share_a_number() {
    let (_database, pool) = migrated().await;
    let epochs = Arc::new(PostgresEpochs::new(pool.clone()));
    let mut seen = BTreeSet::new();
    for round in 0..5 {
        let tasks: Vec<_> = (0..16)
            .map(|_| {
                let epochs = Arc::clone(&epochs);
                tokio::spawn(async move { epochs.ask(ask(A, None, true)).await.unwrap() })
            })
            .collect();
        for task in tasks {
            assert!(seen.insert(task.await.unwrap()), "twice");
        }
        assert_eq!(seen.len(), (round + 1) * 16);
    }
    let last = *seen.last().unwrap();
    assert_eq!(last, 80, "every call took the next number");
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let epochs = Arc::clone(&epochs);
            tokio::spawn(async move { epochs.ask(ask(A, Some(last), false)).await.unwrap() })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), last, "the same data keeps its number, whoever asks");
    }
    pool.shutdown(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_epoch_is_an_error_not_a_repetition() {
    let (_database, pool) = migrated().await;
    let epochs = PostgresEpochs::new(pool.clone());
    assert_eq!(epochs.ask(ask(A, Some(MAX_EPOCH - 1), true)).await.unwrap(), MAX_EPOCH);
    epochs.ask(ask(A, None, true)).await.unwrap_err();
    pool.shutdown(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_postgres_only_known_data_is_taken() {
    let (database, direct) = migrated().await;
    direct.shutdown(Duration::ZERO).await;
    let proxy = FaultProxy::start(database.primary().target()).await.unwrap();
    let pool = pool(database.url_via(proxy.addr())).await;
    let epochs = PostgresEpochs::new(pool.clone());
    let epoch = epochs.ask(ask(A, None, true)).await.unwrap();
    for fault in ["refused", "black hole"] {
        if fault == "refused" {
            proxy.refuse(true);
            proxy.cut();
        } else {
            proxy.black_hole(true);
        }
        assert_eq!(epochs.ask(ask(A, Some(epoch), false)).await.unwrap(), epoch, "{fault}: what it was on");
        for (what, unknown) in [
            ("flushed", ask(A, None, true)),
            ("another master", ask(B, Some(epoch), false)),
            ("an older copy", ask(A, Some(epoch - 1), false)),
            ("another group", Ask { name: "other", ..ask(A, Some(epoch), false) }),
        ] {
            let told = epochs.ask(unknown).await.expect_err(what).to_string();
            assert!(told.contains("Postgres does not answer"), "{fault}, {what}: {told}");
        }
        proxy.heal();
    }
    assert_eq!(epochs.ask(ask(B, Some(epoch), false)).await.unwrap(), epoch + 1, "healed");
    pool.shutdown(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_table_is_not_taken_for_an_outage() {
    let database = Stack::shared().await.unwrap().database().await.unwrap();
    let pool = pool(database.url()).await;
    let epochs = PostgresEpochs::new(pool.clone());
    let told = epochs.ask(ask(A, Some(1), false)).await.unwrap_err().to_string();
    assert!(told.contains("table of epochs"), "{told}");
    pool.shutdown(Duration::ZERO).await;
}
