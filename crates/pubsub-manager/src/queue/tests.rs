//! Whatever is dropped is told, and nothing grows without bound.

use super::*;
use crate::{Codec, MessageId, PublisherId, envelope::Kind};
use std::{future::poll_fn, time::Duration};

fn message(sequence: u64) -> Item {
    let id = MessageId { publisher: PublisherId(1), epoch: 1, sequence };
    let header = Header { kind: Kind::Message, codec: Codec::default(), id, published_at: 0, trace: None };
    Item::Message { subject: "n".into(), header, payload: Bytes::new() }
}

const fn gap(missed: u64) -> Item {
    Item::Gap { missed: Some(missed), cause: GapCause::Missed }
}

async fn take(queue: &Queue) -> String {
    match poll_fn(|context| queue.poll_take(context)).await {
        None => "end".into(),
        Some(Item::Message { header, .. }) => header.id.sequence.to_string(),
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
