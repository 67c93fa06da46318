//! The figures of a manager. One request is one hit or one miss, at one level; times are in milliseconds.
//! Not here: Prometheus names (`metrics`).

use std::collections::VecDeque;

use serde::Serialize;

use crate::core::Core;
use crate::counters::{Count, Counters};

/// What has happened since the manager was built.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CacheStats {
    /// Hits of all levels among all requests, 0 to 1; 0 without requests.
    pub hit_rate: f64,
    /// Requests answered by L1.
    pub l1_hits: u64,
    /// Requests answered by L2.
    pub l2_hits: u64,
    /// Requests answered by L3.
    pub l3_hits: u64,
    /// Requests: hits, loads, nothing found, failures.
    pub total_requests: u64,
    /// Hits of L1 among all requests.
    pub l1_hit_rate: f64,
    /// Hits of L2 among the requests that L1 did not answer.
    pub l2_hit_rate: f64,
    /// Entries in L1.
    pub l1_size: usize,
    /// Entries that L1 can hold.
    pub l1_max_size: usize,
    /// Share of L1 in use, 0 to 1.
    pub l1_utilization: f64,
    /// L1 entries that a read found expired.
    pub l1_expired_entries: u64,
    /// Mean time of a read of L2, ms.
    pub l2_response_time: f64,
    /// Mean time of a request over all levels, ms; hits of L1 are sampled.
    pub avg_response_time: f64,
    /// `healthy` or `degraded`.
    pub health_status: &'static str,
    /// Always false: warming does not exist yet.
    pub warming_enabled: bool,
    /// Always 0 so far.
    pub warming_cycles: u64,
    /// Always 0 so far.
    pub warming_keys_warmed: u64,
    /// Always 0 so far.
    pub warming_hit_rate: f64,
    /// Always 0 so far.
    pub warming_accuracy: f64,
    /// Requests answered by a load.
    pub loaded: u64,
    /// Requests without a loader for which nobody had a value.
    pub not_found: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests answered with an expired value.
    pub stale_served: u64,
    /// Loads that succeeded.
    pub loads: u64,
    /// Loads that failed.
    pub load_errors: u64,
    /// Mean time of a load, ms.
    pub load_time: f64,
    /// Mean time of a read of L3, ms.
    pub l3_response_time: f64,
    /// L1 entries not served because they were not known to be current.
    pub l1_unverified: u64,
    /// Calls to L2 that failed.
    pub l2_errors: u64,
    /// Calls to L3 that failed.
    pub l3_errors: u64,
    /// Entries whose bytes were not a value of their region.
    pub undecodable: u64,
    /// Fills of L1 refused because an invalidation was newer.
    pub fills_fenced: u64,
    /// Fills of L2.
    pub l2_fills: u64,
    /// Fills of L2 refused or failed.
    pub l2_fills_refused: u64,
    /// Fills of L3.
    pub l3_fills: u64,
    /// Fills of L3 refused or failed.
    pub l3_fills_refused: u64,
    /// Fills of L3 not tried because there were too many in this second.
    pub l3_fills_dropped: u64,
    /// Invalidations of other processes applied here.
    pub remote_invalidations: u64,
    /// Gaps of the journal, the one at its opening included.
    pub journal_gaps: u64,
    /// Keys whose invalidation has not been delivered yet.
    pub pending_invalidations: usize,
}

