//! The in-memory caches beside ours. Each holds every key, behind the same key type and, where it lets itself be
//! given one, the same hasher; each hands out a shared reference to the same bytes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use hitbox_backend::CacheBackend as _;
use quick_cache::DefaultHashBuilder;

use crate::keys::{self, Keys};
use crate::measure::{Contender, Entrant};

/// Room enough that nothing is evicted, however a cache divides it.
pub(crate) const ROOM: usize = 2 * keys::KEYS;

/// Long enough that nothing expires.
const HOUR: Duration = Duration::from_secs(3600);

type Value = Arc<Vec<u8>>;

/// Everybody who keeps values in memory; each has all keys.
pub(crate) async fn all(keys: &Arc<Keys>) -> Result<Vec<Entrant>> {
    Ok(vec![
        Entrant::new("floor:quick_cache", QuickCache::filled(keys)?),
        Entrant::new("floor:HashMap", Map::filled(keys)),
        Entrant::new("foyer", Foyer::filled(keys)?),
        Entrant::new("moka", Moka::filled(keys)?),
        Entrant::new("multi-level-cache", MultiLevel::filled(keys).await?),
        Entrant::new("multi-tier-cache", MultiTier::filled(keys).await?),
        Entrant::new("cachet", Cachet::filled(keys).await?),
        Entrant::new("hitbox", Hitbox::filled(keys).await?),
    ])
}

fn values(keys: &Keys) -> impl Iterator<Item = (String, Value)> {
    keys.names.iter().enumerate().map(|(number, name)| (name.clone(), Arc::new(keys::value(number))))
}

/// Every key must be there: a cache that misses is fast, and proves nothing.
fn held(name: &str, keys: &Keys, mut has: impl FnMut(&str) -> bool) -> Result<()> {
    let missing = keys.names.iter().filter(|key| !has(key)).count();
    anyhow::ensure!(missing == 0, "{name} holds {missing} of {} keys not", keys.names.len());
    Ok(())
}

struct QuickCache {
    keys: Arc<Keys>,
    cache: quick_cache::sync::Cache<String, Value>,
}

impl QuickCache {
    fn filled(keys: &Arc<Keys>) -> Result<Self> {
        let cache = quick_cache::sync::Cache::new(ROOM);
        values(keys).for_each(|(key, value)| cache.insert(key, value));
        held("quick_cache", keys, |key| cache.peek(key).is_some())?;
        Ok(Self { keys: keys.clone(), cache })
    }
}

impl Contender for QuickCache {
    async fn op(&self, turn: usize) {
        std::hint::black_box(self.cache.get(self.keys.at(turn)).expect("held"));
    }
}

/// A map that is never written to: no eviction, no lock.
struct Map {
    keys: Arc<Keys>,
    map: HashMap<String, Value, DefaultHashBuilder>,
}

impl Map {
    fn filled(keys: &Arc<Keys>) -> Self {
        Self { keys: keys.clone(), map: values(keys).collect() }
    }
}

impl Contender for Map {
    async fn op(&self, turn: usize) {
        std::hint::black_box(self.map.get(self.keys.at(turn)).expect("held").clone());
    }
}

struct Foyer {
    keys: Arc<Keys>,
    cache: foyer_memory::Cache<String, Value, DefaultHashBuilder, foyer_memory::CacheProperties>,
}

impl Foyer {
    fn filled(keys: &Arc<Keys>) -> Result<Self> {
        let cache = foyer_memory::CacheBuilder::new(ROOM)
            .with_hash_builder(DefaultHashBuilder::default())
            .with_eviction_config(foyer_memory::S3FifoConfig::default())
            .build();
        for (key, value) in values(keys) {
            cache.insert(key, value);
        }
        held("foyer", keys, |key| cache.contains(key))?;
        Ok(Self { keys: keys.clone(), cache })
    }
}

impl Contender for Foyer {
    async fn op(&self, turn: usize) {
        std::hint::black_box(self.cache.get(self.keys.at(turn)).expect("held"));
    }
}

struct Moka {
    keys: Arc<Keys>,
    cache: moka::sync::Cache<String, Value, DefaultHashBuilder>,
}

impl Moka {
    fn filled(keys: &Arc<Keys>) -> Result<Self> {
        let cache = moka::sync::Cache::builder()
            .max_capacity(ROOM as u64)
            .time_to_live(HOUR)
            .build_with_hasher(DefaultHashBuilder::default());
        values(keys).for_each(|(key, value)| cache.insert(key, value));
        cache.run_pending_tasks();
        held("moka", keys, |key| cache.contains_key(key))?;
        Ok(Self { keys: keys.clone(), cache })
    }
}

