//! Calls that overlap in the one way that does harm, made to do so by a tier that waits where it is told to.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cache_manager::{
    Cache, CacheError, CacheManager, Claim, Config, Deps, Fresh, Invalidated, LoadCtx, Loaded, MemoryTier,
    RegionOptions, Stored, Ticket, Tier, TierError, TierKey,
};
use resilience::Deadline;
use tokio::sync::Semaphore;

use crate::world::{Source, brisk, eventually};

/// A key that the tier below refuses to invalidate.
const POISON: &str = "poison";

/// Memory, with gates: a call takes a permit and gives it back.
#[derive(Debug, Clone)]
struct Gated {
    memory: MemoryTier,
    read: Arc<Semaphore>,
    claim: Arc<Semaphore>,
    /// After the value was stored.
    put: Arc<Semaphore>,
    poisoned: bool,
}

impl Gated {
    fn new() -> Self {
        let open = || Arc::new(Semaphore::new(1000));
        Self { memory: MemoryTier::new(), read: open(), claim: open(), put: open(), poisoned: false }
    }

    fn cache(&self, config: Config) -> (CacheManager, Cache<u64>) {
        let deps = Deps { l2: Some(Arc::new(self.clone()) as Arc<dyn Tier>), ..Deps::default() };
        let manager = config.build(deps).unwrap();
        let cache = manager.region("numbers", RegionOptions::default()).unwrap();
        (manager, cache)
    }

    async fn holds(&self, key: &str) -> bool {
        self.memory.read(&[tier_key(key)], Deadline::never()).await.unwrap().remove(0).is_some()
    }
}

fn tier_key(key: &str) -> TierKey {
    TierKey { region: "numbers".into(), key: key.into() }
}

fn shut(gate: &Semaphore) {
    gate.forget_permits(1000);
}

async fn pass(gate: &Semaphore) {
    drop(gate.acquire().await.unwrap());
}

#[async_trait]
impl Tier for Gated {
    async fn read(&self, keys: &[TierKey], deadline: Deadline) -> Result<Vec<Option<Stored>>, TierError> {
        let answer = self.memory.read(keys, deadline).await;
        pass(&self.read).await;
        answer
    }

    async fn claim(&self, key: &TierKey, force: bool, deadline: Deadline) -> Result<Claim, TierError> {
        pass(&self.claim).await;
        self.memory.claim(key, force, deadline).await
    }

    async fn renew(&self, key: &TierKey, ticket: &Ticket, deadline: Deadline) -> Result<bool, TierError> {
        self.memory.renew(key, ticket, deadline).await
    }

    async fn fill(
        &self,
        key: &TierKey,
        ticket: Ticket,
        value: Fresh,
        deadline: Deadline,
    ) -> Result<bool, TierError> {
        self.memory.fill(key, ticket, value, deadline).await
    }

    async fn release(&self, key: &TierKey, ticket: Ticket, deadline: Deadline) {
        self.memory.release(key, ticket, deadline).await;
    }

    async fn seize(&self, key: &TierKey, deadline: Deadline) -> Result<Ticket, TierError> {
        self.memory.seize(key, deadline).await
    }

    async fn put(
        &self,
        key: &TierKey,
        ticket: Ticket,
        value: Fresh,
        deadline: Deadline,
    ) -> Result<bool, TierError> {
        let stored = self.memory.put(key, ticket, value, deadline).await;
        pass(&self.put).await;
        stored
    }

    async fn invalidate(&self, keys: &[TierKey], deadline: Deadline) -> Result<(), TierError> {
        if self.poisoned && keys.iter().any(|key| &*key.key == POISON) {
            return Err(TierError::Unavailable("a key that it never takes".to_owned()));
        }
        self.memory.invalidate(keys, deadline).await
    }

    async fn clear(&self, region: &str, deadline: Deadline) -> Result<(), TierError> {
        self.memory.clear(region, deadline).await
    }

    async fn ping(&self, deadline: Deadline) -> Result<(), TierError> {
        self.memory.ping(deadline).await
    }
}

#[tokio::test]
async fn an_invalidation_that_failed_is_delivered_although_a_set_around_it_succeeds() {
    let tier = Gated::new();
    let (manager, cache) = tier.cache(Config { invalidate_timeout: Duration::from_secs(60), ..brisk() });
    shut(&tier.put);
    let set = {
        let cache = cache.clone();
        tokio::spawn(async move { cache.set("k", 1).await })
    };
    eventually("the value is in L2", async || tier.holds("k").await).await;
    tier.memory.set_broken(true);
    let error = cache.invalidate("k").await.unwrap_err();
    assert!(matches!(error, CacheError::NotPropagated { step: "l2", .. }), "{error:?}");
    tier.memory.set_broken(false);
    tier.put.add_permits(1000);
    assert_eq!(set.await.unwrap().unwrap(), Invalidated::Applied);
    eventually("delivered", async || manager.status().pending_invalidations == 0).await;
    assert!(!tier.holds("k").await, "others would read it until it expires");
}

