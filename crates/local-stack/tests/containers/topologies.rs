//! Servers that tell clients the addresses of others, which must be the same inside and outside of their containers;
//! and one before another.

use local_stack::{PostgresOptions, Redis, RedisOptions, wait_for};

use crate::{PATIENCE, first, in_containers, ready};

#[tokio::test]
async fn sentinels_name_the_new_master_where_clients_find_it() {
    if ready().await.is_none() {
        return;
    }
    let stack = in_containers().redis(RedisOptions::with_sentinels(1)).start().await.expect("all five start");
    let redis = stack.redis();
    let before = redis.sentinel_master().await.expect("named");
    before.kill().expect("killed");
    wait_for("another master", PATIENCE, async || {
        redis.sentinel_master().await.is_ok_and(|now| now.port() != before.port())
    })
    .await;
    let now = redis.sentinel_master().await.expect("named");
    now.redis_command(&["SET", "k", "v"]).await.expect("it can be written");
}

#[tokio::test]
async fn a_cluster_sends_clients_where_the_slot_is() {
    if ready().await.is_none() {
        return;
    }
    let stack = in_containers().redis(RedisOptions::cluster()).start().await.expect("all six start");
    let redis = stack.redis();
    let owner = redis.slot_owner(Redis::slot("k")).await.expect("owned");
    for master in redis.masters() {
        match master.redis_command(&["SET", "k", "v"]).await {
            Ok(_) => assert_eq!(master.name(), owner.name()),
            Err(moved) => assert!(moved.to_string().contains(&owner.target()), "{moved}"),
        }
    }
}

#[tokio::test]
async fn pgbouncer_stands_before_postgres() {
    if ready().await.is_none() {
        return;
    }
    let options = PostgresOptions { pgbouncer: true, ..PostgresOptions::default() };
    let stack = in_containers().postgres(options).start().await.expect("both start");
    let rows = stack.postgres().pgbouncer().sql("postgres", "select 7").await.expect("answered");
    assert_eq!(first(&rows), Some("7"));
    stack.postgres().pgbouncer().restart().await.expect("restarted");
}
