//! Servers that know less: too old a version, no RESP3.

use crate::support::{PATIENCE, config, config_for, connected, deps, own, shared, soon};
use local_stack::{RedisOptions, wait_for};
use redis_link::{Command, Config, Error, Script, SubscriptionEvent};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Passes on what is said, and changes one word of as many letters in the answers.
pub(crate) async fn relay(to: u16, from_word: &'static str, to_word: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { continue };
            let ((from_client, to_client), (from_server, to_server)) =
                (client.into_split(), server.into_split());
            tokio::spawn(pass(from_client, to_server, ("", "")));
            tokio::spawn(pass(from_server, to_client, (from_word, to_word)));
        }
    });
    port
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    (word, instead): (&'static str, &'static str),
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let mut said = buffer[..length].to_vec();
        if !word.is_empty()
            && let Some(at) = said.windows(word.len()).position(|window| window == word.as_bytes())
        {
            said[at..at + word.len()].copy_from_slice(instead.as_bytes());
        }
        if to.write_all(&said).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_version_that_is_too_old_is_named() {
    let stack = shared().await;
    let port = relay(stack.redis().master().port(), "redis_version:7.0", "redis_version:6.0").await;
    let error = config_for(port).connect(deps()).await.expect_err("refused");
    assert!(matches!(&error, Error::TooOld { version, .. } if version.starts_with("6.0")), "{error:?}");
}

#[tokio::test]
async fn a_server_without_hello_is_spoken_to_in_the_old_protocol() {
    let options = RedisOptions {
        config: vec!["rename-command HELLO \"\"".into()],
        password: Some("secret".into()),
        ..RedisOptions::default()
    };
    let stack = own(options).await;
    let settings = Config { password: Some("secret".into()), database: 2, ..config(stack.redis().master()) };
    let link = connected(settings).await;
    assert_eq!(link.status().protocol, 2);
    let generation = link.ready(soon()).await.expect("connected");
    let key = link.keys().lock("a", "n").expect("a good key");
    let script = Script::fenced("write", "return {redis.call('INCR', KEYS[1]), false, 'x'}");
    let reply = generation.eval(&script, std::slice::from_ref(&key), Vec::new(), soon()).await.expect("ran");
    assert_eq!(reply.as_array().expect("a list")[0].as_int().expect("a number"), 1);
    assert!(
        generation
            .get(&link.keys().lock("a", "none").expect("a good key"), soon())
            .await
            .expect("got")
            .is_none()
    );

    let channels: Vec<_> =
        (0..700).map(|n| link.keys().channel(&format!("c{n}")).expect("a good name")).collect();
    let mut subscription = link.subscribe(&channels, Default::default(), soon()).await.expect("subscribed");
    for channel in &channels {
        generation.publish(channel, "x", soon()).await.expect("published");
    }
    for _ in &channels {
        let event = tokio::time::timeout(PATIENCE, subscription.next()).await.expect("in time");
        assert!(matches!(event, Some(SubscriptionEvent::Message { .. })), "{event:?}");
    }
    subscription.handle().remove(&channels[1..], soon()).await.expect("unsubscribed");
    assert_eq!(generation.publish(&channels[0], "x", soon()).await.expect("published"), 1);
    assert_eq!(generation.publish(&channels[1], "x", soon()).await.expect("published"), 0);

    let dedicated = link.dedicated(&key, soon()).await.expect("opened");
    dedicated.call(Command::new("PING"), soon()).await.expect("pong");
    stack.redis().master().restart().await.expect("restarted");
    wait_for("the link and the subscription", PATIENCE, async || {
        link.generation().is_some() && subscription.handle().is_connected()
    })
    .await;
    assert_eq!(link.status().protocol, 2);
}
