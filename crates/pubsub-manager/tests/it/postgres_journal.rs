//! The Postgres journal while the database fails: whatever happens, a reader has read everything or has been told.

use crate::{
    postgres::{database, database_of, journal, journal_of, own_stack, pool_of},
    support::{PATIENCE, event, opened, payload, soon},
};
use local_stack::{Database, FaultProxy, PostgresOptions, Stack, wait_for};
use postgres_pool_manager::{Config, ReplicaEndpoint, TransactionOptions, sqlx};
use pubsub_manager::{
    Error, Journal, JournalConfig, JournalEvent, JournalGap, JournalReader, JournalState, PostgresJournal,
    PostgresJournalConfig, PostgresListener,
};
use resilience::Deadline;
use std::{sync::Arc, time::Duration};

/// Appends until it works.
async fn append(journal: &Journal, payload: &str) {
    wait_for("an append", PATIENCE, async || {
        journal.append(payload, Deadline::after(Duration::from_secs(1))).await.is_ok()
    })
    .await;
}

/// Reads until `wanted`; the gaps on the way.
async fn gaps_until(reader: &mut JournalReader, wanted: &str) -> Vec<JournalGap> {
    let mut gaps = Vec::new();
    loop {
        match event(reader).await {
            JournalEvent::Gap { cause, .. } => gaps.push(cause),
            JournalEvent::Entry(entry) if entry.payload == wanted.as_bytes() => return gaps,
            _ => {}
        }
    }
}

async fn via(database: &Database) -> (FaultProxy, String) {
    let proxy = FaultProxy::start(database.primary().target()).await.expect("a proxy");
    let url = database.url_via(proxy.addr());
    (proxy, url)
}

#[tokio::test]
async fn a_cut_connection_misses_nothing() {
    let database = database().await;
    let (proxy, url) = via(&database).await;
    let (reading, writing) = (journal(&url).await, journal(&database.url()).await);
    let mut reader = opened(&reading).await;
    for round in 0..5 {
        writing.append(format!("{round} before"), soon()).await.expect("appended");
        assert_eq!(payload(&mut reader).await, format!("{round} before"));
        proxy.refuse(true);
        proxy.cut();
        for i in 0..50 {
            writing.append(format!("{round} {i}"), soon()).await.expect("appended");
        }
        proxy.heal();
        for i in 0..50 {
            assert_eq!(payload(&mut reader).await, format!("{round} {i}"));
        }
    }
    assert_eq!(reading.stats().gaps, 0);
}

#[tokio::test]
async fn a_silent_connection_is_noticed_and_then_continuous() {
    let database = database().await;
    let (proxy, url) = via(&database).await;
    let (reading, writing) = (journal(&url).await, journal(&database.url()).await);
    let mut reader = opened(&reading).await;
    let view = reader.view();
    proxy.black_hole(true);
    writing.append("unheard", soon()).await.expect("appended");
    let read = tokio::spawn(async move {
        while payload(&mut reader).await != "unheard" {}
        reader
    });
    wait_for("disconnected", PATIENCE, async || matches!(view.state(), JournalState::Disconnected { .. }))
        .await;
    proxy.heal();
    proxy.cut();
    let mut reader = read.await.expect("no gap");
    let reading_on = async { while reader.next().await.is_some() {} };
    tokio::select! {
        () = reading_on => panic!("the journal ended"),
        _ = wait_for("current", PATIENCE, async || view.state().is_current()) => {}
    }
}

#[tokio::test]
async fn a_crash_of_the_database_costs_no_entry() {
    let stack = own_stack().await;
    let database = database_of(&stack).await;
    let (one, two) = (journal(&database.url()).await, journal(&database.url()).await);
    let mut reader = opened(&two).await;
    let view = reader.view();
    for round in 0..3 {
        append(&one, &format!("before {round}")).await;
        assert_eq!(gaps_until(&mut reader, &format!("before {round}")).await, []);
        database.primary().kill().expect("killed");
        wait_for("unavailable", PATIENCE, async || one.append("x", soon()).await.is_err()).await;
        wait_for("disconnected", PATIENCE, async || {
            matches!(view.state(), JournalState::Disconnected { .. })
        })
        .await;
        database.primary().restart().await.expect("restarted");
        append(&one, &format!("after {round}")).await;
        assert_eq!(gaps_until(&mut reader, &format!("after {round}")).await, [], "round {round}");
    }
}

#[tokio::test]
async fn a_long_transaction_delays_nothing() {
    let database = database().await;
    let (one, two) = (journal(&database.url()).await, journal(&database.url()).await);
    let mut reader = opened(&two).await;
    let pool = pool_of(&database.url(), 2).await;
    let mut long = pool.begin(TransactionOptions::default()).await.expect("begun");
    sqlx::query("CREATE TABLE t (x int)").execute(&mut long).await.expect("written");
    for i in 0..200 {
        one.append(i.to_string(), soon()).await.expect("appended");
        assert_eq!(payload(&mut reader).await, i.to_string());
    }
    long.rollback().await.expect("rolled back");
}

