//! A named region within this process: its options, its floors and what a load of it costs. Not here: its entries.

use std::any::TypeId;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::Rng;

use crate::config::{Codec, Config, MAX_TTL, RegionOptions};
use crate::error::CacheError;
use crate::key::RegionId;

/// The options of a region with the manager's filled in.
#[derive(Debug, Clone)]
pub(crate) struct Settled {
    pub(crate) ttl: Duration,
    pub(crate) negative_ttl: Duration,
    pub(crate) stale_for: Duration,
    pub(crate) soft_timeout: Duration,
    pub(crate) hard_timeout: Duration,
    pub(crate) codec: Codec,
    pub(crate) schema_version: u32,
    pub(crate) skip_l1: bool,
    pub(crate) skip_l2: bool,
    pub(crate) skip_l3: bool,
    pub(crate) max_value: usize,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Region {
    pub(crate) id: RegionId,
    pub(crate) name: Arc<str>,
    pub(crate) options: Settled,
    /// Type of the values and its name; `None` for the untyped region `default`.
    pub(crate) holds: Option<(TypeId, &'static str)>,
    floors: Floors,
    /// An invalidation of the whole region that has not reached the tiers and the journal yet.
    pub(crate) pending: PendingFlag,
    /// The same for all regions.
    everything: Arc<PendingFlag>,
    load_cost: Cost,
}

/// Set while an invalidation of many keys is on its way.
#[derive(Debug, Default)]
pub(crate) struct PendingFlag {
    on: AtomicBool,
    calls: AtomicU64,
}

/// Positions of the ledger below which entries count for nothing. On a line of their own: every hit reads them.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Floors {
    /// Below: may not be served without asking the tiers or the loader, but still as a last resort.
    soft: AtomicU64,
    /// Below: may not be served at all.
    hard: AtomicU64,
}

impl Region {
    pub(crate) fn new(
        id: RegionId,
        name: &str,
        options: Settled,
        holds: Option<(TypeId, &'static str)>,
        everything: Arc<PendingFlag>,
    ) -> Self {
        Self {
            id,
            name: Arc::from(name),
            options,
            holds,
            floors: Floors::default(),
            pending: PendingFlag::default(),
            everything,
            load_cost: Cost::default(),
        }
    }

    #[inline]
    pub(crate) fn soft_floor(&self) -> u64 {
        self.floors.soft.load(Ordering::Acquire)
    }

    pub(crate) fn hard_floor(&self) -> u64 {
        self.floors.hard.load(Ordering::Acquire)
    }

    /// Entries that began before `at` must be asked for anew; they stay as a last resort.
    pub(crate) fn raise_soft(&self, at: u64) {
        self.floors.soft.fetch_max(at, Ordering::AcqRel);
    }

    /// Entries that began before `at` are gone.
    pub(crate) fn raise_hard(&self, at: u64) {
        self.floors.hard.fetch_max(at, Ordering::AcqRel);
        self.raise_soft(at);
    }

    /// Whether the tiers must be left alone for the whole region.
    pub(crate) fn is_pending(&self) -> bool {
        self.pending.is_on() || self.everything.is_on()
    }

    pub(crate) fn load_cost(&self) -> &Cost {
        &self.load_cost
    }
}

impl PendingFlag {
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::SeqCst)
    }

    /// Sets the flag; the mark is for [`clear`](Self::clear).
    pub(crate) fn set(&self) -> u64 {
        let mark = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        self.on.store(true, Ordering::SeqCst);
        mark
    }

    /// The mark of the latest [`set`](Self::set).
    pub(crate) fn mark(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// Clears the flag, unless it was set again after `mark`.
    pub(crate) fn clear(&self, mark: u64) {
        if self.mark() == mark {
            self.on.store(false, Ordering::SeqCst);
            // A call that came between the two lines wins.
            if self.mark() != mark {
                self.on.store(true, Ordering::SeqCst);
            }
        }
    }
}

impl Settled {
    pub(crate) fn of(config: &Config, options: &RegionOptions) -> Result<Self, CacheError> {
        let settled = Self {
            ttl: options.ttl.unwrap_or(config.ttl),
            negative_ttl: options.negative_ttl.unwrap_or(config.negative_ttl),
            stale_for: options.stale_for.unwrap_or(config.stale_for),
            soft_timeout: options.soft_timeout.unwrap_or(config.soft_timeout),
            // The ledger forgets fences after twice the manager's: a region may only be stricter.
            hard_timeout: options.hard_timeout.unwrap_or(config.hard_timeout).min(config.hard_timeout),
            codec: options.codec,
            schema_version: options.schema_version,
            skip_l1: options.skip_l1,
            skip_l2: options.skip_l2,
            skip_l3: options.skip_l3,
            max_value: config.max_value,
        };
        for ttl in [settled.ttl, settled.negative_ttl] {
            check_ttl(ttl)?;
        }
        if settled.stale_for > MAX_TTL {
            return Err(CacheError::Ttl { ttl: settled.stale_for, limit: MAX_TTL });
        }
        Ok(settled)
    }
}

/// Up to a tenth longer, so that what was stored together does not expire together.
pub(crate) fn jittered(ttl: Duration) -> Duration {
    ttl.mul_f64(1.0 + rand::rng().random_range(0.0..0.1))
}

pub(crate) fn check_ttl(ttl: Duration) -> Result<(), CacheError> {
    if ttl.is_zero() || ttl > MAX_TTL { Err(CacheError::Ttl { ttl, limit: MAX_TTL }) } else { Ok(()) }
}

pub(crate) fn check_name(name: &str) -> Result<(), CacheError> {
    let fine = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.');
    if (1..=64).contains(&name.len()) && name.bytes().all(fine) {
        Ok(())
    } else {
        Err(CacheError::RegionName { name: name.to_owned() })
    }
}

/// A moving average in nanoseconds; races between threads lose a sample at most.
#[derive(Debug, Default)]
pub(crate) struct Cost {
    nanos: AtomicU64,
    samples: AtomicU64,
}

impl Cost {
    pub(crate) fn observe(&self, took: Duration) {
        let new = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        let old = self.nanos.load(Ordering::Relaxed);
        let next = if old == 0 { new } else { old - old / 8 + new / 8 };
        self.nanos.store(next.max(1), Ordering::Relaxed);
        self.samples.fetch_add(1, Ordering::Relaxed);
    }

    /// `None` before there are enough samples to mean something.
    pub(crate) fn known(&self) -> Option<Duration> {
        (self.samples.load(Ordering::Relaxed) >= 8)
            .then(|| Duration::from_nanos(self.nanos.load(Ordering::Relaxed)))
    }

    /// The average, however few the samples; zero without any.
    pub(crate) fn estimate(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }
}
