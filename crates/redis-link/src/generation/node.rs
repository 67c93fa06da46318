//! A few connections to one master under one epoch, opened and checked together. They die once, together and for good.

use super::{Death, open::Reading};
use crate::{
    Endpoint, Error, Key, Script, Value,
    opener::Opener,
    server_info::ServerInfo,
    wire::{Failure, Wire, reply_error},
};
use bytes::Bytes;
use fred::types::Value as FredValue;
use resilience::{Deadline, clock::ServerClock};
use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{Semaphore, SemaphorePermit, TryAcquireError},
    time::Instant,
};

/// Calls under way that one connection carries best alone.
const FEW: usize = 64;
/// Bytes of arguments that hold up what is behind them.
const LARGE: usize = 16 << 10;

/// Which of the connections.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lane<'a> {
    /// Any, for arguments of so many bytes.
    Any(usize),
    /// The one of this key.
    Of(&'a [u8]),
}

/// The connections to one master.
pub(crate) struct Node {
    pub(super) endpoint: Endpoint,
    pub(super) info: ServerInfo,
    pub(super) epoch: u32,
    /// The epoch key, and what it holds while the data is ours.
    pub(super) epoch_key: Key,
    /// Where the epoch key should have been, had its slot not been on the move.
    pub(super) first_key: Key,
    pub(super) fence: Bytes,
    pub(super) wires: Vec<Wire>,
    pub(super) next: AtomicUsize,
    pub(super) permits: Semaphore,
    pub(super) death: Arc<Death>,
    pub(super) opener: Opener,
    /// The credentials and certificates that it was opened with.
    pub(super) access: u64,
    /// Its readings feed the link's server clock.
    pub(super) keeps_time: Arc<AtomicBool>,
    /// The reading that it was opened with.
    pub(super) reading: Reading,
}

impl Node {
    pub(crate) const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(crate) const fn info(&self) -> &ServerInfo {
        &self.info
    }

    pub(crate) const fn epoch(&self) -> u32 {
        self.epoch
    }

    pub(crate) const fn first_key(&self) -> &Key {
        &self.first_key
    }

    pub(crate) const fn access(&self) -> u64 {
        self.access
    }

    pub(crate) const fn opener(&self) -> &Opener {
        &self.opener
    }

    pub(crate) const fn death(&self) -> &Arc<Death> {
        &self.death
    }

    pub(crate) fn keeps_time(&self) -> bool {
        self.keeps_time.load(Relaxed)
    }

    /// From now on its clock is the link's.
    pub(crate) fn keep_time(&self, clock: &ServerClock) {
        self.reading.feed(clock);
        self.keeps_time.store(true, Relaxed);
    }

    pub(crate) fn is_alive(&self) -> bool {
        !self.death.is_dead()
    }

    pub(crate) fn connections(&self) -> usize {
        if self.is_alive() { self.wires.len() } else { 0 }
    }

    pub(crate) fn first_wire(&self) -> &Wire {
        &self.wires[0]
    }

    /// Whether it knows sharded channels.
    pub(super) fn check_sharded(&self, operation: &'static str) -> Result<(), Error> {
        self.info.check_sharded(operation, &self.endpoint)
    }

