//! Connections that are cut, stall or are refused: every call ends by its deadline, and says what it knows.

use crate::support::{PATIENCE, config, config_for, connected, own, soon, within};
use futures_util::future::join_all;
use local_stack::{FaultProxy, RedisOptions, wait_for};
use redis_link::{Command, Config, Error, Generation, RedisLink, SubscribeOptions, SubscriptionEvent};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

async fn through(proxy: &FaultProxy) -> RedisLink {
    connected(config_for(proxy.addr().port())).await
}

#[tokio::test]
async fn a_cut_ends_what_is_in_flight_as_unknown_and_the_next_generation_works() {
    let stack = own(RedisOptions::default()).await;
    let proxy = FaultProxy::start(stack.redis().master().target()).await.expect("a proxy");
    let link = through(&proxy).await;
    let generation = link.ready(soon()).await.expect("connected");
    let key = link.keys().lock("a", "n").expect("a good key");
    proxy.black_hole(true);
    let stuck = {
        let generation = Arc::clone(&generation);
        let increment = Command::new("INCR").arg(&key);
        tokio::spawn(async move { generation.call(increment, soon()).await })
    };
    wait_for("it is in flight", PATIENCE, async || generation.in_flight() == 1).await;
    proxy.cut();
    proxy.heal();
    let error = stuck.await.expect("no panic").expect_err("cut");
    assert!(matches!(error, Error::Unknown { operation: "INCR", .. }), "{error}");
    assert!(error.outcome_unknown() && error.is_retryable());
    generation.died().await;
    let error = generation.get(&key, soon()).await.expect_err("dead");
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(!error.outcome_unknown());
    let next = link.ready(soon()).await.expect("connected again");
    assert!(next.id() > generation.id());
    assert_eq!(next.epoch(), generation.epoch(), "a lost connection alone is no loss of data");
    next.ping(soon()).await.expect("it works");
    assert!(link.status().connection_errors >= 1);
}

