//! Channels and patterns while nothing fails, over all buses.

use crate::postgres;
use crate::support::{PATIENCE, manager, namespace, next, quick, shared};
use local_stack::wait_for;
use pubsub_manager::{
    Codec, Config, Deps, Error, Event, GapCause, MemoryBus, PubSubManager, SlowConsumer, SubscribeOptions,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
    name: String,
}

fn order(id: u64) -> Order {
    Order { id, name: format!("order {id}") }
}

fn value<T: std::fmt::Debug>(event: Event<T>) -> T {
    match event {
        Event::Message(message) => message.value,
        other => panic!("{other:?} in place of a message"),
    }
}

/// Two managers on one bus, as two processes have them.
async fn redis() -> (PubSubManager, PubSubManager) {
    let (port, namespace) = (shared().await.redis().master().port(), namespace());
    (manager(port, &namespace).await, manager(port, &namespace).await)
}

/// Neither has Redis. The database lives as long as the first.
async fn postgres() -> (local_stack::Database, (PubSubManager, PubSubManager)) {
    let database = postgres::database().await;
    let managers = (postgres::manager(&database.url()).await, postgres::manager(&database.url()).await);
    (database, managers)
}

fn memory() -> (PubSubManager, PubSubManager) {
    let bus = MemoryBus::new();
    let manager = || quick().build(Deps::over(bus.clone())).expect("good settings");
    (manager(), manager())
}

#[tokio::test]
async fn typed_round_trip_redis() {
    typed_round_trip(redis().await, true).await;
}

#[tokio::test]
async fn typed_round_trip_memory() {
    typed_round_trip(memory(), true).await;
}

#[tokio::test]
async fn typed_round_trip_postgres() {
    let (_database, managers) = postgres().await;
    typed_round_trip(managers, false).await;
}

/// `counts`: whether the bus knows how many receive.
async fn typed_round_trip((one, two): (PubSubManager, PubSubManager), counts: bool) {
    let out = one.channel::<Order>("orders.created").expect("a good name");
    let into = two.channel::<Order>("orders.created").expect("a good name");
    let mut first = into.subscribe(SubscribeOptions::default()).await.expect("subscribed");
    let mut second = into.subscribe(SubscribeOptions::default()).await.expect("subscribed");
    for id in 1..=100 {
        let channel = if id % 2 == 0 { out.clone() } else { out.clone().with_codec(Codec::Json) };
        let published = channel.publish(&order(id)).await.expect("published");
        assert_eq!(
            (published.id.sequence, published.receivers),
            (id, counts.then_some(1)),
            "one process, no reordering"
        );
    }
    for id in 1..=100 {
        let Event::Message(message) = next(&mut first).await else { panic!("no message") };
        assert_eq!((message.value, message.sequence, &*message.subject), (order(id), id, "orders.created"));
        assert_eq!(message.publisher, one.publisher());
        assert_eq!(value(next(&mut second).await), order(id));
    }
    let (sent, received) = (one.stats(), two.stats());
    assert_eq!((sent.published, received.received, received.gaps), (100, 100, 0));
    assert_eq!((received.subscribed, received.subscribers), (1, 2));
    drop((first, second));
    wait_for("the server forgets it, too", PATIENCE, async || {
        let receivers = out.publish(&order(0)).await.expect("published").receivers;
        receivers == counts.then_some(0) && two.stats().subscribed == 0
    })
    .await;
}

#[tokio::test]
async fn patterns_redis() {
    patterns(redis().await).await;
}

#[tokio::test]
async fn patterns_memory() {
    patterns(memory()).await;
}

#[tokio::test]
async fn patterns_postgres() {
    let (_database, managers) = postgres().await;
    patterns(managers).await;
}

async fn patterns((one, two): (PubSubManager, PubSubManager)) {
    let options = SubscribeOptions::default();
    let mut star = two.subscribe_pattern::<u64>("orders.*", options.clone()).await.expect("subscribed");
    let mut rest = two.subscribe_pattern::<u64>("orders.>", options.clone()).await.expect("subscribed");
    let mut exact = two.subscribe_pattern::<u64>("orders.a", options).await.expect("subscribed");
    let subjects = ["orders.a", "orders.a.b", "orders", "other.a", "orders.b", "ordersx.a"];
    for (n, subject) in (0..).zip(subjects) {
        one.channel::<u64>(subject).expect("a good name").publish(&n).await.expect("published");
    }
    assert_eq!((value(next(&mut star).await), value(next(&mut star).await)), (0, 4));
    let all = [value(next(&mut rest).await), value(next(&mut rest).await), value(next(&mut rest).await)];
    assert_eq!(all, [0, 1, 4]);
    assert_eq!(value(next(&mut exact).await), 0);
    for subscription in [&mut star, &mut rest, &mut exact] {
        let more = tokio::time::timeout(Duration::from_millis(300), subscription.next()).await;
        assert!(more.is_err(), "{more:?}: neither copies nor gaps");
    }
}

#[tokio::test]
async fn concurrent_publishes_share_frames_and_stay_in_order_redis() {
    concurrent_publishes_share_frames_and_stay_in_order(redis().await).await;
}

#[tokio::test]
async fn concurrent_publishes_share_frames_and_stay_in_order_postgres() {
    let (_database, managers) = postgres().await;
    concurrent_publishes_share_frames_and_stay_in_order(managers).await;
}

