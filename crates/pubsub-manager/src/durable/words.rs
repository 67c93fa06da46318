//! The words of durable channels: places, groups, losses, dead letters. No behaviour beyond reading and printing them.

use crate::{DurableRecord, Error, Subject};
use serde::Serialize;
use std::{
    fmt,
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A message's place in its channel: the store's clock when it was appended, and a number that grows by one each time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DurableId {
    /// Milliseconds since 1970; never goes back.
    pub millis: u64,
    /// 1, 2, 3 …
    pub sequence: u64,
}

impl DurableId {
    /// The greatest that is less.
    pub(crate) const fn before(self) -> Self {
        match (self.millis, self.sequence) {
            (0, 0) => self,
            (millis, 0) => Self { millis: millis - 1, sequence: u64::MAX },
            (millis, sequence) => Self { millis, sequence: sequence - 1 },
        }
    }
}

impl fmt::Display for DurableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.millis, self.sequence)
    }
}

impl FromStr for DurableId {
    type Err = Error;

    /// Reads what [`Display`](fmt::Display) writes; [`Error::InvalidName`] for anything else.
    fn from_str(text: &str) -> Result<Self, Error> {
        let parts = text.split_once('-');
        let id = parts.and_then(|(millis, sequence)| {
            Some(Self { millis: millis.parse().ok()?, sequence: sequence.parse().ok()? })
        });
        id.ok_or_else(|| {
            invalid("place in a channel", text, "it is not two numbers with a dash between them")
        })
    }
}

impl Serialize for DurableId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where a group begins to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartFrom {
    /// With the oldest message that is kept. The default: what was published before the consumers' first start counts.
    #[default]
    Earliest,
    /// With what is published from now on.
    Now,
    /// With this message, or the next one that is kept.
    Id(DurableId),
    /// With what was published at that time by the store's clock.
    Time(SystemTime),
}

impl StartFrom {
    /// The place after which to read: `None` is the end.
    pub(crate) fn after(self) -> Option<DurableId> {
        let first = match self {
            Self::Now => return None,
            Self::Earliest => DurableId { millis: 0, sequence: 0 },
            Self::Id(id) => id,
            Self::Time(time) => {
                let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
                DurableId { millis: u64::try_from(since.as_millis()).unwrap_or(u64::MAX), sequence: 0 }
            }
        };
        Some(first.before())
    }
}

/// The name of a group: 1 to 128 bytes of letters, digits, and `-` `_` `.` `:` `/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupName(Arc<str>);

impl GroupName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`Error::InvalidName`] with the rule that it breaks.
    pub fn new(name: &str) -> Result<Self, Error> {
        check("group", name)?;
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn unknown(&self, channel: &Subject) -> Error {
        Error::UnknownGroup { channel: channel.to_string(), group: self.to_string() }
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) fn check(what: &'static str, name: &str) -> Result<(), Error> {
    let good = |c: char| c.is_alphanumeric() || "-_.:/".contains(c);
    if name.is_empty() {
        Err(invalid(what, name, "it is empty"))
    } else if name.len() > 128 {
        Err(invalid(what, name, "it is over 128 bytes"))
    } else if !name.chars().all(good) {
        Err(invalid(what, name, "only letters, digits and - _ . : / are allowed"))
    } else {
        Ok(())
    }
}

fn invalid(what: &'static str, name: &str, reason: &'static str) -> Error {
    Error::InvalidName { what, name: name.chars().take(64).collect(), reason }
}

/// Why messages of a durable channel may have been lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LossCause {
    /// The store was restarted, failed over or replaced: the newest messages, and acknowledgements, may be gone.
    StoreReplaced,
    /// The group was gone from the store, with or without the channel. It begins with the oldest message that there is.
    GroupGone,
    /// Messages that the group had not acknowledged were removed by somebody else.
    Removed,
}

/// Messages were lost, or may have been: what they would have said is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// How many, `None` where it cannot be known.
    pub missed: Option<u64>,
    /// Why.
    pub cause: LossCause,
}

/// A group as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DurableGroup {
    /// The channel.
    pub channel: String,
    /// The group.
    pub group: String,
    /// Consumers that the store knows.
    pub consumers: u64,
    /// Messages delivered and not acknowledged, those that wait for a retry among them.
    pub pending: u64,
    /// Those that wait for a retry.
    pub waiting: u64,
    /// Messages not yet delivered.
    pub lag: u64,
    /// Age of the oldest message that is not acknowledged, by the store's clock.
    pub oldest_unacked: Option<Duration>,
    /// Whether it is paused.
    pub paused: bool,
    /// Dead letters.
    pub dead_letters: u64,
    /// Losses so far.
    pub losses: u64,
    /// Deliveries so far, repeated ones among them.
    pub delivered: u64,
    /// Repeated deliveries so far.
    pub redelivered: u64,
    /// Acknowledgements so far.
    pub acknowledged: u64,
}

/// A message that could not be handled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Names the dead letter within its group; its time is when it became one.
    pub id: DurableId,
    /// Where the message stood in its channel.
    pub position: DurableId,
    /// How often it was delivered.
    pub deliveries: u32,
    /// Why it is here.
    pub reason: String,
    /// The message; `None` if this version cannot read it.
    pub record: Option<DurableRecord>,
}

#[cfg(test)]
mod tests;
