//! Epochs: who keeps them, and how a generation claims one in the epoch key. What the epoch protects is decided by the
//! scripts and envelopes that carry it.

mod claim;

pub(crate) use claim::{CLAIM, Claim};

use async_trait::async_trait;
use parking_lot::Mutex;
use resilience::Deadline;
use std::{collections::HashMap, fmt};

/// The largest epoch: it shares a u64 with counters.
pub const MAX_EPOCH: u32 = (1 << 24) - 1;

/// 2025-01-01 in seconds since 1970: where the epochs of [`SelfKeptEpochs`] begin.
const SELF_KEPT_ZERO: u64 = 1_735_689_600;

/// What a link asks its authority when it opens a generation.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct EpochRequest<'a> {
    /// [`Config::name`](crate::Config::name).
    pub name: &'a str,
    /// `master_replid` of the server, 40 hexadecimal digits.
    pub replid: &'a str,
    /// The replication ids of all masters that there are now under this name, this one among them: more than one on a
    /// cluster. If `all` is set, others that were known are gone, and count as unknown should they come back.
    pub masters: &'a [String],
    /// These are all masters there are. Otherwise some could not be reached just now, by this process at least.
    pub all: bool,
    /// The epoch in the server's epoch key, whichever replication id stands beside it.
    pub stored: Option<u32>,
    /// The epoch key was missing or names another replication id: the server's data is not what it was.
    pub fresh: bool,
    /// The server's clock, seconds since 1970.
    pub server_unix_seconds: u64,
    /// Answer by then.
    pub deadline: Deadline,
}

/// Keeps the epochs of Redis servers, outside of Redis.
#[async_trait]
pub trait EpochAuthority: Send + Sync + fmt::Debug {
    /// The epoch for what the request describes, 1 to [`MAX_EPOCH`].
    ///
    /// It must never answer a number twice for different data: if `request.fresh`, or the replication id is not
    /// one of those known under this name, the answer is larger than every earlier one under the name and than
    /// `request.stored`. Otherwise it is the one known for it, or `request.stored` if that is larger. (Not fresh, another
    /// replication id, but `request.stored` larger than all that is known: somebody else has begun that epoch for these
    /// data, and an authority that does not share its memory may answer it.)
    ///
    /// Cancel safety: may be dropped at the deadline; an epoch taken but never claimed does no harm.
    ///
    /// # Errors
    /// [`EpochError`] if it cannot tell now; the link tries again.
    async fn advance(&self, request: &EpochRequest<'_>) -> Result<u32, EpochError>;
}

/// The authority cannot tell the epoch.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct EpochError(pub String);

/// Epochs without a database: the minutes since 2025 by the server's clock, and more than what is stored or was known
/// to this process.
///
/// Weaker than a database: an epoch may come twice if the server's clock steps back, or if all data is lost twice
/// within a minute and a process that knew the first loss is gone. The random mark in the epoch key still tells such
/// twins apart for fenced scripts; numbers made from the epoch may repeat. Two processes that meet the masters of a new
/// cluster at the same moment may give two of them the same number.
#[derive(Debug, Default)]
pub struct SelfKeptEpochs {
    /// By name; one process has a handful of links.
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Debug, Default)]
struct Known {
    /// The largest epoch so far, and the largest of masters that are gone.
    last: u32,
    gone: u32,
    /// The masters' epochs by replication id.
    masters: HashMap<String, u32>,
}

impl SelfKeptEpochs {
    /// Knows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl EpochAuthority for SelfKeptEpochs {
    async fn advance(&self, request: &EpochRequest<'_>) -> Result<u32, EpochError> {
        let mut known = self.known.lock();
        let known = known.entry(request.name.to_owned()).or_default();
        for (replid, epoch) in std::mem::take(&mut known.masters) {
            if request.masters.contains(&replid) || !request.all {
                known.masters.insert(replid, epoch);
            } else {
                known.gone = known.gone.max(epoch);
            }
        }
        let mine = known.masters.get(request.replid).copied();
        let minutes = request.server_unix_seconds.saturating_sub(SELF_KEPT_ZERO) / 60;
        let epoch = match (mine, request.stored) {
            (Some(mine), Some(stored)) if !request.fresh => mine.max(stored),
            // New to this process, but another one has already begun an epoch for it.
            (None, Some(stored)) if !request.fresh && stored > known.gone => stored,
            (_, stored) => {
                let last = known.last.max(stored.unwrap_or(0));
                u32::try_from(minutes).unwrap_or(u32::MAX).max(last.saturating_add(1))
            }
        };
        if !(1..=MAX_EPOCH).contains(&epoch) {
            return Err(EpochError(format!("epoch {epoch} is outside 1 to {MAX_EPOCH}")));
        }
        known.last = known.last.max(epoch);
        known.masters.insert(request.replid.to_owned(), epoch);
        Ok(epoch)
    }
}

#[cfg(test)]
mod tests;
