//! Sentinels over a master with replicas: what they know, and who is master when.

use std::time::Duration;

use local_stack::{Error, ExternalUrls, Provider, Redis, RedisOptions, Reply, Server, Stack, wait_for};

use crate::PATIENCE;

async fn started(options: RedisOptions) -> Stack {
    Stack::builder().redis(options).start().await.expect("Redis and its Sentinels start")
}

async fn master_is_another_than(redis: &Redis, before: &Server) -> Server {
    wait_for("another master", PATIENCE, async || {
        redis.sentinel_master().await.is_ok_and(|now| now.port() != before.port())
    })
    .await;
    redis.sentinel_master().await.expect("named")
}

#[tokio::test]
async fn they_know_all_at_start_and_each_other() {
    let stack = started(RedisOptions::with_sentinels(2)).await;
    println!("a master, two replicas and three Sentinels up in {:?}", stack.started_in());
    let redis = stack.redis();
    assert_eq!((redis.sentinels().len(), redis.servers().count()), (3, 3));
    assert_eq!(redis.sentinel_master().await.expect("named").name(), "redis-0");
    for sentinel in redis.sentinels() {
        let said =
            sentinel.redis_command(&["SENTINEL", "MASTER", Redis::MASTER_NAME]).await.expect("answered");
        let said = said.to_string();
        assert!(said.contains("num-slaves 2") && said.contains("num-other-sentinels 2"), "{said}");
        assert!(said.contains("quorum 2") && said.contains("down-after-milliseconds 500"), "{said}");
        assert!(sentinel.url().starts_with("redis://127.0.0.1:"), "{}", sentinel.url());
        for refused in [sentinel.promote().await, sentinel.follow(redis.master()).await] {
            assert!(matches!(refused, Err(Error::NoSuchPart { .. })), "{refused:?}");
        }
    }
}

#[tokio::test]
async fn a_killed_master_is_replaced_and_comes_back_as_replica() {
    let stack = started(RedisOptions {
        password: Some("secret".into()),
        sentinel_password: Some("other secret".into()),
        ..RedisOptions::with_sentinels(1)
    })
    .await;
    let redis = stack.redis();
    let (first, second) = (redis.master(), &redis.replicas()[0]);
    assert!(
        redis.sentinels()[0].url().starts_with("redis://:other%20secret@"),
        "{}",
        redis.sentinels()[0].url()
    );
    first.redis_command(&["SET", "k", "v"]).await.expect("set");
    redis.wait_replicas(PATIENCE).await.expect("replicated");
    first.kill().expect("killed");
    let now = master_is_another_than(redis, first).await;
    assert_eq!(now.name(), second.name());
    wait_for("it can be written", PATIENCE, async || second.redis_command(&["SET", "k", "w"]).await.is_ok())
        .await;
    first.restart().await.expect("restarted");
    wait_for("the first one follows", PATIENCE, async || {
        first.redis_command(&["GET", "k"]).await.is_ok_and(|value| value.as_text() == Some("w"))
    })
    .await;
    redis.wait_sentinels(PATIENCE).await.expect("all is well again");
    redis.wait_replicas(PATIENCE).await.expect("it is linked");
}

#[tokio::test]
async fn asked_for_a_failover_another_is_master() {
    let acl = include_str!("../../../../deploy/redis/users.acl").replace("CHANGE_ME", "app-pass");
    let stack = started(RedisOptions { acl: Some(acl), ..RedisOptions::with_sentinels(1) }).await;
    let redis = stack.redis();
    let now = redis.failover().await.expect("failed over");
    assert_eq!(now.name(), "redis-1");
    assert_eq!(redis.sentinel_master().await.expect("named").name(), "redis-1");
    now.redis_command(&["SET", "k", "v"]).await.expect("it can be written");
    redis.wait_sentinels(PATIENCE).await.expect("the former master is a replica");
    assert_eq!(redis.failover().await.expect("and back").name(), "redis-0");
}

#[tokio::test]
async fn sentinels_can_be_killed_paused_and_restarted() {
    let stack = started(RedisOptions::with_sentinels(1)).await;
    let redis = stack.redis();
    let [one, two, three] = redis.sentinels() else { panic!("three Sentinels") };
    one.kill().expect("killed");
    two.pause().expect("paused");
    assert_eq!(redis.sentinel_master().await.expect("the last one says").name(), "redis-0");
    three.kill().expect("killed");
    assert!(matches!(redis.sentinel_master().await, Err(Error::NoMaster { .. })));
    assert!(redis.sentinel_master().await.expect_err("none").is_retryable());

    two.resume().expect("resumed");
    let port = one.port();
    one.restart().await.expect("it knows what it knew");
    three.restart_empty().await.expect("it knows what it was told first");
    assert_eq!(one.port(), port);
    redis.wait_sentinels(PATIENCE).await.expect("all know all again");

    // Two of three are enough.
    one.kill().expect("killed");
    redis.master().kill().expect("killed");
    assert_eq!(master_is_another_than(redis, redis.master()).await.name(), "redis-1");
}

#[tokio::test]
async fn one_that_is_out_of_reach_keeps_its_master() {
    // One of two is no majority: nobody else becomes master.
    let options = RedisOptions {
        sentinels: 2,
        sentinel_down_after: Duration::from_millis(200),
        ..RedisOptions::with_replicas(1)
    };
    let stack = started(options).await;
    let redis = stack.redis();
    redis.sentinels()[1].kill().expect("killed");
    redis.master().kill().expect("killed");
    wait_for("the other one takes the master for dead", PATIENCE, async || {
        let said = redis.sentinels()[0].redis_command(&["SENTINEL", "MASTER", Redis::MASTER_NAME]).await;
        said.is_ok_and(|said| said.to_string().contains("s_down"))
    })
    .await;
    assert_eq!(redis.sentinel_master().await.expect("named").name(), "redis-0");
    let role = redis.replicas()[0].redis_command(&["ROLE"]).await.expect("answered");
    assert_eq!(role.items().first(), Some(&Reply::Text("slave".into())));
}

#[tokio::test]
async fn what_cannot_be_is_said() {
    let stack = started(RedisOptions::default()).await;
    let refused = stack.redis().sentinel_master().await.expect_err("there are none");
    assert_eq!(refused.to_string(), "this stack has no Sentinel; ask for it in Stack::builder()");
    let urls = ExternalUrls { redis: Some(stack.redis_url()), ..ExternalUrls::default() };
    let refused = Stack::builder()
        .redis(RedisOptions::with_sentinels(0))
        .provider(Provider::External(urls))
        .start()
        .await
        .expect_err("not with servers of others");
    assert!(matches!(&refused, Error::Setting { name, .. } if name == "sentinels"), "{refused}");
}
