//! Redis Cluster: slots and who serves them, at the start, after failures, and on the move.

use local_stack::{Error, ExternalUrls, Provider, Redis, RedisOptions, Server, Stack, wait_for};

use crate::PATIENCE;

async fn started(options: RedisOptions) -> Stack {
    Stack::builder().redis(options).start().await.expect("the cluster starts")
}

/// What a server's refusal says: `MOVED …`, `ASK …`.
async fn refusal(server: &Server, words: &[&str]) -> String {
    match server.redis_command(words).await {
        Err(Error::Refused { message, .. }) => message,
        other => panic!("{words:?}: {other:?}"),
    }
}

#[tokio::test]
async fn three_masters_share_the_slots_and_each_has_a_replica() {
    let stack = started(RedisOptions::cluster()).await;
    println!("a cluster of three masters and three replicas up in {:?}", stack.started_in());
    let redis = stack.redis();
    assert_eq!((redis.masters().len(), redis.replicas().len(), redis.servers().count()), (3, 3, 6));
    for (slot, master) in [(0, 0), (5461, 0), (5462, 1), (16_383, 2)] {
        let owner = redis.slot_owner(slot).await.expect("owned");
        assert_eq!(owner.name(), redis.masters()[master].name(), "slot {slot}");
    }
    for key in ["", "a", "user:7", "{tag}x", "x{tag}", "{}x", "a{b", "}a{b}", "{{x}}"] {
        let said = redis.master().redis_command(&["CLUSTER", "KEYSLOT", key]).await.expect("answered");
        assert_eq!(said.as_int(), Some(i64::from(Redis::slot(key))), "{key}");
    }
    let owner = redis.slot_owner(Redis::slot("k")).await.expect("owned");
    owner.redis_command(&["SET", "k", "v"]).await.expect("set");
    redis.wait_replicas(PATIENCE).await.expect("replicated");
    for (index, master) in redis.masters().iter().enumerate() {
        let replica = redis.replica_of(master).expect("one each");
        assert_eq!(replica.name(), format!("redis-{}", index + 3));
        let role = replica.redis_command(&["ROLE"]).await.expect("answered").to_string();
        assert!(role.starts_with("slave") && role.contains(&format!(" {} ", master.port())), "{role}");
        if master.port() != owner.port() {
            let moved = refusal(master, &["GET", "k"]).await;
            assert_eq!(moved, format!("MOVED {} {}", Redis::slot("k"), owner.target()));
        }
    }
    let info = owner.redis_command(&["CLUSTER", "INFO"]).await.expect("answered").to_string();
    assert!(info.contains("cluster_known_nodes:6") && info.contains("cluster_size:3"), "{info}");
}

#[tokio::test]
async fn a_killed_master_is_replaced_and_the_same_node_comes_back() {
    let stack = started(RedisOptions { password: Some("secret".into()), ..RedisOptions::cluster() }).await;
    let redis = stack.redis();
    let (master, replica) = (redis.master(), redis.replica_of(redis.master()).expect("one each"));
    let id = master.redis_command(&["CLUSTER", "MYID"]).await.expect("its id");
    let key = (0..).map(|n| format!("k{n}")).find(|key| Redis::slot(key) < 5000).expect("some key");
    master.redis_command(&["SET", &key, "v"]).await.expect("set");
    redis.wait_replicas(PATIENCE).await.expect("replicated");
    master.kill().expect("killed");
    wait_for("the replica takes over", PATIENCE, async || {
        redis.slot_owner(Redis::slot(&key)).await.is_ok_and(|owner| owner.port() == replica.port())
    })
    .await;
    redis.wait_cluster(PATIENCE).await.expect("the cluster is well without it");
    let value = replica.redis_command(&["GET", &key]).await.expect("served");
    assert_eq!(value.as_text(), Some("v"));

    master.restart().await.expect("restarted");
    redis.wait_cluster(PATIENCE).await.expect("it is known again");
    redis.wait_replicas(PATIENCE).await.expect("as a replica");
    assert_eq!(master.redis_command(&["CLUSTER", "MYID"]).await.expect("its id"), id);
    let role = master.redis_command(&["ROLE"]).await.expect("answered").to_string();
    assert!(role.starts_with("slave"), "{role}");
}

#[tokio::test]
async fn a_replica_becomes_master_when_asked_with_its_master_or_without() {
    let stack = started(RedisOptions::cluster()).await;
    let redis = stack.redis();
    let (master, replica) = (redis.master(), redis.replica_of(redis.master()).expect("one each"));
    redis.failover_to(replica).await.expect("failed over");
    for node in redis.servers() {
        let nodes = node.redis_command(&["CLUSTER", "NODES"]).await.expect("answered").to_string();
        let line = nodes.lines().find(|line| line.contains(&replica.target())).expect("it is known");
        assert!(line.contains("master") && line.ends_with(" 0-5461"), "{line}");
    }
    assert_eq!(redis.slot_owner(7).await.expect("owned").port(), replica.port());
    redis.failover_to(replica).await.expect("nothing to do");

    redis.wait_replicas(PATIENCE).await.expect("the former master copies it");
    replica.kill().expect("killed");
    redis.failover_to(master).await.expect("by force, or by itself");
    assert_eq!(redis.slot_owner(7).await.expect("owned").port(), master.port());
}

