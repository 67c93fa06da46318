//! Typed publish and subscribe that reports its gaps, durable channels, the transactional outbox, and the journal that every
//! process reads completely.
//!
//! # Channels
//! [`PubSubManager::channel`] gives a typed [`Channel`]; [`PubSubManager::subscribe_pattern`] subscribes to `orders.*` (one
//! token) or `orders.>` (the rest). Delivery is at most once, to whoever is subscribed, and **no loss is silent**: a
//! [`Subscription`] yields [`Event::Message`], [`Event::Gap`] in the place of what was missed, and [`Event::Reconnected`].
//!
//! - Every message has a header of 64 bytes ([`MessageId`], time, trace context). A publisher numbers its messages per
//!   channel and tells its last number every second, so a subscriber can *count* what it missed, also at the end of a
//!   burst. A number is taken only by what was, or may have been, sent: a publish that failed with certainty leaves no gap.
//! - `missed` is `None` where it cannot be known: a publisher that fell silent without a farewell (killed), or one that was
//!   first heard after an interruption by somebody who had not been subscribed for 2.5 s before it. A publisher that
//!   both began and died within one interruption shows in nothing but [`Event::Reconnected`].
//! - Messages that wait on one channel travel in one frame; one frame of a channel is under way at a time, so order holds.
//! - A subscription is confirmed by the bus when `subscribe` returns, and is subscribed again after every interruption.
//! - Every queue is bounded; what a full one does is the subscriber's choice ([`SlowConsumer`]) and told in the stream:
//!   wait, drop the oldest, keep the newest of each key, or end.
//! - [`sharded_channel`](PubSubManager::sharded_channel)s are carried by one shard of a cluster each, and follow their slot;
//!   [`raw_channel`](PubSubManager::raw_channel)s have no envelopes, for foreign peers. A [`CloudEvent`] is a [`Codec`], too.
//! - A message names the trace that it was published in ([`Deps::traceparent`]); handlers run in a span that does, too.
//!
//! On top of them: a [`Router`] from names and patterns to handlers; [`Channel::request`] and [`Channel::respond`];
//! [`Channel::broadcast`], which says which instances have handled it. [`PubSubManager::channels`] and
//! [`PubSubManager::subscriptions`] list what goes on.
//!
//! A [`Bus`] carries the frames: [`RedisBus`] (feature `redis`), [`PostgresBus`] (feature `postgres`) or [`MemoryBus`];
//! without one every call answers [`Error::Unavailable`].
//!
//! # With transactions
//! [`TxPublish`] (feature `postgres`) publishes what a transaction says if and only if it commits. `publish` stores the
//! message in the transaction; the relay of an [`Outbox`] passes it on, at least once and in the order of its key, whatever
//! dies meanwhile. `publish_on_commit` publishes in memory after COMMIT, which a process may die before.
//!
//! # The journal
//! [`Journal`] is one ordered list with dense ids. Every [`JournalReader`] reads every entry after where it began, or is told
//! of a [`JournalEvent::Gap`]: the next id is not the last plus one, the epoch of the store changed, the store's last id is
//! below the reader's, or the journal is gone. Ids do not repeat: the append script continues a counter under the link's
//! epoch, and refuses to go below what its process has seen. A reader reads on after a cut connection without a gap, as long
//! as the entries are kept.
//!
//! Processes with readers keep the journal from being silent for more than 400 ms; a reader that has worked off nothing for
//! 1 s is not [`JournalState::Current`]. [`JournalView`] answers that in a few nanoseconds. An append costs one round trip;
//! appends under load travel together. A journal that keeps less than two of its busiest minutes says so in the log and in
//! [`JournalStats`]. [`RedisJournal`], [`PostgresJournal`] and [`MemoryJournal`] keep it.
//!
//! # Durable channels
//! [`PubSubManager::durable_channel`] gives a [`DurableChannel`]: a message is kept by a [`DurableStore`] until every group has
//! acknowledged it, and delivered **at least once** to one consumer of each group. [`DurableMessage::id`] stays the same however
//! often a message is published or delivered, so whoever must not do something twice remembers it.
//!
//! - A [`Consumer`] yields [`Delivery`]s to be acknowledged, given back or made dead letters; a [`DurableHandler`] does that by
//!   the outcome of a function. Dropped unsettled, a message comes again after its back-off.
//! - A consumer that lives keeps what it holds, however long it works: it tells so every third of its `ack_timeout`. What a
//!   dead one held goes to others after it, or to the next of its name at once. A late acknowledgement is
//!   [`Error::Superseded`] and changes nothing.
//! - After `max_deliveries` a message is a [`DeadLetter`] of its group, with a reason; so is at once what does not decode. It
//!   can be retried (to that group alone) or dropped. A process that dies takes one delivery of everything that it held: a
//!   message that kills its handlers brings its neighbours nearer to the limit as well.
//! - What no group has acknowledged is never removed. A channel that is full ([`DurableLimits::max_len`]) refuses to publish,
//!   with [`Error::Full`] and the name of the slowest group: a stuck group shows, and memory is bounded. Beyond what is needed,
//!   [`DurableLimits::keep_len`] messages are kept for [`replay`](DurableChannel::replay) and for groups that come later.
//! - **No loss is silent**: [`DurableEvent::Lost`] is told to at least one consumer of every group, whether the store was
//!   replaced (a failover may have lost the newest messages: `missed` is `None`), the group was gone (it then begins with the
//!   oldest message that there is), or somebody else removed messages (they are counted). The exception: where everything is
//!   gone, groups and all, while no consumer of a group runs, nobody is left who knew.
//! - Idle times and ages are by the store's clock; no process's clock decides anything.
//!
//! In Redis ([`RedisDurable`]) a channel is a stream with consumer groups; every step is one script, fenced by the epoch. A
//! consumer has one connection of its own, on which it waits; everything else travels on the shared link. [`MemoryDurable`]
//! serves one process, and tests.
//!
//! # Keys
//! `{ns}:p:name`, `{ns}:s:name`, `{ns}:r:name` (channels: plain, sharded, raw), `{ns}:j:{shard}` (the journal's stream),
//! `{ns}:j:{shard}:n` (its counter). For a durable channel `{ns}:d:{channel}:s` (the messages), `:m` (its last id and limits),
//! `:w` (wakes who waits), and for each group `:g:group` (losses, counts, pause), `:t:group` (when what is pending is due),
//! `:x:group` (dead letters), `:h:group` (consumers); `{ns}:dc:{channels}:names` (the names of all).
//!
//! Commands of durable channels: `XADD`, `XREAD`, `XREADGROUP`, `XACK`, `XCLAIM`, `XPENDING`, `XTRIM`, `XRANGE`, `XDEL`, `XLEN`,
//! `XGROUP CREATE|SETID|DESTROY|DELCONSUMER`, `XINFO STREAM|GROUPS|CONSUMERS`, `DEL`, `EXISTS`, `HGET`, `HMGET`, `HSET`, `HDEL`,
//! `HINCRBY`, `SADD`, `SMEMBERS`, `ZADD`, `ZREM`, `ZCARD`, `ZRANGE`, `ZRANGEBYSCORE`, `TIME`.
//!
//! # Tables
//! [`migrations`]: `bus_frames`, `journals`, `journal_entries`, `outbox`, `outbox_dead`, `outbox_relay`. One
//! [`PostgresListener`] for each database wakes whoever reads them.
//!
//! # Not yet
//! Durable channels in Postgres; spans of our own making beyond those of handlers.
//!
//! ```
//! use pubsub_manager::{Config, Deps, Event, MemoryBus, SubscribeOptions};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), pubsub_manager::Error> {
//! let manager = Config::default().build(Deps::over(MemoryBus::new()))?;
//! let orders = manager.channel::<String>("orders.created")?;
//! let mut subscription = manager.subscribe_pattern::<String>("orders.*", SubscribeOptions::default()).await?;
//! orders.publish(&"42".to_owned()).await?;
//! match subscription.next().await {
//!     Some(Event::Message(message)) => assert_eq!(message.value, "42"),
//!     other => unreachable!("{other:?}"),
//! }
//! # Ok(()) }
//! ```
//!
//! ```
//! use pubsub_manager::{Config, ConsumerOptions, Deps, MemoryDurable};
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), pubsub_manager::Error> {
//! let manager = Config::default().build(Deps::default().durable(MemoryDurable::new()))?;
//! let paid = manager.durable_channel::<u64>("orders.paid")?;
//! let (done, mut order) = tokio::sync::mpsc::channel(1);
//! let handler = paid
//!     .handle("billing", ConsumerOptions::default(), move |message| {
//!         let done = done.clone();
//!         async move { done.send(message.value).await }
//!     })
//!     .await?;
//! paid.publish(&42).await?;
//! assert_eq!(order.recv().await, Some(42));
//! handler.shutdown(Duration::from_secs(1)).await;
//! assert_eq!(paid.groups().await?[0].acknowledged, 1);
//! # Ok(()) }
//! ```

mod config;
mod error;

mod subject;

mod cloud_event;
mod codec;
mod envelope;

mod manager;

mod baton;
mod channel;
mod outlet;

mod subscription;

mod handler;
mod request;
mod respond;
mod router;

mod raw;

mod insight;
mod trace;

mod queue;
mod source;
mod tracker;

#[cfg(feature = "postgres")]
mod outbox;
#[cfg(feature = "postgres")]
mod tx;

mod bus;
mod memory_bus;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis_bus;

mod durable;

mod journal;

mod metrics;
#[cfg(feature = "redis")]
mod redis_error;

pub use bus::{Bus, BusEvent, BusStatus, BusStream};
pub use channel::{Channel, PublishOptions};
pub use cloud_event::CloudEvent;
pub use codec::Codec;
pub use config::{Config, Deps, Problem};
#[cfg(feature = "redis")]
pub use durable::RedisDurable;
pub use durable::{
    Consumer, ConsumerKey, ConsumerOptions, DeadLetter, Delivery, DurableChannel, DurableEvent, DurableGroup,
    DurableHandler, DurableId, DurableLatency, DurableLimits, DurableMessage, DurablePublish, DurableRecord,
    DurableSource, DurableStats, DurableStore, GroupChange, GroupName, Loss, LossCause, MemoryDurable,
    RecordedLoss, Resolution, Settle, Settled, Settlement, StartFrom, Take, Taken, TakenMessage,
};
pub use envelope::{HEADER_BYTES, MessageId};
pub use error::{Cause, Error};
pub use handler::{HandlerLoss, HandlerOptions, HandlerStats, Handlers};
pub use insight::{ChannelInfo, SubscriberInfo, SubscriptionInfo};
pub use journal::{
    Journal, JournalBackend, JournalConfig, JournalEntry, JournalEvent, JournalGap, JournalId, JournalReader,
    JournalSource, JournalState, JournalStats, JournalView, MemoryJournal, PublisherId, RawEntry,
};
#[cfg(feature = "redis")]
pub use journal::{RedisJournal, RedisJournalConfig};
pub use manager::{PubSubManager, Status};
pub use memory_bus::MemoryBus;
pub use metrics::Stats;
#[cfg(feature = "postgres")]
#[doc(hidden)]
pub use outbox::OutboxMessage;
#[cfg(feature = "postgres")]
pub use outbox::{
    Blocker, DeadMessage, Outbox, OutboxChannel, OutboxConfig, OutboxFigures, OutboxOptions, OutboxStatus,
    Which,
};
pub use outlet::Published;
#[cfg(feature = "postgres")]
pub use postgres::{
    PostgresBus, PostgresBusConfig, PostgresJournal, PostgresJournalConfig, PostgresListener, migrations,
};
pub use queue::{ConflateBy, GapCause, SlowConsumer};
pub use raw::{RawChannel, RawEvent, RawSubscription};
#[cfg(feature = "redis")]
pub use redis_bus::RedisBus;
pub use request::{Broadcast, Reply, ReplyTo};
pub use router::Router;
pub use subject::{Filter, Lane, Subject};
pub use subscription::{Event, Message, SubscribeOptions, Subscription};
pub use trace::{TraceContext, Traceparent};
#[cfg(feature = "postgres")]
pub use tx::TxPublish;
