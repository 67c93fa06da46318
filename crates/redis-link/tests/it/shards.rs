//! Sharded channels: on every layout, while slots move, and while masters fail. The other channels notice nothing.

use crate::support::{
    PATIENCE, calm_cluster, config, config_cluster, config_for, connected, deps, everywhere, own, shared,
    soon,
};
use local_stack::{RedisOptions, Server, wait_for};
use redis_link::{Channel, Config, Error, RedisLink, SubscribeOptions, Subscription, SubscriptionEvent};
use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

/// The first of three masters serves the first third of the slots.
const THIRD: u16 = 16_384 / 3;

async fn next(subscription: &mut Subscription) -> SubscriptionEvent {
    tokio::time::timeout(PATIENCE, subscription.next()).await.expect("in time").expect("not ended")
}

fn channels(link: &RedisLink, count: usize) -> Vec<Channel> {
    let name = |n| link.keys().sharded_channel_in("s", &format!("c{n}")).expect("a good name");
    (0..count).map(name).collect()
}

async fn publish(link: &RedisLink, channel: &Channel, text: &str) -> u64 {
    let generation = link.ready(soon()).await.expect("connected");
    generation.spublish(channel, text, soon()).await.expect("published")
}

/// The next message's channel and text; an event of another kind is a failure.
async fn heard(subscription: &mut Subscription) -> (String, String) {
    match next(subscription).await {
        SubscriptionEvent::Message { channel, pattern: false, payload } => {
            (channel, String::from_utf8_lossy(&payload).into_owned())
        }
        other => panic!("{other:?}"),
    }
}

async fn subscribed(link: &RedisLink, channels: &[Channel]) -> Subscription {
    link.subscribe(channels, SubscribeOptions::default(), soon()).await.expect("subscribed")
}

fn set(channels: &[Channel]) -> HashSet<Channel> {
    channels.iter().cloned().collect()
}

#[tokio::test]
async fn each_sharded_channel_brings_what_is_published_on_it_and_no_plain_one() {
    for ground in everywhere().await {
        let link = connected(ground.config()).await;
        let (all, plain) = (channels(&link, 40), link.keys().channel_in("s", "c0").expect("a good name"));
        let mut subscription = subscribed(&link, &all).await;
        let generation = link.ready(soon()).await.expect("connected");
        generation.publish(&plain, "plain", soon()).await.expect("published");
        for (n, channel) in all.iter().enumerate() {
            assert_eq!(publish(&link, channel, &n.to_string()).await, 1, "confirmed, and to nobody else");
            assert_eq!(heard(&mut subscription).await, (channel.as_str().to_owned(), n.to_string()));
        }
        let handle = subscription.handle();
        handle.remove(&all[1..], soon()).await.expect("confirmed");
        for channel in &all[1..] {
            assert_eq!(publish(&link, channel, "nobody").await, 0);
        }
        assert_eq!(publish(&link, &all[0], "one").await, 1);
        assert_eq!(heard(&mut subscription).await.1, "one");
        // By both names, each brings its own.
        handle.add(std::slice::from_ref(&plain), soon()).await.expect("confirmed");
        generation.publish(&plain, "plain", soon()).await.expect("published");
        assert_eq!(heard(&mut subscription).await.1, "plain");
        handle.remove(&[all[0].clone(), plain], soon()).await.expect("confirmed");
        assert_eq!(publish(&link, &all[0], "nobody").await, 0);
    }
}

#[tokio::test]
async fn many_sharded_channels_at_once() {
    for ground in everywhere().await {
        let link = connected(ground.config()).await;
        let all = channels(&link, 1300);
        let mut subscription = subscribed(&link, &all).await;
        for channel in &all {
            assert_eq!(publish(&link, channel, "x").await, 1);
        }
        let mut from = HashSet::new();
        for _ in &all {
            from.insert(heard(&mut subscription).await.0);
        }
        assert_eq!(from.len(), all.len());
    }
}

#[tokio::test]
async fn a_single_server_that_fails_takes_them_down_and_brings_them_back() {
    let stack = own(RedisOptions::default()).await;
    let master = stack.redis().master();
    let link = connected(config(master)).await;
    let all = channels(&link, 3);
    let mut subscription = subscribed(&link, &all).await;
    master.kill().expect("killed");
    let lost = [next(&mut subscription).await, next(&mut subscription).await];
    let shards = lost.iter().find_map(|event| match event {
        SubscriptionEvent::ShardsLost { channels, .. } => Some(set(channels)),
        _ => None,
    });
    assert_eq!(shards, Some(set(&all)), "{lost:?}");
    master.restart_empty().await.expect("restarted");
    let mut back = HashSet::new();
    while back.len() < all.len() {
        match next(&mut subscription).await {
            SubscriptionEvent::ShardsRestored { channels } => back.extend(channels),
            SubscriptionEvent::Restored => {}
            other => panic!("{other:?}"),
        }
    }
    publish(&link, &all[0], "back").await;
    while !matches!(next(&mut subscription).await, SubscriptionEvent::Message { .. }) {}
}

