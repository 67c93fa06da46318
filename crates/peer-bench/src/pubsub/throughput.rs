//! 64 messages on their way: each task publishes one and waits until it has been received. Nobody may lose any.

use std::sync::{Arc, Mutex};

use anyhow::Result;
use bytes::Bytes;
use fred::clients::{Client, Pool};
use fred::interfaces::PubsubInterface as _;
use futures_util::StreamExt as _;
use local_stack::Stack;
use pubsub_manager::{Channel, Event, PubSubManager, PublishOptions, RawChannel, RawEvent, SubscribeOptions};
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use tokio::sync::{Notify, broadcast};
use tokio_util::task::AbortOnDropHandle;

use super::peers::{self, CHANNEL};
use crate::Bench;
use crate::measure::{self, Contender, Crew, Entrant};
use crate::report::{By, OURS};

const TASKS: usize = 64;
/// Those who wait for their message, each in a seat of its own.
struct Waiting {
    free: Mutex<Vec<usize>>,
    seats: Vec<Notify>,
}

impl Waiting {
    fn new() -> Arc<Self> {
        let seats = (0..TASKS).map(|_| Notify::new()).collect();
        Arc::new(Self { free: Mutex::new((0..TASKS).collect()), seats })
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<usize>> {
        self.free.lock().expect("nobody panics with it")
    }

    /// One message there and, over the bus, back.
    async fn round_trip(&self, publish: impl AsyncFnOnce(Bytes)) {
        let seat = self.free().pop().expect("as many seats as tasks");
        publish(peers::message(seat as u64)).await;
        self.seats[seat].notified().await;
        self.free().push(seat);
    }

    fn received(&self, message: &[u8]) {
        self.seats[peers::number(message) as usize].notify_one();
    }
}

type Receiving = AbortOnDropHandle<()>;

fn receiving(work: impl Future<Output = ()> + Send + 'static) -> Receiving {
    AbortOnDropHandle::new(tokio::spawn(work))
}

struct Ours {
    channel: Channel<Bytes>,
    waiting: Arc<Waiting>,
    _receiving: Receiving,
    _managers: (PubSubManager, PubSubManager),
}

impl Contender for Ours {
    async fn op(&self, _turn: usize) {
        let publish = async |message| {
            self.channel.publish(&message).await.expect("published");
        };
        self.waiting.round_trip(publish).await;
    }
}

struct OursRaw {
    channel: RawChannel,
    waiting: Arc<Waiting>,
    _receiving: Receiving,
    _managers: (PubSubManager, PubSubManager),
}

impl Contender for OursRaw {
    async fn op(&self, _turn: usize) {
        let publish = async |message: Bytes| {
            self.channel.publish(message, PublishOptions::default()).await.expect("published");
        };
        self.waiting.round_trip(publish).await;
    }
}

struct Fred {
    pool: Pool,
    waiting: Arc<Waiting>,
    _receiving: Receiving,
    _subscriber: Client,
}

impl Contender for Fred {
    async fn op(&self, _turn: usize) {
        let publish = async |message: Bytes| {
            let _: i64 = self.pool.next().publish("fred", message).await.expect("published");
        };
        self.waiting.round_trip(publish).await;
    }
}

struct RedisRs {
    connections: Vec<MultiplexedConnection>,
    waiting: Arc<Waiting>,
    _receiving: Receiving,
}

impl Contender for RedisRs {
    async fn op(&self, turn: usize) {
        let mut connection = self.connections[turn % self.connections.len()].clone();
        let publish = async |message: Bytes| {
            let _: i64 = connection.publish("redis-rs", &message[..]).await.expect("published");
        };
        self.waiting.round_trip(publish).await;
    }
}

fn options() -> SubscribeOptions {
    SubscribeOptions { capacity: 4096, ..SubscribeOptions::default() }
}

async fn ours(stack: &Stack) -> Result<Ours> {
    let (one, two) = peers::ours(stack).await?;
    let mut subscription = two.channel::<Bytes>(CHANNEL)?.subscribe(options()).await?;
    let (channel, waiting) = (one.channel(CHANNEL)?, Waiting::new());
    let received = Arc::clone(&waiting);
    let receiving = receiving(async move {
        while let Some(event) = subscription.next().await {
            match event {
                Event::Message(message) => received.received(&message.value),
                other => panic!("{other:?}: a message was lost"),
            }
        }
    });
    Ok(Ours { channel, waiting, _receiving: receiving, _managers: (one, two) })
}

async fn ours_raw(stack: &Stack) -> Result<OursRaw> {
    let (one, two) = peers::ours(stack).await?;
    let mut subscription = two.raw_channel(CHANNEL)?.subscribe(options()).await?;
    let (channel, waiting) = (one.raw_channel(CHANNEL)?, Waiting::new());
    let received = Arc::clone(&waiting);
    let receiving = receiving(async move {
        while let Some(event) = subscription.next().await {
            match event {
                RawEvent::Message { payload, .. } => received.received(&payload),
                other => panic!("{other:?}: a message was lost"),
            }
        }
    });
    Ok(OursRaw { channel, waiting, _receiving: receiving, _managers: (one, two) })
}

async fn fred(stack: &Stack) -> Result<Fred> {
    let (pool, subscriber, mut messages) = peers::fred(stack).await?;
    let waiting = Waiting::new();
    let received = Arc::clone(&waiting);
    let receiving = receiving(async move {
        loop {
            match messages.recv().await {
                Ok(message) => received.received(&peers::payload(message)),
                Err(broadcast::error::RecvError::Closed) => return,
                Err(lagged) => panic!("{lagged}: a message was lost"),
            }
        }
    });
    Ok(Fred { pool, waiting, _receiving: receiving, _subscriber: subscriber })
}

async fn redis_rs(stack: &Stack) -> Result<RedisRs> {
    let (connections, subscriber) = peers::redis_rs(stack).await?;
    let (waiting, mut messages) = (Waiting::new(), subscriber.into_on_message());
    let received = Arc::clone(&waiting);
    let receiving = receiving(async move {
        while let Some(message) = messages.next().await {
            received.received(message.get_payload_bytes());
        }
    });
    Ok(RedisRs { connections, waiting, _receiving: receiving })
}

/// Typed messages, then payloads as they are.
pub(crate) async fn run(bench: &mut Bench, stack: &Stack) -> Result<()> {
    bench.report.note(
        "pubsub: 256 bytes, two connections to publish on and one to receive on for each; fred with room for 65,536 messages, as \
         with its own 32 it loses some in silence; ours with envelopes, numbers and gap detection, but for throughput_raw",
    );
    let entrants = [
        Entrant::new(OURS, ours(stack).await?),
        Entrant::new("floor:fred", fred(stack).await?),
        Entrant::new("redis-rs", redis_rs(stack).await?),
    ];
    let progress = bench.progress("pubsub throughput", TASKS, entrants.len());
    let shown = measure::measure(&entrants, bench.plan(Crew::Tasks(TASKS), 1), &progress).await?;
    bench.report.add("pubsub", "throughput", TASKS, By::Rate, &shown);
    let [_, fred, redis_rs] = entrants;
    let entrants = [Entrant::new(OURS, ours_raw(stack).await?), fred, redis_rs];
    let progress = bench.progress("pubsub throughput_raw", TASKS, entrants.len());
    let shown = measure::measure(&entrants, bench.plan(Crew::Tasks(TASKS), 1), &progress).await?;
    bench.report.add("pubsub", "throughput_raw", TASKS, By::Rate, &shown);
    Ok(())
}
