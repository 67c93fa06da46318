//! What a store behind L1 has to offer. A tier keeps encoded values by region and key, and guards its own fills: who
//! wants to fill first makes a *claim*, before loading, and the fill is refused when an invalidation came between
//! the two. What a claim is, is the tier's affair: a lease in Redis, a snapshot in Postgres.
//!
//! A tier knows nothing of L1, of types or of other tiers, and keeps no figures: the manager does all that around it.

use std::any::Any;
use std::fmt::{self, Debug};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use resilience::Deadline;

mod gather;
mod guarded;
mod memory;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;

pub(crate) use guarded::Guarded;
pub use memory::MemoryTier;
#[cfg(feature = "postgres")]
pub(crate) use postgres::bury_text;
#[cfg(feature = "postgres")]
pub use postgres::{PostgresTier, migrations};
#[cfg(feature = "redis")]
pub use redis::RedisTier;

/// The name that stands for all regions in [`Tier::clear`]; no region can have it.
pub const EVERYTHING: &str = "*";

/// A key in a tier.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TierKey {
    /// Region; contains no colon.
    pub region: std::sync::Arc<str>,
    /// Key.
    pub key: std::sync::Arc<str>,
}

/// A value as a tier hands it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The encoded value; `None` is a known absence.
    pub body: Option<Bytes>,
    /// How long it is still fresh; zero when it is only kept for the case that loading fails.
    pub fresh_for: Duration,
    /// How long ago its load began.
    pub age: Duration,
    /// Order among values of the same key of this tier; 0 where the tier has no such order.
    pub version: u64,
}

/// A value to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fresh {
    /// The encoded value; `None` is a known absence.
    pub body: Option<Bytes>,
    /// How long it is fresh from now on.
    pub fresh_for: Duration,
    /// How long it is kept from now on, at least `fresh_for` unless the tier's own limit is shorter.
    pub keep_for: Duration,
    /// How long ago its load began.
    pub age: Duration,
}

/// The answer to a claim.
#[derive(Debug)]
pub enum Claim {
    /// There is a fresh value already.
    Found(Stored),
    /// Load, then fill with this ticket. A stale value may come with it.
    Granted {
        /// What the fill has to show.
        ticket: Ticket,
        /// The stale value that is still there.
        stale: Option<Stored>,
    },
    /// Another process is loading.
    Busy {
        /// Its right to load ends by itself after this at the latest.
        ends_within: Duration,
    },
}

/// The right to fill one key once, as the tier that gave it understands it.
pub struct Ticket {
    /// The tier's own record.
    pub held: Box<dyn Any + Send + Sync>,
    /// Order that the filled value will have; 0 where the tier has no such order.
    pub version: u64,
    /// How often [`Tier::renew`] has to be called, if at all.
    pub renew_every: Option<Duration>,
}

impl Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("version", &self.version).finish_non_exhaustive()
    }
}

/// Why a tier could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TierError {
    /// There is no connection, or the server refused to work.
    #[error("not available: {0}")]
    Unavailable(String),
    /// No answer in time; it is unknown whether the call took effect.
    #[error("no answer in time")]
    TimedOut,
    /// The store is there, but what has to be set up in it once is not: it holds nothing.
    #[error("not set up: {0}")]
    Missing(String),
    /// Calls are held back because many failed a moment ago.
    #[error("calls are held back after failures")]
    HeldBack,
}

/// See the module's text. Every call ends by its deadline.
#[async_trait]
pub trait Tier: Debug + Send + Sync + 'static {
    /// Values of `keys`, in order; `None` where there is none.
    ///
    /// # Errors
    /// When the tier cannot tell.
    async fn read(&self, keys: &[TierKey], deadline: Deadline) -> Result<Vec<Option<Stored>>, TierError>;

    /// Asks for the right to fill `key`. With `force`, a fresh value does not count as an answer.
    ///
    /// # Errors
    /// When the tier cannot tell.
    async fn claim(&self, key: &TierKey, force: bool, deadline: Deadline) -> Result<Claim, TierError>;

    /// Keeps a claim alive; `false` when it is lost.
    ///
    /// # Errors
    /// When the tier cannot tell.
    async fn renew(&self, key: &TierKey, ticket: &Ticket, deadline: Deadline) -> Result<bool, TierError>;

    /// Stores a value that was loaded after `ticket` was given; `false` when an invalidation came between.
    ///
    /// # Errors
    /// When it is not known to be stored.
    async fn fill(
        &self,
        key: &TierKey,
        ticket: Ticket,
        value: Fresh,
        deadline: Deadline,
    ) -> Result<bool, TierError>;

    /// Gives a claim back unused.
    async fn release(&self, key: &TierKey, ticket: Ticket, deadline: Deadline);

    /// Begins to set a value: asks for the right to [`put`](Self::put) it, whoever else has a claim.
    ///
    /// In two steps, because a request may arrive long after its sender was told that it failed: one that simply stored
    /// its value would undo what others have invalidated by then.
    ///
    /// # Errors
    /// When the tier cannot tell.
    async fn seize(&self, key: &TierKey, deadline: Deadline) -> Result<Ticket, TierError>;

    /// Stores a value as the newest and voids what others claimed before; `false` when an invalidation, or somebody else
    /// who sets the key, came after the ticket was given. By default a [`fill`](Self::fill), which is right where `seize`
    /// has voided the claims already.
    ///
    /// # Errors
    /// When it is not known to be stored.
    async fn put(
        &self,
        key: &TierKey,
        ticket: Ticket,
        value: Fresh,
        deadline: Deadline,
    ) -> Result<bool, TierError> {
        self.fill(key, ticket, value, deadline).await
    }

    /// Removes the values and voids all claims. When this returns, no value loaded before it was called can be read.
    ///
    /// # Errors
    /// When that is not certain.
    async fn invalidate(&self, keys: &[TierKey], deadline: Deadline) -> Result<(), TierError>;

    /// The same for every key of a region, or of all regions with [`EVERYTHING`].
    ///
    /// # Errors
    /// When that is not certain.
    async fn clear(&self, region: &str, deadline: Deadline) -> Result<(), TierError>;

    /// Resolves at the next new connection to the store; `true` when its data may be other than before, so that
    /// invalidations may have been lost.
    async fn renewed(&self) -> bool {
        std::future::pending().await
    }

    /// Housekeeping, called every few seconds; a small piece of work at a time.
    async fn tend(&self, _deadline: Deadline) {}

    /// Whether the store answers.
    ///
    /// # Errors
    /// Why it does not.
    async fn ping(&self, deadline: Deadline) -> Result<(), TierError>;
}
