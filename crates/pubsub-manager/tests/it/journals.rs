//! The journal while nothing fails: dense ids, order, batches, freshness. Most run over all stores.

use crate::postgres;
use crate::support::{PATIENCE, event, journal, namespace, opened, payload, shared, soon};
use local_stack::wait_for;
use pubsub_manager::{
    Error, Journal, JournalConfig, JournalEvent, JournalGap, JournalId, JournalState, MemoryJournal,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Two handles on one journal, as two processes have them.
async fn redis() -> (Journal, Journal) {
    let (port, namespace) = (shared().await.redis().master().port(), namespace());
    (journal(port, &namespace).await, journal(port, &namespace).await)
}

/// The database lives as long as the first.
async fn postgres() -> (local_stack::Database, (Journal, Journal)) {
    let database = postgres::database().await;
    let journals = (postgres::journal(&database.url()).await, postgres::journal(&database.url()).await);
    (database, journals)
}

fn memory() -> (Journal, Journal) {
    let store = MemoryJournal::new(10_000);
    let journal = || Journal::new(Arc::new(store.clone()), JournalConfig::default()).expect("a runtime");
    (journal(), journal())
}

#[tokio::test]
async fn ids_are_dense_redis() {
    ids_are_dense(redis().await).await;
}

#[tokio::test]
async fn ids_are_dense_memory() {
    ids_are_dense(memory()).await;
}

#[tokio::test]
async fn ids_are_dense_postgres() {
    let (_database, journals) = postgres().await;
    ids_are_dense(journals).await;
}

async fn ids_are_dense((one, two): (Journal, Journal)) {
    let start = one.append("first", soon()).await.expect("appended");
    let tasks = (0..200).map(|i: u32| {
        let journal = if i.is_multiple_of(2) { one.clone() } else { two.clone() };
        tokio::spawn(async move {
            let n = u64::from(i % 3) + 1;
            let payloads: Vec<String> = (0..n).map(|j| format!("{i}.{j}")).collect();
            let last = journal.append_many(&payloads, soon()).await.expect("appended");
            (last.sequence - n + 1..=last.sequence).map(|s| JournalId::new(last.epoch, s)).collect::<Vec<_>>()
        })
    });
    let mut ids = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        ids.extend(task.await.expect("no panic"));
    }
    ids.sort();
    // No reader, so no heartbeat between them.
    let expected = (start.sequence + 1..).map(|sequence| JournalId::new(start.epoch, sequence));
    assert_eq!(ids, expected.take(ids.len()).collect::<Vec<_>>());
}

#[tokio::test]
async fn every_reader_reads_every_entry_redis() {
    every_reader_reads_every_entry(redis().await).await;
}

#[tokio::test]
async fn every_reader_reads_every_entry_memory() {
    every_reader_reads_every_entry(memory()).await;
}

#[tokio::test]
async fn every_reader_reads_every_entry_postgres() {
    let (_database, journals) = postgres().await;
    every_reader_reads_every_entry(journals).await;
}

async fn every_reader_reads_every_entry((one, two): (Journal, Journal)) {
    let (mut a, mut b) = (opened(&one).await, opened(&two).await);
    let position = one.append("0", soon()).await.expect("appended");
    for i in 1..500 {
        let journal = if i % 2 == 0 { &one } else { &two };
        journal.append(i.to_string(), soon()).await.expect("appended");
    }
    for i in 0..500 {
        assert_eq!(payload(&mut a).await, i.to_string());
        assert_eq!(payload(&mut b).await, i.to_string());
    }
    // A third one from where another was.
    let mut late = two.reader(Some(position));
    for i in 1..500 {
        assert_eq!(payload(&mut late).await, i.to_string());
    }
    assert_eq!((one.stats().gaps, two.stats().gaps), (0, 0));
    assert_eq!(one.stats().appended + two.stats().appended, 500);
}

#[tokio::test]
async fn an_entry_names_its_publisher() {
    let (one, two) = redis().await;
    let mut reader = opened(&one).await;
    let id = two.append(b"x", soon()).await.expect("appended");
    let JournalEvent::Entry(entry) = event(&mut reader).await else { panic!("no entry") };
    assert_eq!((entry.id, entry.publisher), (id, two.publisher()));
    assert_ne!(one.publisher(), two.publisher());
}

#[tokio::test]
async fn an_idle_journal_is_known_to_be_current_redis() {
    an_idle_journal_is_known_to_be_current(redis().await).await;
}

