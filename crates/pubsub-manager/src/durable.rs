//! Durable channels: kept by a store until every group has acknowledged, delivered at least once.

mod record;
mod store;
mod words;

mod channel;
mod outlet;

mod consumer;
mod delivery;
mod handler;
mod member;
mod options;
mod settler;
mod taker;

mod memory;
#[cfg(feature = "redis")]
mod redis;

mod stats;

pub use channel::{DurableChannel, DurablePublish};
pub use consumer::{Consumer, DurableEvent};
pub use delivery::{Delivery, DurableMessage};
pub use handler::DurableHandler;
pub use memory::MemoryDurable;
pub use options::ConsumerOptions;
pub(crate) use outlet::Outlets as DurableOutlets;
pub use record::{DurableLimits, DurableRecord};
#[cfg(feature = "redis")]
pub use redis::RedisDurable;
pub(crate) use stats::DurableCounts;
pub use stats::{DurableLatency, DurableStats};
pub use store::{
    ConsumerKey, DurableSource, DurableStore, GroupChange, RecordedLoss, Resolution, Settle, Settled,
    Settlement, Take, Taken, TakenMessage,
};
pub use words::{DeadLetter, DurableGroup, DurableId, GroupName, Loss, LossCause, StartFrom};

use crate::{Error, PubSubManager, Subject};
use resilience::Deadline;
use serde::{Serialize, de::DeserializeOwned};
use std::sync::Arc;

impl PubSubManager {
    /// A typed durable channel by its name. Costs nothing until used. Its name has nothing to do with plain channels.
    ///
    /// # Errors
    /// [`Error::InvalidSubject`].
    pub fn durable_channel<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
    ) -> Result<DurableChannel<T>, Error> {
        Ok(DurableChannel::new(Arc::clone(&self.0), Subject::new(name)?))
    }

    /// What this manager did on durable channels so far.
    #[must_use]
    pub fn durable_stats(&self) -> DurableStats {
        self.0.durable_counts.stats()
    }

    /// The names of all durable channels that were ever used, sorted; see [`DurableChannel::groups`] for more of one.
    ///
    /// Cancel safety: safe.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Timeout`], [`Error::Unknown`], [`Error::Shutdown`].
    pub async fn durable_channels(&self, deadline: Deadline) -> Result<Vec<String>, Error> {
        self.0.durable("list durable channels")?.channels(deadline).await
    }

    /// Appends records that have been encoded already, as the relay of the outbox does; all or none, in order.
    #[cfg(feature = "postgres")]
    pub(crate) async fn durable_append(
        &self,
        channel: &Subject,
        records: &[DurableRecord],
        deadline: Deadline,
    ) -> Result<(), Error> {
        let result =
            self.0.durable("publish")?.append(channel, records, &self.0.config.durable, deadline).await;
        self.0.durable_counts.appended(records.len() as u64, result.as_ref().err());
        result
    }
}
