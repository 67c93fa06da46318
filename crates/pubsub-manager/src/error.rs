//! What can go wrong, named by what the caller can do about it. Losses inside a stream are events, not errors.

use crate::Problem;
use std::{sync::Arc, time::Duration};

/// The cause below an [`Error`], shared because one failed batch answers many callers.
pub type Cause = Arc<dyn std::error::Error + Send + Sync + 'static>;

/// Why a publish, a subscribe or an append did not succeed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no bus, or it cannot be reached now. Nothing was sent.
    #[error("{operation}: the bus is unavailable: {reason}")]
    Unavailable {
        /// What was asked.
        operation: &'static str,
        /// Why, in words.
        reason: String,
    },
    /// The deadline passed before anything was sent.
    #[error("{operation}: nothing was sent within the deadline (waited {after:?})")]
    Timeout {
        /// What was asked.
        operation: &'static str,
        /// How long it had waited.
        after: Duration,
    },
    /// It was sent and no answer came: it may or may not have happened.
    #[error("{operation}: sent, but no answer came; it may have happened")]
    Unknown {
        /// What was asked.
        operation: &'static str,
    },
    /// The payload is larger than [`Config::max_message_bytes`](crate::Config::max_message_bytes) (for a
    /// journal: [`JournalConfig::max_payload_bytes`](crate::JournalConfig::max_payload_bytes)). Nothing was sent.
    #[error("a message of {actual} bytes is over the limit of {limit}")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
        /// The size in bytes.
        actual: usize,
    },
    /// A channel name or pattern that breaks the rules of [`Subject`](crate::Subject).
    #[error("`{subject}` is not a valid subject: {reason}")]
    InvalidSubject {
        /// What was given, shortened.
        subject: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// The value could not be encoded. Nothing was sent.
    #[error("the message could not be encoded as {codec}")]
    Encode {
        /// The codec's name.
        codec: &'static str,
        /// What the codec said.
        #[source]
        source: Cause,
    },
    /// Too many subscriptions, or too many publishes waiting; a bound of [`Config`](crate::Config) is reached.
    #[error("{what} has reached its limit of {limit}")]
    Limit {
        /// Which bound.
        what: &'static str,
        /// Its value.
        limit: usize,
    },
    /// The backend refused or failed in a way that names neither of the above.
    #[error("{operation} failed in the backend")]
    Backend {
        /// What was asked.
        operation: &'static str,
        /// What the backend said.
        #[source]
        source: Cause,
    },
    /// Settings that cannot work.
    #[error("invalid settings: {}", list(problems))]
    Config {
        /// All of them.
        problems: Vec<Problem>,
    },
    /// The manager or the journal has been shut down.
    #[error("{operation}: already shut down")]
    Shutdown {
        /// What was asked.
        operation: &'static str,
    },
}

impl Error {
    /// Whether the same call may succeed later without anybody changing anything.
    ///
    /// [`Error::Unknown`] is retryable in this sense, but a retry may deliver twice.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Timeout { .. } | Self::Unknown { .. } | Self::Limit { .. } => {
                true
            }
            Self::TooLarge { .. }
            | Self::InvalidSubject { .. }
            | Self::Encode { .. }
            | Self::Backend { .. }
            | Self::Config { .. }
            | Self::Shutdown { .. } => false,
        }
    }

    /// Whether the message may have been delivered although this is an error.
    #[must_use]
    pub const fn may_have_happened(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }

    #[cfg(feature = "redis")]
    pub(crate) fn backend(
        operation: &'static str,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::Backend { operation, source: Arc::new(source) }
    }
}

fn list(problems: &[Problem]) -> String {
    let each = problems.iter().map(|problem| format!("{}: {}", problem.setting, problem.message));
    each.collect::<Vec<_>>().join("; ")
}