#[tokio::test]
async fn a_failed_load_hands_no_value_from_before_an_invalidation_to_those_who_came_after_it() {
    let tier = Gated::new();
    let config = Config { ttl: Duration::from_millis(20), l2_timeout: Duration::from_secs(60), ..brisk() };
    let (_manager, cache) = tier.cache(config);
    let source = Source::default();
    source.set(1);
    source.read(&cache, "k").await;
    eventually("expired everywhere", async || cache.get("k").await.unwrap().is_none()).await;
    shut(&tier.read);
    // It has seen the expired value in L1, and waits for L2.
    let (seen, previous) = tokio::sync::oneshot::channel();
    let (fail, failed) = tokio::sync::oneshot::channel::<()>();
    let early = {
        let cache = cache.clone();
        let loader = move |ctx: LoadCtx<u64>| async move {
            seen.send(ctx.previous).unwrap();
            failed.await.unwrap();
            Err::<Loaded<u64>, _>(std::io::Error::other("the database is away"))
        };
        tokio::spawn(async move { cache.get_or_load("k", loader).await })
    };
    tokio::task::yield_now().await;
    cache.invalidate("k").await.unwrap();
    tier.read.add_permits(1000);
    assert_eq!(previous.await.unwrap(), None, "void since the invalidation");
    // Its loader is dropped when it joins the load.
    let (held, joined) = tokio::sync::oneshot::channel::<()>();
    let late = {
        let cache = cache.clone();
        let loader = move |_: LoadCtx<u64>| async move {
            drop(held);
            Ok::<_, std::io::Error>(Loaded::value(2))
        };
        tokio::spawn(async move { cache.get_or_load("k", loader).await })
    };
    assert!(joined.await.is_err());
    fail.send(()).unwrap();
    let late = late.await.unwrap();
    assert!(matches!(late, Err(CacheError::Load(_))), "{late:?}");
    let early = early.await.unwrap().unwrap();
    assert!(early.stale && early.value.as_deref() == Some(&1), "it began before the invalidation");
}

#[tokio::test]
async fn a_key_that_a_store_never_takes_does_not_hold_up_the_others() {
    let tier = Gated { poisoned: true, ..Gated::new() };
    let (manager, cache) = tier.cache(brisk());
    tier.memory.set_broken(true);
    let names: Vec<String> = (0..20).map(|n| format!("k{n}")).collect();
    for key in names.iter().map(String::as_str).chain([POISON]) {
        cache.invalidate(key).await.unwrap_err();
    }
    assert_eq!(manager.status().pending_invalidations, 21);
    tier.memory.set_broken(false);
    eventually("all but one delivered", async || manager.status().pending_invalidations == 1).await;
}

#[tokio::test]
async fn what_l2_gets_from_an_older_load_is_not_read_after_a_load_beside_it() {
    let tier = Gated::new();
    let unkept = RegionOptions { skip_l1: true, ..RegionOptions::default() };
    let (manager, _) = tier.cache(Config { l2_timeout: Duration::from_millis(50), ..brisk() });
    let cache = manager.region::<u64>("unkept", unkept).unwrap();
    let source = Source::default();
    source.set(2);
    shut(&tier.claim);
    let answered = source.read(&cache, "k").await;
    // A process that got its claim before the change.
    let other = Gated { claim: Arc::new(Semaphore::new(1000)), ..tier.clone() };
    let theirs = other.cache(brisk()).0.region::<u64>("unkept", RegionOptions::default()).unwrap();
    theirs.set("k", 1).await.unwrap();
    assert_eq!((answered, source.read(&cache, "k").await), (2, 2), "L2 does not answer");
    tier.claim.add_permits(1000);
    assert_eq!(cache.get("k").await.unwrap().as_deref(), Some(&1), "who has no loader gets what there is");
    assert_eq!((source.read(&cache, "k").await, source.loads()), (2, 3), "L2 answers");
    let later = async || {
        let loads = source.loads();
        source.read(&cache, "k").await == 2 && source.loads() == loads
    };
    eventually("what was loaded later is read from L2", later).await;
}
