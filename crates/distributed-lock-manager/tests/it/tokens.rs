//! Tokens grow, whatever happens to Redis.

use crate::support::{PATIENCE, manager, namespace, own, shared};
use distributed_lock_manager::{DistributedLockManager, LockOptions};
use local_stack::wait_for;
use std::time::Duration;

/// Acquires and releases, through an outage if need be.
async fn token(manager: &DistributedLockManager, name: &str) -> u64 {
    let options = LockOptions::default().wait(PATIENCE).lease(Duration::from_secs(1));
    let guard = manager.acquire(name, options).await;
    let guard = match guard {
        Ok(guard) => guard,
        // Whoever was asking when the connection broke gets no answer.
        Err(error) if error.is_retryable() => manager.acquire(name, options).await.expect("acquired"),
        Err(error) => panic!("{error}"),
    };
    let token = guard.token();
    drop(guard);
    token
}

#[tokio::test]
async fn across_flushes_and_empty_restarts() {
    let (stack, namespace) = (own().await, namespace());
    let master = stack.redis().master();
    let (one, two) = (manager(master.port(), &namespace).await, manager(master.port(), &namespace).await);
    let mut last = 0;
    for round in 0..4 {
        for manager in [&one, &two, &one] {
            let token = token(manager, "job").await;
            assert!(token > last, "round {round}: {token} after {last}");
            last = token;
        }
        if round % 2 == 0 {
            master.redis_command(&["FLUSHALL"]).await.expect("flushed");
        } else {
            master.restart_empty().await.expect("restarted");
        }
    }
}

#[tokio::test]
async fn across_a_lost_counter() {
    let (stack, namespace) = (shared().await, namespace());
    let master = stack.redis().master();
    let (one, two) = (manager(master.port(), &namespace).await, manager(master.port(), &namespace).await);
    let mut last = 0;
    for round in 0..3 {
        for manager in [&one, &two] {
            let token = token(manager, "job").await;
            assert!(token > last, "round {round}: {token} after {last}");
            last = token;
        }
        // All counters, without the epoch key.
        for shard in 0..64 {
            let counter = format!("{namespace}:k:{{s{shard}}}:n");
            master.redis_command(&["DEL", &counter]).await.expect("deleted");
        }
    }
}

#[tokio::test]
async fn across_a_used_up_counter() {
    let (stack, namespace) = (shared().await, namespace());
    let master = stack.redis().master();
    let one = manager(master.port(), &namespace).await;
    let first = token(&one, "job").await;
    let epoch = first >> 40;
    for shard in 0..64 {
        let counter = format!("{namespace}:k:{{s{shard}}}:n");
        let almost = ((epoch << 24) + (1 << 24) - 2).to_string();
        master.redis_command(&["SET", &counter, &almost]).await.expect("set");
    }
    let (second, third) = (token(&one, "job").await, token(&one, "job").await);
    assert_eq!((second >> 40, (second >> 16) & 0xFF_FFFF), (epoch, (1 << 24) - 1));
    assert!(third > second && third >> 40 > epoch);
}

#[tokio::test]
async fn a_flush_frees_the_lock_and_the_old_holder_is_told() {
    let (stack, namespace) = (own().await, namespace());
    let master = stack.redis().master();
    let (one, two) = (manager(master.port(), &namespace).await, manager(master.port(), &namespace).await);
    let options = LockOptions::default().lease(Duration::from_secs(3)).wait(PATIENCE);
    let old = one.acquire("job", options).await.expect("acquired");
    master.redis_command(&["FLUSHALL"]).await.expect("flushed");
    let new = two.acquire("job", options).await.expect("acquired");
    assert!(new.token() > old.token(), "the fence tells them apart");
    wait_for("told by the next renewal", Duration::from_secs(3), async || old.is_lost()).await;
    drop(old);
    assert!(!new.is_lost(), "a late release does not touch it");
    assert!(two.try_acquire("job", options).await.is_err());
}
