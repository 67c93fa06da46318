//! Durable channels on a Redis that loses data: whatever is lost is told, and nothing that exists is skipped.

use crate::{
    durable_support::{delivery, eager, event, group, loss, manager_at, named, over, publish},
    support::{PATIENCE, connected, link_config, namespace, own, proxied, shared},
};
use local_stack::{Existing, FaultProxy, RedisOptions, Stack, wait_for};
use pubsub_manager::{
    Consumer, ConsumerOptions, DurableChannel, DurableEvent, Loss, LossCause, PubSubManager, RedisDurable,
    StartFrom,
};
use std::{sync::Arc, time::Duration};

fn channel(manager: &PubSubManager) -> DurableChannel<u64> {
    manager.durable_channel("n").expect("a good name")
}

async fn consumer(manager: &PubSubManager) -> Consumer<u64> {
    channel(manager).consume("g", eager()).await.expect("consuming")
}

async fn acknowledged(consumer: &mut Consumer<u64>) -> u64 {
    let delivery = delivery(consumer).await;
    delivery.ack().await.expect("acknowledged");
    delivery.message.value
}

/// Publishes until it works, under any id: what comes twice is the same value.
async fn insist(manager: &PubSubManager, value: u64) {
    wait_for("a publish", PATIENCE, async || channel(manager).publish(&value).await.is_ok()).await;
}

/// Acknowledges up to `last`; what was told on the way.
async fn until(consumer: &mut Consumer<u64>, last: u64) -> (Vec<u64>, Vec<Loss>) {
    let (mut values, mut losses) = (Vec::new(), Vec::new());
    loop {
        match event(consumer).await {
            DurableEvent::Lost(loss) => losses.push(loss),
            DurableEvent::Message(delivery) => {
                values.push(delivery.message.value);
                let settled = delivery.ack().await;
                if delivery.message.value == last {
                    settled.expect("acknowledged");
                    return (values, losses);
                }
            }
            _ => panic!("another event"),
        }
    }
}

const GONE: Loss = Loss { missed: None, cause: LossCause::GroupGone };

#[tokio::test]
async fn a_flush_is_told_and_what_comes_after_it_is_delivered() {
    let (stack, namespace) = (own().await, namespace());
    let master = stack.redis().master();
    let (one, two) =
        (manager_at(master.port(), &namespace).await, manager_at(master.port(), &namespace).await);
    let mut running = consumer(&two).await;
    for round in 0..3_u64 {
        insist(&one, round * 10).await;
        let (_, losses) = until(&mut running, round * 10).await;
        assert_eq!(losses, [], "round {round}");
        insist(&one, round * 10 + 1).await;
        let held = delivery(&mut running).await;
        master.redis_command(&["FLUSHALL"]).await.expect("flushed");
        // At once, by somebody who does not know yet.
        insist(&one, round * 10 + 2).await;
        let (values, losses) = until(&mut running, round * 10 + 2).await;
        eprintln!("round {round}: told {losses:?}, then {values:?}");
        assert!(losses.contains(&GONE), "round {round}: {losses:?}");
        assert!(held.ack().await.is_err(), "it is no longer there to be acknowledged");
    }
    // A process that comes later is not told what others have been.
    wait_for("it is recorded", PATIENCE, async || {
        let mut late = channel(&one).consume("g", named("late")).await.expect("consuming");
        insist(&one, 99).await;
        let told = tokio::time::timeout(Duration::from_secs(2), async {
            tokio::select! {
                event = late.next() => matches!(event, Some(DurableEvent::Lost(_))),
                event = running.next() => matches!(event, Some(DurableEvent::Lost(_))),
            }
        });
        matches!(told.await, Ok(false))
    })
    .await;
}

#[tokio::test]
async fn restarted_empty_is_told() {
    let (stack, namespace) = (own().await, namespace());
    let master = stack.redis().master();
    let (one, two) =
        (manager_at(master.port(), &namespace).await, manager_at(master.port(), &namespace).await);
    let mut running = consumer(&two).await;
    insist(&one, 1).await;
    until(&mut running, 1).await;
    master.restart_empty().await.expect("restarted");
    insist(&one, 2).await;
    let (_, losses) = until(&mut running, 2).await;
    assert!(losses.contains(&GONE), "{losses:?}");
}