/// Reads until the loss and the return of a channel were told; of which others, too.
async fn lost_and_back(subscription: &mut Subscription, channel: &Channel) -> (HashSet<Channel>, String) {
    let (mut all, mut why, mut back) = (HashSet::new(), String::new(), false);
    while !back {
        match next(subscription).await {
            SubscriptionEvent::ShardsLost { channels, cause } => {
                why = cause;
                all.extend(channels);
            }
            SubscriptionEvent::ShardsRestored { channels } => {
                assert!(set(&channels).is_subset(&all), "only what was lost comes back");
                back |= channels.contains(channel);
            }
            other => panic!("{other:?}"),
        }
    }
    (all, why)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_takes_its_channels_along_and_the_others_notice_nothing() {
    let stack = own(calm_cluster()).await;
    let redis = stack.redis();
    let link = connected(config_cluster(&stack)).await;
    let all = channels(&link, 60);
    let mut subscription = subscribed(&link, &all).await;
    let moving = all.iter().find(|channel| channel.slot() < THIRD).expect("many are").clone();
    let same_slot: HashSet<_> = all.iter().filter(|c| c.slot() == moving.slot()).cloned().collect();
    let masters = redis.masters();
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        redis.move_slot(moving.slot(), &masters[from], &masters[to]).await.expect("moved");
        let moved = Instant::now();
        let (told, why) = lost_and_back(&mut subscription, &moving).await;
        eprintln!("subscribed at the new master {:?} after all nodes knew ({why})", moved.elapsed());
        assert_eq!(told, same_slot);
        for (n, channel) in all.iter().enumerate() {
            assert_eq!(publish(&link, channel, &n.to_string()).await, 1, "by one connection, at one master");
            assert_eq!(heard(&mut subscription).await, (channel.as_str().to_owned(), n.to_string()));
        }
    }
}

