//! What `connect` says about servers that are not as they should be.

use crate::support::{PATIENCE, config, config_for, connected, deps, own, shared, soon};
use local_stack::{RedisOptions, wait_for};
use redis_link::{Config, ConnectionState, Endpoint, Error, TlsConfig, Topology, Verify};
use std::time::Duration;

#[tokio::test]
async fn wrong_passwords_and_none() {
    let stack = own(RedisOptions { password: Some("right".into()), ..RedisOptions::default() }).await;
    let settings = config(stack.redis().master());
    for password in [Some("wrong".into()), None] {
        let error = Config { password, ..settings.clone() }.connect(deps()).await.expect_err("refused");
        assert!(matches!(error, Error::Auth(_)), "{error:?}");
        assert!(!error.is_retryable() && !error.to_string().contains("wrong\""));
    }
    let link = connected(Config { password: Some("right".into()), ..settings }).await;
    let generation = link.ready(soon()).await.expect("connected");
    for shown in [format!("{link:?}"), format!("{generation:?}"), format!("{:?}", link.status())] {
        assert!(!shown.contains("right"), "{shown}");
    }
}

/// The least rights that the crate documents: what it sends by itself, and nothing else.
#[tokio::test]
async fn the_documented_rights_are_enough() {
    let rights = "+hello +select +client|id +ping +info +time +get +set +eval +evalsha +publish +subscribe +psubscribe \
                  +unsubscribe +punsubscribe";
    let acl = format!("user app on >pass ~t* &t* -@all {rights}\n");
    let stack = own(RedisOptions { acl: Some(acl), ..RedisOptions::default() }).await;
    let settings = Config {
        username: Some("app".into()),
        password: Some("pass".into()),
        database: 1,
        ..config(stack.redis().master())
    };
    let link = connected(settings).await;
    let channel = link.keys().channel("x").expect("a good name");
    let subscribed = link.subscribe(std::slice::from_ref(&channel), Default::default(), soon()).await;
    subscribed.expect("allowed").handle().remove(&[channel], soon()).await.expect("allowed");
    let dedicated =
        link.dedicated(&link.keys().lock("d", "d").expect("a good key"), soon()).await.expect("opened");
    dedicated.call(redis_link::Command::new("PING"), soon()).await.expect("pong");
    let script = redis_link::Script::fenced("one", "return 1");
    let generation = link.ready(soon()).await.expect("connected");
    generation.eval(&script, &[], Vec::new(), soon()).await.expect("allowed");
    let first = generation.id();
    tokio::time::timeout(Duration::from_millis(500), generation.died())
        .await
        .expect_err("the probes are allowed");
    assert_eq!(link.ready(soon()).await.expect("connected").id(), first);
}

#[tokio::test]
async fn a_missing_right_is_named() {
    let acl = "user app on >pass ~* &* +@all -info\nuser keys on >pass ~other:* &* +@all\nuser chan on >pass ~* resetchannels +@all\n";
    let stack = own(RedisOptions { acl: Some(acl.into()), ..RedisOptions::default() }).await;
    let user = |name: &str| Config {
        username: Some(name.into()),
        password: Some("pass".into()),
        ..config(stack.redis().master())
    };
    let error = user("app").connect(deps()).await.expect_err("refused");
    assert!(matches!(&error, Error::Acl { command, .. } if command == "info"), "{error:?}");
    let error = user("keys").connect(deps()).await.expect_err("refused");
    assert!(matches!(&error, Error::Acl { command, .. } if command == "a key"), "{error:?}");
    let link = connected(user("chan")).await;
    let channel = link.keys().channel("x").expect("a good name");
    let error = link.subscribe(&[channel], Default::default(), soon()).await.expect_err("refused");
    assert!(matches!(&error, Error::Acl { command, .. } if command == "a channel"), "{error:?}");
}

#[tokio::test]
async fn a_replica_is_no_master() {
    let stack = own(RedisOptions::with_replicas(1)).await;
    let error = config(&stack.redis().replicas()[0]).connect(deps()).await.expect_err("refused");
    assert!(matches!(&error, Error::WrongRole { role, .. } if role == "slave"), "{error:?}");
}

#[tokio::test]
async fn tls_against_a_server_without() {
    let stack = shared().await;
    let tls = Some(TlsConfig { verify: Verify::None, ..TlsConfig::default() });
    let outcome = Config { tls, connect_timeout: Duration::from_secs(2), ..config(stack.redis().master()) };
    let error = outcome.connect(deps()).await.expect_err("refused");
    assert!(matches!(error, Error::Tls { .. }), "{error:?}");
}

#[tokio::test]
async fn an_unreachable_server_is_waited_for() {
    let stack = own(RedisOptions::default()).await;
    let master = stack.redis().master();
    master.kill().expect("killed");
    let link = config(master).connect(deps()).await.expect("the link starts without");
    assert!(link.generation().is_none());
    let status = link.status();
    assert_eq!(status.state, ConnectionState::Disconnected);
    assert!(status.last_error.is_some() && status.connection_errors >= 1);
    let error = link.current().expect_err("not connected");
    assert!(
        matches!(&error, Error::Unavailable { cause, .. } if cause.contains(&master.port().to_string())),
        "{error}"
    );
    master.restart().await.expect("restarted");
    link.ready(soon()).await.expect("connected");
    assert_eq!(link.status().state, ConnectionState::Connected);
    assert!(link.server_clock().uncertainty().is_some());
}

#[tokio::test]
async fn replicas_are_watched_for_the_status() {
    let stack = own(RedisOptions::with_replicas(2)).await;
    stack.redis().wait_replicas(PATIENCE).await.expect("replicated");
    let replicas: Vec<_> =
        stack.redis().replicas().iter().map(|r| Endpoint::new("127.0.0.1", r.port())).collect();
    let master = Endpoint::new("127.0.0.1", stack.redis().master().port());
    let settings = Config {
        topology: Topology::Standalone { master, replicas },
        replica_interval: Duration::from_millis(50),
        ..config(stack.redis().master())
    };
    let link = connected(settings).await;
    wait_for("both replicas", PATIENCE, async || link.status().replicas_connected == 2).await;
    stack.redis().replicas()[0].kill().expect("killed");
    wait_for("one replica", PATIENCE, async || link.status().replicas_connected == 1).await;
    assert!(link.status().master_connected);
}

#[tokio::test]
async fn all_wrong_settings_at_once() {
    let settings =
        Config { namespace: "a:b".into(), pool_size: 0, username: Some("u".into()), ..config_for(1) };
    let error = settings.connect(deps()).await.expect_err("refused");
    let Error::Config(problems) = &error else { panic!("{error:?}") };
    let settings: Vec<_> = problems.iter().map(|problem| problem.setting).collect();
    assert_eq!(settings, ["namespace", "username", "pool_size"]);
}