async fn concurrent_publishes_share_frames_and_stay_in_order((one, two): (PubSubManager, PubSubManager)) {
    let channel = one.channel::<u64>("n").expect("a good name");
    let options = SubscribeOptions { capacity: 20_000, ..SubscribeOptions::default() };
    let mut subscription =
        two.channel::<u64>("n").expect("a good name").subscribe(options).await.expect("subscribed");
    let tasks = (0..64).map(|task| {
        let channel = channel.clone();
        tokio::spawn(async move {
            for n in 0..100_u64 {
                channel.publish(&(task * 100 + n)).await.expect("published");
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("no panic");
    }
    let mut last = [None; 64];
    for sequence in 1..=6400 {
        let Event::Message(message) = next(&mut subscription).await else { panic!("no message") };
        assert_eq!(message.sequence, sequence);
        let task = usize::try_from(message.value / 100).expect("small");
        assert!(last[task] < Some(message.value), "each task's own order");
        last[task] = Some(message.value);
    }
}

#[tokio::test]
async fn a_slow_consumer_is_told_what_it_missed() {
    let (one, two) = memory();
    let channel = one.channel::<u64>("n").expect("a good name");
    let into = two.channel::<u64>("n").expect("a good name");
    let subscribe = |slow_consumer| {
        let options = SubscribeOptions { capacity: 10, slow_consumer, ..SubscribeOptions::default() };
        into.subscribe(options)
    };
    let mut dropping = subscribe(SlowConsumer::DropOldest).await.expect("subscribed");
    let mut ending = subscribe(SlowConsumer::Disconnect).await.expect("subscribed");
    for n in 1..=50 {
        channel.publish(&n).await.expect("published");
    }
    wait_for("all arrived", PATIENCE, async || two.stats().received == 50 && dropping.dropped() == 40).await;
    assert_eq!(next(&mut dropping).await, Event::Gap { missed: Some(40), cause: GapCause::SlowConsumer });
    for n in 41..=50 {
        assert_eq!(value(next(&mut dropping).await), n);
    }
    for n in 1..=10 {
        assert_eq!(value(next(&mut ending).await), n);
    }
    assert_eq!(next(&mut ending).await, Event::Gap { missed: None, cause: GapCause::SlowConsumer });
    assert_eq!(ending.next().await, None);
}

#[tokio::test]
async fn a_blocking_consumer_misses_nothing_that_the_bus_can_hold() {
    let (one, two) = memory();
    let channel = one.channel::<u64>("n").expect("a good name");
    let slow_consumer = SlowConsumer::Block;
    let options = SubscribeOptions { capacity: 1, slow_consumer, ..SubscribeOptions::default() };
    let into = two.channel::<u64>("n").expect("a good name");
    let mut subscription = into.subscribe(options).await.expect("subscribed");
    for n in 1..=500 {
        channel.publish(&n).await.expect("published");
    }
    for n in 1..=500 {
        assert_eq!(value(next(&mut subscription).await), n);
    }
}

#[tokio::test]
async fn another_type_is_a_gap_and_not_the_end() {
    let (one, two) = memory();
    let mut subscription =
        two.subscribe_pattern::<Order>("x", SubscribeOptions::default()).await.expect("subscribed");
    one.channel::<u64>("x").expect("a good name").publish(&7).await.expect("published");
    one.channel::<Order>("x").expect("a good name").publish(&order(1)).await.expect("published");
    assert_eq!(next(&mut subscription).await, Event::Gap { missed: Some(1), cause: GapCause::Unreadable });
    assert_eq!(value(next(&mut subscription).await), order(1));
}

#[tokio::test]
async fn without_a_bus_every_call_says_so() {
    let manager = Config::default().build(Deps::default()).expect("good settings");
    let channel = manager.channel::<u64>("x").expect("a good name");
    assert!(matches!(channel.publish(&1).await, Err(Error::Unavailable { .. })));
    let subscribed = channel.subscribe(SubscribeOptions::default()).await;
    assert!(matches!(subscribed, Err(Error::Unavailable { .. })));
    let checked = manager.health_check(crate::support::soon()).await;
    assert!(matches!(checked, Err(Error::Unavailable { .. })));
    let status = manager.status();
    assert!(!status.connected && status.reason.is_some());
    manager.shutdown(PATIENCE).await;
    assert!(matches!(channel.publish(&1).await, Err(Error::Shutdown { .. })));
}

#[tokio::test]
async fn limits_are_errors() {
    let config = Config { max_channels: 2, max_message_bytes: 10, max_subscriptions: 1, ..Config::default() };
    let manager = config.build(Deps::over(MemoryBus::new())).expect("good settings");
    let channel = |name| manager.channel::<String>(name).expect("a good name");
    channel("a").publish(&"x".into()).await.expect("published");
    channel("b").publish(&"x".into()).await.expect("published");
    assert!(matches!(channel("c").publish(&"x".into()).await, Err(Error::Limit { .. })));
    assert!(matches!(channel("a").publish(&"x".repeat(11)).await, Err(Error::TooLarge { .. })));
    let one = channel("a").subscribe(SubscribeOptions::default()).await.expect("subscribed");
    let two = channel("a").subscribe(SubscribeOptions::default()).await;
    assert!(matches!(two, Err(Error::Limit { .. })));
    drop(one);
    channel("b").subscribe(SubscribeOptions::default()).await.expect("room again");
    assert!(matches!(manager.channel::<u8>("a b"), Err(Error::InvalidSubject { .. })));
    let wrong = Config { max_pending: 0, announce_every: Duration::ZERO, ..Config::default() };
    assert_eq!(wrong.validate().expect_err("two problems").len(), 2);
}

#[tokio::test]
async fn shutdown_ends_subscriptions() {
    let (one, _two) = memory();
    let channel = one.channel::<u64>("x").expect("a good name");
    let mut subscription = channel.subscribe(SubscribeOptions::default()).await.expect("subscribed");
    channel.publish(&1).await.expect("published");
    assert_eq!(value(next(&mut subscription).await), 1);
    one.shutdown(PATIENCE).await;
    assert_eq!(subscription.next().await, None);
}
