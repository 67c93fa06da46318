//! What the coordinator and its service processes say to each other: one JSON value a line, commands on the
//! child's standard input, events on its standard output. A child whose input ends stops by itself, so nothing
//! outlives the coordinator.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::measure::Latencies;

/// Everything a service process needs to start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Start {
    /// Settings by their environment names.
    pub(crate) settings: std::collections::BTreeMap<String, String>,
    pub(crate) process: u16,
    /// Worker threads: the processes share the machine's processors.
    pub(crate) threads: usize,
    pub(crate) seed: u64,
    /// The sequence of keys that the readers walk, each from a place of its own.
    pub(crate) trace: Option<std::path::PathBuf>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub(crate) enum Command {
    Start(Start),
    Phase(Phase),
    /// Another process' update whose invalidation has returned.
    Floor(Floor),
    /// Count what is still on its way, drain, end.
    Stop,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    Ready,
    Tick(Tick),
    Floor(Floor),
    Done(Box<PhaseReport>),
    Stopped { messages: Messages },
    Failed { message: String },
}

/// How the readers of a phase get their values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Path {
    /// One query a read on the connection pool.
    Direct,
    /// Through the cache.
    Cached,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Phase {
    pub(crate) path: Path,
    /// Readers in this process.
    pub(crate) tasks: usize,
    pub(crate) warmup: Duration,
    pub(crate) run: Duration,
    /// Updates a second in this process; 0 = read only, without jobs and messages.
    pub(crate) updates_per_second: f64,
    /// How long another process' completed invalidation may take to be obeyed here.
    pub(crate) staleness_bound: Duration,
    /// Components that will not be healthy at the end, because a fault stays.
    pub(crate) lasting: Vec<String>,
}

/// A key whose update (to `version`) is complete: at `at` its invalidation had returned.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Floor {
    pub(crate) key: u32,
    pub(crate) version: u32,
    /// Nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share.
    pub(crate) at: u64,
}

/// Reads by the level that answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Levels {
    pub(crate) l1: u64,
    pub(crate) l2: u64,
    pub(crate) l3: u64,
    pub(crate) loader: u64,
}

impl Levels {
    pub(crate) fn total(&self) -> u64 {
        self.l1 + self.l2 + self.l3 + self.loader
    }

    /// Share of reads that no loader had to answer; 0 when there was none.
    pub(crate) fn hit_rate(&self) -> f64 {
        match self.total() {
            0 => 0.0,
            total => (self.l1 + self.l2 + self.l3) as f64 / total as f64,
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.l1 += other.l1;
        self.l2 += other.l2;
        self.l3 += other.l3;
        self.loader += other.loader;
    }
}

/// A process' progress, a few times a second.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Tick {
    pub(crate) reads: u64,
    pub(crate) levels: Levels,
    pub(crate) p95_ms: f64,
    pub(crate) health: String,
    pub(crate) failed: u64,
    pub(crate) stale: u64,
}

/// What one process did in one phase, warm-up left out where it says "measured".
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct PhaseReport {
    /// Measured time, in seconds.
    pub(crate) seconds: f64,
    /// Measured reads.
    pub(crate) reads: u64,
    /// Measured reads by level; all `loader` on the direct path.
    pub(crate) levels: Levels,
    pub(crate) latencies: Latencies,
    pub(crate) stale: Stale,
    pub(crate) failed_reads: u64,
    pub(crate) failed_updates: u64,
    /// The first failures' texts.
    pub(crate) failures: Vec<String>,
    pub(crate) updates: u64,
    pub(crate) locks: Locks,
    /// Locks acquired and messages published in the last fifth of the measured time, when all faults are over.
    pub(crate) last_fifth: (u64, u64),
    pub(crate) health: String,
    /// Components that are not healthy.
    pub(crate) unwell: Vec<String>,
    /// Floors of other processes that came into force later than they should have.
    pub(crate) late_floors: u64,
}

/// Reads that broke the promise, by the clause that they broke.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Stale {
    /// Older than an invalidation of the same process that had returned before the read began.
    pub(crate) same_process: u64,
    /// Older than another process' invalidation that had returned longer ago than the bound.
    pub(crate) other_process: u64,
    /// Older than what the same reader had already seen.
    pub(crate) went_back: u64,
}

impl Stale {
    pub(crate) fn add(&mut self, other: &Self) {
        self.same_process += other.same_process;
        self.other_process += other.other_process;
        self.went_back += other.went_back;
    }

    pub(crate) fn total(&self) -> u64 {
        self.same_process + self.other_process + self.went_back
    }
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Locks {
    pub(crate) acquired: u64,
    pub(crate) unavailable: u64,
    /// The row that the job guards had been written under a later token already: must stay 0.
    pub(crate) violations: u64,
}

impl Locks {
    pub(crate) fn add(&mut self, other: &Self) {
        self.acquired += other.acquired;
        self.unavailable += other.unavailable;
        self.violations += other.violations;
    }

    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            acquired: self.acquired - before.acquired,
            unavailable: self.unavailable - before.unavailable,
            violations: self.violations - before.violations,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Messages {
    pub(crate) published: u64,
    /// Publishes that Redis could not take; told to the publisher, so not lost silently.
    pub(crate) refused: u64,
    pub(crate) received: u64,
    pub(crate) gaps: u64,
}
