//! The bus over Sentinels and clusters, under traffic, while masters fail and slots move: it goes on by itself, and every
//! loss is told.

use crate::{
    support::{PATIENCE, namespace, soon},
    traffic::{Traffic, manager},
};
use local_stack::{Redis, RedisOptions, Server, Stack, wait_for};
use pubsub_manager::{HandlerOptions, Message, PublishOptions, SubscribeOptions};
use redis_link::{Endpoint, Topology};
use resilience::Deadline;
use std::time::Duration;
use tokio::time::Instant;

fn endpoint(server: &Server) -> Endpoint {
    Endpoint::new(server.host(), server.port())
}

async fn start(options: RedisOptions) -> Stack {
    Stack::builder().redis(options).start().await.expect("Redis starts")
}

fn sentinels(stack: &Stack) -> Topology {
    Topology::sentinel(Redis::MASTER_NAME, stack.redis().sentinels().iter().map(endpoint).collect())
}

fn cluster(stack: &Stack) -> Topology {
    Topology::cluster(stack.redis().masters().iter().map(endpoint).collect())
}

/// A cluster in which nobody is taken for dead.
fn calm_cluster() -> RedisOptions {
    RedisOptions { cluster_node_timeout: Duration::from_secs(60), ..RedisOptions::cluster() }
}

