//! Replication and faults of Redis.

use std::time::Duration;

use local_stack::{Error, RedisOptions, Reply, Stack, wait_for};

use crate::PATIENCE;

async fn started(options: RedisOptions) -> Stack {
    Stack::builder().redis(options).start().await.expect("Redis starts")
}

#[tokio::test]
async fn what_the_master_writes_the_replicas_read_until_they_are_on_their_own() {
    let stack = started(RedisOptions::with_replicas(2)).await;
    let redis = stack.redis();
    redis.master().redis_command(&["SET", "k", "v"]).await.expect("set");
    redis.wait_replicas(PATIENCE).await.expect("replicated");
    let [one, two] = redis.replicas() else { panic!("two replicas") };
    for replica in [one, two] {
        assert_eq!(replica.redis_command(&["GET", "k"]).await.expect("got"), Reply::Text("v".into()));
        let refused = replica.redis_command(&["SET", "k", "w"]).await;
        assert!(matches!(refused, Err(Error::Refused { message, .. }) if message.starts_with("READONLY")));
    }
    redis.master().kill().expect("killed");
    one.promote().await.expect("promoted");
    one.redis_command(&["SET", "k", "w"]).await.expect("it can be written");
    two.follow(one).await.expect("it follows");
    wait_for("the other one has it", PATIENCE, async || {
        two.redis_command(&["GET", "k"]).await.is_ok_and(|value| value.as_text() == Some("w"))
    })
    .await;
}

#[tokio::test]
async fn kill_pause_restart_and_an_empty_return() {
    let stack = started(RedisOptions::with_replicas(1)).await;
    let (master, replica) = (stack.redis().master(), &stack.redis().replicas()[0]);
    master.redis_command(&["SET", "k", "v"]).await.expect("set");
    let (url, pid) = (master.url(), master.pid());

    master.pause().expect("paused");
    assert!(master.wait_ready(Duration::from_millis(100)).await.is_err());
    master.resume().expect("resumed");
    master.wait_ready(PATIENCE).await.expect("it answers again");

    master.kill().expect("killed");
    master.kill().expect("killing what does not run is nothing to do");
    assert!(matches!(master.redis_command(&["PING"]).await, Err(Error::NotRunning { .. })));
    master.restart().await.expect("restarted");
    assert_eq!(
        master.redis_command(&["GET", "k"]).await.expect("got").as_text(),
        Some("v"),
        "the data are back"
    );
    assert_eq!(master.url(), url);
    assert_ne!(master.pid(), pid);
    master.restart().await.expect("restarted in an orderly way");
    assert_eq!(master.redis_command(&["GET", "k"]).await.expect("got").as_text(), Some("v"));

    master.restart_empty().await.expect("restarted empty");
    assert_eq!(master.redis_command(&["DBSIZE"]).await.expect("counted").as_int(), Some(0));
    stack.redis().wait_replicas(PATIENCE).await.expect("the replica finds it again");
    assert_eq!(replica.redis_command(&["DBSIZE"]).await.expect("counted").as_int(), Some(0));
}

#[tokio::test]
async fn a_password_and_further_lines() {
    let stack = started(RedisOptions {
        replicas: 1,
        password: Some("00123#\"x".into()),
        config: vec!["maxmemory 64mb".into(), "maxmemory-policy noeviction".into()],
        persistent: false,
        ..RedisOptions::default()
    })
    .await;
    let master = stack.redis().master();
    assert!(master.url().starts_with("redis://:00123%23%22x@"), "{}", master.url());
    let memory = master.redis_command(&["CONFIG", "GET", "maxmemory"]).await.expect("got");
    assert_eq!(memory.to_string(), format!("maxmemory {}", 64 << 20));
    master.redis_command(&["SET", "k", "v"]).await.expect("set");
    master.kill().expect("killed");
    master.restart().await.expect("restarted");
    assert_eq!(master.redis_command(&["GET", "k"]).await.expect("got"), Reply::Nil, "nothing was kept");
}

#[tokio::test]
async fn an_acl_file_rules_and_our_own_way_in_stays() {
    let stack = started(RedisOptions {
        replicas: 1,
        password: Some("secret".into()),
        acl: Some("user app on >app-pass ~app:* +get +set\n".into()),
        ..RedisOptions::default()
    })
    .await;
    let master = stack.redis().master();
    let users = master.redis_command(&["ACL", "LIST"]).await.expect("listed").to_string();
    assert!(users.contains("user app on") && users.contains("~app:*"), "{users}");
    assert!(!users.contains("nopass"), "the default user has the password: {users}");
    assert_eq!(
        master.url_as("app", "app-pass", "0"),
        format!("redis://app:app-pass@127.0.0.1:{}/0", master.port())
    );
}

#[tokio::test]
async fn a_port_taken_meanwhile_is_named() {
    let stack = started(RedisOptions::default()).await;
    let master = stack.redis().master();
    master.kill().expect("killed");
    let thief = std::net::TcpListener::bind(master.target()).expect("the port is free now");
    let refused = master.restart().await.expect_err("it is taken");
    assert!(matches!(refused, Error::PortTaken { port } if port == master.port()), "{refused}");
    drop(thief);
    master.restart().await.expect("it is free again");
}
