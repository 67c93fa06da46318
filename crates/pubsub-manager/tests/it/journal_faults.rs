//! The journal while Redis fails: whatever happens, a reader has read everything or has been told.

use crate::support::{
    PATIENCE, event, journal, journal_of, link, namespace, opened, own, payload, proxied, shared, soon,
};
use local_stack::wait_for;
use pubsub_manager::{Error, Journal, JournalEvent, JournalGap, JournalReader, JournalState};
use resilience::Deadline;
use std::time::Duration;

/// Appends until it works, and says what the successful one was.
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

#[tokio::test]
async fn a_cut_connection_misses_nothing() {
    let (stack, namespace) = (shared().await, namespace());
    let proxy = proxied(&stack).await;
    let reading = journal(proxy.addr().port(), &namespace).await;
    let writing = journal(stack.redis().master().port(), &namespace).await;
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
    let (stack, namespace) = (shared().await, namespace());
    let proxy = proxied(&stack).await;
    let reading = journal(proxy.addr().port(), &namespace).await;
    let writing = journal(stack.redis().master().port(), &namespace).await;
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
async fn restarted_empty_is_a_gap() {
    let (stack, namespace) = (own().await, namespace());
    let port = stack.redis().master().port();
    let (one, two) = (journal(port, &namespace).await, journal(port, &namespace).await);
    let (mut a, mut b) = (opened(&one).await, opened(&two).await);
    append(&one, "before").await;
    assert_eq!(gaps_until(&mut a, "before").await, []);
    assert_eq!(gaps_until(&mut b, "before").await, []);
    stack.redis().master().restart_empty().await.expect("restarted");
    append(&two, "after").await;
    assert!(!gaps_until(&mut a, "after").await.is_empty());
    assert!(!gaps_until(&mut b, "after").await.is_empty());
    // Each process may have to learn of the new server by itself; then it is over.
    let mut round = 0;
    wait_for("no more gaps", PATIENCE, async || {
        round += 1;
        let later = format!("later {round}");
        append(&one, &later).await;
        gaps_until(&mut a, &later).await.is_empty() && gaps_until(&mut b, &later).await.is_empty()
    })
    .await;
    assert!(round < 10, "{round} rounds");
}

#[tokio::test]
async fn flushed_is_a_gap() {
    let (stack, namespace) = (own().await, namespace());
    let port = stack.redis().master().port();
    let (one, two) = (journal(port, &namespace).await, journal(port, &namespace).await);
    let (mut a, mut b) = (opened(&one).await, opened(&two).await);
    for round in 0..3 {
        append(&one, &format!("before {round}")).await;
        assert_eq!(gaps_until(&mut a, &format!("before {round}")).await, []);
        assert_eq!(gaps_until(&mut b, &format!("before {round}")).await, []);
        stack.redis().master().redis_command(&["FLUSHALL"]).await.expect("flushed");
        // Appended at once: the numbers must not look continuous.
        append(&two, &format!("after {round}")).await;
        assert!(!gaps_until(&mut a, &format!("after {round}")).await.is_empty());
        assert!(!gaps_until(&mut b, &format!("after {round}")).await.is_empty());
    }
}

#[tokio::test]
async fn stream_and_counter_deleted_alone_is_a_gap() {
    let (stack, namespace) = (shared().await, namespace());
    let master = stack.redis().master();
    let one = journal(master.port(), &namespace).await;
    let mut reader = opened(&one).await;
    append(&one, "before").await;
    assert_eq!(gaps_until(&mut reader, "before").await, []);
    let stream = format!("{namespace}:j:{{main}}");
    master.redis_command(&["DEL", &stream, &format!("{stream}:n")]).await.expect("deleted");
    append(&one, "after").await;
    assert!(!gaps_until(&mut reader, "after").await.is_empty());
}

#[tokio::test]
async fn trimmed_before_it_was_read_is_a_counted_gap() {
    let (stack, namespace) = (shared().await, namespace());
    let port = stack.redis().master().port();
    let short = journal_of(link(port, &namespace).await, 100);
    let start = short.append("0", soon()).await.expect("appended");
    for _ in 0..10 {
        short.append_many(&vec!["x"; 200], soon()).await.expect("appended");
    }
    let mut reader = short.reader(Some(start));
    let first = event(&mut reader).await;
    let JournalEvent::Gap { cause: JournalGap::Missed { count }, resumes_after } = first else {
        panic!("{first:?} in place of the gap")
    };
    assert_eq!(resumes_after.sequence, start.sequence + count);
    assert!((1000..=2000).contains(&count), "{count}");
    let mut left = 0;
    while start.sequence + count + left < start.sequence + 2000 {
        assert_eq!(payload(&mut reader).await, "x");
        left += 1;
    }
}

#[tokio::test]
async fn without_redis_an_append_fails_at_once_and_later_works() {
    let (stack, namespace) = (own().await, namespace());
    let master = stack.redis().master();
    let one = journal(master.port(), &namespace).await;
    let view = one.reader(None).view();
    master.kill().expect("killed");
    wait_for("unavailable", PATIENCE, async || {
        matches!(one.append("x", soon()).await, Err(Error::Unavailable { .. }))
    })
    .await;
    wait_for("disconnected", PATIENCE, async || matches!(view.state(), JournalState::Disconnected { .. }))
        .await;
    master.restart().await.expect("restarted");
    append(&one, "after").await;
}
