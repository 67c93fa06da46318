//! What the tests run in: managers that behave as processes of their own, over memory or over real servers. It checks
//! nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cache_manager::{Cache, CacheManager, Config, Deps, Loaded, MemoryTier, RegionOptions, Tier};
use local_stack::{Database, PostgresOptions, RedisOptions, Stack};
use postgres_pool_manager::{MigrateOptions, PostgresPoolManager};
use pubsub_manager::{Journal, JournalConfig, MemoryJournal, RedisJournal, RedisJournalConfig};
use redis_link::{RedisLink, SelfKeptEpochs, Topology};

/// Several managers over one L2, L3 and journal in memory.
pub(crate) struct Memory {
    pub(crate) l2: MemoryTier,
    pub(crate) l3: MemoryTier,
    journal: Arc<MemoryJournal>,
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self { l2: MemoryTier::new(), l3: MemoryTier::new(), journal: Arc::new(MemoryJournal::new(10_000)) }
    }

    pub(crate) async fn manager(&self, config: Config) -> CacheManager {
        let journal = Journal::new(Arc::clone(&self.journal) as _, JournalConfig::default()).unwrap();
        let deps = Deps {
            journal: Some(journal),
            l2: Some(Arc::new(self.l2.clone()) as Arc<dyn Tier>),
            l3: Some(Arc::new(self.l3.clone()) as Arc<dyn Tier>),
            ..Deps::default()
        };
        let manager = config.build(deps).unwrap();
        eventually("the manager is current", async || manager.coherence().is_current()).await;
        manager
    }
}

/// One manager with its own connections, as a process has them.
pub(crate) struct Node {
    pub(crate) cache: CacheManager,
    pub(crate) pool: PostgresPoolManager,
}

impl Node {
    pub(crate) fn region(&self) -> Cache<u64> {
        self.cache.region("numbers", RegionOptions::default()).unwrap()
    }
}

/// Real servers, a fresh database and a namespace of its own.
pub(crate) struct World {
    pub(crate) stack: Stack,
    pub(crate) database: Database,
    namespace: String,
    redis: (String, u16),
    postgres_replica: Option<String>,
}

impl World {
    /// On servers that other tests use too.
    pub(crate) async fn shared() -> Self {
        Self::on(Stack::shared().await.unwrap()).await
    }

    /// On servers of its own, which the test may harm.
    pub(crate) async fn own() -> Self {
        let builder = Stack::builder().postgres(PostgresOptions::default()).redis(RedisOptions::default());
        Self::on(builder.start().await.unwrap()).await
    }

    pub(crate) async fn with_replica() -> Self {
        let builder =
            Stack::builder().postgres(PostgresOptions::with_replicas(1)).redis(RedisOptions::default());
        let mut world = Self::on(builder.start().await.unwrap()).await;
        world.stack.postgres().wait_replicas(Duration::from_secs(20)).await.unwrap();
        world.postgres_replica = Some(world.database.replica_url(0).unwrap());
        world
    }

    async fn on(stack: Stack) -> Self {
        let database = stack.database().await.unwrap();
        let redis = (stack.redis().master().host().to_owned(), stack.redis().master().port());
        let world =
            Self { namespace: stack.redis_namespace(), database, stack, redis, postgres_replica: None };
        world.pool().await.migrate(&[cache_manager::migrations()], MigrateOptions::default()).await.unwrap();
        world
    }

    /// Redis through another address from now on.
    pub(crate) fn redis_via(&mut self, address: std::net::SocketAddr) {
        self.redis = (address.ip().to_string(), address.port());
    }

    pub(crate) async fn pool(&self) -> PostgresPoolManager {
        let mut config = postgres_pool_manager::Config::new(self.database.url());
        if let Some(replica) = &self.postgres_replica {
            config.replicas.push(postgres_pool_manager::ReplicaEndpoint::new("replica", replica.clone(), 1));
        }
        config.connect().await.unwrap()
    }

    pub(crate) async fn link(&self) -> RedisLink {
        let config = redis_link::Config {
            topology: Topology::standalone(redis_link::Endpoint::new(self.redis.0.clone(), self.redis.1)),
            namespace: self.namespace.clone(),
            ..redis_link::Config::default()
        };
        config.connect(redis_link::Deps::new(Arc::new(SelfKeptEpochs::new()))).await.unwrap()
    }

    pub(crate) async fn node(&self, config: Config) -> Node {
        let (pool, link) = (self.pool().await, self.link().await);
        let backend = RedisJournal::new(link.clone(), &RedisJournalConfig::default()).unwrap();
        let journal = Journal::new(Arc::new(backend), JournalConfig::default()).unwrap();
        let deps = Deps {
            redis: Some(link),
            postgres: Some(pool.clone()),
            journal: Some(journal),
            ..Deps::default()
        };
        let cache = config.build(deps).unwrap();
        let node = Node { cache, pool };
        eventually("the node is current", async || node.cache.coherence().is_current()).await;
        node
    }
}

/// The source of truth of a test: each load reads it, slowly if wanted, and is counted.
#[derive(Clone, Default)]
pub(crate) struct Source(Arc<(AtomicU64, AtomicU64)>);

impl Source {
    pub(crate) fn set(&self, value: u64) {
        self.0.0.store(value, Ordering::SeqCst);
    }

    pub(crate) fn loads(&self) -> u64 {
        self.0.1.load(Ordering::SeqCst)
    }

    pub(crate) async fn load(self, takes: Duration) -> Result<Loaded<u64>, std::io::Error> {
        self.0.1.fetch_add(1, Ordering::SeqCst);
        let value = self.0.0.load(Ordering::SeqCst);
        tokio::time::sleep(takes).await;
        Ok(Loaded::value(value))
    }

    /// Reads through the cache.
    pub(crate) async fn read(&self, cache: &Cache<u64>, key: &str) -> u64 {
        self.read_slowly(cache, key, Duration::ZERO).await
    }

    pub(crate) async fn read_slowly(&self, cache: &Cache<u64>, key: &str, takes: Duration) -> u64 {
        let source = self.clone();
        let hit = cache.get_or_load(key, move |_| source.load(takes)).await.unwrap();
        *hit.value.expect("a value")
    }
}

pub(crate) async fn eventually(what: &str, condition: impl AsyncFnMut() -> bool) {
    local_stack::wait_for(what, Duration::from_secs(20), condition).await;
}

/// Settings with short times, so that tests need not wait long.
pub(crate) fn brisk() -> Config {
    Config { l1_entries: 10_000, ..Config::default() }
}
