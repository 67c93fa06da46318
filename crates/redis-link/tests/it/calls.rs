//! What calls on a living generation answer.

use crate::support::{config, connected, everywhere, own, soon, within};
use bytes::Bytes;
use local_stack::RedisOptions;
use redis_link::{Command, Error, Script, Value};
use std::{sync::Arc, time::Duration};

#[tokio::test]
async fn values_come_back_as_they_were_set() {
    for ground in everywhere().await {
        let link = connected(ground.config()).await;
        let generation = link.ready(soon()).await.expect("connected");
        let key = link.keys().cache_value("users", "42").expect("a good key");
        let other = link.keys().cache_value("users", "43").expect("a good key");
        assert_eq!(generation.get(&key, soon()).await.expect("got"), None);
        let binary: Vec<u8> = (0..=255).collect();
        generation.set(&key, binary.clone(), Some(Duration::from_secs(60)), soon()).await.expect("set");
        assert_eq!(generation.get(&key, soon()).await.expect("got").as_deref(), Some(&binary[..]));
        let pair = [key.clone(), other.clone()];
        let got = generation.mget(&pair, soon()).await.expect("got");
        assert_eq!(got, [Some(Bytes::from(binary)), None]);
        let left = generation.call(Command::new("PTTL").arg(&key), soon()).await.expect("asked");
        assert!((1..=60_000).contains(&left.as_int().expect("an integer")));
        assert_eq!(generation.del(&pair, soon()).await.expect("deleted"), 1);
        assert_eq!(generation.mget(&[], soon()).await.expect("nothing to ask"), []);
        assert!(generation.ping(soon()).await.expect("pong") < Duration::from_secs(30));
        assert!(link.health_check(soon()).await.is_ok());
    }
}

#[tokio::test]
async fn a_pipeline_keeps_its_order_and_its_errors_apart() {
    for ground in everywhere().await {
        let link = connected(ground.config()).await;
        let generation = link.ready(soon()).await.expect("connected");
        let list = link.keys().lock("a", "list").expect("a good key");
        let mut commands: Vec<_> = (0..500).map(|i| Command::new("RPUSH").arg(&list).arg(i)).collect();
        commands.push(Command::new("INCR").arg(&list));
        commands.push(Command::new("LRANGE").arg(&list).arg(0).arg(-1));
        let mut replies = generation.pipeline(commands, soon()).await.expect("sent");
        let all = replies.pop().expect("the range").expect("read").into_array().expect("a list");
        let numbers: Vec<_> = all.iter().map(|value| value.as_int().expect("an integer")).collect();
        assert_eq!(numbers, (0..500).collect::<Vec<_>>());
        let wrong = replies.pop().expect("the increment");
        assert!(matches!(wrong, Err(Error::Server { operation: "INCR", code, .. }) if code == "WRONGTYPE"));
        assert!(replies.iter().all(Result::is_ok));
    }
}

#[tokio::test]
async fn scripts_load_themselves_and_see_their_own_keys_and_arguments() {
    let stack = own(RedisOptions::default()).await;
    let link = connected(config(stack.redis().master())).await;
    let generation = link.ready(soon()).await.expect("connected");
    let key = link.keys().lock("a", "n").expect("a good key");
    for script in [
        Script::new("plain", "return {#KEYS, #ARGV, KEYS[1], ARGV[2], redis.call('INCR', KEYS[1])}"),
        Script::fenced("fenced", "return {#KEYS, #ARGV, KEYS[1], ARGV[2], redis.call('INCR', KEYS[1])}"),
    ] {
        for _ in 0..2 {
            let args = vec![Bytes::from("x"), Bytes::from("y")];
            let reply =
                generation.eval(&script, std::slice::from_ref(&key), args, soon()).await.expect("ran");
            let parts = reply.as_array().expect("a list");
            assert_eq!(parts[0], Value::Int(1));
            assert_eq!(parts[1], Value::Int(2));
            assert_eq!(parts[2].as_bytes().expect("the key"), key.as_bytes());
            assert_eq!(parts[3].as_str().expect("the argument"), "y");
        }
    }
    let count = generation.get(&key, soon()).await.expect("got");
    assert_eq!(count.as_deref(), Some(&b"4"[..]));
    let nothing = generation.eval(&Script::fenced("none", "return nil"), &[], Vec::new(), soon()).await;
    assert_eq!(nothing.expect("ran"), Value::Nil);
    let broken = Script::new("broken", "return redis.call('NOSUCH')");
    let error = generation.eval(&broken, &[], Vec::new(), soon()).await.expect_err("no such command");
    assert!(matches!(error, Error::Server { operation: "broken", .. }), "{error}");
    assert!(generation.is_alive());
}

