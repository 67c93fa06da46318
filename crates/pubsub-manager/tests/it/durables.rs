//! Durable channels while nothing fails: publish, consume, settle, pause, replay. Over every store.

use crate::{
    durable_support::{Stores, delivery, eager, event, group, nothing, over_every_store, publish},
    support::{PATIENCE, soon},
};
use local_stack::wait_for;
use parking_lot::Mutex;
use pubsub_manager::{
    Codec, ConsumerOptions, DurableChannel, DurableEvent, DurableLimits, DurablePublish, Error,
    PubSubManager, StartFrom, TraceContext,
};
use resilience::BackoffConfig;
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

over_every_store! {
    what_is_published_is_delivered_to_every_group
    the_members_of_a_group_share_its_messages
    a_delivery_that_is_dropped_comes_again_after_its_back_off
    settling_twice_is_an_error_of_its_own
    work_that_takes_longer_than_the_time_out_stays_with_its_consumer
    what_does_not_decode_is_a_dead_letter_and_counted
    a_consumer_that_is_shut_down_gives_back_what_nobody_has_seen
    no_more_than_prefetch_is_held
    a_pause_is_noticed_by_everybody_within_a_second
    a_replay_delivers_again
    what_is_merely_kept_makes_room_and_a_batch_takes_what_room_there_is
    a_full_channel_refuses_and_loses_nothing
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
    name: String,
}

fn channel(manager: &PubSubManager) -> DurableChannel<u64> {
    manager.durable_channel("n").expect("a good name")
}

async fn what_is_published_is_delivered_to_every_group(stores: Stores) {
    let (one, two) = stores.managers();
    let order = Order { id: 7, name: "seven".to_owned() };
    let out = one.durable_channel::<Order>("orders.paid").expect("a good name").with_codec(Codec::Json);
    let inn = two.durable_channel::<Order>("orders.paid").expect("a good name");
    let trace = TraceContext { trace_id: [1; 16], span_id: [2; 8], sampled: true };
    let id = Uuid::now_v7();
    let options = DurablePublish { id: Some(id), trace: Some(trace), ..DurablePublish::default() };
    // Before any group was there.
    assert_eq!(out.publish_with(&order, options).await.expect("published"), id);
    for name in ["billing", "mail"] {
        let mut consumer = inn.consume(name, eager()).await.expect("consuming");
        let delivery = delivery(&mut consumer).await;
        let message = &delivery.message;
        assert_eq!((message.id, &message.value, message.deliveries), (id, &order, 1));
        assert_eq!((message.trace, message.channel.as_str()), (Some(trace), "orders.paid"));
        delivery.ack().await.expect("acknowledged");
    }
    for group in inn.groups().await.expect("listed") {
        assert_eq!((group.pending, group.lag, group.acknowledged), (0, 0, 1), "{group:?}");
    }
    let (sent, got) = (one.durable_stats(), two.durable_stats());
    assert_eq!((sent.published, got.delivered, got.acknowledged, got.redelivered), (1, 2, 2, 0));
    assert_eq!(got.latency.buckets.iter().sum::<u64>(), 2);
    assert_eq!(one.durable_channels(soon()).await.expect("listed"), ["orders.paid"]);
}

async fn the_members_of_a_group_share_its_messages(stores: Stores) {
    let (one, two) = stores.managers();
    let mut consumers = Vec::new();
    for manager in [&one, &two, &two] {
        consumers.push(
            channel(manager)
                .consume("g", ConsumerOptions { prefetch: 4, ..eager() })
                .await
                .expect("consuming"),
        );
    }
    publish(&one, "n", 0..60_u64).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let tasks = consumers.into_iter().map(|mut consumer| {
        let seen = Arc::clone(&seen);
        tokio::spawn(async move {
            let mut count = 0;
            while let Ok(Some(DurableEvent::Message(delivery))) =
                tokio::time::timeout(Duration::from_secs(3), consumer.next()).await
            {
                seen.lock().push(delivery.message.value);
                // Work, in which the others get their share.
                tokio::time::sleep(Duration::from_millis(10)).await;
                delivery.ack().await.expect("acknowledged");
                count += 1;
            }
            count
        })
    });
    let mut shares: Vec<i32> = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        shares.push(task.await.expect("no panic"));
    }
    let mut seen = seen.lock().clone();
    seen.sort_unstable();
    assert_eq!(seen, (0..60).collect::<Vec<_>>());
    eprintln!("three members of a group had {shares:?} of 60");
    assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
}

