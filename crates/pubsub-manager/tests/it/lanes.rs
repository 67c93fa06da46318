//! The lanes of the bus over Redis, the rights that they need, and subscribing while the server is away.

use crate::support::{
    PATIENCE, connected, link, link_config, manager, namespace, next, own, quick, shared, soon,
};
use bytes::Bytes;
use local_stack::{RedisOptions, Stack, wait_for};
use pubsub_manager::{
    Bus, BusEvent, BusStream, Deps, Error, Event, Filter, Lane, PubSubManager, RedisBus, Subject,
    SubscribeOptions,
};
use resilience::Deadline;
use std::{error::Error as _, time::Duration};

async fn bus(port: u16, namespace: &str) -> RedisBus {
    RedisBus::new(link(port, namespace).await).expect("a runtime")
}

fn exact(lane: Lane, name: &str) -> Filter {
    Filter::exact(lane, &Subject::new(name).expect("a good name"))
}

async fn publish(bus: &RedisBus, lane: Lane, name: &str, text: &'static str) -> Option<u64> {
    let subject = Subject::new(name).expect("a good name");
    bus.publish(lane, &subject, Bytes::from_static(text.as_bytes()), soon()).await.expect("published")
}

async fn heard(stream: &mut Box<dyn BusStream>) -> (String, String) {
    let event = tokio::time::timeout(PATIENCE, stream.next()).await.expect("in time");
    match event {
        Some(BusEvent::Frame { subject, frame }) => {
            (subject.to_string(), String::from_utf8_lossy(&frame).into_owned())
        }
        other => panic!("{other:?}"),
    }
}

async fn silent(stream: &mut Box<dyn BusStream>) {
    let more = tokio::time::timeout(Duration::from_millis(300), stream.next()).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test]
async fn the_lanes_of_one_name_are_three_channels() {
    let (port, namespace) = (shared().await.redis().master().port(), namespace());
    let (one, two) = (bus(port, &namespace).await, bus(port, &namespace).await);
    let lanes = [Lane::Plain, Lane::Sharded, Lane::Raw];
    let mut streams = Vec::new();
    for lane in lanes {
        streams.push(two.subscribe(&exact(lane, "a.b"), soon()).await.expect("subscribed"));
    }
    for (lane, text) in lanes.into_iter().zip(["plain", "sharded", "raw"]) {
        assert_eq!(publish(&one, lane, "a.b", text).await, Some(1));
    }
    for (stream, text) in streams.iter_mut().zip(["plain", "sharded", "raw"]) {
        assert_eq!(heard(stream).await, ("a.b".to_owned(), text.to_owned()));
        silent(stream).await;
    }
    drop(streams);
    wait_for("the server forgets them", PATIENCE, async || {
        let mut left = 0;
        for lane in lanes {
            left += publish(&one, lane, "a.b", "x").await.unwrap_or(1);
        }
        left == 0
    })
    .await;
}

#[tokio::test]
async fn foreign_peers_speak_and_hear_raw_channels() {
    let stack = shared().await;
    let (master, namespace) = (stack.redis().master(), namespace());
    let bus = bus(master.port(), &namespace).await;
    let star = Filter::new("a.*").and_then(|filter| filter.over(Lane::Raw)).expect("a good pattern");
    let rest = Filter::new("a.>").and_then(|filter| filter.over(Lane::Raw)).expect("a good pattern");
    let mut exact = bus.subscribe(&exact(Lane::Raw, "a.b"), soon()).await.expect("subscribed");
    let mut star = bus.subscribe(&star, soon()).await.expect("subscribed");
    let mut rest = bus.subscribe(&rest, soon()).await.expect("subscribed");
    let channel = format!("{namespace}:r:a.b");
    for n in 0..10 {
        master.redis_command(&["PUBLISH", &channel, &n.to_string()]).await.expect("published");
        for stream in [&mut exact, &mut star, &mut rest] {
            assert_eq!(heard(stream).await, ("a.b".to_owned(), n.to_string()), "once, though three want it");
        }
    }
    for stream in [&mut exact, &mut star, &mut rest] {
        silent(stream).await;
    }
}

#[tokio::test]
async fn a_sharded_channel_is_typed_and_counted_like_a_plain_one() {
    let (port, namespace) = (shared().await.redis().master().port(), namespace());
    let (one, two) = (manager(port, &namespace).await, manager(port, &namespace).await);
    let out = one.sharded_channel::<u64>("n").expect("a good name");
    let into = two.sharded_channel::<u64>("n").expect("a good name");
    let mut subscription = into.subscribe(SubscribeOptions::default()).await.expect("subscribed");
    for n in 1..=50 {
        assert_eq!(out.publish(&n).await.expect("published").receivers, Some(1));
        let Event::Message(message) = next(&mut subscription).await else { panic!("no message") };
        assert_eq!((message.value, message.sequence), (n, n));
    }
    let pattern = Filter::new("n.*").and_then(|filter| filter.over(Lane::Sharded));
    assert!(matches!(pattern, Err(Error::InvalidSubject { .. })));
}

