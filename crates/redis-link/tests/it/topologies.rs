//! Wrong words about how the servers are laid out, and layouts that are out of order.

use crate::support::{
    PATIENCE, calm_cluster, config, config_cluster, config_for, config_sentinel, connected, deps, endpoint,
    own, shared, soon, within,
};
use local_stack::{Redis, RedisOptions, wait_for};
use redis_link::{Command, Config, Endpoint, Error, Key, Script, SentinelTopology, Topology};
use std::time::Duration;

#[tokio::test]
async fn a_master_that_the_sentinels_do_not_know() {
    let stack = own(RedisOptions::with_sentinels(0)).await;
    let sentinels: Vec<_> = stack.redis().sentinels().iter().map(endpoint).collect();
    let settings = Config { topology: Topology::sentinel("other", sentinels), ..config_for(1) };
    let error = settings.connect(deps()).await.expect_err("refused");
    assert!(matches!(&error, Error::UnknownMaster { name, .. } if name == "other"), "{error:?}");
}

#[tokio::test]
async fn what_is_named_a_sentinel_or_a_cluster_and_is_none() {
    let stack = shared().await;
    let master = vec![endpoint(stack.redis().master())];
    let topology = Topology::sentinel(Redis::MASTER_NAME, master.clone());
    let error = Config { topology, ..config_for(1) }.connect(deps()).await.expect_err("refused");
    assert!(matches!(&error, Error::NoSentinel { .. }), "{error:?}");
    let topology = Topology::cluster(master);
    let error = Config { topology, ..config_for(1) }.connect(deps()).await.expect_err("refused");
    assert!(matches!(&error, Error::NoCluster { .. }), "{error:?}");
}

#[tokio::test]
async fn sentinels_with_a_password_of_their_own() {
    let stack =
        own(RedisOptions { password: Some("servers".into()), ..RedisOptions::with_sentinels(0) }).await;
    for sentinel in stack.redis().sentinels() {
        sentinel.redis_command(&["ACL", "SETUSER", "default", "resetpass", ">sentinels"]).await.expect("set");
    }
    let Topology::Sentinel(sentinels) = config_sentinel(&stack).topology else { panic!("it is one") };
    let with = |password: Option<&str>| Config {
        topology: Topology::Sentinel(SentinelTopology {
            password: password.map(Into::into),
            ..sentinels.clone()
        }),
        password: Some("servers".into()),
        ..config_for(1)
    };
    for wrong in [None, Some("servers")] {
        let error = with(wrong).connect(deps()).await.expect_err("refused");
        assert!(matches!(error, Error::Auth(_)), "{error:?}");
    }
    connected(with(Some("sentinels"))).await;
}

#[tokio::test]
async fn one_sentinel_is_enough_to_find_the_master_and_none_to_keep_it() {
    let stack = own(RedisOptions::with_sentinels(1)).await;
    let sentinels = stack.redis().sentinels();
    sentinels[0].kill().expect("killed");
    sentinels[1].pause().expect("paused");
    let link = connected(config_sentinel(&stack)).await;
    sentinels[2].kill().expect("killed");
    let generation = link.ready(soon()).await.expect("connected");
    let lasting = tokio::time::timeout(Duration::from_millis(500), generation.died()).await;
    lasting.expect_err("the master is as good as before");
    generation.ping(soon()).await.expect("it answers");
}

#[tokio::test]
async fn a_sentinel_that_was_cut_off_is_not_believed() {
    let stack = own(RedisOptions::with_sentinels(1)).await;
    let sentinels = stack.redis().sentinels();
    // This one sleeps through the failover and tells the old story when it wakes up.
    sentinels[0].pause().expect("paused");
    sentinels[1].redis_command(&["SENTINEL", "FAILOVER", Redis::MASTER_NAME]).await.expect("asked");
    let old = stack.redis().master().port();
    wait_for("another master", PATIENCE, async || {
        let told =
            sentinels[1].redis_command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", Redis::MASTER_NAME]).await;
        told.is_ok_and(|told| !told.to_string().contains(&old.to_string()))
    })
    .await;
    let link = connected(config_sentinel(&stack)).await;
    sentinels[0].resume().expect("resumed");
    assert_ne!(link.status().master, stack.redis().master().target());
    let epoch = link.ready(soon()).await.expect("connected").epoch();
    tokio::time::timeout(Duration::from_millis(500), async {
        link.ready(soon()).await.expect("connected").died().await;
    })
    .await
    .expect_err("nothing changes for the link");
    assert_eq!(link.ready(soon()).await.expect("connected").epoch(), epoch);
}

