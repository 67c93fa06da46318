//! What can go wrong, named by the step that failed. Not here: failures of L2 and L3 on a read, which cost a miss
//! and a counter but never fail the request.

use std::any::Any;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Problem;

/// The error of every operation of this crate.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The settings contradict themselves; every problem at once.
    #[error("cache settings: {}", list(.0))]
    Settings(Vec<Problem>),
    /// The key is empty or longer than the limit.
    #[error("cache key of {length} bytes: a key has 1 to {limit} bytes")]
    Key {
        /// Bytes of the key given.
        length: usize,
        /// Most bytes allowed.
        limit: usize,
    },
    /// The region's name is not 1 to 64 characters of `a-z A-Z 0-9 _ - .`.
    #[error("region name {name:?}: 1 to 64 characters of a-z, A-Z, 0-9, '_', '-', '.'")]
    RegionName {
        /// The name given.
        name: String,
    },
    /// The region exists with another value type; one region holds one type.
    #[error("region {region:?} holds {holds}, not {asked}")]
    RegionType {
        /// The region.
        region: String,
        /// The type that it was opened with.
        holds: &'static str,
        /// The type asked for now.
        asked: &'static str,
    },
    /// No more regions can be opened.
    #[error("region {region:?}: at most {limit} regions in one process")]
    TooManyRegions {
        /// The region asked for.
        region: String,
        /// Most regions allowed.
        limit: usize,
    },
    /// The time to live is zero or beyond the largest allowed.
    #[error("time to live of {ttl:?}: more than zero and at most {limit:?}")]
    Ttl {
        /// The time to live given.
        ttl: Duration,
        /// Largest allowed.
        limit: Duration,
    },
    /// The encoded value is larger than the region allows; nothing was stored.
    #[error("value of {size} bytes in region {region:?}: at most {limit} bytes")]
    TooLarge {
        /// The region.
        region: String,
        /// Bytes of the encoded value.
        size: usize,
        /// Most bytes allowed.
        limit: usize,
    },
    /// The value could not be encoded; nothing was stored.
    #[error("value could not be encoded for region {region:?}: {message}")]
    Encode {
        /// The region.
        region: String,
        /// What the codec said.
        message: String,
    },
    /// The load failed and there was nothing to fall back on.
    #[error("load failed")]
    Load(#[source] LoadError),
    /// The invalidation holds in this process, but others were not told yet: they may serve the old value until it
    /// is delivered (it is retried in the background), at most until the entry's physical expiry.
    #[error("invalidation of {what} holds here, but is not propagated yet: {step}: {reason}")]
    NotPropagated {
        /// Key or region.
        what: String,
        /// The step that failed: `l2`, `l3` or `journal`.
        step: &'static str,
        /// Why.
        reason: String,
    },
    /// A value was found under the key whose type is another than the one asked for.
    #[error("key {key:?} is being loaded as another type than {asked}")]
    WrongType {
        /// The key.
        key: String,
        /// The type asked for.
        asked: &'static str,
    },
    /// The store that an explicit health check asked did not answer in time or answered with an error.
    #[error("{tier} is not healthy: {reason}")]
    Unhealthy {
        /// `l2` or `l3`.
        tier: &'static str,
        /// Why.
        reason: String,
    },
    /// The manager was shut down.
    #[error("cache is shut down")]
    Shutdown,
}

/// Why a load failed. One value is shared by all who waited for that load.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The loader returned an error.
    #[error("loader: {0}")]
    Loader(Arc<dyn Error + Send + Sync>),
    /// The loader took longer than the hard time-out.
    #[error("loader did not finish within {after:?}")]
    TimedOut {
        /// The hard time-out.
        after: Duration,
    },
    /// The loader panicked.
    #[error("loader panicked: {message}")]
    Panicked {
        /// The panic's message, if it was text.
        message: String,
    },
    /// The loader returned `NotModified`, but there is no previous value (any more).
    #[error("loader answered NotModified without a previous value")]
    NothingToRenew,
    /// The runtime that ran the load went away.
    #[error("load was abandoned: its runtime is gone")]
    Abandoned,
}

impl CacheError {
    /// Whether the same call may succeed later without a change by the caller.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Load(e) => e.is_retryable(),
            Self::NotPropagated { .. } | Self::Unhealthy { .. } => true,
            Self::Settings(_)
            | Self::Key { .. }
            | Self::RegionName { .. }
            | Self::RegionType { .. }
            | Self::TooManyRegions { .. }
            | Self::Ttl { .. }
            | Self::TooLarge { .. }
            | Self::Encode { .. }
            | Self::WrongType { .. }
            | Self::Shutdown => false,
        }
    }
}

impl LoadError {
    /// Whether a later load may succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Loader(_) | Self::TimedOut { .. } | Self::Panicked { .. } | Self::Abandoned => true,
            Self::NothingToRenew => false,
        }
    }

    pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Self::Panicked { message: text.unwrap_or_else(|| "not text".to_owned()) }
    }
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
