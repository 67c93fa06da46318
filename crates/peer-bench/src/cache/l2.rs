//! Hits in Redis: one at a time on one core, then 64 and 256 at once.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use cache_manager::{Cache, CacheManager, RegionOptions};
use fred::clients::Pool;
use fred::interfaces::{ClientLike as _, KeysInterface as _};
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;

use crate::Bench;
use crate::keys::{self, Keys};
use crate::measure::{self, Contender, Crew, Entrant};
use crate::report::{By, OURS};
use crate::servers::{self, REDIS_CONNECTIONS};

struct Ours {
    keys: Arc<Keys>,
    region: Cache<Bytes>,
    _cache: CacheManager,
}

impl Contender for Ours {
    async fn op(&self, turn: usize) {
        let value = self.region.get(self.keys.at(turn)).await.expect("no error").expect("held");
        std::hint::black_box(value);
    }
}

struct Fred {
    keys: Arc<Keys>,
    pool: Pool,
}

impl Contender for Fred {
    async fn op(&self, turn: usize) {
        let value: Option<Bytes> = self.pool.get(self.keys.at(turn)).await.expect("no error");
        std::hint::black_box(value.expect("held"));
    }
}

struct RedisRs {
    keys: Arc<Keys>,
    connections: Vec<MultiplexedConnection>,
}

impl Contender for RedisRs {
    async fn op(&self, turn: usize) {
        let mut connection = self.connections[turn % self.connections.len()].clone();
        let value: Option<Bytes> = connection.get(self.keys.at(turn)).await.expect("no error");
        std::hint::black_box(value.expect("held"));
    }
}

async fn entrants(stack: &local_stack::Stack) -> Result<Vec<Entrant>> {
    let keys = Arc::new(Keys::even(keys::KEYS));
    let url = stack.redis_url();

    let cache = servers::cache(stack, 1000).await?;
    let options = RegionOptions { skip_l1: true, skip_l3: true, ..RegionOptions::default() };
    let region = cache.region::<Bytes>("l2", options)?;
    servers::fill(&region, &keys).await?;

    let pool = fred::types::Builder::from_config(fred::types::config::Config::from_url(&url)?)
        .build_pool(REDIS_CONNECTIONS)?;
    pool.init().await.context("fred")?;
    for (number, key) in keys.names.iter().enumerate() {
        let value = Bytes::from(keys::value(number));
        let _: () = pool.set(key, value, None, None, false).await.context("fred")?;
    }

    let client = redis::Client::open(url).context("redis-rs")?;
    let mut connections = Vec::new();
    for _ in 0..REDIS_CONNECTIONS {
        connections.push(client.get_multiplexed_async_connection().await.context("redis-rs")?);
    }
    Ok(vec![
        Entrant::new(OURS, Ours { keys: keys.clone(), region, _cache: cache }),
        Entrant::new("floor:fred", Fred { keys: keys.clone(), pool }),
        Entrant::new("redis-rs", RedisRs { keys, connections }),
    ])
}

/// One at a time. To be called on a pinned thread, with servers of its own.
pub(crate) async fn run_one(bench: &mut Bench) -> Result<()> {
    let stack = servers::start().await?;
    let entrants = entrants(&stack).await?;
    let progress = bench.progress("cache l2_hit, one core", 1, entrants.len());
    let shown = measure::measure(&entrants, bench.plan(Crew::One, 1), &progress).await?;
    bench.report.add("cache", "l2_hit", 1, By::Median, &shown);
    Ok(())
}

/// Many at once.
pub(crate) async fn run_many(bench: &mut Bench, stack: &local_stack::Stack) -> Result<()> {
    let entrants = entrants(stack).await?;
    bench.report.note(format!(
        "cache l2_hit: 10,000 string keys, 256 bytes each, {REDIS_CONNECTIONS} connections for each; ours without L1, \
         decoding its envelope; the others hand out bytes"
    ));
    for tasks in [64, 256] {
        let progress = bench.progress("cache l2_hit", tasks, entrants.len());
        let shown = measure::measure(&entrants, bench.plan(Crew::Tasks(tasks), 1), &progress).await?;
        bench.report.add("cache", "l2_hit", tasks, By::Rate, &shown);
    }
    Ok(())
}