#[tokio::test]
async fn scripts_about_one_key_arrive_in_order() {
    for ground in everywhere().await {
        let link = connected(redis_link::Config { pool_size: 4, ..ground.config() }).await;
        let generation = link.ready(soon()).await.expect("connected");
        let key = link.keys().lock("a", "list").expect("a good key");
        let push = Script::new("push", "return redis.call('RPUSH', KEYS[1], ARGV[1])");
        generation
            .eval(&push, std::slice::from_ref(&key), vec![Bytes::from("warm")], soon())
            .await
            .expect("loaded");
        let calls = (0..300).map(|i: i32| {
            generation.eval(&push, std::slice::from_ref(&key), vec![Bytes::from(i.to_string())], soon())
        });
        let calls: Vec<_> = calls.map(Box::pin).collect();
        for outcome in futures_util::future::join_all(calls).await {
            outcome.expect("pushed");
        }
        let all =
            generation.call(Command::new("LRANGE").arg(&key).arg(1).arg(-1), soon()).await.expect("read");
        let numbers: Vec<_> =
            all.as_array().expect("a list").iter().map(|v| v.as_int().expect("a number")).collect();
        assert_eq!(numbers, (0..300).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_gets_at_once() {
    for ground in everywhere().await {
        let link = connected(ground.config()).await;
        let generation = link.ready(soon()).await.expect("connected");
        let keys: Vec<_> =
            (0..1000).map(|i| link.keys().cache_value("r", &i.to_string()).expect("a good key")).collect();
        for key in &keys {
            generation.set(key, key.as_bytes(), None, soon()).await.expect("set");
        }
        let tasks: Vec<_> = keys
            .into_iter()
            .map(|key| {
                let generation = Arc::clone(&generation);
                tokio::spawn(async move {
                    for _ in 0..20 {
                        let value = generation.get(&key, soon()).await.expect("got");
                        assert_eq!(value.as_ref(), Some(key.as_bytes()));
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("every answer was its own");
        }
        assert_eq!(generation.in_flight(), 0);
    }
}

#[tokio::test]
async fn limits_are_errors_that_say_so() {
    for ground in everywhere().await {
        let settings = redis_link::Config { max_request: 1000, max_in_flight: 1, ..ground.config() };
        let link = connected(settings).await;
        let generation = link.ready(soon()).await.expect("connected");
        let key = link.keys().lock("a", "x").expect("a good key");
        let large = generation.set(&key, vec![0; 1001], None, soon()).await.expect_err("too large");
        assert!(matches!(large, Error::TooLarge { operation: "SET", limit: 1000, .. }), "{large}");
        let script = Script::new("s", "return 1");
        let large = generation.eval(&script, &[], vec![Bytes::from(vec![0; 1001])], soon()).await;
        assert!(matches!(large, Err(Error::TooLarge { operation: "s", .. })));
        let expired = generation.get(&key, within(0)).await.expect_err("no time");
        assert!(matches!(expired, Error::Timeout { sent: false, .. }), "{expired}");
        assert!(!expired.outcome_unknown());
        // One permit: the second waits behind a blocking command, and its time is up before its turn.
        let mut blocked = Box::pin(generation.call(Command::new("BLPOP").arg(&key).arg(0), within(2000)));
        let waiting = async {
            let late = generation.get(&key, within(100)).await.expect_err("no turn");
            assert!(matches!(late, Error::Timeout { sent: false, operation: "GET", .. }), "{late}");
        };
        tokio::select! {
            biased;
            _ = &mut blocked => panic!("nothing was pushed"),
            () = waiting => {}
        }
        assert_eq!(generation.in_flight(), 1);
        drop(blocked);
        assert_eq!(generation.in_flight(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_dropped_anywhere_leave_no_permit_behind() {
    for ground in everywhere().await {
        let settings = redis_link::Config { max_in_flight: 8, ..ground.config() };
        let link = connected(settings).await;
        let generation = link.ready(soon()).await.expect("connected");
        let key = link.keys().lock("a", "n").expect("a good key");
        let mut tasks = Vec::new();
        for task in 0..16_u64 {
            let (generation, key) = (Arc::clone(&generation), key.clone());
            tasks.push(tokio::spawn(async move {
                for round in 0..200_u64 {
                    let micros = (task * 37 + round * 101) % 700;
                    let call = generation.call(Command::new("INCR").arg(&key), soon());
                    // Dropped after any number of polls.
                    let _ = tokio::time::timeout(Duration::from_micros(micros), call).await;
                }
            }));
        }
        for task in tasks {
            task.await.expect("no panic");
        }
        assert_eq!(generation.in_flight(), 0);
        generation.get(&key, soon()).await.expect("still working");
        assert!(generation.is_alive());
    }
}

#[tokio::test]
async fn a_dedicated_connection_may_block_without_holding_up_others() {
    for ground in everywhere().await {
        let settings = redis_link::Config { blocking_margin: Duration::from_millis(300), ..ground.config() };
        let link = connected(settings).await;
        let list = link.keys().journal("0").expect("a good key");
        let dedicated =
            link.dedicated(&link.keys().lock("d", "d").expect("a good key"), soon()).await.expect("opened");
        let pop = || Command::new("BLPOP").arg(&list).arg("0.1");
        let block = Duration::from_millis(100);
        assert_eq!(dedicated.call_blocking(pop(), block, soon()).await.expect("nothing came"), Value::Nil);
        let generation = link.ready(soon()).await.expect("connected");
        let blocked = dedicated.call_blocking(
            Command::new("BLPOP").arg(&list).arg(10),
            Duration::from_secs(10),
            soon(),
        );
        let push = async {
            generation.call(Command::new("RPUSH").arg(&list).arg("x"), soon()).await.expect("pushed");
        };
        let (popped, ()) = tokio::join!(blocked, push);
        assert_eq!(popped.expect("popped").as_array().expect("key and value").len(), 2);
        // It blocks for longer than it said: the connection is out of step and over.
        let late = dedicated.call_blocking(Command::new("BLPOP").arg(&list).arg(5), block, soon()).await;
        assert!(matches!(late, Err(Error::Timeout { sent: true, .. })));
        assert!(!dedicated.is_alive());
        assert!(matches!(dedicated.call(Command::new("PING"), soon()).await, Err(Error::Unavailable { .. })));
        assert!(generation.is_alive());
    }
}
