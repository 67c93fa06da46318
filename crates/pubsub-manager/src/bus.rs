//! What carries frames between publishers and subscribers. A bus delivers at most once and says when it may have
//! lost something; counting what was lost is not its business.

#[cfg(any(feature = "redis", feature = "postgres"))]
pub(crate) mod inbox;

use crate::{Error, Filter, Lane, Subject};
use async_trait::async_trait;
use bytes::Bytes;
use resilience::Deadline;
use serde::Serialize;
use std::{fmt::Debug, sync::Arc, time::Duration};

/// A carrier of frames.
///
/// Implementations of ours: [`MemoryBus`](crate::MemoryBus), with feature `redis` [`RedisBus`](crate::RedisBus) and with
/// feature `postgres` [`PostgresBus`](crate::PostgresBus).
#[async_trait]
pub trait Bus: Debug + Send + Sync + 'static {
    /// A word for status and metrics, such as `redis`.
    fn name(&self) -> &'static str;

    /// Sends one frame to whoever is subscribed to `subject` in `lane` now, and says to how many where the bus knows.
    ///
    /// Cancel safety: dropped, it may or may not have been sent.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Timeout`]: nothing was sent. [`Error::Unknown`]: it may have been.
    async fn publish(
        &self,
        lane: Lane,
        subject: &Subject,
        frame: Bytes,
        deadline: Deadline,
    ) -> Result<Option<u64>, Error>;

    /// Subscribes; confirmed by the bus when this returns. While the bus is away it waits for it. Dropping the stream
    /// unsubscribes.
    ///
    /// Cancel safety: dropped, no subscription stays behind.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Timeout`] at the deadline, [`Error::Forbidden`], [`Error::Unsupported`]: there is no
    /// subscription.
    async fn subscribe(&self, filter: &Filter, deadline: Deadline) -> Result<Box<dyn BusStream>, Error>;

    /// Whether it works, without asking the server.
    fn status(&self) -> BusStatus;

    /// Asks the server, and says how long the answer took.
    ///
    /// # Errors
    /// Any error means that publishing would fail now.
    async fn health_check(&self, deadline: Deadline) -> Result<Duration, Error>;

    /// The manager has shut down: nothing more will be asked, so connections of its own may be given back although handles
    /// on the bus are still around. Does nothing unless a bus has such.
    fn end(&self) {}
}

/// One confirmed subscription. It re-subscribes by itself after an interruption.
#[async_trait]
pub trait BusStream: Send + 'static {
    /// The next event, `None` when the bus is shut down.
    ///
    /// Cancel safety: safe, no event is lost.
    async fn next(&mut self) -> Option<BusEvent>;
}

/// What a [`BusStream`] yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BusEvent {
    /// A frame.
    Frame {
        /// On which subject.
        subject: Arc<str>,
        /// As published.
        frame: Bytes,
    },
    /// From now on frames may be lost.
    Interrupted,
    /// The subscription is confirmed again.
    Restored,
    /// Frames were dropped just now because this stream was not read fast enough.
    Overflowed,
}

/// Whether a bus works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BusStatus {
    /// Whether it is connected.
    pub connected: bool,
    /// If not, why.
    pub reason: Option<String>,
}