#[tokio::test]
async fn slots_that_nobody_serves() {
    let config = vec!["cluster-require-full-coverage no".to_owned()];
    let stack = own(RedisOptions { config, ..RedisOptions::cluster() }).await;
    let link = connected(config_cluster(&stack)).await;
    let keys: Vec<Key> =
        (0..64).map(|n| link.keys().cache_value("r", &n.to_string()).expect("a good key")).collect();
    let slot = keys[0].slot();
    // Its owner first: as long as it claims the slot, it tells the others again.
    let owner = stack.redis().slot_owner(slot).await.expect("it is served");
    owner.redis_command(&["CLUSTER", "DELSLOTS", &slot.to_string()]).await.expect("deleted");
    for node in stack.redis().servers() {
        // Those that have not heard of it refuse.
        let _ = node.redis_command(&["CLUSTER", "DELSLOTS", &slot.to_string()]).await;
    }
    // A link that begins now does not begin.
    wait_for("every node to know", PATIENCE, async || {
        matches!(
            config_cluster(&stack).connect(deps()).await,
            Err(Error::SlotsUncovered { count: 1, first, .. }) if first == slot
        )
    })
    .await;
    // One that has begun serves the others.
    wait_for("the link to know", PATIENCE, async || {
        let generation = link.ready(soon()).await.expect("connected");
        matches!(generation.get(&keys[0], soon()).await, Err(Error::SlotsUncovered { .. }))
    })
    .await;
    let other = keys.iter().find(|key| key.slot() != slot).expect("another slot");
    link.ready(soon()).await.expect("connected").get(other, soon()).await.expect("served");
}

#[tokio::test]
async fn keys_of_a_script_share_a_slot_and_those_of_a_read_need_not() {
    let stack = own(calm_cluster()).await;
    let link = connected(config_cluster(&stack)).await;
    let generation = link.ready(soon()).await.expect("connected");
    let keys: Vec<Key> =
        (0..200).map(|n| link.keys().cache_value("r", &n.to_string()).expect("a good key")).collect();
    let script = Script::new("two", "return #KEYS");
    let error = generation.eval(&script, &keys[..2], Vec::new(), soon()).await.expect_err("refused");
    assert!(matches!(error, Error::CrossSlot { operation: "two" }), "{error:?}");
    let sets = keys.iter().map(|key| Command::new("SET").arg(key).arg(key)).collect();
    let replies = generation.pipeline(sets, soon()).await.expect("sent");
    assert!(replies.iter().all(Result::is_ok) && replies.len() == keys.len());
    let values = generation.mget(&keys, soon()).await.expect("read");
    for (key, value) in keys.iter().zip(values) {
        assert_eq!(value.as_ref(), Some(key.as_bytes()), "in the order of the keys");
    }
    assert_eq!(generation.del(&keys, soon()).await.expect("deleted"), 200);
    let status = link.status();
    assert_eq!(status.masters.iter().filter_map(|master| master.slots).sum::<usize>(), 16_384);
    let mut epochs: Vec<_> = status.masters.iter().filter_map(|master| master.epoch).collect();
    epochs.sort_unstable();
    epochs.dedup();
    assert_eq!(epochs.len(), 3, "every master has an epoch of its own");
    wait_for("the replicas to be seen", PATIENCE, async || link.status().replicas_connected == 3).await;
}

