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
    /// The value that came is not of the type asked for.
    #[error("what came in {codec} is not of the type asked for")]
    Decode {
        /// The codec's name.
        codec: &'static str,
    },
    /// Nobody is subscribed to the channel of a request. Nobody got it.
    #[error("nobody answers requests on `{subject}`")]
    NoResponder {
        /// The channel.
        subject: String,
    },
    /// Whoever answered a request says that it failed.
    #[error("the request failed where it was answered: {reason}")]
    Responder {
        /// What it said.
        reason: String,
    },
    /// Too many subscriptions, or too many publishes waiting; a bound of [`Config`](crate::Config) is reached.
    #[error("{what} has reached its limit of {limit}")]
    Limit {
        /// Which bound.
        what: &'static str,
        /// Its value.
        limit: usize,
    },
    /// What was asked is beyond this backend or server.
    #[error("{operation}: not possible here: {reason}")]
    Unsupported {
        /// What was asked.
        operation: &'static str,
        /// Why not, and what would be needed.
        reason: String,
    },
    /// The backend's user lacks a right.
    #[error(
        "{operation}: the user lacks the right `{right}`; for Redis: `ACL SETUSER <user> {right}`, and the same in its ACL file"
    )]
    Forbidden {
        /// What was asked.
        operation: &'static str,
        /// The right to add, as a Redis ACL rule. (A pattern is compared with the rights letter by letter: `&ns:*` gives none
        /// to `ns:p:orders.*`.)
        right: String,
        /// What the backend said.
        #[source]
        source: Cause,
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
    /// A durable channel holds as many messages as it may, and a group has not acknowledged them. Nothing was appended.
    #[error("the durable channel {channel} holds its limit of {limit} messages: {}", slowest(group))]
    Full {
        /// The channel.
        channel: String,
        /// The group whose oldest unacknowledged message is the oldest of all; empty when there is no group.
        group: String,
        /// [`DurableLimits::max_len`](crate::DurableLimits::max_len).
        limit: u64,
    },
    /// A name, other than a subject, that breaks its rules.
    #[error("`{name}` is not a valid {what}: {reason}")]
    InvalidName {
        /// What it was to name: a group, a consumer, a place in a channel.
        what: &'static str,
        /// What was given, shortened.
        name: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// A durable channel has no such group. Consuming creates it.
    #[error("the durable channel {channel} has no group {group}")]
    UnknownGroup {
        /// The channel.
        channel: String,
        /// The group.
        group: String,
    },
    /// A group has no such dead letter: it was retried or dropped already, or never was.
    #[error("the group {group} of {channel} has no dead letter {letter}")]
    UnknownDeadLetter {
        /// The channel.
        channel: String,
        /// The group.
        group: String,
        /// The dead letter.
        letter: String,
    },
    /// This delivery has been acknowledged, retried or dead-lettered before. Nothing was done.
    #[error("this delivery was already settled")]
    AlreadySettled,
    /// The settlement came too late: since then the message was delivered again, or is no longer pending. Nothing was done;
    /// whoever has it now decides.
    #[error("{message} of {channel} is no longer this consumer's in group {group}: it was too slow")]
    Superseded {
        /// The channel.
        channel: String,
        /// The group.
        group: String,
        /// The message's place.
        message: String,
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
            Self::Unavailable { .. }
            | Self::Timeout { .. }
            | Self::Unknown { .. }
            | Self::NoResponder { .. }
            | Self::Full { .. }
            | Self::Limit { .. } => true,
            Self::TooLarge { .. }
            | Self::Decode { .. }
            | Self::Responder { .. }
            | Self::InvalidSubject { .. }
            | Self::Encode { .. }
            | Self::Forbidden { .. }
            | Self::Backend { .. }
            | Self::Unsupported { .. }
            | Self::InvalidName { .. }
            | Self::UnknownGroup { .. }
            | Self::UnknownDeadLetter { .. }
            | Self::AlreadySettled
            | Self::Superseded { .. }
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

fn slowest(group: &str) -> String {
    if group.is_empty() {
        return "nobody consumes it, and it keeps no fewer".to_owned();
    }
    format!("its slowest group is {group}; have it consumed, or delete the group")
}