#[tokio::test]
async fn a_new_consumer_that_begins_now_skips_nothing_of_those_that_ran_before_the_loss() {
    let (stack, namespace) = (own().await, namespace());
    let master = stack.redis().master();
    let proxy = FaultProxy::start(master.target()).await.expect("a proxy");
    let (one, two) =
        (manager_at(master.port(), &namespace).await, manager_at(proxy.addr().port(), &namespace).await);
    let mut running = consumer(&two).await;
    insist(&one, 1).await;
    until(&mut running, 1).await;
    proxy.cut_and_refuse();
    master.redis_command(&["FLUSHALL"]).await.expect("flushed");
    insist(&one, 2).await;
    // It knows nothing of the group, so it creates it at the end.
    let now = ConsumerOptions { start: StartFrom::Now, ..eager() };
    let new = channel(&one).consume("g", now).await.expect("consuming");
    assert_eq!(group(&one, "n", "g").await.lag, 0);
    new.shutdown(PATIENCE).await;
    proxy.heal();
    let (values, losses) = until(&mut running, 2).await;
    assert!(losses.contains(&GONE), "{losses:?} {values:?}");
}

/// A master behind a proxy and a replica that takes over without what came last.
#[tokio::test]
async fn a_failover_with_a_lost_tail_is_told() {
    let stack = Stack::builder().redis(RedisOptions::with_replicas(1)).start().await.expect("Redis starts");
    let replica = &stack.redis().replicas()[0];
    let (proxy, namespace) = (proxied(&stack).await, namespace());
    let port = proxy.addr().port();
    let (one, two) = (manager_at(port, &namespace).await, manager_at(port, &namespace).await);
    let mut running = consumer(&two).await;
    publish(&one, "n", 0..10_u64).await;
    let (values, losses) = until(&mut running, 9).await;
    assert_eq!((values.len(), losses.len()), (10, 0));
    stack.redis().wait_replicas(PATIENCE).await.expect("replicated");
    // From here on the replica hears nothing any more.
    replica.promote().await.expect("promoted");
    let stalled = channel(&two).consume("stalled", eager()).await.expect("consuming");
    stalled.shutdown(PATIENCE).await;
    publish(&one, "n", 10..15_u64).await;
    proxy.retarget(replica.target(), Existing::Cut);
    insist(&one, 15).await;
    let (values, losses) = until(&mut running, 15).await;
    eprintln!("failover with a lost tail of 5: told {losses:?}, values on the way {values:?}");
    assert!(
        losses.iter().any(|loss| loss.cause == LossCause::StoreReplaced && loss.missed.is_none()),
        "{losses:?}"
    );
    assert_eq!(group(&one, "n", "g").await.losses, losses.len() as u64);
}

#[tokio::test]
async fn what_somebody_else_removes_is_counted() {
    let (stack, namespace) = (shared().await, namespace());
    let master = stack.redis().master();
    let one = manager_at(master.port(), &namespace).await;
    let mut running =
        channel(&one).consume("g", ConsumerOptions { prefetch: 1, ..eager() }).await.expect("consuming");
    publish(&one, "n", 0..20_u64).await;
    let held = delivery(&mut running).await;
    // By hand: from the end of what was delivered on, all but the last five.
    let stream = format!("{namespace}:d:{{n}}:s");
    master.redis_command(&["XTRIM", &stream, "MAXLEN", "5"]).await.expect("trimmed");
    held.ack().await.expect("acknowledged");
    let told = loss(&mut running).await;
    assert_eq!(told, Loss { missed: Some(14), cause: LossCause::Removed });
    for value in 15..20 {
        assert_eq!(acknowledged(&mut running).await, value);
    }
    // And what was given back and is to be delivered again.
    publish(&one, "n", [20_u64]).await;
    let held = delivery(&mut running).await;
    held.retry(Duration::from_millis(300)).await.expect("given back");
    master.redis_command(&["XTRIM", &stream, "MAXLEN", "0"]).await.expect("trimmed");
    assert_eq!(loss(&mut running).await, Loss { missed: Some(1), cause: LossCause::Removed });
    publish(&one, "n", [21_u64]).await;
    assert_eq!(acknowledged(&mut running).await, 21);
    assert_eq!(one.durable_stats().losses, 2);
}

#[tokio::test]
async fn a_deleted_stream_is_told_also_to_those_who_come_later() {
    let (stack, namespace) = (shared().await, namespace());
    let master = stack.redis().master();
    let one = manager_at(master.port(), &namespace).await;
    let first = consumer(&one).await;
    publish(&one, "n", 0..3_u64).await;
    first.shutdown(PATIENCE).await;
    master.redis_command(&["DEL", &format!("{namespace}:d:{{n}}:s")]).await.expect("deleted");
    publish(&one, "n", [3_u64]).await;
    // Nobody ran when it happened.
    let now = ConsumerOptions { start: StartFrom::Now, ..eager() };
    let mut later = channel(&one).consume("g", now).await.expect("consuming");
    assert_eq!(loss(&mut later).await, GONE);
    assert_eq!(acknowledged(&mut later).await, 3);
}