#[tokio::test]
async fn flushing_one_master_of_a_cluster_ends_its_epoch_and_no_other() {
    let stack = own(calm_cluster()).await;
    let link = connected(config_cluster(&stack)).await;
    let generation = link.ready(soon()).await.expect("connected");
    let key = link.keys().lock("a", "n").expect("a good key");
    let owner = stack.redis().slot_owner(key.slot()).await.expect("it is served");
    let before = generation.epoch_of(&key).expect("connected");
    let epochs = || {
        let masters = link.status().masters.into_iter();
        masters
            .filter(|master| master.endpoint != owner.target())
            .map(|master| master.epoch)
            .collect::<Vec<_>>()
    };
    let others = epochs();
    owner.redis_command(&["FLUSHALL"]).await.expect("flushed");
    let script = Script::fenced("write", "return redis.call('INCR', KEYS[1])");
    let write = async || {
        link.ready(soon()).await?.eval(&script, std::slice::from_ref(&key), Vec::new(), within(1000)).await
    };
    wait_for("the next epoch", PATIENCE, async || {
        write().await.is_ok()
            && link.ready(soon()).await.expect("connected").epoch_of(&key).is_ok_and(|epoch| epoch > before)
    })
    .await;
    assert_eq!(epochs(), others);
}

#[tokio::test]
async fn a_link_to_a_seed_that_is_gone_uses_another() {
    let stack = own(RedisOptions::cluster()).await;
    let Topology::Cluster { mut seeds } = config_cluster(&stack).topology else { panic!("it is one") };
    seeds.insert(0, Endpoint::new("127.0.0.1", 1));
    let link = connected(Config { topology: Topology::cluster(seeds), ..config_for(1) }).await;
    assert_eq!(link.status().masters.len(), 3);
}

#[tokio::test]
async fn a_cluster_has_one_database_and_sentinels_need_a_name() {
    let one = Topology::cluster(vec![Endpoint::new("h", 1)]);
    for (settings, setting) in [
        (Config { topology: one, database: 1, ..config_for(1) }, "database"),
        (Config { topology: Topology::cluster(Vec::new()), ..config_for(1) }, "topology"),
        (
            Config { topology: Topology::sentinel("", vec![Endpoint::new("h", 1)]), ..config_for(1) },
            "topology",
        ),
    ] {
        let problems = settings.validate().expect_err("refused");
        assert!(problems.iter().any(|problem| problem.setting == setting), "{problems:?}");
    }
}

#[tokio::test]
async fn a_reply_over_the_limit_is_an_error_and_the_connection_goes_on() {
    let stack = shared().await;
    let settings = Config { max_reply: 64 << 10, ..config(stack.redis().master()) };
    let link = connected(settings).await;
    let generation = link.ready(soon()).await.expect("connected");
    let key = link.keys().cache_value("r", "large").expect("a good key");
    generation.set(&key, vec![b'x'; (64 << 10) + 1], None, soon()).await.expect("set");
    let error = generation.get(&key, soon()).await.expect_err("too large");
    assert!(
        matches!(&error, Error::ReplyTooLarge { operation: "GET", size: 65_537, limit: 65_536 }),
        "{error:?}"
    );
    assert!(!error.is_retryable() && !error.outcome_unknown() && generation.is_alive());
    generation.set(&key, vec![b'x'; 64 << 10], None, soon()).await.expect("set");
    generation.get(&key, soon()).await.expect("just small enough");
}

#[tokio::test]
async fn a_master_that_hangs_keeps_nobody_from_the_others() {
    let patient = Duration::from_secs(60);
    let options = RedisOptions { cluster_node_timeout: patient, ..RedisOptions::cluster() };
    let stack = own(options).await;
    let hung = &stack.redis().masters()[0];
    hung.pause().expect("paused");
    let settings = Config { connect_timeout: Duration::from_millis(500), ..config_cluster(&stack) };
    let link = settings.connect(deps()).await.expect("it starts with what there is");
    let keys = (0..64).map(|n| link.keys().cache_value("r", &n.to_string()).expect("a good key"));
    // The first of three masters serves the first third of the slots.
    let (its, others): (Vec<_>, Vec<_>) = keys.partition(|key| key.slot() <= 16_384 / 3);
    let generation = link.ready(soon()).await.expect("connected in part");
    for key in &others {
        generation.get(key, within(1000)).await.expect("the others answer");
    }
    let error = generation.get(&its[0], soon()).await.expect_err("nobody there");
    assert!(matches!(&error, Error::Unavailable { .. }), "{error:?}");
    assert!(!link.status().master_connected && link.health_check(soon()).await.is_err());
    hung.resume().expect("resumed");
    wait_for("all of them", PATIENCE, async || link.health_check(soon()).await.is_ok()).await;
    let generation = link.ready(soon()).await.expect("connected");
    generation.get(&its[0], soon()).await.expect("it answers");
}