impl CacheStats {
    pub(crate) fn of(core: &Core) -> Self {
        let total = |what| core.counters.total(what);
        let sums = Sums::of(&core.counters);
        let (l1_size, l1_max_size) = (core.l1.len(), core.l1.capacity());
        let mean = |nanos, samples| ratio(total(nanos), total(samples)) / 1e6;
        let l2_response_time = mean(Count::L2Nanos, Count::L2Samples);
        let l3_response_time = mean(Count::L3Nanos, Count::L3Samples);
        let load_time = mean(Count::LoadNanos, Count::LoadSamples);
        let weighted = sums.l1 as f64 * mean(Count::L1Nanos, Count::L1Samples)
            + sums.l2 as f64 * l2_response_time
            + sums.l3 as f64 * l3_response_time
            + total(Count::Loaded) as f64 * load_time;
        Self {
            hit_rate: ratio(sums.l1 + sums.l2 + sums.l3, sums.all),
            l1_hits: sums.l1,
            l2_hits: sums.l2,
            l3_hits: sums.l3,
            total_requests: sums.all,
            l1_hit_rate: ratio(sums.l1, sums.all),
            l2_hit_rate: ratio(sums.l2, sums.all.saturating_sub(sums.l1)),
            l1_size,
            l1_max_size,
            l1_utilization: ratio(l1_size as u64, l1_max_size as u64),
            l1_expired_entries: total(Count::L1Expired),
            l2_response_time,
            avg_response_time: if sums.all == 0 { 0.0 } else { weighted / sums.all as f64 },
            health_status: if core.healthy() { "healthy" } else { "degraded" },
            loaded: total(Count::Loaded),
            not_found: total(Count::Nothing),
            failed: total(Count::Failed),
            stale_served: total(Count::Stale),
            loads: total(Count::LoadOk),
            load_errors: total(Count::LoadError),
            load_time,
            l3_response_time,
            l1_unverified: total(Count::L1Unverified),
            l2_errors: total(Count::L2Error),
            l3_errors: total(Count::L3Error),
            undecodable: total(Count::Undecodable),
            fills_fenced: total(Count::FillFenced),
            l2_fills: total(Count::L2Fill),
            l2_fills_refused: total(Count::L2FillRefused),
            l3_fills: total(Count::L3Fill),
            l3_fills_refused: total(Count::L3FillRefused),
            l3_fills_dropped: total(Count::L3FillDropped),
            remote_invalidations: total(Count::Remote),
            journal_gaps: total(Count::Gaps),
            pending_invalidations: core.ledger.pending(),
            ..Self::default()
        }
    }
}

/// Requests by who answered them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sums {
    pub(crate) l1: u64,
    pub(crate) l2: u64,
    pub(crate) l3: u64,
    pub(crate) all: u64,
}

impl Sums {
    pub(crate) fn of(counters: &Counters) -> Self {
        let (l1, l2, l3) =
            (counters.total(Count::L1Hit), counters.total(Count::L2Hit), counters.total(Count::L3Hit));
        let rest =
            counters.total(Count::Loaded) + counters.total(Count::Nothing) + counters.total(Count::Failed);
        Self { l1, l2, l3, all: l1 + l2 + l3 + rest }
    }

    fn since(self, before: Self) -> Self {
        Self {
            l1: self.l1.saturating_sub(before.l1),
            l2: self.l2.saturating_sub(before.l2),
            l3: self.l3.saturating_sub(before.l3),
            all: self.all.saturating_sub(before.all),
        }
    }
}

/// The sums of the last five minutes, one a second.
#[derive(Debug, Default)]
pub(crate) struct Window(VecDeque<Sums>);

const SECONDS: usize = 300;
/// Fewer requests than this in the window mean nothing.
const FEWEST: u64 = 100;

/// Notes the sums; called once a second.
pub(crate) fn observe(core: &Core) {
    let sums = Sums::of(&core.counters);
    let mut window = core.window.lock();
    if window.0.len() > SECONDS {
        window.0.pop_front();
    }
    window.0.push_back(sums);
}

impl Window {
    /// Hit ratios of L1, L2, L3 and all of them over the window; `None` where there is too little to tell.
    pub(crate) fn ratios(&self, now: Sums) -> [(&'static str, Option<f64>); 4] {
        let sums = now.since(self.0.front().copied().unwrap_or_default());
        let part = |hits, of| (of >= FEWEST).then(|| ratio(hits, of));
        [
            ("l1", part(sums.l1, sums.all)),
            ("l2", part(sums.l2, sums.all - sums.l1)),
            ("l3", part(sums.l3, sums.all.saturating_sub(sums.l1 + sums.l2))),
            ("overall", part(sums.l1 + sums.l2 + sums.l3, sums.all)),
        ]
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