#[tokio::test]
async fn an_idle_journal_is_known_to_be_current_memory() {
    an_idle_journal_is_known_to_be_current(memory()).await;
}

#[tokio::test]
async fn an_idle_journal_is_known_to_be_current_postgres() {
    let (_database, journals) = postgres().await;
    an_idle_journal_is_known_to_be_current(journals).await;
}

async fn an_idle_journal_is_known_to_be_current((one, _): (Journal, Journal)) {
    let mut reader = one.reader(None);
    let view = reader.view();
    assert!(!view.state().is_current(), "nothing is known yet");
    let read = tokio::spawn(async move {
        let mut beats = 0;
        while let Some(event) = reader.next().await {
            beats += u32::from(matches!(event, JournalEvent::Heartbeat { .. }));
        }
        beats
    });
    wait_for("current", PATIENCE, async || view.state().is_current()).await;
    let until = Instant::now() + Duration::from_secs(3);
    let mut excused = Instant::now();
    while Instant::now() < until {
        let asked = Instant::now();
        tokio::time::sleep(Duration::from_millis(5)).await;
        if asked.elapsed() > Duration::from_millis(100) {
            // This process did not get to run, and so may rightly not know.
            excused = Instant::now();
        }
        let state = view.state();
        assert!(
            state.is_current() || excused.elapsed() < Duration::from_secs(1),
            "heartbeats keep it so: {state:?}"
        );
    }
    one.shutdown(PATIENCE).await;
    let beats = read.await.expect("no panic");
    assert!((3..=14).contains(&beats), "{beats} heartbeats in three seconds");
}

#[tokio::test]
async fn what_the_consumer_has_not_worked_off_is_not_current() {
    let (one, _) = memory();
    let mut reader = opened(&one).await;
    let view = reader.view();
    let id = one.append("x", soon()).await.expect("appended");
    assert_eq!(payload(&mut reader).await, "x");
    assert!(view.applied() < id, "handed out, not worked off");
    wait_for("stale", PATIENCE, async || matches!(view.state(), JournalState::CatchingUp { .. })).await;
    assert!(tokio::time::timeout(Duration::from_millis(1), reader.next()).await.is_ok());
    assert_eq!(view.applied(), id);
}

#[tokio::test]
async fn limits_are_errors() {
    let (one, _) = memory();
    let big = vec![0; one.config().max_payload_bytes + 1];
    assert!(matches!(one.append(&big, soon()).await, Err(Error::TooLarge { .. })));
    assert!(matches!(one.append_many::<&[u8]>(&[], soon()).await, Err(Error::Limit { .. })));
    assert!(matches!(one.append_many(&vec!["x"; 257], soon()).await, Err(Error::Limit { .. })));
    one.shutdown(PATIENCE).await;
    assert!(matches!(one.append("x", soon()).await, Err(Error::Shutdown { .. })));
    assert_eq!(one.reader(None).next().await, None);
}

#[tokio::test]
async fn a_memory_journal_reports_what_it_trimmed() {
    let journal =
        Journal::new(Arc::new(MemoryJournal::new(10)), JournalConfig::default()).expect("a runtime");
    let start = journal.append("0", soon()).await.expect("appended");
    for i in 1..=30 {
        journal.append(i.to_string(), soon()).await.expect("appended");
    }
    let mut reader = journal.reader(Some(start));
    let JournalEvent::Gap { cause: JournalGap::Missed { count }, .. } = event(&mut reader).await else {
        panic!("no gap")
    };
    assert!(count >= 20, "{count}");
}

#[tokio::test]
async fn wake_up_latency_is_measured_redis() {
    wake_up_latency_is_measured("redis", redis().await).await;
}

#[tokio::test]
async fn wake_up_latency_is_measured_postgres() {
    let (_database, journals) = postgres().await;
    wake_up_latency_is_measured("postgres", journals).await;
}

/// Not a bar, a figure: how long after its append another reader has an entry.
async fn wake_up_latency_is_measured(store: &str, (one, two): (Journal, Journal)) {
    let mut reader = opened(&two).await;
    let mut times = Vec::new();
    for _ in 0..500 {
        let sent = Instant::now();
        let (appended, ()) = tokio::join!(one.append("x", soon()), async {
            while !matches!(event(&mut reader).await, JournalEvent::Entry(_)) {}
            times.push(sent.elapsed());
        });
        appended.expect("appended");
    }
    times.sort();
    let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    eprintln!("journal wake-up over {store}: p50 {p50:?}, p99 {p99:?}");
    assert!(p50 < Duration::from_millis(50), "{p50:?}");
}
