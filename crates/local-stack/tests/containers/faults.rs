//! What is done to a server in a container: the same calls, on the process that the host sees.

use std::time::Duration;

use local_stack::{Error, PostgresOptions, RedisOptions, wait_for};

use crate::{PATIENCE, first, in_containers, ready};

#[tokio::test]
async fn postgres_is_paused_killed_restarted_and_promoted() {
    if ready().await.is_none() {
        return;
    }
    let stack =
        in_containers().postgres(PostgresOptions::with_replicas(1)).start().await.expect("both start");
    let (primary, replica) = (stack.postgres().primary(), &stack.postgres().replicas()[0]);
    primary.sql("postgres", "create table t (x int)").await.expect("created");

    primary.pause().expect("paused");
    assert!(primary.is_paused() && primary.is_running());
    assert!(primary.wait_ready(Duration::from_millis(200)).await.is_err());
    primary.resume().expect("resumed");
    primary.sql("postgres", "insert into t values (1)").await.expect("written");

    let (url, pid) = (primary.url(), primary.pid());
    primary.kill().expect("killed");
    assert!(matches!(primary.sql("postgres", "select 1").await, Err(Error::NotRunning { .. })));
    primary.restart().await.expect("restarted after a kill");
    assert_eq!(primary.url(), url);
    assert_ne!(primary.pid(), pid);
    primary.restart().await.expect("restarted in an orderly way");
    primary.sql("postgres", "insert into t values (2)").await.expect("written again");
    stack.postgres().wait_replicas(PATIENCE).await.expect("the replica finds it again");

    primary.kill().expect("killed");
    stack.postgres().promote(0).await.expect("promoted");
    replica.sql("postgres", "insert into t values (3)").await.expect("it can be written");
    assert_eq!(first(&replica.sql("postgres", "select count(*) from t").await.expect("read")), Some("3"));
}

#[tokio::test]
async fn redis_is_paused_killed_restarted_emptied_promoted_and_followed() {
    if ready().await.is_none() {
        return;
    }
    let stack = in_containers().redis(RedisOptions::with_replicas(1)).start().await.expect("both start");
    let (master, replica) = (stack.redis().master(), &stack.redis().replicas()[0]);
    let size = async || master.redis_command(&["DBSIZE"]).await.expect("counted").as_int();
    master.redis_command(&["SET", "k", "v"]).await.expect("set");

    master.pause().expect("paused");
    assert!(master.wait_ready(Duration::from_millis(100)).await.is_err());
    master.resume().expect("resumed");
    master.kill().expect("killed");
    assert!(matches!(master.redis_command(&["PING"]).await, Err(Error::NotRunning { .. })));
    master.restart().await.expect("restarted");
    assert_eq!(size().await, Some(1), "the data are back");
    master.restart_empty().await.expect("restarted empty");
    assert_eq!(size().await, Some(0));
    stack.redis().wait_replicas(PATIENCE).await.expect("the replica finds it again");

    replica.promote().await.expect("promoted");
    replica.redis_command(&["SET", "k", "w"]).await.expect("it can be written");
    master.follow(replica).await.expect("it follows");
    wait_for("the former master has it", PATIENCE, async || {
        master.redis_command(&["GET", "k"]).await.is_ok_and(|value| value.as_text() == Some("w"))
    })
    .await;
}