async fn a_delivery_that_is_dropped_comes_again_after_its_back_off(stores: Stores) {
    let (one, _) = stores.managers();
    let backoff = BackoffConfig { base: Duration::from_millis(400), max: PATIENCE, factor: 2.0, jitter: 0.0 };
    let mut consumer =
        channel(&one).consume("g", ConsumerOptions { backoff, ..eager() }).await.expect("consuming");
    publish(&one, "n", [1_u64]).await;
    for deliveries in 1..=3_u32 {
        let delivery = delivery(&mut consumer).await;
        assert_eq!(delivery.message.deliveries, deliveries);
        assert_eq!(delivery.backoff(), Duration::from_millis(400) * 2_u32.pow(deliveries - 1));
        drop(delivery);
        if deliveries == 1 {
            wait_for("it waits", PATIENCE, async || group(&one, "n", "g").await.waiting == 1).await;
            assert!(tokio::time::timeout(Duration::from_millis(50), consumer.next()).await.is_err());
        }
    }
    let again = delivery(&mut consumer).await;
    // The user's own wait.
    again.retry(Duration::ZERO).await.expect("given back");
    let last = delivery(&mut consumer).await;
    assert_eq!(last.message.deliveries, 5);
    last.ack().await.expect("acknowledged");
    assert_eq!(group(&one, "n", "g").await.pending, 0);
}

async fn settling_twice_is_an_error_of_its_own(stores: Stores) {
    let (one, _) = stores.managers();
    let mut consumer = channel(&one).consume("g", eager()).await.expect("consuming");
    publish(&one, "n", [1_u64, 2]).await;
    let first = delivery(&mut consumer).await;
    first.ack().await.expect("acknowledged");
    assert!(matches!(first.ack().await, Err(Error::AlreadySettled)));
    assert!(matches!(first.retry(Duration::ZERO).await, Err(Error::AlreadySettled)));
    assert!(matches!(first.dead_letter("x").await, Err(Error::AlreadySettled)));
    let second = delivery(&mut consumer).await;
    second.dead_letter("not today").await.expect("dead");
    assert!(matches!(second.ack().await, Err(Error::AlreadySettled)));
    let letters = channel(&one).dead_letters("g", None, 10).await.expect("listed");
    assert_eq!((letters.len(), letters[0].reason.as_str()), (1, "not today"));
}

async fn work_that_takes_longer_than_the_time_out_stays_with_its_consumer(stores: Stores) {
    let (one, two) = stores.managers();
    let options = || ConsumerOptions { ack_timeout: Duration::from_secs(3), ..eager() };
    let mut slow = channel(&one).consume("g", options()).await.expect("consuming");
    publish(&one, "n", [1_u64]).await;
    let delivery = delivery(&mut slow).await;
    let mut other = channel(&two).consume("g", options()).await.expect("consuming");
    let claimed = tokio::time::timeout(Duration::from_secs(8), other.next()).await;
    assert!(claimed.is_err(), "{claimed:?}");
    assert!(delivery.is_held());
    delivery.ack().await.expect("still its own");
}

async fn what_does_not_decode_is_a_dead_letter_and_counted(stores: Stores) {
    let (one, two) = stores.managers();
    let wrong = one.durable_channel::<String>("n").expect("a good name");
    wrong.publish(&"no number".to_owned()).await.expect("published");
    wrong.with_codec(Codec::Json).publish(&"nor this".to_owned()).await.expect("published");
    publish(&one, "n", [5_u64]).await;
    let mut consumer = channel(&two).consume("g", eager()).await.expect("consuming");
    let good = delivery(&mut consumer).await;
    assert_eq!(good.message.value, 5);
    good.ack().await.expect("acknowledged");
    wait_for("two dead letters", PATIENCE, async || group(&one, "n", "g").await.dead_letters == 2).await;
    let letters = channel(&one).dead_letters("g", None, 10).await.expect("listed");
    assert!(letters.iter().all(|letter| letter.reason.starts_with("undecodable as ")), "{letters:?}");
    assert_eq!(two.durable_stats().undecodable, 2);
    assert_eq!(group(&one, "n", "g").await.pending, 0);
}

async fn a_consumer_that_is_shut_down_gives_back_what_nobody_has_seen(stores: Stores) {
    let (one, two) = stores.managers();
    publish(&one, "n", 0..10_u64).await;
    let mut consumer = channel(&two).consume("g", eager()).await.expect("consuming");
    let held = delivery(&mut consumer).await;
    wait_for("taken ahead", PATIENCE, async || group(&one, "n", "g").await.pending == 10).await;
    drop(consumer);
    wait_for("given back", PATIENCE, async || group(&one, "n", "g").await.waiting == 9).await;
    held.ack().await.expect("it is still to be settled by who has it");
    let mut next = channel(&one).consume("g", eager()).await.expect("consuming");
    for value in 1..10 {
        let delivery = delivery(&mut next).await;
        assert_eq!((delivery.message.value, delivery.message.deliveries), (value, 1));
        delivery.ack().await.expect("acknowledged");
    }
    next.shutdown(PATIENCE).await;
    assert_eq!(group(&one, "n", "g").await.pending, 0);
}

async fn no_more_than_prefetch_is_held(stores: Stores) {
    let (one, two) = stores.managers();
    publish(&one, "n", 0..20_u64).await;
    let options = ConsumerOptions { prefetch: 5, ..eager() };
    let mut consumer = channel(&two).consume("g", options).await.expect("consuming");
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(delivery(&mut consumer).await);
    }
    nothing(&mut consumer).await;
    assert_eq!((group(&one, "n", "g").await.pending, group(&one, "n", "g").await.lag), (5, 15));
    held.pop().expect("five").ack().await.expect("acknowledged");
    assert_eq!(delivery(&mut consumer).await.message.value, 5);
}

