//! Distributed locks with leases, fencing tokens and a holder who is told in time.
//!
//! # The promise
//! - **One holder** at a time while the store keeps its data. When Redis loses data, or fails over without it, two holders
//!   may overlap; the token then decides.
//! - **Tokens grow.** Every lock comes with a number greater than that of every earlier holder, also across a flush, an
//!   empty restart, a failover or a deleted counter. Whoever checks it is safe from a holder who has been
//!   overtaken; [`LockGuard::transaction`] has Postgres check it.
//! - **The holder is told** at least a tenth of the lease (50 ms or more) before its nominal end, by [`LockGuard::lost`],
//!   whether or not a call to Redis ever returns.
//! - **No orphans.** A dropped `acquire` leaves no lock: while the store answers it is given back at once, else it ends with
//!   its lease.
//! - **Waiting is woken, not polled**, and honest about its end: [`LockError::Busy`], [`LockError::Timeout`],
//!   [`LockError::Unavailable`] and [`LockError::Unknown`] are different things.
//!
//! # How
//! - *Acquire* is one script, idempotent by a random id, fenced by the link's epoch: where Redis is not what it was, nothing
//!   is done, the link takes a new epoch, and the script is sent again. The token is epoch (24 bits), a counter (24) and
//!   16 bits for hand-overs. Counters are kept by shard, 64 of them, and never expire; each process remembers the
//!   greatest number that it has seen and sends it along, so a counter that went back is noticed and a new epoch begun. (A
//!   counter deleted by hand, without the epoch key, is not noticed by a process that has never locked in that shard.)
//! - It runs in a task of its own; the caller holds the other end. An attempt that got no answer is
//!   [`LockError::Unknown`] and is undone in the background.
//! - *Waiters* of one process stand in line; only the first talks to the store. A release publishes the lock's name on one
//!   channel. A waiter also asks when the lease that it knows of ends, and once a second while wakes cannot be heard.
//! - *The lease* is measured from when the acquire or renewal was sent, on a clock that counts suspended time, less 1 % and
//!   2 ms for the difference of clocks: the nominal end. Renewal every third of the lease, in a task of its own.
//! - *Release* stops renewal, then compares and deletes. It goes on in the background when its caller goes away, and is
//!   repeated until answered or until the lease is over.
//!
//! Times of `wait` follow tokio's clock, leases do not.
//!
//! # Stores
//! [`RedisLockBackend`] (feature `redis`) for a fleet, [`MemoryLockBackend`] for a service of one process; any other by
//! [`LockBackend`]. Redis must not evict: a `maxmemory_policy` other than `noeviction` is a warning in the status, or an
//! error by [`Eviction::Refuse`]. Keys: `{ns}:k:{sN}:l:name` for a lock that is held, `{ns}:k:{sN}:n` for a shard's counter;
//! channel `{ns}:w:locks`.
//!
//! # Not yet
//! Postgres as the store, the fair queue between processes, hand-over within a process, reader-writer locks, semaphores,
//! several locks at once, quarantine after a loss, batched renewal, waiting for replicas, listing and forced release. None of
//! them is in the API.
//!
//! ```no_run
//! # async fn example(link: redis_link::RedisLink) -> Result<(), distributed_lock_manager::LockError> {
//! use distributed_lock_manager::{Config, LockOptions, RedisLockBackend};
//! use std::{sync::Arc, time::Duration};
//!
//! let locks = Config::default().build(Some(Arc::new(RedisLockBackend::new(link)?)))?;
//! let guard = locks.acquire("nightly-report", LockOptions::default().wait(Duration::from_secs(5))).await?;
//! tokio::select! {
//!     () = guard.lost() => { /* stop: somebody else may begin soon */ }
//!     () = async { /* write, showing guard.token() */ } => {}
//! }
//! guard.release().await
//! # }
//! ```

mod config;
mod error;
mod lease;
mod token;

mod acquire;
#[cfg(feature = "postgres")]
mod fence;
mod guard;
mod hold;
mod manager;
mod queue;
mod release;

mod backend;
mod memory;
#[cfg(feature = "redis")]
mod redis;

mod metrics;

pub use backend::{AcquisitionId, Attempt, BackendStatus, LockBackend, Request};
pub use config::{Config, LockOptions, Problem};
pub use error::LockError;
#[cfg(feature = "postgres")]
pub use fence::{FencedError, migrations};
pub use guard::LockGuard;
pub use manager::{DistributedLockManager, Status};
pub use memory::MemoryLockBackend;
pub use metrics::Stats;
pub use queue::Wakes;
#[cfg(feature = "redis")]
pub use redis::{Eviction, RedisLockBackend};
pub use token::Token;