/// Under the rights that we ship.
async fn under_shipped_rights() -> (Stack, String, PubSubManager) {
    let namespace = "database-services".to_owned();
    let acl = include_str!("../../../../deploy/redis/users.acl").replace("CHANGE_ME", "pass");
    let options = RedisOptions { acl: Some(acl), ..RedisOptions::default() };
    let stack = Stack::builder().redis(options).start().await.expect("Redis starts");
    let config = redis_link::Config {
        username: Some("database-services".into()),
        password: Some("pass".into()),
        ..link_config(stack.redis().master().port(), &namespace)
    };
    let bus = RedisBus::new(connected(config).await).expect("a runtime");
    let manager = quick().build(Deps::over(bus)).expect("good settings");
    (stack, namespace, manager)
}

#[tokio::test]
async fn a_pattern_under_the_shipped_rights_says_which_right_it_needs_and_is_mended_by_it() {
    let (stack, _namespace, manager) = under_shipped_rights().await;
    let options = SubscribeOptions::default();
    for sharded in [false, true] {
        let channel = if sharded { manager.sharded_channel::<u64>("n") } else { manager.channel("n") };
        let channel = channel.expect("a good name");
        let mut subscription = channel.subscribe(options.clone()).await.expect("names need no more");
        channel.publish(&1).await.expect("published");
        assert!(matches!(next(&mut subscription).await, Event::Message(_)));
    }
    for pattern in ["orders.*", "users.>", "*.created"] {
        let refused = manager.subscribe_pattern::<u64>(pattern, options.clone()).await.expect_err("refused");
        let text = refused.to_string();
        eprintln!("{text} ({})", refused.source().expect("the server's words"));
        let Error::Forbidden { right, .. } = refused else { panic!("{refused:?}") };
        let glob = pattern.replace('>', "*");
        assert_eq!(right, format!("&database-services:p:{glob}"));
        assert!(text.contains(&right) && text.contains("ACL SETUSER"), "{text}");
        let mend = ["ACL", "SETUSER", "database-services", &right];
        stack.redis().master().redis_command(&mend).await.expect("set");
        let mut subscription =
            manager.subscribe_pattern::<u64>(pattern, options.clone()).await.expect("with that right");
        let name = pattern.replace(['*', '>'], "x");
        manager.channel::<u64>(&name).expect("a good name").publish(&7).await.expect("published");
        assert!(matches!(next(&mut subscription).await, Event::Message(message) if message.value == 7));
    }
}

#[tokio::test]
async fn subscribing_while_the_server_is_away_waits_for_it_or_fails_at_the_deadline() {
    let (stack, namespace) = (own().await, namespace());
    let master = stack.redis().master();
    let manager = manager(master.port(), &namespace).await;
    master.kill().expect("killed");
    wait_for("noticed", PATIENCE, async || !manager.status().connected).await;
    let names = ["plain", "sharded"];
    let channel = |name: &str| {
        let channel =
            if name == "sharded" { manager.sharded_channel::<u64>(name) } else { manager.channel(name) };
        channel.expect("a good name")
    };
    let at_deadline = SubscribeOptions {
        deadline: Some(Deadline::after(Duration::from_millis(300))),
        ..SubscribeOptions::default()
    };
    for name in names {
        let late = channel(name).subscribe(at_deadline.clone()).await.expect_err("nobody there");
        assert!(matches!(late, Error::Unavailable { .. } | Error::Timeout { .. }), "{late:?}");
    }
    let late = manager.subscribe_pattern::<u64>("p.*", at_deadline).await.expect_err("nobody there");
    assert!(matches!(late, Error::Unavailable { .. } | Error::Timeout { .. }), "{late:?}");
    assert_eq!(manager.stats().subscribed, 0, "nothing stays behind");
    let patient = SubscribeOptions { deadline: Some(soon()), ..SubscribeOptions::default() };
    let (plain, sharded) = (channel("plain"), channel("sharded"));
    let waiting = async {
        tokio::join!(
            plain.subscribe(patient.clone()),
            sharded.subscribe(patient.clone()),
            manager.subscribe_pattern::<u64>("p.*", patient)
        )
    };
    let back = async {
        // They wait by now, and it does not matter if they do not.
        tokio::time::sleep(Duration::from_millis(300)).await;
        master.restart().await.expect("restarted");
    };
    let ((plain, sharded, pattern), ()) = tokio::join!(waiting, back);
    wait_for("publishing works", PATIENCE, async || manager.health_check(soon()).await.is_ok()).await;
    for (name, mut subscription) in
        ["plain", "sharded", "p.x"].into_iter().zip([plain, sharded, pattern].map(|s| s.expect("in time")))
    {
        channel(name).publish(&1).await.expect("published");
        let event = next(&mut subscription).await;
        assert!(matches!(&event, Event::Message(message) if message.value == 1), "{name}: {event:?}");
    }
}

#[tokio::test]
async fn patterns_that_are_one_to_the_server_end_on_their_own() {
    let (port, namespace) = (shared().await.redis().master().port(), namespace());
    let (one, two) = (bus(port, &namespace).await, bus(port, &namespace).await);
    let [first, second] = ["a.*", "a.>"].map(|pattern| Filter::new(pattern).expect("a good pattern"));
    let first = two.subscribe(&first, soon()).await.expect("subscribed");
    let mut second = two.subscribe(&second, soon()).await.expect("subscribed");
    drop(first);
    // While the first is taken back, and after that.
    for _ in 0..20 {
        publish(&one, Lane::Plain, "a.b", "x").await;
        assert_eq!(heard(&mut second).await, ("a.b".to_owned(), "x".to_owned()));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
