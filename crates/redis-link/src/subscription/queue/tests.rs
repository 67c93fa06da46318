//! The queue's bounds and order.

use super::*;
use bytes::Bytes;

fn message(text: &'static str) -> SubscriptionEvent {
    SubscriptionEvent::Message {
        channel: "c".to_owned(),
        pattern: false,
        payload: Bytes::from_static(text.as_bytes()),
    }
}

async fn all(queue: &Queue) -> Vec<SubscriptionEvent> {
    queue.close();
    let mut events = Vec::new();
    while let Some(event) = queue.pop().await {
        events.push(event);
    }
    events
}

#[tokio::test]
async fn what_does_not_fit_is_counted_where_it_is_missing() {
    let queue = Queue::new(2);
    for text in ["a", "b", "c", "d"] {
        queue.push_message(message(text));
    }
    assert_eq!(queue.pop().await, Some(message("a")));
    // The report of the gap takes its place.
    queue.push_message(message("e"));
    assert_eq!(queue.pop().await, Some(message("b")));
    queue.push_message(message("f"));
    let rest = all(&queue).await;
    assert_eq!(rest, [SubscriptionEvent::Overflow { missed: 3 }, message("f")]);
}

#[tokio::test]
async fn losses_are_told_also_when_it_is_full_and_stay_bounded() {
    let queue = Queue::new(1);
    queue.push_message(message("a"));
    for _ in 0..500 {
        queue.push_lost("cut".to_owned());
        queue.push_missed(2);
        queue.push(SubscriptionEvent::Restored);
    }
    for _ in 0..500 {
        queue.push_missed(1);
        queue.push_lost("cut".to_owned());
        queue.push(SubscriptionEvent::Restored);
        queue.push_message(message("b"));
    }
    queue.push_lost("cut".to_owned());
    queue.push(SubscriptionEvent::Restored);
    let events = all(&queue).await;
    assert_eq!(events[0], message("a"));
    assert!(events.contains(&SubscriptionEvent::Lost { cause: "cut".to_owned() }));
    assert_eq!(events.last(), Some(&SubscriptionEvent::Restored));
    let missed: u64 = events
        .iter()
        .map(|event| if let SubscriptionEvent::Overflow { missed } = event { *missed } else { 0 })
        .sum();
    assert_eq!(missed, 2000);
    assert!(events.len() < 10, "{}", events.len());
}

#[tokio::test]
async fn a_waiting_consumer_is_woken() {
    let queue = std::sync::Arc::new(Queue::new(2));
    let consumer = tokio::spawn({
        let queue = queue.clone();
        async move { (queue.pop().await, queue.pop().await) }
    });
    tokio::task::yield_now().await;
    queue.push_message(message("a"));
    tokio::task::yield_now().await;
    queue.close();
    assert_eq!(consumer.await.unwrap(), (Some(message("a")), None));
}

fn shards(names: &[&str]) -> Vec<Channel> {
    let keys = crate::Keys::new("n");
    names.iter().map(|name| keys.sharded_channel_in("s", name).expect("a good name")).collect()
}

#[tokio::test]
async fn losses_of_shards_in_a_full_queue_continue_each_other_and_none_is_untold() {
    let queue = Queue::new(2);
    queue.push_message(message("a"));
    let lost = |names: &[&str]| queue.push_shards_lost(&shards(names), "why".to_owned());
    let back = |names: &[&str]| queue.push(SubscriptionEvent::ShardsRestored { channels: shards(names) });
    lost(&["x", "y"]);
    for _ in 0..100 {
        back(&["x", "y"]);
        lost(&["x", "y"]);
        back(&["y"]);
        lost(&["y", "z"]);
        back(&["z"]);
    }
    let (mut down, mut events) = (std::collections::HashSet::new(), 0);
    for event in all(&queue).await {
        events += 1;
        match event {
            SubscriptionEvent::ShardsLost { channels, .. } => {
                channels.into_iter().for_each(|channel| assert!(down.insert(channel), "told already"));
            }
            SubscriptionEvent::ShardsRestored { channels } => {
                channels.iter().for_each(|channel| assert!(down.remove(channel), "never lost"));
            }
            _ => {}
        }
    }
    assert_eq!(down, shards(&["x", "y"]).into_iter().collect(), "as it ended");
    assert!(events < 10, "{events}");
}
