//! Hits in memory, one thread and two.

use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use cache_manager::{Cache, CacheManager, RegionOptions};

use super::peers::{self, ROOM};
use crate::Bench;
use crate::keys::{self, Keys};
use crate::measure::{self, Contender, Crew, Entrant};
use crate::report::{By, OURS};
use crate::servers;

/// Hits timed as one.
const BATCH: usize = 64;

struct Ours {
    keys: Arc<Keys>,
    region: Cache<Bytes>,
    /// Keeps the background work going.
    _cache: CacheManager,
}

impl Contender for Ours {
    async fn op(&self, turn: usize) {
        let value = self.region.get(self.keys.at(turn)).await.expect("no error").expect("held");
        std::hint::black_box(value);
    }
}

/// Measures one thread and two.
pub(crate) async fn run(bench: &mut Bench, stack: &local_stack::Stack) -> Result<()> {
    let keys = Arc::new(Keys::even(keys::KEYS));
    let cache = servers::cache(stack, ROOM).await?;
    // In memory alone: an entry that had to be fetched again would not be a hit in memory.
    let options = RegionOptions { skip_l2: true, ..RegionOptions::default() };
    let region = cache.region::<Bytes>("l1", options)?;
    servers::fill(&region, &keys).await?;
    let missing = keys.names.iter().filter(|key| region.peek(key).is_none()).count();
    anyhow::ensure!(missing == 0, "ours holds {missing} of {} keys not", keys.names.len());
    let mut entrants = vec![Entrant::new(OURS, Ours { keys: keys.clone(), region, _cache: cache })];
    entrants.extend(peers::all(&keys).await?);
    bench.report.note(
        "cache l1_hit: 10,000 string keys, a shared reference to 256 bytes each; ours with its journal, statistics and \
         metrics on; foldhash everywhere but in cachet, multi-level-cache, multi-tier-cache and hitbox, which choose \
         their own; hitbox decodes a copy from JSON on each hit, its backend alone without its request layers",
    );
    for threads in [1, 2] {
        let crew = if threads == 1 { Crew::One } else { Crew::Threads(threads) };
        let progress = bench.progress("cache l1_hit", threads, entrants.len());
        let shown = measure::measure(&entrants, bench.plan(crew, BATCH), &progress).await?;
        bench.report.add("cache", "l1_hit", threads, By::Rate, &shown);
    }
    Ok(())
}