#[tokio::test]
async fn a_store_that_was_put_back_begins_a_new_epoch() {
    let database = database().await;
    let (one, two) = (journal(&database.url()).await, journal(&database.url()).await);
    let (mut a, mut b) = (opened(&one).await, opened(&two).await);
    // What an older snapshot of the disk looks like; what a dump does, read into a database of its own; what is left of a
    // table that was emptied.
    let losses = [
        "DELETE FROM database_services.journal_entries WHERE sequence > 5; \
         UPDATE database_services.journals SET last = least(last, 5)",
        "DELETE FROM database_services.journals",
        "TRUNCATE database_services.journals, database_services.journal_entries",
        "UPDATE database_services.journals SET timeline = timeline + 1",
    ];
    for (round, loss) in losses.iter().enumerate() {
        for i in 0..20 {
            one.append(format!("{round} {i}"), soon()).await.expect("appended");
        }
        assert_eq!(gaps_until(&mut a, &format!("{round} 19")).await, []);
        assert_eq!(gaps_until(&mut b, &format!("{round} 19")).await, []);
        database.sql(loss).await.expect("lost");
        let before = one.append(format!("{round} after"), soon()).await.expect("appended");
        let (first, second) = (
            gaps_until(&mut a, &format!("{round} after")).await,
            gaps_until(&mut b, &format!("{round} after")).await,
        );
        assert!(!first.is_empty() && !second.is_empty(), "round {round}: {first:?} {second:?}");
        println!("{loss}: {first:?} {second:?}, then {before}");
    }
}

#[tokio::test]
async fn trimmed_before_it_was_read_is_a_counted_gap() {
    let database = database().await;
    let short = journal_of(&database.url(), 160).await;
    let start = short.append("0", soon()).await.expect("appended");
    for _ in 0..10 {
        short.append_many(&vec!["x"; 200], soon()).await.expect("appended");
    }
    let count = "SELECT count(*) FROM database_services.journal_entries";
    let kept = async || -> u64 {
        let rows = database.sql(count).await.expect("counted");
        rows[0][0].as_deref().expect("a number").parse().expect("a number")
    };
    wait_for("trimmed", PATIENCE, async || kept().await <= 360).await;
    let mut reader = short.reader(Some(start));
    let first = event(&mut reader).await;
    let JournalEvent::Gap { cause: JournalGap::Missed { count }, resumes_after } = first else {
        panic!("{first:?} in place of the gap")
    };
    assert_eq!(resumes_after.sequence, start.sequence + count);
    assert!((1640..=1840).contains(&count), "{count}");
    for _ in count..2000 {
        assert_eq!(payload(&mut reader).await, "x");
    }
}

#[tokio::test]
async fn a_promoted_replica_that_lost_the_end_is_a_gap_and_then_it_goes_on() {
    let stack =
        Stack::builder().postgres(PostgresOptions::with_replicas(1)).start().await.expect("Postgres starts");
    let database = database_of(&stack).await;
    let journal_over = async || {
        let replica = database.replica_url(0).expect("a replica");
        let config = Config {
            replicas: vec![ReplicaEndpoint::new("replica", replica, 1)],
            ..Config::new(database.url())
        };
        let listener = PostgresListener::new(config.connect().await.expect("connected")).expect("a runtime");
        let backend = PostgresJournal::new(listener, &PostgresJournalConfig::default()).expect("a good name");
        Journal::new(Arc::new(backend), JournalConfig::default()).expect("a runtime")
    };
    let (one, two) = (journal_over().await, journal_over().await);
    let (mut a, mut b) = (opened(&one).await, opened(&two).await);
    append(&one, "before").await;
    assert_eq!(gaps_until(&mut a, "before").await, []);
    assert_eq!(gaps_until(&mut b, "before").await, []);
    let replica = &stack.postgres().replicas()[0];
    let known = "SELECT count(*) FROM database_services.journal_entries WHERE frame LIKE '%before'";
    wait_for("replicated", PATIENCE, async || {
        replica.sql(database.name(), known).await.expect("counted")[0][0].as_deref() == Some("1")
    })
    .await;
    replica.pause().expect("paused");
    append(&one, "lost").await;
    assert_eq!(gaps_until(&mut a, "lost").await, []);
    assert_eq!(gaps_until(&mut b, "lost").await, []);
    database.primary().kill().expect("killed");
    replica.resume().expect("resumed");
    replica.promote().await.expect("promoted");
    append(&one, "after").await;
    let (first, second) = (gaps_until(&mut a, "after").await, gaps_until(&mut b, "after").await);
    println!("failover with a lost end: {first:?} {second:?}");
    assert!(!first.is_empty() && !second.is_empty());
    append(&two, "later").await;
    assert_eq!(gaps_until(&mut a, "later").await, []);
    assert_eq!(gaps_until(&mut b, "later").await, []);
}

#[tokio::test]
async fn bad_names_are_refused() {
    let database = database().await;
    let listener = crate::postgres::listener(&database.url()).await;
    for shard in [String::new(), "x".repeat(256)] {
        let config = PostgresJournalConfig { shard, ..PostgresJournalConfig::default() };
        let refused = PostgresJournal::new(listener.clone(), &config);
        assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
    }
}