/// Moves a slot away and back in one go, faster than anybody looks.
async fn there_and_back(from: &Server, to: &Server, slot: u16) {
    let id = async |server: &Server| {
        let id = server.redis_command(&["CLUSTER", "MYID"]).await.expect("told");
        id.as_text().expect("text").to_owned()
    };
    let (here, there) = (id(from).await, id(to).await);
    let slot = slot.to_string();
    for owner in [&there, &here] {
        from.redis_command(&["CLUSTER", "SETSLOT", &slot, "NODE", owner]).await.expect("set");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_the_server_forgot_in_silence_is_found_missing() {
    let stack = own(calm_cluster()).await;
    let redis = stack.redis();
    // The layout is looked at so rarely that it cannot tell; the connections are, as often.
    let link = connected(Config { probe_interval: Duration::from_secs(2), ..config_cluster(&stack) }).await;
    let all = channels(&link, 60);
    let mut subscription = subscribed(&link, &all).await;
    let forgotten = all.iter().find(|channel| channel.slot() < THIRD).expect("many are").clone();
    there_and_back(&redis.masters()[0], &redis.masters()[1], forgotten.slot()).await;
    let began = Instant::now();
    let (told, why) = lost_and_back(&mut subscription, &forgotten).await;
    eprintln!("found missing after {:?} ({why})", began.elapsed());
    assert!(told.iter().all(|channel| channel.slot() == forgotten.slot()), "{told:?}");
    for channel in &all {
        assert_eq!(publish(&link, channel, "x").await, 1);
        assert_eq!(heard(&mut subscription).await.0, channel.as_str());
    }
}

async fn fail_over(kill: bool) {
    let stack = own(RedisOptions::cluster()).await;
    let redis = stack.redis();
    let link = connected(config_cluster(&stack)).await;
    let all = channels(&link, 60);
    let lost = &redis.masters()[0];
    let replica = redis.replica_of(lost).expect("it has one");
    let its: HashSet<_> = all.iter().filter(|channel| channel.slot() <= THIRD).cloned().collect();
    let one = its.iter().next().expect("many are").clone();
    let mut subscription = subscribed(&link, &all).await;
    let began = Instant::now();
    if kill {
        lost.kill().expect("killed");
    } else {
        redis.failover_to(replica).await.expect("done");
    }
    let mut told = HashSet::new();
    let mut back = HashSet::new();
    let mut shared = 0;
    while !back.contains(&one) || back.len() < told.len() {
        match next(&mut subscription).await {
            SubscriptionEvent::ShardsLost { channels, .. } => {
                back.retain(|channel| !channels.contains(channel));
                told.extend(channels);
            }
            SubscriptionEvent::ShardsRestored { channels } => back.extend(channels),
            // The names' and patterns' own connection may have been to that master.
            SubscriptionEvent::Lost { .. } | SubscriptionEvent::Restored => shared += 1,
            other => panic!("{other:?}"),
        }
    }
    eprintln!(
        "all {} channels back after {:?}; {shared} events of the shared connection",
        back.len(),
        began.elapsed()
    );
    assert_eq!(told, its, "of the other masters' channels nothing is told");
    wait_for("every slot to be served", PATIENCE, async || link.health_check(soon()).await.is_ok()).await;
    for channel in &all {
        publish(&link, channel, "x").await;
        while !matches!(next(&mut subscription).await, SubscriptionEvent::Message { channel: on, .. } if on == channel.as_str())
        {
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_killed_is_followed_by_its_replica_and_the_others_notice_nothing() {
    fail_over(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_gives_way_to_its_replica_takes_only_its_own_channels_along() {
    fail_over(false).await;
}

#[tokio::test]
async fn a_right_to_a_sharded_channel_that_is_taken_away_and_given_back() {
    let acl = "user app on >pass ~* &*:s:c0 &*:s:c2 +@all\nuser other on >pass ~* &* +@all\n";
    let stack = own(RedisOptions { acl: Some(acl.into()), ..RedisOptions::default() }).await;
    let master = stack.redis().master();
    let user = |name: &str| Config {
        username: Some(name.to_owned()),
        password: Some("pass".into()),
        ..config(master)
    };
    let link = connected(user("app")).await;
    let other = connected(Config { namespace: link.config().namespace.clone(), ..user("other") }).await;
    let all = channels(&link, 3);
    let mut subscription = subscribed(&link, &[all[0].clone(), all[2].clone()]).await;
    let handle = subscription.handle();
    let error = handle.add(&all[1..2], soon()).await.expect_err("refused");
    assert!(matches!(&error, Error::Acl { .. }), "{error:?}");
    // No connection was lost over it.
    publish(&other, &all[0], "x").await;
    assert_eq!(heard(&mut subscription).await.0, all[0].as_str());
    // Redis hangs up on whoever has lost a right to what it is subscribed to.
    master.redis_command(&["ACL", "SETUSER", "app", "resetchannels", "&*:s:c2"]).await.expect("set");
    wait_for("left out", PATIENCE, async || handle.trouble().is_some_and(|why| why.contains("refuses 1")))
        .await;
    master.redis_command(&["ACL", "SETUSER", "app", "allchannels"]).await.expect("set");
    wait_for("whole again", PATIENCE, async || handle.is_connected()).await;
    assert_eq!(publish(&other, &all[0], "x").await, 1);
}

#[tokio::test]
async fn a_server_that_knows_no_sharded_channels_is_named() {
    let stack = shared().await;
    let port =
        crate::old::relay(stack.redis().master().port(), "redis_version:7.0", "redis_version:6.2").await;
    let link = config_for(port).connect(deps()).await.expect("6.2 is enough");
    let generation = link.ready(soon()).await.expect("connected");
    let all = channels(&link, 1);
    let plain = link.keys().channel("x").expect("a good name");
    let mut subscription = subscribed(&link, std::slice::from_ref(&plain)).await;
    for error in [
        generation.spublish(&all[0], "x", soon()).await.expect_err("refused"),
        subscription.handle().add(&all, soon()).await.expect_err("refused"),
    ] {
        assert!(
            matches!(&error, Error::Unsupported { minimum: "7.0", .. }) && !error.is_retryable(),
            "{error:?}"
        );
        assert!(error.to_string().contains("7.0") && error.to_string().contains("6.2"), "{error}");
    }
    generation.publish(&plain, "x", soon()).await.expect("published");
    assert_eq!(heard(&mut subscription).await.1, "x");
}

#[tokio::test]
async fn connections_to_masters_are_opened_when_needed_and_ended_when_not() {
    let stack = own(calm_cluster()).await;
    let link = connected(config_cluster(&stack)).await;
    let master = &stack.redis().masters()[0];
    let clients = async || {
        let list = master.redis_command(&["CLIENT", "LIST", "TYPE", "normal"]).await.expect("listed");
        let shards = master.redis_command(&["CLIENT", "LIST", "TYPE", "pubsub"]).await.expect("listed");
        [list, shards].map(|list| list.as_text().expect("text").lines().count())
    };
    let subscription = subscribed(&link, &[]).await;
    let handle = subscription.handle();
    wait_for("the shared connection", PATIENCE, async || handle.is_connected()).await;
    let before = clients().await;
    let its: Vec<_> = channels(&link, 60).into_iter().filter(|channel| channel.slot() < THIRD).collect();
    handle.add(&its, soon()).await.expect("confirmed");
    assert_eq!(clients().await, [before[0], before[1] + 1], "one for all of them");
    handle.remove(&its, soon()).await.expect("confirmed");
    wait_for("it to be closed", PATIENCE, async || clients().await == before).await;
}
