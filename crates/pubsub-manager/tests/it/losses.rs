//! The bus while Redis fails: what was lost is counted, in its place.

use crate::support::{
    PATIENCE, connected, link, link_config, manager, namespace, next, own, proxied, quick, shared,
};
use local_stack::{RedisOptions, Stack, wait_for};
use pubsub_manager::{Deps, Event, GapCause, PubSubManager, RedisBus, SubscribeOptions, Subscription};
use std::time::{Duration, Instant};

/// Reads until the message `until`; the messages and the sum of the counted gaps on the way.
async fn read_until(subscription: &mut Subscription<u64>, until: u64) -> (Vec<u64>, u64, bool) {
    let (mut got, mut missed, mut reconnected) = (Vec::new(), 0, false);
    loop {
        match next(subscription).await {
            Event::Message(message) => {
                got.push(message.value);
                if message.value == until {
                    return (got, missed, reconnected);
                }
            }
            Event::Gap { missed: Some(count), .. } => missed += count,
            Event::Reconnected => reconnected = true,
            other => panic!("{other:?}"),
        }
    }
}

async fn publish(manager: &PubSubManager, values: std::ops::RangeInclusive<u64>) {
    let channel = manager.channel::<u64>("n").expect("a good name");
    for value in values {
        channel.publish(&value).await.expect("published");
    }
}

#[tokio::test]
async fn what_is_lost_while_the_subscriber_is_cut_off_is_counted_exactly() {
    let (stack, namespace) = (shared().await, namespace());
    let proxy = proxied(&stack).await;
    let publisher = manager(stack.redis().master().port(), &namespace).await;
    let subscriber = manager(proxy.addr().port(), &namespace).await;
    let channel = subscriber.channel::<u64>("n").expect("a good name");
    let mut subscription = channel.subscribe(SubscribeOptions::default()).await.expect("subscribed");
    let mut next_value = 1;
    for round in 0..5 {
        publish(&publisher, next_value..=next_value + 9).await;
        let (got, missed, _) = read_until(&mut subscription, next_value + 9).await;
        assert_eq!((got.len(), missed), (10, 0), "round {round}");
        proxy.refuse(true);
        proxy.cut();
        // Whatever is published now is lost or not; together it has to be all.
        publish(&publisher, next_value + 10..=next_value + 59).await;
        let reconnects = subscriber.stats().reconnects;
        proxy.heal();
        wait_for("subscribed again", PATIENCE, async || subscriber.stats().reconnects > reconnects).await;
        publish(&publisher, next_value + 60..=next_value + 60).await;
        let (got, missed, reconnected) = read_until(&mut subscription, next_value + 60).await;
        assert!(reconnected);
        assert_eq!(got.len() as u64 + missed, 51, "round {round}: {got:?}");
        next_value += 61;
    }
}

#[tokio::test]
async fn a_lost_tail_is_seen_without_another_message() {
    let (stack, namespace) = (shared().await, namespace());
    let proxy = proxied(&stack).await;
    let publisher = manager(stack.redis().master().port(), &namespace).await;
    let subscriber = manager(proxy.addr().port(), &namespace).await;
    let channel = subscriber.channel::<u64>("n").expect("a good name");
    let mut subscription = channel.subscribe(SubscribeOptions::default()).await.expect("subscribed");
    publish(&publisher, 1..=1).await;
    read_until(&mut subscription, 1).await;
    proxy.refuse(true);
    proxy.cut();
    wait_for("seen by the server", PATIENCE, async || {
        let channel = publisher.channel::<u64>("other").expect("a good name");
        channel.publish(&0).await.is_ok() && !subscriber.status().connected
    })
    .await;
    publish(&publisher, 2..=8).await;
    proxy.heal();
    let healed = Instant::now();
    assert_eq!(next(&mut subscription).await, Event::Reconnected);
    assert_eq!(next(&mut subscription).await, Event::Gap { missed: Some(7), cause: GapCause::Reconnect });
    eprintln!("a lost tail was told {:?} after healing", healed.elapsed());
}

#[tokio::test]
async fn killed_and_restarted_redis_is_subscribed_again_and_the_loss_told() {
    let (stack, namespace) = (own().await, namespace());
    let master = stack.redis().master();
    let publisher = manager(master.port(), &namespace).await;
    let subscriber = manager(master.port(), &namespace).await;
    let channel = subscriber.channel::<u64>("n").expect("a good name");
    let out = publisher.channel::<u64>("n").expect("a good name");
    let mut subscription = channel.subscribe(SubscribeOptions::default()).await.expect("subscribed");
    // Whoever was heard once is counted from there on.
    out.publish(&1).await.expect("published");
    read_until(&mut subscription, 1).await;
    let (mut accepted, mut unknown, mut received, mut missed, mut refused) =
        (0_u64, 0_u64, 0_u64, 0_u64, 0_u64);
    for round in 0..3_u64 {
        // The publisher goes on through the kill: some are accepted, some refused, one may be of unknown outcome.
        master.kill().expect("killed");
        let mut failures = 0;
        while failures < 5 {
            match out.publish(&1).await {
                Ok(_) => accepted += 1,
                Err(error) if error.may_have_happened() => (unknown, failures) = (unknown + 1, failures + 1),
                Err(_) => (refused, failures) = (refused + 1, failures + 1),
            }
        }
        master.restart().await.expect("restarted");
        // As soon as the publisher is back, perhaps before the subscriber is.
        wait_for("some accepted", PATIENCE, async || {
            for _ in 0..10 {
                match out.publish(&1).await {
                    Ok(_) => accepted += 1,
                    Err(error) if error.may_have_happened() => unknown += 1,
                    Err(_) => refused += 1,
                }
            }
            subscriber.stats().reconnects > round
        })
        .await;
        wait_for("the last", PATIENCE, async || out.publish(&(round + 100)).await.is_ok()).await;
        accepted += 1;
        let (got, lost, reconnected) = read_until(&mut subscription, round + 100).await;
        assert!(reconnected);
        (received, missed) = (received + got.len() as u64, missed + lost);
    }
    assert!(
        (accepted..=accepted + unknown).contains(&(received + missed)),
        "{accepted} accepted, {unknown} unknown, {refused} refused: {received} received, {missed} missed"
    );
}

