//! Subscriptions: confirmed, restored after cuts, and never silent about a loss.

use crate::support::{PATIENCE, config, config_for, connected, everywhere, own, soon, within};
use local_stack::{FaultProxy, RedisOptions, wait_for};
use redis_link::{Channel, Config, Error, RedisLink, SubscribeOptions, Subscription, SubscriptionEvent};
use std::time::Duration;

async fn next(subscription: &mut Subscription) -> SubscriptionEvent {
    tokio::time::timeout(PATIENCE, subscription.next()).await.expect("in time").expect("not ended")
}

fn text(event: &SubscriptionEvent) -> &str {
    match event {
        SubscriptionEvent::Message { payload, .. } => std::str::from_utf8(payload).expect("text"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_published_after_subscribe_returned_arrives() {
    for ground in everywhere().await {
        let link = connected(ground.config()).await;
        let generation = link.ready(soon()).await.expect("connected");
        let created = link.keys().channel("orders.created").expect("a good name");
        for round in 0..50 {
            let mut subscription = link
                .subscribe(std::slice::from_ref(&created), SubscribeOptions::default(), soon())
                .await
                .expect("subscribed");
            let receivers = generation.publish(&created, round.to_string(), soon()).await.expect("published");
            assert!(receivers >= 1 || ground.is_cluster(), "confirmed means that the server knows");
            let mut event = next(&mut subscription).await;
            while ground.is_cluster() && text(&event) != round.to_string() {
                // Still on its way between the nodes when this subscription began.
                event = next(&mut subscription).await;
            }
            assert_eq!(text(&event), round.to_string());
            let SubscriptionEvent::Message { channel, pattern, .. } = &event else { panic!("{event:?}") };
            assert_eq!((link.keys().channel_name(channel), *pattern), (Some("orders.created"), false));
        }
    }
}

#[tokio::test]
async fn channels_and_patterns_come_and_go() {
    for ground in everywhere().await {
        let link = connected(ground.config()).await;
        let generation = link.ready(soon()).await.expect("connected");
        let created = link.keys().channel("orders.created").expect("a good name");
        let all = link.keys().channel_pattern("orders.*").expect("a good pattern");
        let mut subscription =
            link.subscribe(&[], SubscribeOptions::default(), soon()).await.expect("subscribed");
        let handle = subscription.handle();
        if ground.has_few_rights() {
            // Redis compares a pattern with the rights letter by letter, so a right to all channels of a namespace is
            // none to a pattern within it.
            let refused = handle.add(&[all], soon()).await.expect_err("refused");
            assert!(matches!(&refused, Error::Acl { command, .. } if command == "a channel"), "{refused:?}");
            continue;
        }
        let publish = async |text: &str, receivers: u64| {
            let counted = generation.publish(&created, text, soon()).await.expect("published");
            assert!(counted == receivers || ground.is_cluster(), "a node of a cluster counts its own");
        };
        if !ground.is_cluster() {
            // There it might still be on its way when somebody has come.
            publish("nobody", 0).await;
        }
        handle.add(&[created.clone(), all.clone()], soon()).await.expect("confirmed");
        assert_eq!(handle.channels(), 2);
        publish("two", 2).await;
        let kinds = [next(&mut subscription).await, next(&mut subscription).await].map(|event| match event {
            SubscriptionEvent::Message { pattern, .. } => pattern,
            other => panic!("{other:?}"),
        });
        assert_eq!(kinds, [false, true]);
        handle.remove(std::slice::from_ref(&created), soon()).await.expect("confirmed");
        publish("one", 1).await;
        assert_eq!(text(&next(&mut subscription).await), "one");
        handle.remove(&[all], soon()).await.expect("confirmed");
        publish("none", 0).await;
    }
}

#[tokio::test]
async fn many_channels_at_once_and_a_limit() {
    for ground in everywhere().await {
        let link = connected(ground.config()).await;
        let channels: Vec<_> =
            (0..1300).map(|i| link.keys().channel(&format!("c{i}")).expect("a good name")).collect();
        let options = SubscribeOptions { max_channels: 1300, ..SubscribeOptions::default() };
        let mut subscription = link.subscribe(&channels, options, soon()).await.expect("subscribed");
        let generation = link.ready(soon()).await.expect("connected");
        for channel in &channels {
            let receivers = generation.publish(channel, "x", soon()).await.expect("published");
            assert!(receivers == 1 || ground.is_cluster(), "a node of a cluster counts its own");
        }
        for _ in &channels {
            assert_eq!(text(&next(&mut subscription).await), "x");
        }
        let one_more = link.keys().channel("more").expect("a good name");
        let refused = subscription.handle().add(&[one_more], soon()).await;
        assert!(matches!(refused, Err(Error::Overloaded)));
    }
}

#[tokio::test]
async fn cuts_are_told_and_mended() {
    let stack = own(RedisOptions::default()).await;
    let proxy = FaultProxy::start(stack.redis().master().target()).await.expect("a proxy");
    let link = connected(config_for(proxy.addr().port())).await;
    let direct = connected(redis_link::Config {
        namespace: link.config().namespace.clone(),
        ..config(stack.redis().master())
    })
    .await;
    let channel = link.keys().channel("x").expect("a good name");
    let mut subscription = link
        .subscribe(std::slice::from_ref(&channel), SubscribeOptions::default(), soon())
        .await
        .expect("subscribed");
    for round in 0..5 {
        proxy.cut();
        assert!(matches!(next(&mut subscription).await, SubscriptionEvent::Lost { .. }), "round {round}");
        assert_eq!(next(&mut subscription).await, SubscriptionEvent::Restored, "round {round}");
        let generation = direct.ready(soon()).await.expect("connected");
        generation.publish(&channel, round.to_string(), soon()).await.expect("published");
        assert_eq!(text(&next(&mut subscription).await), round.to_string());
    }
    // What is wanted while it is away comes when it is back.
    proxy.black_hole(true);
    assert!(matches!(next(&mut subscription).await, SubscriptionEvent::Lost { .. }));
    let other = link.keys().channel("y").expect("a good name");
    let handle = subscription.handle();
    let error = handle.add(std::slice::from_ref(&other), within(100)).await.expect_err("away");
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(!handle.is_connected());
    proxy.heal();
    assert_eq!(next(&mut subscription).await, SubscriptionEvent::Restored);
    let generation = direct.ready(soon()).await.expect("connected");
    generation.publish(&other, "late", soon()).await.expect("published");
    assert_eq!(text(&next(&mut subscription).await), "late");
}

#[tokio::test]
async fn a_restarted_server_is_subscribed_again() {
    let stack = own(RedisOptions::default()).await;
    let master = stack.redis().master();
    let link = connected(config(master)).await;
    let channel = link.keys().channel("x").expect("a good name");
    let mut subscription = link
        .subscribe(std::slice::from_ref(&channel), SubscribeOptions::default(), soon())
        .await
        .expect("subscribed");
    master.kill().expect("killed");
    assert!(matches!(next(&mut subscription).await, SubscriptionEvent::Lost { .. }));
    master.restart_empty().await.expect("restarted");
    assert_eq!(next(&mut subscription).await, SubscriptionEvent::Restored);
    let generation = link.ready(soon()).await.expect("connected");
    generation.publish(&channel, "back", soon()).await.expect("published");
    assert_eq!(text(&next(&mut subscription).await), "back");
}

#[tokio::test]
async fn a_subscription_may_begin_while_redis_is_away() {
    let stack = own(RedisOptions::default()).await;
    let master = stack.redis().master();
    master.kill().expect("killed");
    let link = config(master).connect(crate::support::deps()).await.expect("the link starts without");
    let channel = link.keys().channel("x").expect("a good name");
    let error =
        link.subscribe(std::slice::from_ref(&channel), SubscribeOptions::default(), within(200)).await;
    assert!(matches!(error, Err(Error::Unavailable { .. })));
    let mut subscription =
        link.subscription(std::slice::from_ref(&channel), SubscribeOptions::default()).expect("started");
    assert!(matches!(next(&mut subscription).await, SubscriptionEvent::Lost { .. }));
    master.restart().await.expect("restarted");
    assert_eq!(next(&mut subscription).await, SubscriptionEvent::Restored);
    assert!(subscription.handle().is_connected());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_consumer_is_told_exactly_how_much_it_missed() {
    const SENT: u64 = 30_000;
    let stack = own(RedisOptions::default()).await;
    let link = connected(config(stack.redis().master())).await;
    let generation = link.ready(soon()).await.expect("connected");
    let channel = link.keys().channel("x").expect("a good name");
    let options = SubscribeOptions { capacity: 100, ..SubscribeOptions::default() };
    let mut subscription =
        link.subscribe(std::slice::from_ref(&channel), options, soon()).await.expect("subscribed");
    for _ in 0..SENT / 1000 {
        let commands =
            (0..1000).map(|_| redis_link::Command::new("PUBLISH").arg(&channel).arg("x")).collect();
        generation.pipeline(commands, soon()).await.expect("published");
    }
    let (mut received, mut missed) = (0, 0);
    wait_for("all are accounted for", PATIENCE, async || {
        while let Ok(Some(event)) = tokio::time::timeout(Duration::from_millis(50), subscription.next()).await
        {
            match event {
                SubscriptionEvent::Message { .. } => received += 1,
                SubscriptionEvent::Overflow { missed: more } => missed += more,
                other => panic!("{other:?}"),
            }
        }
        received + missed == SENT
    })
    .await;
    assert!(received >= 100 && missed > 0, "{received} received, {missed} missed");
}

#[tokio::test]
async fn a_loading_server_refuses_nothing_for_good() {
    let config_lines = ["enable-debug-command yes", "loading-process-events-interval-bytes 1024"];
    let config_lines = config_lines.map(str::to_owned).to_vec();
    let options = RedisOptions { config: config_lines, persistent: false, ..RedisOptions::default() };
    let stack = own(options).await;
    let master = stack.redis().master();
    let link = connected(config(master)).await;
    let mut subscription =
        link.subscribe(&[], SubscribeOptions::default(), soon()).await.expect("subscribed");
    master.redis_command(&["DEBUG", "POPULATE", "2000", "k", "100"]).await.expect("filled");
    master.redis_command(&["CONFIG", "SET", "key-load-delay", "1000"]).await.expect("slowed");
    let reload = master.redis_command(&["DEBUG", "RELOAD"]);
    let channel = link.keys().channel("x").expect("a good name");
    let handle = subscription.handle();
    let meanwhile = async {
        wait_for("loading", PATIENCE, async || {
            let Ok(generation) = link.ready(within(10)).await else { return true };
            matches!(generation.ping(soon()).await, Err(Error::Server { code, .. }) if code == "LOADING")
        })
        .await;
        handle.add(std::slice::from_ref(&channel), soon()).await
    };
    let (reloaded, added) = tokio::join!(reload, meanwhile);
    reloaded.expect("reloaded");
    added.expect("subscribed in the end");
    let generation = link.ready(soon()).await.expect("connected");
    assert_eq!(generation.publish(&channel, "news", soon()).await.expect("published"), 1);
    while !matches!(next(&mut subscription).await, SubscriptionEvent::Message { .. }) {}
}

/// A link whose user may subscribe to `a`.
async fn limited(stack: &local_stack::Stack) -> (RedisLink, [Channel; 3]) {
    let user = Config {
        username: Some("app".into()),
        password: Some("pass".into()),
        ..config(stack.redis().master())
    };
    let link = connected(user).await;
    let channels = ["a", "b", "c"].map(|name| link.keys().channel(name).expect("a good name"));
    (link, channels)
}

async fn heard(link: &RedisLink, subscription: &mut Subscription, channels: &[&Channel]) {
    for channel in channels {
        let generation = link.ready(soon()).await.expect("connected");
        assert_eq!(generation.publish(channel, "news", soon()).await.expect("published"), 1);
        while !matches!(next(subscription).await, SubscriptionEvent::Message { .. }) {}
    }
}

#[tokio::test]
async fn a_refused_channel_takes_no_other_down() {
    let acl = "user app on >pass ~* &*:p:a &*:p:c +@all\nuser other on >pass ~* &* +@all\n";
    let stack = own(RedisOptions { acl: Some(acl.into()), ..RedisOptions::default() }).await;
    let (link, [a, b, c]) = limited(&stack).await;
    let other = connected(Config { username: Some("other".into()), ..link.config().clone() }).await;
    let all = [a.clone(), b.clone(), c.clone()];
    let mut subscription = link.subscription(&all, SubscribeOptions::default()).expect("started");
    let handle = subscription.handle();
    wait_for("the others", PATIENCE, async || handle.is_connected()).await;
    heard(&other, &mut subscription, &[&a, &c]).await;
    assert_eq!(handle.channels(), 2, "what it never took is no longer wanted");
    let error = handle.add(&[b], soon()).await.expect_err("refused");
    assert!(matches!(error, Error::Acl { .. }), "{error}");
    wait_for("the others again", PATIENCE, async || handle.is_connected()).await;
    heard(&other, &mut subscription, &[&a, &c]).await;
}

#[tokio::test]
async fn a_channel_whose_right_is_taken_away_is_left_out_until_it_comes_back() {
    let acl = "user app on >pass ~* &*:p:* +@all\nuser other on >pass ~* &* +@all\n";
    let stack = own(RedisOptions { acl: Some(acl.into()), ..RedisOptions::default() }).await;
    let (link, [a, b, c]) = limited(&stack).await;
    let other = connected(Config { username: Some("other".into()), ..link.config().clone() }).await;
    let all = [a.clone(), b.clone(), c.clone()];
    let mut subscription =
        link.subscribe(&all, SubscribeOptions::default(), soon()).await.expect("subscribed");
    let handle = subscription.handle();
    let master = stack.redis().master();
    let rights = ["ACL", "SETUSER", "app", "resetchannels", "&*:p:a", "&*:p:c"];
    master.redis_command(&rights).await.expect("taken away");
    let left_out = || handle.trouble().is_some_and(|why| why.contains("refuses 1 of"));
    wait_for("left out", PATIENCE, async || left_out()).await;
    heard(&other, &mut subscription, &[&a, &c]).await;
    assert!(left_out());
    master.redis_command(&["ACL", "SETUSER", "app", "allchannels"]).await.expect("given back");
    wait_for("whole again", PATIENCE, async || handle.is_connected()).await;
    heard(&other, &mut subscription, &[&a, &b, &c]).await;
}
