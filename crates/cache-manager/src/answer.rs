//! What goes into and comes out of a read: levels, hits, what a loader is told and what it answers. No behaviour.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use resilience::Deadline;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::coherence::Coherence;

/// What can be cached: anything that serde can write and read, and that threads may share.
pub trait CacheValue: Serialize + DeserializeOwned + Send + Sync + 'static {}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> CacheValue for T {}

/// Which level answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// This process's memory.
    L1,
    /// Redis.
    L2,
    /// The table in Postgres.
    L3,
    /// Nobody had it: the loader was asked.
    Loader,
}

impl Level {
    /// `l1`, `l2`, `l3` or `loader`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::L1 => "l1",
            Self::L2 => "l2",
            Self::L3 => "l3",
            Self::Loader => "loader",
        }
    }
}

/// The answer to a read, and where it comes from.
#[derive(Debug)]
#[non_exhaustive]
pub struct Hit<V> {
    /// The value; `None` is a known absence.
    pub value: Option<Arc<V>>,
    /// Who answered.
    pub level: Level,
    /// Whether the entry had expired and was served because loading failed or was slow.
    pub stale: bool,
    /// How long ago the value was loaded, as far as known (within milliseconds).
    pub age: Duration,
    /// How much this process knew of the invalidations of others when it answered.
    pub coherence: Coherence,
}

impl<V> Clone for Hit<V> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), ..*self }
    }
}

/// What a loader is told.
#[derive(Debug)]
#[non_exhaustive]
pub struct LoadCtx<V> {
    /// What a read of Postgres has to have seen so that its result may be stored: give it to
    /// `PostgresPoolManager::read_after`. A loader that reads an arbitrary replica can bring back a value from before
    /// an invalidation, and no cache could tell.
    #[cfg(feature = "postgres")]
    pub read_token: postgres_pool_manager::ReadToken,
    /// When the load is given up.
    pub deadline: Deadline,
    /// The value that expired, if it is still there: for conditional requests, see [`Loaded::NotModified`].
    pub previous: Option<Arc<V>>,
}

/// What a loader answers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Loaded<V> {
    /// The value.
    Value {
        /// It.
        v: V,
        /// Its time to live; `None` takes the region's.
        expiry: Option<Duration>,
    },
    /// There is none, which is kept for the region's negative time to live.
    Absent,
    /// The previous value still holds and is kept for another time to live.
    NotModified,
}

impl<V> Loaded<V> {
    /// A value with the region's time to live.
    pub const fn value(v: V) -> Self {
        Self::Value { v, expiry: None }
    }

    /// A value with its own time to live.
    pub const fn expiring(v: V, after: Duration) -> Self {
        Self::Value { v, expiry: Some(after) }
    }
}

impl<V> From<Option<V>> for Loaded<V> {
    fn from(value: Option<V>) -> Self {
        value.map_or(Self::Absent, Self::value)
    }
}

/// How far an invalidation has come when the call returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Invalidated {
    /// No value from before can be read from L2 or L3 or filled into them, and the journal tells the others.
    Applied,
    /// Recorded durably; others obey within the coherence time-out. Not yet given: it needs the Postgres journal.
    Deferred,
}

/// What to clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClearScope {
    /// L1 of this process alone: no value is invalid, they are only forgotten here.
    L1,
    /// Every region in every level and process.
    All,
}

/// A loader's error, whatever its type.
pub type BoxError = Box<dyn Error + Send + Sync>;