#[tokio::test]
async fn a_publisher_that_falls_silent_is_told_and_one_that_takes_leave_is_not() {
    let (stack, namespace) = (shared().await, namespace());
    let proxy = proxied(&stack).await;
    let killed = manager(proxy.addr().port(), &namespace).await;
    let leaving = manager(stack.redis().master().port(), &namespace).await;
    let subscriber = manager(stack.redis().master().port(), &namespace).await;
    let channel = subscriber.channel::<u64>("n").expect("a good name");
    let mut subscription = channel.subscribe(SubscribeOptions::default()).await.expect("subscribed");
    publish(&killed, 1..=1).await;
    publish(&leaving, 2..=2).await;
    read_until(&mut subscription, 2).await;
    leaving.shutdown(PATIENCE).await;
    proxy.refuse(true);
    proxy.cut();
    let started = Instant::now();
    assert_eq!(next(&mut subscription).await, Event::Gap { missed: None, cause: GapCause::PublisherSilent });
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let more = tokio::time::timeout(Duration::from_secs(2), subscription.next()).await;
    assert!(more.is_err(), "{more:?}: nothing about the one that took leave");
}

#[tokio::test]
async fn whoever_subscribes_after_the_bus_has_ended_is_told_so() {
    let (stack, namespace) = (shared().await, namespace());
    let link = link(stack.redis().master().port(), &namespace).await;
    let bus = RedisBus::new(link.clone()).expect("a runtime");
    let manager = quick().build(Deps::over(bus)).expect("good settings");
    let channel = manager.channel::<u64>("n").expect("a good name");
    let mut subscription = channel.subscribe(SubscribeOptions::default()).await.expect("subscribed");
    link.shutdown(PATIENCE).await;
    let end = tokio::time::timeout(PATIENCE, subscription.next()).await.expect("in time");
    assert_eq!(end, None);
    let late = channel.subscribe(SubscribeOptions::default()).await;
    assert!(late.is_err(), "it would never yield anything");
    assert_eq!((manager.stats().subscribed, manager.stats().subscribers), (0, 0));
}

#[tokio::test]
async fn a_publisher_that_is_shut_down_under_load_takes_leave() {
    let (stack, namespace) = (shared().await, namespace());
    let port = stack.redis().master().port();
    let (leaving, subscriber) = (manager(port, &namespace).await, manager(port, &namespace).await);
    let channel = subscriber.channel::<u64>("n").expect("a good name");
    let options = SubscribeOptions { capacity: 1_000_000, ..SubscribeOptions::default() };
    let mut subscription = channel.subscribe(options).await.expect("subscribed");
    let load = (0..8).map(|_| {
        let out = leaving.channel::<u64>("n").expect("a good name");
        tokio::spawn(async move {
            let mut published = 0;
            while out.publish(&1).await.is_ok() {
                published += 1;
            }
            published
        })
    });
    let load: Vec<_> = load.collect();
    wait_for("under load", PATIENCE, async || leaving.stats().published > 100).await;
    leaving.shutdown(PATIENCE).await;
    let mut published = 0;
    for one in load {
        published += one.await.expect("no panic");
    }
    // Longer than it takes to miss somebody who did not take leave.
    let (mut received, mut others) = (0, Vec::new());
    while let Ok(event) = tokio::time::timeout(Duration::from_secs(2), subscription.next()).await {
        match event {
            Some(Event::Message(_)) => received += 1,
            other => others.push(other),
        }
    }
    assert_eq!(received, published);
    assert_eq!(others, [], "no gap");
}

#[tokio::test]
async fn the_status_says_that_nothing_can_be_received() {
    let acl = "user app on >pass ~* &* +@all\n";
    let options = RedisOptions { acl: Some(acl.into()), ..RedisOptions::default() };
    let stack = Stack::builder().redis(options).start().await.expect("Redis starts");
    let master = stack.redis().master();
    let config = redis_link::Config {
        username: Some("app".into()),
        password: Some("pass".into()),
        ..link_config(master.port(), &namespace())
    };
    let bus = RedisBus::new(connected(config).await).expect("a runtime");
    let manager = quick().build(Deps::over(bus)).expect("good settings");
    let channel = manager.channel::<u64>("n").expect("a good name");
    let _subscription = channel.subscribe(SubscribeOptions::default()).await.expect("subscribed");
    assert!(manager.status().connected);
    // Redis closes the connection of a subscriber that has lost the right; publishing goes on.
    master.redis_command(&["ACL", "SETUSER", "app", "resetchannels", "&*:p:other"]).await.expect("set");
    wait_for("told", PATIENCE, async || {
        let status = manager.status();
        !status.connected && status.reason.is_some_and(|reason| reason.contains("refuses 1"))
    })
    .await;
    manager.channel::<u64>("other").expect("a good name").publish(&1).await.expect("published");
    master.redis_command(&["ACL", "SETUSER", "app", "allchannels"]).await.expect("set");
    wait_for("well again", PATIENCE, async || manager.status().connected).await;
}
