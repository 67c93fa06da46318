//! The manager's counts and the instruments that read them.

use crate::LockError;
use opentelemetry::{
    KeyValue,
    metrics::{Histogram, ObservableCounter},
};
use serde::Serialize;
use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// How an acquire ended; the label `outcome`.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    Acquired,
    Busy,
    Timeout,
    Unknown,
    Unavailable,
    Error,
    Cancelled,
}

const OUTCOMES: [(Outcome, &str); 7] = [
    (Outcome::Acquired, "acquired"),
    (Outcome::Busy, "busy"),
    (Outcome::Timeout, "timeout"),
    (Outcome::Unknown, "unknown"),
    (Outcome::Unavailable, "unavailable"),
    (Outcome::Error, "error"),
    (Outcome::Cancelled, "cancelled"),
];

/// Counts since the manager was built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Acquires that got the lock.
    pub acquired: u64,
    /// Acquires that asked once and found it held.
    pub busy: u64,
    /// Acquires that waited in vain.
    pub timed_out: u64,
    /// Acquires without an answer.
    pub unknown: u64,
    /// Acquires without a reachable backend.
    pub unavailable: u64,
    /// Acquires that failed otherwise.
    pub failed: u64,
    /// Acquires whose caller went away.
    pub cancelled: u64,
    /// Acquires that found the lock held at first, of whatever outcome.
    pub contended: u64,
    /// Guards that lost their lock before they gave it back.
    pub lost: u64,
    /// Locks given back.
    pub released: u64,
    /// Guards alive.
    pub held: u64,
    /// Acquires waiting now.
    pub waiting: usize,
    /// Time-outs as a share of the acquires that got or waited for a lock; 0 to 1.
    pub timeout_rate: f64,
    /// Contended acquires as a share of all that reached the store; 0 to 1.
    pub contention_rate: f64,
    /// Mean time between acquire and release, in seconds.
    pub average_hold_seconds: f64,
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    outcomes: [AtomicU64; OUTCOMES.len()],
    contended: AtomicU64,
    lost: AtomicU64,
    released: AtomicU64,
    ended: AtomicU64,
    held_nanos: AtomicU64,
}

impl Counts {
    fn count(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn acquired(&self) {
        self.count(Outcome::Acquired);
    }

    pub(crate) fn cancelled(&self) {
        self.count(Outcome::Cancelled);
    }

    pub(crate) fn failed(&self, error: &LockError) {
        self.count(match error {
            LockError::Busy { .. } => Outcome::Busy,
            LockError::Timeout { .. } => Outcome::Timeout,
            LockError::Unknown { .. } => Outcome::Unknown,
            LockError::Unavailable { .. } | LockError::Shutdown => Outcome::Unavailable,
            LockError::Lost { .. }
            | LockError::Stale { .. }
            | LockError::Invalid { .. }
            | LockError::TooManyWaiters { .. }
            | LockError::Backend { .. } => Outcome::Error,
        });
    }

    pub(crate) fn contended(&self) {
        self.contended.fetch_add(1, Relaxed);
    }

    pub(crate) fn lost(&self) {
        self.lost.fetch_add(1, Relaxed);
    }

    pub(crate) fn ended(&self, held: Duration, released: bool) {
        self.ended.fetch_add(1, Relaxed);
        self.released.fetch_add(u64::from(released), Relaxed);
        self.held_nanos.fetch_add(u64::try_from(held.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    pub(crate) fn stats(&self, waiting: usize) -> Stats {
        let of = |outcome: Outcome| self.outcomes[outcome as usize].load(Relaxed);
        let rate = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let (acquired, timed_out, busy) = (of(Outcome::Acquired), of(Outcome::Timeout), of(Outcome::Busy));
        let (contended, ended) = (self.contended.load(Relaxed), self.ended.load(Relaxed));
        let nanos = self.held_nanos.load(Relaxed);
        Stats {
            acquired,
            busy,
            timed_out,
            unknown: of(Outcome::Unknown),
            unavailable: of(Outcome::Unavailable),
            failed: of(Outcome::Error),
            cancelled: of(Outcome::Cancelled),
            contended,
            lost: self.lost.load(Relaxed),
            released: self.released.load(Relaxed),
            held: acquired.saturating_sub(ended),
            waiting,
            timeout_rate: rate(timed_out, acquired + timed_out),
            contention_rate: rate(contended, acquired + timed_out + busy).min(1.0),
            average_hold_seconds: rate(nanos, ended) / 1e9,
        }
    }
}

/// Keeps the instruments alive.
#[derive(Debug)]
pub(crate) struct Instruments {
    _acquires: ObservableCounter<u64>,
    hold: Histogram<f64>,
}

impl Instruments {
    pub(crate) fn new(counts: &Arc<Counts>) -> Self {
        let meter = opentelemetry::global::meter("database_services");
        let counts: Weak<Counts> = Arc::downgrade(counts);
        let acquires = meter
            .u64_observable_counter("unified_lock_acquires_total")
            .with_description("Acquires of locks by their outcome.")
            .with_callback(move |observer| {
                let Some(counts) = counts.upgrade() else { return };
                for (outcome, label) in OUTCOMES {
                    let value = counts.outcomes[outcome as usize].load(Relaxed);
                    observer.observe(value, &[KeyValue::new("outcome", label)]);
                }
            })
            .build();
        let hold = meter
            .f64_histogram("unified_lock_hold_seconds")
            .with_description("Time between acquire and release of a lock.")
            .with_boundaries(vec![
                0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0,
            ])
            .build();
        Self { _acquires: acquires, hold }
    }

    pub(crate) fn held(&self, held: Duration) {
        self.hold.record(held.as_secs_f64(), &[]);
    }
}
