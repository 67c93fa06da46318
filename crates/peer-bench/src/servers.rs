//! The servers of a run, and our components on them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use cache_manager::{Cache, CacheManager};
use futures_util::{StreamExt as _, TryStreamExt as _};
use local_stack::{PostgresOptions, RedisOptions, Stack};
use postgres_pool_manager::PostgresPoolManager;
use pubsub_manager::{Journal, JournalConfig, RedisJournal, RedisJournalConfig};
use redis_link::{Endpoint, RedisLink, SelfKeptEpochs, Topology};
use resilience::Deadline;

use crate::keys::{self, Keys};

/// Connections to Redis, for everybody.
pub(crate) const REDIS_CONNECTIONS: usize = 2;
/// Connections to Postgres, for every pool.
pub(crate) const POSTGRES_CONNECTIONS: u32 = 10;

/// Keys on their way at a time while a cache is filled.
const FILLING: usize = 64;

/// Longest wait for a component to be ready.
const READY: Duration = Duration::from_secs(10);

/// One Redis and one Postgres, both without persistence: what is measured is the way there and back.
pub(crate) async fn start() -> Result<Stack> {
    Stack::builder()
        .postgres(PostgresOptions::default())
        .redis(RedisOptions { persistent: false, ..RedisOptions::default() })
        .start()
        .await
        .context("cannot start the servers")
}

/// Our link to the stack's Redis.
pub(crate) async fn link(stack: &Stack) -> Result<RedisLink> {
    let master = stack.redis().master();
    let config = redis_link::Config {
        topology: Topology::standalone(Endpoint::new(master.host(), master.port())),
        namespace: "bench".to_owned(),
        pool_size: REDIS_CONNECTIONS,
        ..redis_link::Config::default()
    };
    let link = config.connect(redis_link::Deps::new(Arc::new(SelfKeptEpochs::new()))).await?;
    link.ready(Deadline::after(READY)).await?;
    Ok(link)
}

/// Our cache as a service has it: over Redis, following the journal of invalidations, with statistics and metrics.
pub(crate) async fn cache(stack: &Stack, l1_entries: usize) -> Result<CacheManager> {
    let link = link(stack).await?;
    let backend = RedisJournal::new(link.clone(), &RedisJournalConfig::default())?;
    let journal = Journal::new(Arc::new(backend), JournalConfig::default())?;
    let config = cache_manager::Config {
        l1_entries,
        ttl: Duration::from_secs(3600),
        l2_ttl: Duration::from_secs(3600),
        ..cache_manager::Config::default()
    };
    let deps = cache_manager::Deps { redis: Some(link), journal: Some(journal), ..Default::default() };
    let cache = config.build(deps)?;
    let current = || async { cache.status().healthy };
    local_stack::wait_for("the cache is current", READY, current).await;
    Ok(cache)
}

/// Puts every key into our region, many at a time: each `set` waits for Redis and for the journal.
pub(crate) async fn fill(region: &Cache<Bytes>, keys: &Keys) -> Result<()> {
    let sets = keys.names.iter().enumerate().map(|(number, key)| async move {
        region.set(key, Bytes::from(keys::value(number))).await.context("cannot fill ours")
    });
    futures_util::stream::iter(sets).buffer_unordered(FILLING).try_for_each(|_| async { Ok(()) }).await
}

/// Our pool on the database at `url`.
pub(crate) async fn pool(url: &str) -> Result<PostgresPoolManager> {
    let config = postgres_pool_manager::Config {
        size: POSTGRES_CONNECTIONS,
        max_overflow: 0,
        min_idle: POSTGRES_CONNECTIONS,
        ..postgres_pool_manager::Config::new(url)
    };
    config.connect().await.context("our pool")
}