#[tokio::test]
async fn an_empty_return_is_the_same_node() {
    let stack = started(RedisOptions { replicas: 0, ..RedisOptions::cluster() }).await;
    let redis = stack.redis();
    let (master, key) = (redis.master(), "{a}");
    let owner = redis.slot_owner(Redis::slot(key)).await.expect("owned");
    assert!(redis.replica_of(master).is_none());
    owner.redis_command(&["SET", key, "v"]).await.expect("set");
    owner.restart_empty().await.expect("restarted");
    redis.wait_cluster(PATIENCE).await.expect("the cluster is well again");
    assert_eq!(owner.redis_command(&["DBSIZE"]).await.expect("counted").as_int(), Some(0));
    assert_eq!(redis.slot_owner(Redis::slot(key)).await.expect("owned").port(), owner.port());
    owner.redis_command(&["SET", key, "w"]).await.expect("it is served");
}

#[tokio::test]
async fn a_slot_moves_with_its_keys_and_asks_meanwhile() {
    let stack = started(RedisOptions { replicas: 0, ..RedisOptions::cluster() }).await;
    let redis = stack.redis();
    let [from, to, third] = redis.masters() else { panic!("three masters") };
    let tag = (0..).map(|n| format!("t{n}")).find(|tag| Redis::slot(tag) < 5000).expect("some tag");
    let slot = Redis::slot(&tag);
    let (kept, new) = (format!("{{{tag}}}kept"), format!("{{{tag}}}new"));
    from.redis_command(&["SET", &kept, "v"]).await.expect("set");

    let moving = redis.begin_move_slot(slot, from, to).await.expect("begun");
    assert_eq!(moving.slot(), slot);
    assert_eq!(from.redis_command(&["GET", &kept]).await.expect("still here").as_text(), Some("v"));
    let ask = format!("ASK {slot} {}", to.target());
    assert_eq!(refusal(from, &["GET", &new]).await, ask);
    assert!(refusal(to, &["GET", &new]).await.starts_with("MOVED"), "without ASKING");
    assert_eq!(moving.migrate_keys().await.expect("moved"), 1);
    assert_eq!(refusal(from, &["GET", &kept]).await, ask);
    assert_eq!(redis.slot_owner(slot).await.expect("owned").port(), from.port());
    moving.finish().await.expect("finished");
    assert_eq!(redis.slot_owner(slot).await.expect("owned").port(), to.port());
    assert_eq!(to.redis_command(&["GET", &kept]).await.expect("here now").as_text(), Some("v"));
    for other in [from, third] {
        assert_eq!(refusal(other, &["GET", &kept]).await, format!("MOVED {slot} {}", to.target()));
    }

    for n in 0..250 {
        to.redis_command(&["SET", &format!("{{{tag}}}{n}"), "x"]).await.expect("set");
    }
    redis.move_slot(slot, to, third).await.expect("moved on");
    let count = third.redis_command(&["CLUSTER", "COUNTKEYSINSLOT", &slot.to_string()]).await;
    assert_eq!(count.expect("counted").as_int(), Some(251));
    redis.wait_cluster(PATIENCE).await.expect("the cluster is well");

    let refused = redis.move_slot(slot, from, to).await.expect_err("it is the third one's");
    assert!(matches!(refused, Error::Refused { .. }), "{refused}");
    redis.begin_move_slot(slot, third, from).await.expect("begun").cancel().await.expect("cancelled");
    third.redis_command(&["GET", &new]).await.expect("no ASK any more");
}

#[tokio::test]
async fn what_cannot_be_is_said() {
    let both = RedisOptions { sentinels: 3, ..RedisOptions::cluster() };
    let refused = Stack::builder().redis(both).start().await.expect_err("one of the two");
    assert!(refused.to_string().contains("fail over by themselves"), "{refused}");

    let stack = Stack::builder().redis(RedisOptions::default()).start().await.expect("it starts");
    let redis = stack.redis();
    for refused in [
        redis.wait_cluster(PATIENCE).await,
        redis.slot_owner(0).await.map(drop),
        redis.failover_to(redis.master()).await,
        redis.move_slot(0, redis.master(), redis.master()).await,
    ] {
        assert!(matches!(refused, Err(Error::NoSuchPart { .. })), "{refused:?}");
    }
    let urls = ExternalUrls { redis: Some(stack.redis_url()), ..ExternalUrls::default() };
    let builder = Stack::builder().redis(RedisOptions::cluster()).provider(Provider::External(urls));
    let refused = builder.start().await.expect_err("not with servers of others");
    assert!(matches!(&refused, Error::Setting { name, .. } if name == "cluster_masters"), "{refused}");
}
