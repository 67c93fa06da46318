//! Latency histograms that cross a process boundary, and the monotonic clock that all processes share.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Nanoseconds of CLOCK_MONOTONIC: comparable between processes of one machine.
pub(crate) fn monotonic_nanos() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// A latency histogram from 1 ns to 60 s, three significant digits.
#[derive(Debug, Clone)]
pub(crate) struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("constant bounds are valid"))
    }
}

impl Latencies {
    pub(crate) fn record(&mut self, nanos: u64) {
        self.0.saturating_record(nanos.max(1));
    }

    pub(crate) fn add(&mut self, other: &Self) {
        // The bounds are the same constants on both sides, so this cannot fail.
        let _ = self.0.add(&other.0);
    }

    pub(crate) fn millis(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e6
    }

    pub(crate) fn mean_millis(&self) -> f64 {
        self.0.mean() / 1e6
    }
}

impl Serialize for Latencies {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter_recorded().map(|v| (v.value_iterated_to(), v.count_at_value())))
    }
}

impl<'de> Deserialize<'de> for Latencies {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut latencies = Self::default();
        for (value, count) in Vec::<(u64, u64)>::deserialize(deserializer)? {
            latencies.0.saturating_record_n(value, count);
        }
        Ok(latencies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_survives_the_pipe() {
        let mut one = Latencies::default();
        for nanos in [100, 2_000, 3_000_000, 70_000_000_000] {
            one.record(nanos);
        }
        let text = serde_json::to_string(&one).unwrap();
        let two: Latencies = serde_json::from_str(&text).unwrap();
        for quantile in [0.25, 0.5, 0.75, 1.0] {
            let (a, b) = (one.millis(quantile), two.millis(quantile));
            assert!((a - b).abs() <= a * 0.002, "{a} and {b} differ at {quantile}");
        }
    }
}
