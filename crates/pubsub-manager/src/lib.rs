//! Typed publish and subscribe that reports its gaps, and the journal that every process reads completely.
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
//! - Every queue is bounded; what a full one does is the subscriber's choice ([`SlowConsumer`]) and told in the stream.
//!
//! A [`Bus`] carries the frames: [`RedisBus`] (feature `redis`) or [`MemoryBus`]; without one every call answers
//! [`Error::Unavailable`]. [`TxPublish`] (feature `postgres`) publishes after COMMIT and never after a rollback.
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
//! appends under load travel together.
//!
//! # Keys
//! `{ns}:p:name` (channels), `{ns}:j:{shard}` (the stream), `{ns}:j:{shard}:n` (its counter).
//!
//! # Not yet
//! Durable channels, the transactional outbox, a Postgres bus and journal, `Conflate`, the router, request/reply, raw
//! channels, CloudEvents, sharded pub/sub, an alert when the journal's length falls short. None of them is in the API.
//!
//! ```
//! use pubsub_manager::{Config, Event, MemoryBus, SubscribeOptions};
//! use std::sync::Arc;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), pubsub_manager::Error> {
//! let manager = Config::default().build(Some(Arc::new(MemoryBus::new())))?;
//! let orders = manager.channel::<String>("orders.created")?;
//! let mut subscription = manager.subscribe_pattern::<String>("orders.*", SubscribeOptions::default()).await?;
//! orders.publish(&"42".to_owned()).await?;
//! match subscription.next().await {
//!     Some(Event::Message(message)) => assert_eq!(message.value, "42"),
//!     other => unreachable!("{other:?}"),
//! }
//! # Ok(()) }
//! ```

mod config;
mod error;

mod subject;

mod codec;
mod envelope;

mod manager;

mod channel;
mod outlet;

mod subscription;

mod queue;
mod source;
mod tracker;

#[cfg(feature = "postgres")]
mod tx;

mod bus;
mod memory_bus;
#[cfg(feature = "redis")]
mod redis_bus;

mod journal;

mod metrics;
#[cfg(feature = "redis")]
mod redis_error;

pub use bus::{Bus, BusEvent, BusStatus, BusStream};
pub use channel::{Channel, PublishOptions};
pub use codec::Codec;
pub use config::{Config, Problem};
pub use envelope::{HEADER_BYTES, MessageId, TraceContext};
pub use error::{Cause, Error};
pub use journal::{
    Journal, JournalBackend, JournalConfig, JournalEntry, JournalEvent, JournalGap, JournalId, JournalReader,
    JournalSource, JournalState, JournalStats, JournalView, MemoryJournal, PublisherId, RawEntry,
};
#[cfg(feature = "redis")]
pub use journal::{RedisJournal, RedisJournalConfig};
pub use manager::{PubSubManager, Status};
pub use memory_bus::MemoryBus;
pub use metrics::Stats;
pub use outlet::Published;
pub use queue::{GapCause, SlowConsumer};
#[cfg(feature = "redis")]
pub use redis_bus::RedisBus;
pub use subject::{Filter, Subject};
pub use subscription::{Event, Message, SubscribeOptions, Subscription};
#[cfg(feature = "postgres")]
pub use tx::TxPublish;