    /// Calls under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.opener.config.max_in_flight.saturating_sub(self.permits.available_permits())
    }

    /// Waits until no call is under way; calls that come meanwhile wait behind it. Cancel safe.
    pub(crate) async fn drain(&self) {
        let all = u32::try_from(self.opener.config.max_in_flight).unwrap_or(u32::MAX);
        // It cannot fail: the semaphore is never closed.
        drop(self.permits.acquire_many(all).await);
    }

    pub(super) fn wire(&self, lane: Lane<'_>) -> &Wire {
        match lane {
            Lane::Any(size) => self.any_wire(size),
            Lane::Of(key) => self.wire_of(key),
        }
    }

    /// The first connection for what is small while little is under way, so that commands share writes and wake-ups; else
    /// all in turn, the large ones on the others.
    pub(super) fn any_wire(&self, size: usize) -> &Wire {
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

    /// The arguments of `EVAL` and `EVALSHA`; `text` is the one or the other's.
    pub(super) fn script_arguments(
        &self,
        text: &Bytes,
        script: &Script,
        keys: &[Key],
        args: &[Bytes],
    ) -> Vec<FredValue> {
        let mut arguments = Vec::with_capacity(2 + keys.len() + args.len() + 2);
        arguments.push(FredValue::Bytes(text.clone()));
        arguments.push(FredValue::Integer(i64::try_from(keys.len()).unwrap_or(i64::MAX)));
        arguments.extend(keys.iter().map(|key| FredValue::Bytes(key.as_bytes().clone())));
        arguments.extend(args.iter().cloned().map(FredValue::Bytes));
        if script.is_fenced() {
            arguments.push(FredValue::Bytes(self.epoch_key.as_bytes().clone()));
            arguments.push(FredValue::Bytes(self.fence.clone()));
        }
        arguments
    }

    /// One command on one connection; its size has been looked at.
    pub(super) async fn exchange(
        &self,
        wire: &Wire,
        operation: &'static str,
        name: &'static str,
        arguments: Vec<FredValue>,
        deadline: Deadline,
    ) -> Result<Value, Error> {
        self.bounded(operation, deadline, wire.exchange(name, arguments)).await
    }

    /// Holds a permit while `exchange` runs, until the deadline, the command time-out or the connections' death.
    pub(super) async fn bounded<T>(
        &self,
        operation: &'static str,
        deadline: Deadline,
        exchange: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Error> {
        let outcome = self.race(operation, deadline, exchange).await;
        outcome.inspect_err(|error| self.opener.errors.count(error))
    }

    async fn race<T>(
        &self,
        operation: &'static str,
        deadline: Deadline,
        exchange: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Error> {
        let started = Instant::now();
        let capped = started + self.opener.config.command_timeout;
        let until = deadline.instant().map_or(capped, |at| at.min(capped));
        if until <= started {
            return Err(Error::Timeout { operation, after: Duration::ZERO, sent: false });
        }
        let _permit = self.permit(operation, started, until).await?;
        let died = self.death.wait();
        if self.death.is_dead() {
            return Err(self.unavailable());
        }
        let raced = async {
            tokio::select! {
                biased;
                outcome = exchange => outcome,
                // The connections' own last answers, which know more, come before this.
                () = died => Err(Failure::Lost(self.death.cause().0)),
            }
        };
        match tokio::time::timeout_at(until, raced).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(failure)) => Err(self.failed(operation, failure)),
            Err(_) => Err(Error::Timeout { operation, after: started.elapsed(), sent: true }),
        }
    }

    async fn permit(
        &self,
        operation: &'static str,
        started: Instant,
        until: Instant,
    ) -> Result<SemaphorePermit<'_>, Error> {
        match self.permits.try_acquire() {
            Ok(permit) => return Ok(permit),
            Err(TryAcquireError::Closed) => return Err(self.unavailable()),
            Err(TryAcquireError::NoPermits) => {}
        }
        tokio::select! {
            biased;
            () = self.death.wait() => Err(self.unavailable()),
            turn = tokio::time::timeout_at(until, self.permits.acquire()) => match turn {
                Ok(Ok(permit)) => Ok(permit),
                Ok(Err(_closed)) => Err(self.unavailable()),
                Err(_) => Err(Error::Timeout { operation, after: started.elapsed(), sent: false }),
            },
        }
    }

    /// Reads a failure, and ends the connections where it says that they or the data are gone.
    pub(super) fn failed(&self, operation: &'static str, failure: Failure) -> Error {
        match failure {
            Failure::Full => {
                // The driver miscounts from here on and sends only every so many commands: the connection is of no use.
                self.death.kill("a connection's queue was full");
                Error::Overloaded
            }
            Failure::NotSent(cause) => {
                self.death.kill(&cause);
                self.unavailable()
            }
            Failure::Lost(cause) => {
                self.death.kill(&cause);
                Error::Unknown { operation, cause }
            }
            Failure::Oversized(size, limit) => Error::ReplyTooLarge { operation, size, limit },
            Failure::Reply(message) => {
                // The second: the slot of the epoch key has moved to another master.
                if message.starts_with("EPOCH") || message.contains("access a non local key") {
                    self.death.kill(&message);
                    return Error::Epoch { epoch: self.epoch };
                }
                let error = reply_error(operation, &message);
                let stale = matches!(&error, Error::Server { code, .. } if is_no_master(code));
                if stale || message.starts_with("NOAUTH") {
                    self.death.kill(&message);
                }
                error
            }
        }
    }

    pub(crate) fn unavailable(&self) -> Error {
        let (cause, since) = self.death.cause();
        Error::Unavailable { since, cause }
    }
}

/// Errors of a server that is not, or not yet, the master that it was.
fn is_no_master(code: &str) -> bool {
    matches!(code, "READONLY" | "LOADING" | "MASTERDOWN")
}

impl Drop for Node {
    fn drop(&mut self) {
        self.death.kill("nobody uses the connection any more");
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("endpoint", &self.endpoint)
            .field("epoch", &self.epoch)
            .field("alive", &self.is_alive())
            .finish_non_exhaustive()
    }
}
