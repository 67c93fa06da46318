//! Hit rate under a Zipf distribution: what a cache keeps, rather than how fast it answers.

use std::time::Instant;

use anyhow::Result;
use bytes::Bytes;
use cache_manager::{Cache, RegionOptions};
use hdrhistogram::Histogram;

use crate::Bench;
use crate::keys;
use crate::ratio;
use crate::report::{OURS, Row};
use crate::servers;

const KEYS: usize = 100_000;
const ENTRIES: usize = 10_000;
const EXPONENT: f64 = 0.99;
/// Reads before the first round: ten times what fits.
const WARM_UP: usize = 100_000;
/// Reads of a round.
const READS: usize = 100_000;

/// One side: its hit rate and its time for reads with their fills, round by round.
struct Side {
    name: &'static str,
    rates: Vec<f64>,
    speeds: Vec<f64>,
    times: Histogram<u64>,
}

impl Side {
    fn new(name: &'static str) -> Result<Self> {
        Ok(Self { name, rates: Vec::new(), speeds: Vec::new(), times: Histogram::new(3)? })
    }

    fn add(&mut self, hits: usize, began: Instant) {
        let took = began.elapsed();
        self.rates.push(hits as f64 / READS as f64);
        self.speeds.push(READS as f64 / took.as_secs_f64());
        self.times.saturating_record((took.as_nanos() / READS as u128) as u64);
    }

    fn row(&self) -> Row {
        Row {
            suite: "cache",
            op: "zipf_hit_rate",
            implementation: self.name.to_owned(),
            tasks: 1,
            p50_ns: self.times.value_at_quantile(0.5),
            p99_ns: self.times.value_at_quantile(0.99),
            ops_per_s: ratio::median(&mut self.speeds.clone()).round(),
            rounds: self.rates.len(),
            hit_rate: Some(ratio::median(&mut self.rates.clone())),
        }
    }
}

/// Reads each key and fills it where it is missing; both sides see the same keys in the same order.
pub(crate) async fn run(bench: &mut Bench, stack: &local_stack::Stack) -> Result<()> {
    let cache = servers::cache(stack, ENTRIES).await?;
    let options = RegionOptions { skip_l2: true, ..RegionOptions::default() };
    let region = cache.region::<Bytes>("zipf", options)?;
    let theirs = quick_cache::sync::Cache::<String, Bytes>::new(ENTRIES);
    let names = keys::names(KEYS);
    let value = Bytes::from(keys::value(0));

    let warm_up: Vec<usize> = keys::zipf(KEYS, EXPONENT, 0).take(WARM_UP).collect();
    through_ours(&region, &names, &warm_up, &value).await?;
    through_quick_cache(&theirs, &names, &warm_up, &value);

    let (mut ours, mut other) = (Side::new(OURS)?, Side::new("quick_cache")?);
    let progress = bench.progress("cache zipf_hit_rate", 1, 2);
    for round in 0..bench.rounds() {
        let reads: Vec<usize> = keys::zipf(KEYS, EXPONENT, 1 + round as u64).take(READS).collect();
        let began = Instant::now();
        ours.add(through_ours(&region, &names, &reads, &value).await?, began);
        progress.inc(1);
        let began = Instant::now();
        other.add(through_quick_cache(&theirs, &names, &reads, &value), began);
        progress.inc(1);
    }
    let ratio = ratio::larger_is_better(&ours.rates, &other.rates);
    bench.report.rows.extend([ours.row(), other.row()]);
    bench.report.compare("cache", "zipf_hit_rate", 1, "quick_cache", ratio);
    bench.report.note(format!(
        "cache zipf_hit_rate: Zipf {EXPONENT} over {KEYS} keys, room for {ENTRIES}, a miss is filled at once; \
         times are the mean of a read with its fill"
    ));
    cache.shutdown(std::time::Duration::ZERO).await;
    Ok(())
}

async fn through_ours(
    region: &Cache<Bytes>,
    names: &[String],
    reads: &[usize],
    value: &Bytes,
) -> Result<usize> {
    let mut hits = 0;
    for key in reads {
        let key = &names[*key];
        if region.get(key).await?.is_some() {
            hits += 1;
        } else {
            let value = value.clone();
            let load = |_| async { Ok::<_, std::io::Error>(cache_manager::Loaded::value(value)) };
            region.get_or_load(key, load).await?;
        }
    }
    Ok(hits)
}

fn through_quick_cache(
    cache: &quick_cache::sync::Cache<String, Bytes>,
    names: &[String],
    reads: &[usize],
    value: &Bytes,
) -> usize {
    let mut hits = 0;
    for key in reads {
        let key = &names[*key];
        if cache.get(key).is_some() {
            hits += 1;
        } else {
            cache.insert(key.clone(), value.clone());
        }
    }
    hits
}
