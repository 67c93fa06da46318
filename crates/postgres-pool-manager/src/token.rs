//! Read-your-writes tokens: a position in one server's history. They order nothing across histories.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A position in the write-ahead log, taken after a COMMIT. A read with it sees what that transaction wrote.
///
/// Copyable, and as text (`system/timeline/lsn`) fit for another process or a cookie.
///
/// A client that makes one up sees nothing that it may not see, but its reads go to the primary, and one of a history
/// that does not exist waits for its whole deadline: sign what goes through a client's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReadToken {
    system_id: u64,
    timeline: u32,
    lsn: u64,
}

impl ReadToken {
    /// The token of a write whose position is not known: only the primary satisfies it.
    pub const PRIMARY_ONLY: Self = Self { system_id: 0, timeline: 0, lsn: u64::MAX };

    pub(crate) const fn new(system_id: u64, timeline: u32, lsn: u64) -> Self {
        Self { system_id, timeline, lsn }
    }

    /// Whether a server with this history that has replayed up to `replayed` shows the write. An unknown or
    /// different history never does.
    pub(crate) const fn satisfied_by(&self, system_id: u64, timeline: u32, replayed: u64) -> bool {
        self.system_id != 0
            && self.system_id == system_id
            && self.timeline != 0
            && self.timeline == timeline
            && replayed >= self.lsn
    }

    /// Whether it is of this cluster and of a history that began later.
    pub(crate) const fn is_newer_than(&self, system_id: u64, timeline: u32) -> bool {
        self.system_id == system_id && self.timeline > timeline
    }

    /// What a server with this history lacks, in words.
    pub(crate) fn unsatisfied(&self, system_id: u64, timeline: u32, replayed: u64) -> String {
        if self.system_id == 0 {
            "the token is for the primary alone".to_owned()
        } else if (self.system_id, self.timeline) != (system_id, timeline) {
            format!("it is in another history (timeline {timeline}, the token's is {})", self.timeline)
        } else {
            format!(
                "{} bytes of the log before the token are not replayed",
                self.lsn.saturating_sub(replayed)
            )
        }
    }

    /// The later of two tokens of one history; of different or unknown histories [`PRIMARY_ONLY`](Self::PRIMARY_ONLY).
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        if (self.system_id, self.timeline) != (other.system_id, other.timeline) {
            return Self::PRIMARY_ONLY;
        }
        if self.lsn >= other.lsn { self } else { other }
    }

    /// The log position in bytes; meaningful within one history only.
    #[must_use]
    pub const fn lsn(&self) -> u64 {
        self.lsn
    }
}

impl fmt::Display for ReadToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}/{:x}/{:x}", self.system_id, self.timeline, self.lsn)
    }
}

/// The text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a read token: expected system/timeline/lsn in hexadecimal")]
pub struct InvalidToken;

impl FromStr for ReadToken {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let mut parts = text.split('/');
        let mut next = || parts.next().and_then(|p| u64::from_str_radix(p, 16).ok()).ok_or(InvalidToken);
        let (system_id, timeline, lsn) = (next()?, next()?, next()?);
        let timeline = u32::try_from(timeline).map_err(|_| InvalidToken)?;
        if parts.next().is_some() { Err(InvalidToken) } else { Ok(Self { system_id, timeline, lsn }) }
    }
}

/// Postgres' `16/B374D848` as a number of bytes.
pub(crate) fn parse_lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let (high, low) = (u32::from_str_radix(high, 16).ok()?, u32::from_str_radix(low, 16).ok()?);
    Some(u64::from(high) << 32 | u64::from(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trip_and_satisfaction() {
        let token = ReadToken::new(0x5f, 3, parse_lsn("1/B374D848").unwrap());
        assert_eq!(token.to_string().parse(), Ok(token));
        assert!("1/2".parse::<ReadToken>().is_err() && "1/2/3/4".parse::<ReadToken>().is_err());
        assert!(token.satisfied_by(0x5f, 3, token.lsn()) && !token.satisfied_by(0x5f, 3, token.lsn() - 1));
        assert!(!token.satisfied_by(0x5f, 4, u64::MAX) && !token.satisfied_by(0x60, 3, u64::MAX));
        assert!(!ReadToken::PRIMARY_ONLY.satisfied_by(0, 0, u64::MAX));
        assert_eq!(token.max(ReadToken::new(0x5f, 4, 1)), ReadToken::PRIMARY_ONLY);
    }
}
