//! Loss of data, seen by fenced scripts and by the probe.

use crate::support::{PATIENCE, config, connected, deps, own, soon};
use local_stack::{RedisOptions, wait_for};
use redis_link::{Config, Error, Generation, Key, RedisLink, Script};
use std::{sync::Arc, time::Duration};

fn write() -> Script {
    Script::fenced("write", "return redis.call('INCR', KEYS[1])")
}

async fn next_after(link: &RedisLink, old: &Generation) -> Arc<Generation> {
    wait_for("the next generation", PATIENCE, async || {
        link.generation().is_some_and(|next| next.id() > old.id())
    })
    .await;
    link.ready(soon()).await.expect("connected")
}

async fn incremented(generation: &Generation, key: &Key) -> Result<i64, Error> {
    let reply = generation.eval(&write(), std::slice::from_ref(key), Vec::new(), soon()).await?;
    Ok(reply.as_int()?)
}

#[tokio::test]
async fn a_restart_with_the_data_and_one_without_each_begin_an_epoch() {
    let stack = own(RedisOptions::default()).await;
    let master = stack.redis().master();
    let link = connected(config(master)).await;
    let first = link.ready(soon()).await.expect("connected");
    let key = link.keys().lock("a", "n").expect("a good key");
    assert_eq!(incremented(&first, &key).await.expect("written"), 1);

    master.kill().expect("killed");
    first.died().await;
    master.restart().await.expect("restarted");
    let second = next_after(&link, &first).await;
    assert!(second.epoch() > first.epoch(), "a restarted server may have lost its last writes");
    assert!(matches!(incremented(&first, &key).await, Err(Error::Unavailable { .. })));
    assert_eq!(incremented(&second, &key).await.expect("written"), 2);

    master.restart_empty().await.expect("restarted");
    let third = next_after(&link, &second).await;
    assert!(third.epoch() > second.epoch());
    assert_eq!(incremented(&third, &key).await.expect("written"), 1);
}

#[tokio::test]
async fn flushall_is_seen_by_the_next_fenced_script_which_does_nothing() {
    let stack = own(RedisOptions::default()).await;
    let master = stack.redis().master();
    let settings = Config { probe_interval: Duration::from_secs(3600), ..config(master) };
    let link = connected(settings).await;
    let first = link.ready(soon()).await.expect("connected");
    let key = link.keys().lock("a", "n").expect("a good key");
    incremented(&first, &key).await.expect("written");
    master.redis_command(&["FLUSHALL"]).await.expect("flushed");
    let error = incremented(&first, &key).await.expect_err("refused");
    assert!(matches!(error, Error::Epoch { epoch } if epoch == first.epoch()), "{error}");
    assert!(error.is_retryable() && !error.outcome_unknown());
    assert!(!first.is_alive());
    let second = next_after(&link, &first).await;
    assert!(second.epoch() > first.epoch());
    assert_eq!(second.get(&key, soon()).await.expect("got"), None, "the refused script wrote nothing");
    assert_eq!(second.replid(), first.replid(), "which alone would not have shown it");
}

#[tokio::test]
async fn flushall_is_seen_by_the_probe_of_a_link_that_only_reads() {
    let stack = own(RedisOptions::default()).await;
    let link = connected(config(stack.redis().master())).await;
    let first = link.ready(soon()).await.expect("connected");
    stack.redis().master().redis_command(&["FLUSHALL"]).await.expect("flushed");
    let second = next_after(&link, &first).await;
    assert!(second.epoch() > first.epoch());
}

#[tokio::test]
async fn processes_on_one_server_share_its_epoch() {
    let stack = own(RedisOptions::default()).await;
    let settings = config(stack.redis().master());
    let connects = (0..8).map(|_| connected(settings.clone()));
    let links = futures_util::future::join_all(connects).await;
    let key = links[0].keys().lock("a", "n").expect("a good key");
    wait_for("one epoch", PATIENCE, async || {
        let epochs: Vec<_> = links.iter().filter_map(RedisLink::generation).map(|g| g.epoch()).collect();
        epochs.len() == links.len() && epochs.iter().all(|epoch| *epoch == epochs[0])
    })
    .await;
    for link in &links {
        let generation = link.ready(soon()).await.expect("connected");
        incremented(&generation, &key).await.expect("all may write");
    }
}