const BOTH_LANES: [(&str, bool); 2] = [("plain", false), ("sharded", true)];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_failover_under_traffic_is_survived_and_its_gaps_are_told() {
    let stack = start(RedisOptions::with_sentinels(1)).await;
    let (_subscriber, traffic) = Traffic::start(&sentinels(&stack), &BOTH_LANES).await;
    let killed = Instant::now();
    stack.redis().master().kill().expect("killed");
    for one in &traffic {
        eprintln!("{}: messages flow again {:?} after the kill", one.name, one.back(killed).await);
    }
    for one in traffic {
        assert!(one.finish().await.reconnects >= 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_under_sentinels_that_hangs_is_left_and_the_gaps_are_told() {
    let stack = start(RedisOptions::with_sentinels(1)).await;
    let (_subscriber, traffic) = Traffic::start(&sentinels(&stack), &BOTH_LANES).await;
    let paused = Instant::now();
    stack.redis().master().pause().expect("paused");
    for one in &traffic {
        eprintln!("{}: messages flow again {:?} after the master hung", one.name, one.back(paused).await);
    }
    stack.redis().master().resume().expect("resumed");
    for one in traffic {
        assert!(one.finish().await.reconnects >= 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_master_that_hangs_for_a_while_costs_what_is_told() {
    let stack = start(RedisOptions::default()).await;
    let master = stack.redis().master();
    let (_subscriber, traffic) = Traffic::start(&Topology::standalone(endpoint(master)), &BOTH_LANES).await;
    master.pause().expect("paused");
    // Longer than the connections wait for a sign of life.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let resumed = Instant::now();
    master.resume().expect("resumed");
    for one in &traffic {
        eprintln!("{}: messages flow again {:?} after it went on", one.name, one.back(resumed).await);
    }
    for one in traffic {
        assert!(one.finish().await.reconnects >= 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushing_everything_is_nothing_to_a_subscriber() {
    let stack = start(RedisOptions::default()).await;
    let master = stack.redis().master();
    let (_subscriber, traffic) = Traffic::start(&Topology::standalone(endpoint(master)), &BOTH_LANES).await;
    for _ in 0..3 {
        master.redis_command(&["FLUSHALL"]).await.expect("flushed");
        let before: Vec<_> = traffic.iter().map(|one| one.heard().received).collect();
        wait_for("traffic goes on", PATIENCE, async || {
            traffic.iter().zip(&before).all(|(one, before)| one.heard().received > before + 500)
        })
        .await;
    }
    for one in traffic {
        let heard = one.finish().await;
        assert_eq!(heard.reconnects, 0, "its connection has lived through it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_move_under_traffic_cost_what_is_told_and_others_nothing() {
    let stack = start(calm_cluster()).await;
    let redis = stack.redis();
    // The last one stays where it is.
    let channels = [("plain", false), ("moving", true), ("staying", true)];
    let (subscriber, traffic) = Traffic::start(&cluster(&stack), &channels).await;
    // The namespace is the traffic's; the channel tells its slot by its whole name.
    let channel = async |name: &str| {
        for master in redis.masters() {
            let all = master.redis_command(&["PUBSUB", "SHARDCHANNELS", &format!("*:s:{name}")]).await;
            if let Some(found) = all.expect("told").items().first() {
                return found.as_text().expect("text").to_owned();
            }
        }
        panic!("nobody has {name}")
    };
    let (moving, staying) = (Redis::slot(&channel("moving").await), Redis::slot(&channel("staying").await));
    assert_ne!(moving, staying);
    for round in 0..6 {
        let from = redis.slot_owner(moving).await.expect("it is served");
        let to = redis.masters().iter().find(|master| master.port() != from.port()).expect("another");
        let began = Instant::now();
        redis.move_slot(moving, &from, to).await.expect("moved");
        eprintln!(
            "round {round}: {} flows again {:?} after the move began",
            traffic[1].name,
            traffic[1].back(began).await
        );
    }
    assert!(subscriber.status().connected, "{:?}", subscriber.status());
    let mut all = Vec::new();
    for one in traffic {
        all.push(one.finish().await);
    }
    let [plain, moved, stayed] = &all[..] else { panic!("three") };
    assert!(moved.reconnects >= 6);
    assert_eq!((stayed.reconnects, stayed.missed), (0, 0), "it noticed nothing");
    assert_eq!(plain.reconnects, 0, "it noticed nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_of_a_cluster_that_is_killed_takes_down_its_own_channels_alone() {
    // The other masters go on meanwhile.
    let config = vec!["cluster-require-full-coverage no".to_owned()];
    let stack = start(RedisOptions { config, ..RedisOptions::cluster() }).await;
    let redis = stack.redis();
    let names: Vec<_> = (0..9).map(|n| format!("c{n}")).collect();
    let channels: Vec<_> = names.iter().map(|name| (name.as_str(), true)).collect();
    let (_subscriber, traffic) = Traffic::start(&cluster(&stack), &channels).await;
    let lost = &redis.masters()[0];
    let its = lost.redis_command(&["PUBSUB", "SHARDCHANNELS"]).await.expect("told");
    let its: Vec<_> = its.items().iter().map(|name| name.as_text().expect("text").to_owned()).collect();
    let is_its = |name: &str| its.iter().any(|channel| channel.ends_with(&format!(":{name}")));
    let killed = Instant::now();
    lost.kill().expect("killed");
    for one in traffic.iter().filter(|one| is_its(&one.name)) {
        eprintln!("{}: messages flow again {:?} after the kill", one.name, one.back(killed).await);
    }
    let mut others = 0;
    for one in traffic {
        let its = is_its(&one.name);
        let heard = one.finish().await;
        if its {
            assert!(heard.reconnects >= 1);
        } else {
            others += 1;
            assert_eq!((heard.reconnects, heard.missed), (0, 0), "it notices nothing");
        }
    }
    assert!(others > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_on_a_cluster_finds_who_answers_at_whatever_node() {
    let (stack, namespace) = (start(calm_cluster()).await, namespace());
    let (asking, answering) =
        (manager(&cluster(&stack), &namespace).await, manager(&cluster(&stack), &namespace).await);
    // Of so many names some belong to a master that the one who answers is not connected to.
    for number in 0..12_u64 {
        let name = format!("n{number}");
        let answer = answering.channel::<u64>(&name).expect("a good name");
        let double = |message: Message<u64>| async move { Ok::<_, String>(2 * message.value) };
        let _answering = answer.respond(HandlerOptions::default(), double).await.expect("subscribed");
        let ask = asking.channel::<u64>(&name).expect("a good name");
        let options = PublishOptions { deadline: Some(soon()), ..PublishOptions::default() };
        let reply = ask.request::<u64>(&number, options).await.expect("answered");
        assert_eq!(reply.value, 2 * number);
    }
    let raw = asking.raw_channel("raw").expect("a good name");
    let counted = raw.publish("of one node", PublishOptions::default()).await.expect("published");
    assert_eq!(counted, None, "nobody knows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_nobody_confirms_holds_up_no_other() {
    let config = vec!["cluster-require-full-coverage no".to_owned()];
    let stack = start(RedisOptions { config, ..calm_cluster() }).await;
    let (redis, namespace) = (stack.redis(), namespace());
    let manager = manager(&cluster(&stack), &namespace).await;
    let lost = &redis.masters()[0];
    let mut name = String::new();
    for number in 0..100 {
        name = format!("n{number}");
        let owner = redis.slot_owner(Redis::slot(&format!("{namespace}:s:{name}"))).await.expect("served");
        if owner.port() == lost.port() {
            break;
        }
    }
    lost.kill().expect("killed");
    let sharded = manager.sharded_channel::<u64>(&name).expect("a good name");
    let options = SubscribeOptions { deadline: Some(Deadline::after(10 * PATIENCE)), ..Default::default() };
    let waiting = tokio::spawn(async move { sharded.subscribe(options).await.map(drop) });
    wait_for("it has begun", PATIENCE, async || manager.stats().subscribed == 1).await;
    let plain = manager.channel::<u64>("plain").expect("a good name");
    let options = SubscribeOptions { deadline: Some(soon()), ..Default::default() };
    plain.subscribe(options).await.expect("it need not wait for the other");
    assert!(!waiting.is_finished());
    waiting.abort();
}