#[tokio::test]
async fn a_black_hole_is_left_and_every_call_ends_in_time() {
    let stack = own(RedisOptions::default()).await;
    let proxy = FaultProxy::start(stack.redis().master().target()).await.expect("a proxy");
    let link = through(&proxy).await;
    let generation = link.ready(soon()).await.expect("connected");
    let key = link.keys().lock("a", "n").expect("a good key");
    proxy.black_hole(true);
    let started = Instant::now();
    let error = generation.get(&key, within(200)).await.expect_err("no answer");
    assert!(matches!(error, Error::Timeout { sent: true, .. } | Error::Unknown { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    // Nobody's deadline is near: the probe ends it.
    let error = generation.get(&key, soon()).await.expect_err("no answer");
    assert!(matches!(error, Error::Unknown { .. } | Error::Unavailable { .. }), "{error}");
    assert!(!generation.is_alive());
    proxy.heal();
    let next = link.ready(soon()).await.expect("connected again");
    next.get(&key, soon()).await.expect("it works");
}

#[tokio::test]
async fn a_stopped_server_costs_each_call_its_deadline_and_no_more() {
    let stack = own(RedisOptions::default()).await;
    let master = stack.redis().master();
    let link = connected(config(master)).await;
    let key = link.keys().lock("a", "n").expect("a good key");
    master.pause().expect("paused");
    let calls = (0..200).map(|i: u64| {
        let (link, key) = (link.clone(), key.clone());
        tokio::spawn(async move {
            let deadline = within(50 + i);
            let started = Instant::now();
            let outcome = match link.ready(deadline).await {
                Ok(generation) => generation.get(&key, deadline).await,
                Err(error) => Err(error),
            };
            (outcome, started.elapsed())
        })
    });
    for call in calls.collect::<Vec<_>>() {
        let (outcome, took) = call.await.expect("no panic");
        assert!(outcome.is_err());
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
    master.resume().expect("resumed");
    wait_for("it answers again", PATIENCE, async || {
        let Some(generation) = link.generation() else { return false };
        generation.get(&key, within(500)).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn refused_connections_are_tried_again_until_they_are_not() {
    let stack = own(RedisOptions::default()).await;
    let proxy = FaultProxy::start(stack.redis().master().target()).await.expect("a proxy");
    let link = through(&proxy).await;
    let first = link.ready(soon()).await.expect("connected");
    proxy.refuse(true);
    proxy.cut();
    first.died().await;
    wait_for("some attempts", PATIENCE, async || link.status().connection_errors >= 4).await;
    let error = link.ready(within(50)).await.expect_err("refused");
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    proxy.heal();
    let healed = Instant::now();
    link.ready(soon()).await.expect("connected again");
    assert!(
        healed.elapsed() < Duration::from_secs(5),
        "back-off is at most a second: {:?}",
        healed.elapsed()
    );
}

#[tokio::test]
async fn writes_cut_at_random_are_done_or_said_to_be_unknown() {
    let stack = own(RedisOptions::default()).await;
    let proxy = FaultProxy::start(stack.redis().master().target()).await.expect("a proxy");
    let link = through(&proxy).await;
    let key = link.keys().lock("a", "n").expect("a good key");
    let (mut done, mut unknown) = (0_i64, 0_i64);
    for round in 0..10_u64 {
        let generation = link.ready(soon()).await.expect("connected");
        let calls = (0..100).map(|_| generation.call(Command::new("INCR").arg(&key), soon())).map(Box::pin);
        let cut = async {
            wait_for("some of them", PATIENCE, async || generation.in_flight() > 0 || !generation.is_alive())
                .await;
            proxy.reset_after(round * 400);
        };
        let (outcomes, ()) = tokio::join!(join_all(calls), cut);
        for outcome in outcomes {
            match outcome {
                Ok(_) => done += 1,
                Err(error) if error.outcome_unknown() => unknown += 1,
                Err(error) => assert!(matches!(error, Error::Unavailable { .. }), "{error}"),
            }
        }
        proxy.cut();
        proxy.heal();
        generation.died().await;
    }
    let generation = link.ready(soon()).await.expect("connected");
    let value = generation.get(&key, soon()).await.expect("got");
    let value = value.map_or(0, |text| String::from_utf8_lossy(&text).parse().expect("a number"));
    assert!((done..=done + unknown).contains(&value), "{value} of {done} done, {unknown} unknown");
}

#[tokio::test]
async fn a_killed_client_connection_is_a_new_generation() {
    let stack = own(RedisOptions::default()).await;
    let master = stack.redis().master();
    let link = connected(Config { pool_size: 3, ..config(master) }).await;
    let first = link.ready(soon()).await.expect("connected");
    master.redis_command(&["CLIENT", "KILL", "TYPE", "normal"]).await.expect("killed");
    first.died().await;
    let second = link.ready(soon()).await.expect("connected again");
    assert_eq!(second.epoch(), first.epoch());
}

/// Stays for ten probes.
async fn stays_alive(generation: &Generation) {
    let died = tokio::time::timeout(Duration::from_secs(1), generation.died()).await;
    assert!(died.is_err(), "it answers, so it is alive");
}

#[tokio::test]
async fn a_redis_that_cannot_save_still_serves_reads_and_subscriptions() {
    let options =
        RedisOptions { config: vec!["save 3600 1".into()], persistent: false, ..RedisOptions::default() };
    let stack = own(options).await;
    let master = stack.redis().master();
    let link = connected(config(master)).await;
    let generation = link.ready(soon()).await.expect("connected");
    let key = link.keys().lock("a", "n").expect("a good key");
    generation.set(&key, "x", None, soon()).await.expect("written");
    let channel = link.keys().channel("x").expect("a good name");
    let mut subscription = link
        .subscribe(std::slice::from_ref(&channel), SubscribeOptions::default(), soon())
        .await
        .expect("subscribed");
    std::fs::remove_dir_all(stack.directory().expect("ours")).expect("deleted");
    // Its socket is gone as well, its port is not.
    generation.call(Command::new("BGSAVE"), soon()).await.expect("begun");
    wait_for("the save has failed", PATIENCE, async || {
        matches!(generation.ping(soon()).await, Err(Error::Server { code, .. }) if code == "MISCONF")
    })
    .await;
    stays_alive(&generation).await;
    assert_eq!(generation.get(&key, soon()).await.expect("read").as_deref(), Some(&b"x"[..]));
    let refused = generation.set(&key, "y", None, soon()).await.expect_err("refused");
    assert!(matches!(&refused, Error::Server { code, .. } if code == "MISCONF"), "{refused}");
    // Also what is subscribed now.
    let other = link.keys().channel("y").expect("a good name");
    subscription.handle().add(std::slice::from_ref(&other), soon()).await.expect("subscribed");
    for channel in [&channel, &other] {
        generation.publish(channel, "news", soon()).await.expect("published");
        let event = tokio::time::timeout(PATIENCE, subscription.next()).await.expect("in time");
        assert!(matches!(event, Some(SubscriptionEvent::Message { .. })), "{event:?}");
    }
}

#[tokio::test]
async fn a_busy_redis_is_waited_for() {
    let options = RedisOptions { config: vec!["busy-reply-threshold 50".into()], ..RedisOptions::default() };
    let stack = own(options).await;
    let master = stack.redis().master();
    let link = connected(config(master)).await;
    let generation = link.ready(soon()).await.expect("connected");
    let mut subscription =
        link.subscribe(&[], SubscribeOptions::default(), soon()).await.expect("subscribed");
    let channel = link.keys().channel("x").expect("a good name");
    let busy = master.redis_command(&["EVAL", "while true do end", "0"]);
    let meanwhile = async {
        wait_for("busy", PATIENCE, async || {
            matches!(generation.ping(soon()).await, Err(Error::Server { code, .. }) if code == "BUSY")
        })
        .await;
        stays_alive(&generation).await;
        let handle = subscription.handle();
        let added = handle.add(std::slice::from_ref(&channel), soon());
        let killed = async { master.redis_command(&["SCRIPT", "KILL"]).await };
        let (added, killed) = tokio::join!(added, killed);
        killed.expect("killed");
        added.expect("not refused for good");
    };
    let (_killed, ()) = tokio::join!(busy, meanwhile);
    assert_eq!(generation.publish(&channel, "news", soon()).await.expect("published"), 1);
    while !matches!(subscription.next().await.expect("not ended"), SubscriptionEvent::Message { .. }) {}
}

#[tokio::test]
async fn an_overloaded_connection_is_replaced() {
    let stack = own(RedisOptions::default()).await;
    let master = stack.redis().master();
    let settings =
        Config { max_queued: 10, pool_size: 1, probe_interval: Duration::from_secs(3600), ..config(master) };
    let link = connected(settings).await;
    let generation = link.ready(soon()).await.expect("connected");
    let key = link.keys().lock("a", "n").expect("a good key");
    master.pause().expect("paused");
    let outcomes = join_all((0..50).map(|_| Box::pin(generation.get(&key, within(300))))).await;
    assert!(outcomes.iter().any(|outcome| matches!(outcome, Err(Error::Overloaded))), "{outcomes:?}");
    master.resume().expect("resumed");
    assert!(!generation.is_alive(), "the driver would send no more on it");
    let next = link.ready(soon()).await.expect("connected again");
    next.get(&key, soon()).await.expect("it works");
    assert!(link.status().last_error.is_some_and(|cause| cause.contains("queue was full")));
}
