//! One message at a time, from publish to receive, on one core.

use anyhow::Result;
use bytes::Bytes;
use fred::clients::{Client, Pool};
use fred::interfaces::PubsubInterface as _;
use fred::types::Message;
use futures_util::StreamExt as _;
use pubsub_manager::{Channel, Event, PubSubManager, SubscribeOptions, Subscription};
use redis::AsyncCommands as _;
use redis::aio::{MultiplexedConnection, PubSubStream};
use tokio::sync::{Mutex, broadcast};

use super::peers::{self, CHANNEL};
use crate::Bench;
use crate::measure::{self, Contender, Crew, Entrant};
use crate::report::{By, OURS};
use crate::servers;

struct Ours {
    channel: Channel<Bytes>,
    subscription: Mutex<Subscription<Bytes>>,
    _managers: (PubSubManager, PubSubManager),
}

impl Contender for Ours {
    async fn op(&self, turn: usize) {
        let sent = peers::message(turn as u64);
        self.channel.publish(&sent).await.expect("published");
        match self.subscription.lock().await.next().await {
            Some(Event::Message(message)) => assert_eq!(message.value, sent),
            other => panic!("{other:?} is no message"),
        }
    }
}

struct Fred {
    pool: Pool,
    _subscriber: Client,
    messages: Mutex<broadcast::Receiver<Message>>,
}

impl Contender for Fred {
    async fn op(&self, turn: usize) {
        let sent = peers::message(turn as u64);
        let _: i64 = self.pool.next().publish("fred", sent.clone()).await.expect("published");
        let message = self.messages.lock().await.recv().await.expect("a message");
        assert_eq!(peers::payload(message), sent);
    }
}

struct RedisRs {
    connection: MultiplexedConnection,
    messages: Mutex<PubSubStream>,
}

impl Contender for RedisRs {
    async fn op(&self, turn: usize) {
        let sent = peers::message(turn as u64);
        let _: i64 = self.connection.clone().publish("redis-rs", &sent[..]).await.expect("published");
        let message = self.messages.lock().await.next().await.expect("a message");
        assert_eq!(message.get_payload_bytes(), &sent[..]);
    }
}

/// To be called on a pinned thread, with servers of its own.
pub(crate) async fn run_one(bench: &mut Bench) -> Result<()> {
    let stack = servers::start().await?;
    let (one, two) = peers::ours(&stack).await?;
    let subscription =
        Mutex::new(two.channel::<Bytes>(CHANNEL)?.subscribe(SubscribeOptions::default()).await?);
    let channel = one.channel(CHANNEL)?;
    let (pool, subscriber, messages) = peers::fred(&stack).await?;
    let (connections, redis_rs) = peers::redis_rs(&stack).await?;
    let entrants = [
        Entrant::new(OURS, Ours { channel, subscription, _managers: (one, two) }),
        Entrant::new("floor:fred", Fred { pool, _subscriber: subscriber, messages: Mutex::new(messages) }),
        Entrant::new(
            "redis-rs",
            RedisRs { connection: connections[0].clone(), messages: Mutex::new(redis_rs.into_on_message()) },
        ),
    ];
    let progress = bench.progress("pubsub latency, one core", 1, entrants.len());
    let shown = measure::measure(&entrants, bench.plan(Crew::One, 1), &progress).await?;
    bench.report.add("pubsub", "latency", 1, By::Median, &shown);
    super::journal::run_one(bench, &stack).await
}