async fn a_pause_is_noticed_by_everybody_within_a_second(stores: Stores) {
    let (one, two) = stores.managers();
    let (mut a, mut b) = (
        channel(&one).consume("g", eager()).await.expect("consuming"),
        channel(&two).consume("g", eager()).await.expect("consuming"),
    );
    publish(&one, "n", [1_u64]).await;
    let either = async {
        tokio::select! { one = event(&mut a) => one, two = event(&mut b) => two }
    };
    let DurableEvent::Message(first) = either.await else { panic!("no message") };
    channel(&one).pause("g").await.expect("paused");
    publish(&one, "n", [2_u64]).await;
    first.ack().await.expect("what was delivered may be settled");
    nothing(&mut a).await;
    nothing(&mut b).await;
    assert!(group(&one, "n", "g").await.paused);
    channel(&two).resume("g").await.expect("resumed");
    let resumed = std::time::Instant::now();
    let either = async {
        tokio::select! { one = event(&mut a) => one, two = event(&mut b) => two }
    };
    let DurableEvent::Message(second) = either.await else { panic!("no message") };
    assert_eq!(second.message.value, 2);
    eprintln!("delivered {:?} after the resume", resumed.elapsed());
    assert!(resumed.elapsed() < Duration::from_secs(5), "{:?}", resumed.elapsed());
    second.ack().await.expect("acknowledged");
}

async fn a_replay_delivers_again(stores: Stores) {
    let (one, two) = stores.managers();
    publish(&one, "n", 0..5_u64).await;
    let mut consumer = channel(&two).consume("g", eager()).await.expect("consuming");
    let mut ids = Vec::new();
    for _ in 0..5 {
        let delivery = delivery(&mut consumer).await;
        ids.push((delivery.message.id, delivery.message.position));
        delivery.ack().await.expect("acknowledged");
    }
    channel(&one).replay("g", StartFrom::Id(ids[2].1)).await.expect("replayed");
    for value in 2..5 {
        let delivery = delivery(&mut consumer).await;
        let message = &delivery.message;
        assert_eq!((message.value, message.id), (value, ids[value as usize].0));
        delivery.ack().await.expect("acknowledged");
    }
    nothing(&mut consumer).await;
    channel(&one).replay("g", StartFrom::Earliest).await.expect("replayed");
    assert_eq!(delivery(&mut consumer).await.message.value, 0);
    assert_eq!(one.durable_stats().losses + two.durable_stats().losses, 0);
}

async fn a_full_channel_refuses_and_loses_nothing(stores: Stores) {
    let (one, two) = stores.managers();
    let limits = DurableLimits { max_len: 200, keep_len: 10, ..DurableLimits::default() };
    let n = channel(&one).with_limits(limits);
    let stuck = channel(&two).consume("stuck", eager()).await.expect("consuming");
    stuck.shutdown(PATIENCE).await;
    for value in 0..200 {
        n.publish(&value).await.expect("published");
    }
    let full = n.publish(&200).await;
    assert!(matches!(&full, Err(Error::Full { group, limit: 200, .. }) if group == "stuck"), "{full:?}");
    assert!(full.is_err_and(|error| error.is_retryable() && !error.may_have_happened()));
    assert_eq!(group(&one, "n", "stuck").await.lag, 200, "the stuck group can be seen");
    let mut consumer = channel(&two).consume("stuck", eager()).await.expect("consuming");
    for value in 0..200 {
        let delivery = delivery(&mut consumer).await;
        assert_eq!(delivery.message.value, value);
        delivery.ack().await.expect("acknowledged");
    }
    n.publish(&200).await.expect("there is room again");
    assert_eq!(delivery(&mut consumer).await.message.value, 200);
}

async fn what_is_merely_kept_makes_room_and_a_batch_takes_what_room_there_is(stores: Stores) {
    let (one, two) = stores.managers();
    // Less than is kept by default.
    let limits = DurableLimits { max_len: 20, ..DurableLimits::default() };
    let n = channel(&one).with_limits(limits);
    let mut consumer = channel(&two).consume("g", eager()).await.expect("consuming");
    for value in 0..20 {
        n.publish(&value).await.expect("published");
    }
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(delivery(&mut consumer).await);
    }
    for delivery in held.drain(..15) {
        delivery.ack().await.expect("acknowledged");
    }
    // Fifteen of them are needed by nobody.
    let together = (20..60).map(|value| {
        let n = n.clone();
        tokio::spawn(async move { n.publish(&value).await })
    });
    let together: Vec<_> = together.collect();
    let mut published = 0;
    for one in together {
        match one.await.expect("it answers") {
            Ok(_) => published += 1,
            Err(Error::Full { group, limit: 20, .. }) => assert_eq!(group, "g"),
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(published, 15);
    for delivery in held {
        delivery.ack().await.expect("acknowledged");
    }
    for _ in 0..15 {
        delivery(&mut consumer).await.ack().await.expect("acknowledged");
    }
    n.publish(&60).await.expect("there is room again");
}
