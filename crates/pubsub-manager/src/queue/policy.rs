//! What a full queue does, and the words in which a loss is told. The queue itself is elsewhere.

use super::Received;
use crate::Codec;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{fmt, sync::Arc};

/// What to do when a subscriber is slower than its messages come.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum SlowConsumer {
    /// Wait for room. Holds up the other subscribers of the same name or pattern in this process; when the bus's own
    /// queue overflows meanwhile, that is told as a gap.
    Block,
    /// Drop the oldest waiting message; the next event then is a `Gap` with their number. The default: it neither
    /// holds anybody up nor loses anything unsaid.
    #[default]
    DropOldest,
    /// Keep only the newest waiting message of each key, in the place of the older one; it says how many it stands for
    /// ([`Message::conflated`](crate::Message::conflated)). For states, of which only the last one counts. With more keys
    /// than room the oldest message is dropped, and told as a gap.
    Conflate(ConflateBy),
    /// End the subscription with a `Gap` as its last event.
    Disconnect,
}

impl SlowConsumer {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::DropOldest => "drop_oldest",
            Self::Conflate(_) => "conflate",
            Self::Disconnect => "disconnect",
        }
    }
}

type KeyOf = dyn Fn(Codec, &[u8]) -> Option<String> + Send + Sync;

/// What makes two messages states of the same thing, for [`SlowConsumer::Conflate`].
#[derive(Clone, Default)]
pub struct ConflateBy(Option<Arc<KeyOf>>);

impl ConflateBy {
    /// Their channel's name. The default.
    #[must_use]
    pub fn subject() -> Self {
        Self(None)
    }

    /// A key in their value, within one channel. Each message is decoded once more for it; one that is not a `T` has no
    /// key and is kept as it is.
    #[must_use]
    pub fn value<T: DeserializeOwned, K: Into<String>>(
        key: impl Fn(&T) -> K + Send + Sync + 'static,
    ) -> Self {
        Self(Some(Arc::new(move |codec, payload| Some(key(&codec.decode::<T>(payload)?).into()))))
    }

    pub(super) fn key(&self, message: &Received) -> Option<String> {
        let Some(of) = &self.0 else { return Some(message.subject.to_string()) };
        let key = of(message.header?.codec, &message.payload)?;
        // No subject holds a space.
        Some(format!("{} {key}", message.subject))
    }
}

impl fmt::Debug for ConflateBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "ConflateBy::value" } else { "ConflateBy::subject" })
    }
}

/// Why messages were missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum GapCause {
    /// The connection to the bus was away.
    Reconnect,
    /// This subscriber was too slow, and its queue's policy dropped them.
    SlowConsumer,
    /// The bus's own queue in this process overflowed.
    BusOverflow,
    /// A publisher stopped announcing itself without a farewell: killed, or cut off. What it sent last is unknown.
    PublisherSilent,
    /// The publisher's numbers have a hole without a reason that is known here.
    Missed,
    /// A message that cannot be read here: not of ours, of a newer format, or of another type.
    Unreadable,
}
