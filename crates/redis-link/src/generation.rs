//! A connection generation: a few connections to one server under one epoch. It dies once and for good; opening the
//! next is the supervisor's work.

mod calls;
mod death;
mod monitor;
mod open;

pub(crate) use death::Death;
pub(crate) use open::{Opening, open};

use crate::{
    Capabilities, Dedicated, Error, Key,
    server_info::ServerInfo,
    wire::{Opener, Wire},
};
use bytes::Bytes;
use resilience::Deadline;
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};
use tokio::sync::Semaphore;

/// Calls under way that one connection carries best alone.
const FEW: usize = 64;
/// Bytes of arguments that hold up what is behind them.
const LARGE: usize = 16 << 10;

/// Connections to one server, opened together and valid for one epoch.
///
/// All calls take a deadline and are capped by [`Config::command_timeout`](crate::Config::command_timeout). Once the
/// generation is dead they fail with [`Error::Unavailable`]; take the next one from the link.
pub struct Generation {
    id: u64,
    info: ServerInfo,
    epoch: u32,
    /// The epoch key, and what it holds while the data is ours.
    epoch_key: Key,
    fence: Bytes,
    wires: Vec<Wire>,
    next: AtomicUsize,
    permits: Semaphore,
    death: Arc<Death>,
    opener: Opener,
}

impl Generation {
    /// Counts the generations of a link from 1.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// The epoch of the data that it talks to, 1 to [`MAX_EPOCH`](crate::MAX_EPOCH).
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The replication id of the server's data.
    #[must_use]
    pub fn replid(&self) -> &str {
        &self.info.replid
    }

    /// The server process's own id.
    #[must_use]
    pub fn run_id(&self) -> &str {
        &self.info.run_id
    }

    /// What the server can do.
    #[must_use]
    pub const fn capabilities(&self) -> &Capabilities {
        &self.info.capabilities
    }

    /// Whether calls can still be made.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.death.is_dead()
    }

    /// Resolves when the generation is dead, at once if it already is. Cancel safe.
    pub fn died(&self) -> impl Future<Output = ()> + Send + 'static {
        let death = Arc::clone(&self.death);
        async move { death.wait().await }
    }

    /// Ends the generation: what is in flight fails, the link opens the next one. For callers that see that the data
    /// is no longer what it should be.
    pub fn end(&self, cause: &str) {
        self.death.kill(cause);
    }

    /// Calls under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.opener.config.max_in_flight.saturating_sub(self.permits.available_permits())
    }

    /// Opens a connection of its own to the same server, for commands that block. It dies with this generation.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the generation is dead or the address now leads to another server,
    /// [`Error::Timeout`], or as [`Config::connect`](crate::Config::connect).
    pub async fn dedicated(self: &Arc<Self>, deadline: Deadline) -> Result<Dedicated, Error> {
        Dedicated::open(Arc::clone(self), deadline).await
    }

    pub(crate) const fn opener(&self) -> &Opener {
        &self.opener
    }

    pub(crate) fn death(&self) -> &Arc<Death> {
        &self.death
    }

    pub(crate) fn connections(&self) -> usize {
        if self.is_alive() { self.wires.len() } else { 0 }
    }

    /// Waits until no call is under way; calls that come meanwhile wait behind it. Cancel safe.
    pub(crate) async fn drain(&self) {
        let all = u32::try_from(self.opener.config.max_in_flight).unwrap_or(u32::MAX);
        // It cannot fail: the semaphore is never closed.
        drop(self.permits.acquire_many(all).await);
    }

    /// The first connection for what is small while little is under way, so that commands share writes and wake-ups; else
    /// all in turn, the large ones on the others.
    fn any_wire(&self, size: usize) -> &Wire {
        let (first, others) = self.wires.split_at(1);
        let among = match size > LARGE {
            true if !others.is_empty() => others,
            false if self.in_flight() < FEW => first,
            _ => &self.wires,
        };
        match among {
            [only] => only,
            several => &several[self.next.fetch_add(1, Relaxed) % several.len()],
        }
    }

    /// The connection that belongs to a key, so that what is sent about one key arrives in order.
    fn wire_of(&self, key: &[u8]) -> &Wire {
        if let [only] = self.wires.as_slice() {
            return only;
        }
        // FNV-1a: short keys, no adversary, a handful of connections.
        let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        let hash = key.iter().fold(0xcbf2_9ce4_8422_2325, mix);
        &self.wires[(hash % self.wires.len() as u64) as usize]
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.death.kill("nobody uses the connection any more");
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation")
            .field("id", &self.id)
            .field("epoch", &self.epoch)
            .field("replid", &self.info.replid)
            .field("alive", &self.is_alive())
            .finish_non_exhaustive()
    }
}