#[tokio::test]
async fn timers_that_somebody_deletes_leave_nothing_in_limbo() {
    let (stack, namespace) = (shared().await, namespace());
    let master = stack.redis().master();
    let one = manager_at(master.port(), &namespace).await;
    publish(&one, "n", [1_u64]).await;
    let mut running = consumer(&one).await;
    delivery(&mut running).await.retry(Duration::from_secs(3600)).await.expect("given back");
    master.redis_command(&["DEL", &format!("{namespace}:d:{{n}}:t:g")]).await.expect("deleted");
    assert_eq!(acknowledged(&mut running).await, 1);
}

const PASSWORD: &str = "pass";

#[tokio::test]
async fn the_shipped_rights_suffice() {
    let shipped = include_str!("../../../../deploy/redis/users.acl");
    let acl = shipped.replace("database-services:*", "t*").replace("CHANGE_ME", PASSWORD);
    let options = RedisOptions { acl: Some(acl), ..RedisOptions::default() };
    let stack = Stack::builder().redis(options).start().await.expect("Redis starts");
    let config = redis_link::Config {
        username: Some("database-services".into()),
        password: Some(PASSWORD.into()),
        ..link_config(stack.redis().master().port(), &namespace())
    };
    let one = over(Arc::new(RedisDurable::new(connected(config).await)));
    everything(&one).await;
}

#[tokio::test]
async fn it_works_on_a_cluster() {
    let stack = Stack::builder().redis(RedisOptions::cluster()).start().await.expect("Redis starts");
    let seeds =
        stack.redis().masters().iter().map(|master| redis_link::Endpoint::new("127.0.0.1", master.port()));
    let config = redis_link::Config {
        topology: redis_link::Topology::Cluster { seeds: seeds.collect() },
        ..link_config(0, &namespace())
    };
    let one = over(Arc::new(RedisDurable::new(connected(config).await)));
    everything(&one).await;
    // Channels on all masters.
    let channels: Vec<_> = (0..12).map(|n| format!("c{n}")).collect();
    for name in &channels {
        publish(&one, name, [7_u64]).await;
        let of_one = one.durable_channel::<u64>(name).expect("a good name");
        let mut consumer = of_one.consume("g", eager()).await.expect("consuming");
        assert_eq!(acknowledged(&mut consumer).await, 7);
    }
    let listed = one.durable_channels(crate::support::soon()).await.expect("listed");
    assert_eq!(listed.len(), channels.len() + 1);
}

/// Every command there is.
async fn everything(manager: &PubSubManager) {
    let n = channel(manager);
    publish(manager, "n", 0..150_u64).await;
    let mut running = consumer(manager).await;
    assert_eq!(acknowledged(&mut running).await, 0);
    delivery(&mut running).await.retry(Duration::ZERO).await.expect("given back");
    delivery(&mut running).await.dead_letter("no").await.expect("dead");
    for _ in 2..150 {
        acknowledged(&mut running).await;
    }
    n.pause("g").await.expect("paused");
    n.resume("g").await.expect("resumed");
    for retried in [true, false] {
        let letter = n.dead_letters("g", None, 1).await.expect("listed")[0].id;
        if retried {
            n.retry_dead_letter("g", letter).await.expect("retried");
            delivery(&mut running).await.dead_letter("no").await.expect("dead");
        } else {
            n.drop_dead_letter("g", letter).await.expect("dropped");
        }
    }
    n.replay("g", StartFrom::Earliest).await.expect("replayed");
    acknowledged(&mut running).await;
    running.shutdown(PATIENCE).await;
    assert!(group(manager, "n", "g").await.acknowledged >= 150);
    // Within its first seconds every consumer tends.
    let mut idle = n
        .consume("g", ConsumerOptions { forget_after: Duration::from_secs(1), ..eager() })
        .await
        .expect("consuming");
    wait_for("the other is forgotten", PATIENCE, async || {
        while let Ok(Some(DurableEvent::Message(delivery))) =
            tokio::time::timeout(Duration::from_millis(100), idle.next()).await
        {
            delivery.ack().await.expect("acknowledged");
        }
        group(manager, "n", "g").await.consumers == 1
    })
    .await;
    idle.shutdown(PATIENCE).await;
    n.delete_group("g").await.expect("deleted");
}
