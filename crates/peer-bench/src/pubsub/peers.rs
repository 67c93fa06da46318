//! Who publishes and who subscribes, each with two connections to publish on and one to receive on.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use fred::clients::{Client, Pool};
use fred::interfaces::{ClientLike as _, EventInterface as _, PubsubInterface as _};
use fred::types::{Message, Value};
use local_stack::Stack;
use pubsub_manager::{Config, Deps, PubSubManager, RedisBus};
use redis::aio::{MultiplexedConnection, PubSub};
use tokio::sync::broadcast;

use crate::keys::VALUE;
use crate::servers::{self, REDIS_CONNECTIONS};

/// Messages that the driver keeps for a receiver: by default it keeps 32 and drops the rest in silence.
const FRED_BUFFER: usize = 65_536;

/// The channel of this bench.
pub(crate) const CHANNEL: &str = "bench";

/// A message that says which one it is.
pub(crate) fn message(number: u64) -> Bytes {
    let mut message = vec![b'x'; VALUE];
    message[..8].copy_from_slice(&number.to_be_bytes());
    Bytes::from(message)
}

/// What [`message`] wrote.
pub(crate) fn number(message: &[u8]) -> u64 {
    u64::from_be_bytes(message[..8].try_into().expect("it has 256 bytes"))
}

/// Two managers, as two processes have them.
pub(crate) async fn ours(stack: &Stack) -> Result<(PubSubManager, PubSubManager)> {
    let manager = async || -> Result<PubSubManager> {
        let bus = RedisBus::new(servers::link(stack).await?)?;
        Ok(Config::default().build(Deps::over(bus))?)
    };
    Ok((manager().await?, manager().await?))
}

/// Publishing ends, and the messages of a channel.
pub(crate) async fn fred(stack: &Stack) -> Result<(Pool, Client, broadcast::Receiver<Message>)> {
    let config = fred::types::config::Config::from_url(&stack.redis_url())?;
    let mut builder = fred::types::Builder::from_config(config);
    let pool = builder.build_pool(REDIS_CONNECTIONS)?;
    pool.init().await.context("fred")?;
    builder.with_performance_config(|performance| performance.broadcast_channel_capacity = FRED_BUFFER);
    let subscriber = builder.build()?;
    subscriber.init().await.context("fred")?;
    let messages = subscriber.message_rx();
    subscriber.subscribe("fred").await.context("fred")?;
    Ok((pool, subscriber, messages))
}

/// The payload of fred's message.
pub(crate) fn payload(message: Message) -> Bytes {
    match message.value {
        Value::Bytes(bytes) => bytes,
        Value::String(text) => text.into_inner(),
        other => panic!("{other:?} is no payload"),
    }
}

/// Publishing ends and a subscribed one.
pub(crate) async fn redis_rs(stack: &Stack) -> Result<(Vec<MultiplexedConnection>, PubSub)> {
    let client = redis::Client::open(stack.redis_url()).context("redis-rs")?;
    let mut connections = Vec::new();
    for _ in 0..REDIS_CONNECTIONS {
        connections.push(client.get_multiplexed_async_connection().await.context("redis-rs")?);
    }
    let mut subscriber = client.get_async_pubsub().await.context("redis-rs")?;
    subscriber.subscribe("redis-rs").await.context("redis-rs")?;
    Ok((connections, subscriber))
}
