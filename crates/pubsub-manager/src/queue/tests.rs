//! Whatever is dropped is told, and nothing grows without bound.

use super::*;
use crate::{Codec, MessageId, PublisherId, envelope::Kind};
use std::{future::poll_fn, time::Duration};

fn message(sequence: u64) -> Item {
    let id = MessageId { publisher: PublisherId(1), epoch: 1, sequence };
    let header = Header { kind: Kind::Message, codec: Codec::default(), id, published_at: 0, trace: None };
    Item::Message(Received { subject: "n".into(), header: Some(header), payload: Bytes::new(), conflated: 0 })
}

const fn gap(missed: u64) -> Item {
    Item::Gap { missed: Some(missed), cause: GapCause::Missed }
}

async fn take(queue: &Queue) -> String {
    match poll_fn(|context| queue.poll_take(context)).await {
        None => "end".into(),
        Some(Item::Message(message)) => message.header.expect("not raw").id.sequence.to_string(),
        Some(Item::Gap { missed: Some(missed), cause }) => format!("{missed} {cause:?}"),
        Some(Item::Gap { missed: None, cause }) => format!("? {cause:?}"),
        Some(Item::Reconnected) => "reconnected".into(),
    }
}

#[tokio::test]
async fn dropping_the_oldest_keeps_the_sum() {
    let queue = Queue::new(2, SlowConsumer::DropOldest);
    for item in [message(1), gap(5), message(7), message(8), message(9)] {
        queue.push(item).await;
    }
    // 1, the gap of 5 before 7, and 7.
    assert_eq!(take(&queue).await, "7 SlowConsumer");
    assert_eq!((take(&queue).await, take(&queue).await), ("8".into(), "9".into()));
    assert_eq!(queue.dropped(), 2);
}

#[tokio::test]
async fn gaps_of_one_cause_are_one() {
    let queue = Queue::new(2, SlowConsumer::DropOldest);
    for _ in 0..1000 {
        queue.push(gap(1)).await;
        queue.push(Item::Gap { missed: None, cause: GapCause::PublisherSilent }).await;
        queue.push(Item::Gap { missed: None, cause: GapCause::PublisherSilent }).await;
        queue.push(Item::Reconnected).await;
    }
    assert!(queue.state.lock().items.len() <= 20);
    assert!(take(&queue).await.ends_with("SlowConsumer"), "what did not fit was dropped and told");
}

#[tokio::test(start_paused = true)]
async fn blocking_waits_for_room_and_no_longer() {
    let queue = Arc::new(Queue::new(1, SlowConsumer::Block));
    queue.push(message(1)).await;
    assert!(tokio::time::timeout(Duration::from_secs(1), queue.push(message(2))).await.is_err());
    let pushing = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move { queue.push(message(3)).await }
    });
    assert_eq!((take(&queue).await, take(&queue).await), ("1".into(), "3".into()));
    assert_eq!(pushing.await.expect("no panic"), 0);
    queue.push(message(4)).await;
    let pushing = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move { queue.push(message(5)).await }
    });
    tokio::task::yield_now().await;
    queue.abandon();
    pushing.await.expect("an abandoned queue holds nobody up");
    assert!(!queue.is_open());
}

#[tokio::test]
async fn what_waits_is_still_taken_after_the_end() {
    let queue = Queue::new(8, SlowConsumer::DropOldest);
    queue.push(message(1)).await;
    queue.end();
    queue.push(message(2)).await;
    assert_eq!((take(&queue).await, take(&queue).await), ("1".into(), "end".into()));
}

fn state_of(subject: &str, sequence: u64) -> Item {
    let Item::Message(message) = message(sequence) else { unreachable!("it is one") };
    Item::Message(Received { subject: subject.into(), ..message })
}

#[tokio::test]
async fn conflating_keeps_the_newest_of_each_key_in_the_place_of_the_oldest() {
    let queue = Queue::new(10, SlowConsumer::Conflate(ConflateBy::subject()));
    for item in
        [state_of("a", 1), state_of("b", 2), state_of("a", 3), gap(4), state_of("a", 8), state_of("c", 9)]
    {
        queue.push(item).await;
    }
    let Some(Item::Message(first)) = poll_fn(|context| queue.poll_take(context)).await else {
        panic!("no message")
    };
    assert_eq!((first.header.map(|header| header.id.sequence), first.conflated), (Some(8), 2));
    // What was taken is no place to be conflated into.
    queue.push(state_of("a", 10)).await;
    assert_eq!((take(&queue).await, take(&queue).await), ("2".into(), "4 Missed".into()));
    assert_eq!((take(&queue).await, take(&queue).await), ("9".into(), "10".into()));
    assert_eq!((queue.conflated(), queue.dropped(), queue.waiting()), (2, 0, 0));
}

#[tokio::test]
async fn conflating_more_keys_than_there_is_room_for_drops_and_tells() {
    let queue = Queue::new(2, SlowConsumer::Conflate(ConflateBy::subject()));
    for item in [state_of("a", 1), state_of("a", 2), state_of("b", 3), state_of("c", 4)] {
        queue.push(item).await;
    }
    assert_eq!(take(&queue).await, "2 SlowConsumer", "the dropped one and the one that it stood for");
    assert_eq!((take(&queue).await, take(&queue).await), ("3".into(), "4".into()));
    // Keys that come and go do not pile up.
    for n in 0..10_000 {
        queue.push(state_of(&n.to_string(), n)).await;
    }
    assert!(queue.state.lock().keys.len() < 100);
}

#[tokio::test]
async fn a_key_of_the_value_is_one_within_its_channel() {
    let by = ConflateBy::value(|order: &(u32, u32)| order.0.to_string());
    let queue = Queue::new(10, SlowConsumer::Conflate(by));
    let order = |subject: &str, sequence, value: (u32, u32)| {
        let Item::Message(message) = state_of(subject, sequence) else { unreachable!("it is one") };
        let about = crate::codec::About { subject, publisher: PublisherId(1), trace: None };
        let payload = Bytes::from(Codec::default().encode(&value, &about).expect("encodable"));
        Item::Message(Received { payload, ..message })
    };
    let items = [order("a", 1, (7, 0)), order("b", 2, (7, 1)), order("a", 3, (8, 0)), order("a", 4, (7, 2))];
    for item in items {
        queue.push(item).await;
    }
    // Not a pair of numbers: kept as they are.
    queue.push(state_of("a", 5)).await;
    queue.push(state_of("a", 6)).await;
    let mut taken = Vec::new();
    while queue.waiting() > 0 {
        taken.push(take(&queue).await);
    }
    assert_eq!(taken, ["4", "2", "3", "5", "6"]);
}
