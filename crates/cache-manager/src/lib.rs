//! CacheManager: L1 in memory, L2 in Redis, L3 in Postgres; one load for many; invalidation that holds.
//!
//! One [`CacheManager`] a process: one L1 for all regions, at most one L2 and one L3, one journal by which processes
//! hear of each other's invalidations. A [`Cache<V>`] is a cheap typed handle on a named region of it. A hit in L1 hands out
//! an `Arc<V>`: nothing is decoded, allocated or awaited, and no lock is held.
//!
//! ```
//! use cache_manager::{BoxError, Config, Deps, Loaded, RegionOptions};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! // Without Redis and Postgres it is an L1; give them in `Deps` and nothing else changes.
//! let manager = Config::default().build(Deps::default())?;
//! let prices = manager.region::<u64>("prices", RegionOptions::default())?;
//! let hit = prices.get_or_load("apple", |_ctx| async { Ok::<_, BoxError>(Loaded::value(3)) }).await?;
//! assert_eq!(hit.value.as_deref(), Some(&3));
//! assert_eq!(prices.get("apple").await?.as_deref(), Some(&3));
//! prices.invalidate("apple").await?;
//! assert_eq!(prices.get("apple").await?, None);
//! # Ok(()) }
//! ```
//!
//! # The promise
//! When an invalidation (`invalidate`, `set`, `remove`, `clear`, a committed `tx.invalidate`) returns,
//!
//! * **in this process** no read that begins afterwards gets a value whose load began before, from any level or from a
//!   load that it joins, whatever Redis and Postgres do (module `ledger`);
//! * if it returned [`Invalidated::Applied`], **nobody** can read such a value from L2 or L3 or fill it into them (modules
//!   `tier::redis`, `tier::postgres`), and the L1 of other processes follows through the journal, in about a round
//!   trip, or knows within a second that it is not current (module `coherence`);
//! * if it returned [`CacheError::NotPropagated`], the first point holds, the key bypasses L2 and L3 here, and a background
//!   task repeats the delivery until it succeeds (module `invalidate`);
//! * after Redis lost data (restart, failover, FLUSHALL) its entries carry another epoch and are misses, and every L1
//!   asks anew.
//!
//! Of N concurrent misses of a key one loader runs in the process and, while L2 answers, one in the fleet. Its failure
//! is shared, and handed out for a short back-off. An expired value is served when the load fails or is slower than
//! the soft time-out. Tiers that fail or are slow cost a miss, never the request.
//!
//! # What is one mechanism
//! *Start positions.* Whatever may be stored notes, before it begins, where an order of invalidations stands: the ledger's
//! counter for L1, a lease in L2, a snapshot in L3. An invalidation moves that order. Storing, or reading what was stored,
//! compares. There is no other defence, and none is needed: single flight, fills, `set`, transactions, `clear` and
//! what other processes invalidate all go through it.
//!
//! # Without a level
//! Without Redis: L1 and L3. A single instance; with several, others' L1 do not hear of invalidations ([`Coherence::Local`]
//! says so), until there is a journal over Postgres. With Redis but without a journal L1 serves nothing that it read
//! longer than `disconnected_max_age` ago. A process whose journal is cut off does the same.
//!
//! Loaders that read Postgres use [`LoadCtx::read_token`]; today it asks for the primary.
//!
//! What is not promised: that the versions of a key which one process reads never go back *before* it has heard of another
//! process's change. Much is done against it (`ledger`, `beside`), so that it takes an unlucky overlap of three of them:
//! a change, a load that loses its claim, and an entry that L1 evicts.
//!
//! Not yet: tags; a durable record of undelivered invalidations ([`Invalidated::Deferred`]) and an outbox for
//! `tx.invalidate`; a budget of L1 in bytes; early refresh; warming (its figures are 0); compression; hot keys and advice;
//! loaders attached to a region; waking instead of asking again while another process loads; revalidating L1 in place
//! after a gap (its entries are read again from L2); Redis Cluster.

mod answer;
mod batch;
mod beside;
mod cache;
mod codec;
mod coherence;
mod config;
mod core;
mod counters;
mod error;
mod flight;
mod fly;
mod follow;
mod invalidate;
mod key;
mod l1;
mod ledger;
mod load;
mod manager;
mod metrics;
mod region;
mod set;
mod stats;
mod tier;
#[cfg(feature = "postgres")]
mod tx;

pub use answer::{BoxError, CacheValue, ClearScope, Hit, Invalidated, Level, LoadCtx, Loaded};
pub use cache::Cache;
pub use coherence::Coherence;
pub use config::{Codec, Config, MAX_KEY, MAX_REGIONS, MAX_TTL, Problem, RegionOptions};
pub use error::{CacheError, LoadError};
pub use manager::{CacheManager, CacheStatus, Deps, TierStatus};
pub use stats::CacheStats;
#[cfg(feature = "redis")]
pub use tier::RedisTier;
pub use tier::{Claim, EVERYTHING, Fresh, MemoryTier, Stored, Ticket, Tier, TierError, TierKey};
#[cfg(feature = "postgres")]
pub use tier::{PostgresTier, migrations};
#[cfg(feature = "postgres")]
pub use tx::TxInvalidate;