#[tokio::test]
async fn a_changed_replication_id_alone_is_seen_by_a_fenced_script() {
    let stack = own(RedisOptions::default()).await;
    let other = own(RedisOptions::default()).await;
    let settings = Config { probe_interval: Duration::from_secs(3600), ..config(stack.redis().master()) };
    let link = connected(settings).await;
    let first = link.ready(soon()).await.expect("connected");
    let key = link.keys().lock("a", "n").expect("a good key");
    incremented(&first, &key).await.expect("written");
    // The first replica of a master gives it a new replication id; connection and epoch key stay.
    other.redis().master().follow(stack.redis().master()).await.expect("it follows");
    wait_for("the new replication id", PATIENCE, async || {
        let info =
            stack.redis().master().redis_command(&["INFO", "replication"]).await.expect("told").to_string();
        !info.contains(first.replid())
    })
    .await;
    assert!(first.is_alive());
    let error = incremented(&first, &key).await.expect_err("refused");
    assert!(matches!(error, Error::Epoch { .. }), "{error}");
    let second = next_after(&link, &first).await;
    assert!(second.epoch() > first.epoch());
    assert_eq!(incremented(&second, &key).await.expect("written"), 2);
}

#[tokio::test]
async fn a_promoted_replica_begins_an_epoch() {
    let stack = own(RedisOptions::with_replicas(1)).await;
    let (master, replica) = (stack.redis().master(), &stack.redis().replicas()[0]);
    stack.redis().wait_replicas(PATIENCE).await.expect("replicated");
    let settings = Config { probe_interval: Duration::from_secs(3600), ..config(master) };
    let link = connected(settings.clone()).await;
    let first = link.ready(soon()).await.expect("connected");
    let key = link.keys().lock("a", "n").expect("a good key");
    incremented(&first, &key).await.expect("written");
    // The promoted replica has the epoch key, copied, under a new replication id.
    stack.redis().wait_replicas(PATIENCE).await.expect("replicated");
    master.kill().expect("killed");
    replica.promote().await.expect("promoted");
    let moved = Config { topology: config(replica).topology, ..settings };
    let there = connected(moved).await;
    let second = there.ready(soon()).await.expect("connected");
    assert!(second.epoch() > first.epoch(), "{} after {}", second.epoch(), first.epoch());
    assert_ne!(second.replid(), first.replid());
    assert_eq!(incremented(&second, &key).await.expect("written"), 2);
}

#[tokio::test]
async fn a_master_that_becomes_a_replica_is_left_and_taken_back() {
    let stack = own(RedisOptions::with_replicas(1)).await;
    let (master, replica) = (stack.redis().master(), &stack.redis().replicas()[0]);
    let link = connected(config(master)).await;
    let first = link.ready(soon()).await.expect("connected");
    replica.promote().await.expect("promoted");
    master.follow(replica).await.expect("it follows");
    first.died().await;
    wait_for("the role in the status", PATIENCE, async || {
        link.status().last_error.is_some_and(|error| error.contains("is a slave"))
    })
    .await;
    assert!(matches!(link.current(), Err(Error::Unavailable { .. })));
    master.promote().await.expect("promoted back");
    let second = next_after(&link, &first).await;
    assert!(second.epoch() > first.epoch());
}

#[tokio::test]
async fn what_is_no_claim_in_the_epoch_key_is_overwritten() {
    let stack = own(RedisOptions::default()).await;
    let master = stack.redis().master();
    let settings = config(master);
    let key = format!("{}:epoch", settings.namespace);
    for poison in ["", "x", "deadbeef:0:1", "deadbeef:99999999:1", "deadbeef:1:1:1"] {
        master.redis_command(&["SET", &key, poison]).await.expect("set");
        let link = settings.clone().connect(deps()).await.expect("connected");
        assert!(link.generation().is_some(), "{poison}: {:?}", link.status().last_error);
        link.shutdown(Duration::ZERO).await;
    }
}