impl Contender for Moka {
    async fn op(&self, turn: usize) {
        std::hint::black_box(self.cache.get(self.keys.at(turn)).expect("held"));
    }
}

struct MultiLevel {
    keys: Arc<Keys>,
    cache: multi_level_cache::MultiLevelCache<Value>,
}

impl MultiLevel {
    async fn filled(keys: &Arc<Keys>) -> Result<Self> {
        let config = multi_level_cache::CacheConfig::new(true, ROOM as u64, HOUR);
        let cache =
            multi_level_cache::MultiLevelCache::new(multi_level_cache::InMemoryBackend::new(), config);
        for (key, value) in values(keys) {
            cache.put(&key, value, HOUR).await.context("multi-level-cache")?;
        }
        Ok(Self { keys: keys.clone(), cache })
    }
}

impl Contender for MultiLevel {
    async fn op(&self, turn: usize) {
        let load =
            || async { Err(multi_level_cache::CacheError::custom(std::io::Error::other("not in memory"))) };
        std::hint::black_box(self.cache.get_or_load(self.keys.at(turn), HOUR, load).await.expect("held"));
    }
}

struct MultiTier {
    keys: Arc<Keys>,
    cache: multi_tier_cache::CacheManager,
}

impl MultiTier {
    async fn filled(keys: &Arc<Keys>) -> Result<Self> {
        let config = multi_tier_cache::MokaCacheConfig {
            max_capacity: ROOM as u64,
            time_to_live: HOUR,
            time_to_idle: HOUR,
        };
        let memory = Arc::new(multi_tier_cache::MokaCache::new(config).context("multi-tier-cache")?);
        let tiers = vec![multi_tier_cache::CacheTier::new(memory, 1, false, 1, 1.0)];
        let cache =
            multi_tier_cache::CacheManager::new_with_tiers(tiers, None).context("multi-tier-cache")?;
        for (number, key) in keys.names.iter().enumerate() {
            let value = Bytes::from(keys::value(number));
            let stay = multi_tier_cache::CacheStrategy::Custom(HOUR);
            cache.set_with_strategy(key, value, stay).await.context("multi-tier-cache")?;
        }
        Ok(Self { keys: keys.clone(), cache })
    }
}

impl Contender for MultiTier {
    async fn op(&self, turn: usize) {
        let value = self.cache.get(self.keys.at(turn)).await.expect("no error").expect("held");
        std::hint::black_box(value);
    }
}

struct Cachet {
    keys: Arc<Keys>,
    cache: cachet::Cache<String, Value>,
}

impl Cachet {
    async fn filled(keys: &Arc<Keys>) -> Result<Self> {
        let cache = cachet::Cache::builder(tick::Clock::new_tokio())
            .memory_with(|memory| memory.max_capacity(ROOM as u64))
            .ttl(HOUR)
            .build();
        for (key, value) in values(keys) {
            cache.insert(key, value).await.context("cachet")?;
        }
        Ok(Self { keys: keys.clone(), cache })
    }
}

impl Contender for Cachet {
    async fn op(&self, turn: usize) {
        let value = self.cache.get(self.keys.at(turn)).await.expect("no error").expect("held");
        std::hint::black_box(value);
    }
}

/// Its backend alone: a whole request goes through further layers, which would only make it slower. It always
/// stores encoded values, here text as JSON, its default.
struct Hitbox {
    keys: Arc<Keys>,
    cache: hitbox_moka::MokaBackend,
}

impl Hitbox {
    async fn filled(keys: &Arc<Keys>) -> Result<Self> {
        let cache = hitbox_moka::MokaBackend::builder().max_entries(ROOM as u64).build();
        let mut context = hitbox::CacheContext::default().boxed();
        for (number, key) in keys.names.iter().enumerate() {
            let name = hitbox::CacheKey::from_str("key", key);
            let text = String::from_utf8(keys::value(number))?;
            let value = hitbox::CacheValue::new(text, None, None);
            cache
                .set::<String>(&name, &value, &mut context)
                .await
                .map_err(|error| anyhow::anyhow!("hitbox: {error}"))?;
        }
        Ok(Self { keys: keys.clone(), cache })
    }
}

impl Contender for Hitbox {
    async fn op(&self, turn: usize) {
        let mut context = hitbox::CacheContext::default().boxed();
        let key = hitbox::CacheKey::from_str("key", self.keys.at(turn));
        let value = self.cache.get::<String>(&key, &mut context).await.expect("no error").expect("held");
        std::hint::black_box(value);
    }
}
