//! The typed face of one region. The hit path is here, whole; what happens on a miss is in `load`.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::answer::{BoxError, CacheValue, Hit, Invalidated, Level, LoadCtx, Loaded};
use crate::core::Core;
use crate::counters::Count;
use crate::error::CacheError;
use crate::key::{Key, KeyRef};
use crate::l1::{AnyValue, Slot};
use crate::region::Region;

/// A handle on a region whose values are `V`s. Cheap to clone.
pub struct Cache<V> {
    pub(crate) core: Arc<Core>,
    pub(crate) region: Arc<Region>,
    value: PhantomData<fn() -> V>,
}

impl<V> Clone for Cache<V> {
    fn clone(&self) -> Self {
        Self { core: Arc::clone(&self.core), region: Arc::clone(&self.region), value: PhantomData }
    }
}

impl<V> fmt::Debug for Cache<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("region", &self.region.name).finish_non_exhaustive()
    }
}

impl<V: CacheValue> Cache<V> {
    pub(crate) fn new(core: Arc<Core>, region: Arc<Region>) -> Self {
        Self { core, region, value: PhantomData }
    }

    /// The value, from L1, L2 or L3; `None` when none of them has it, or when its absence is known.
    ///
    /// Cancel safety: safe.
    ///
    /// # Errors
    /// [`CacheError::Key`]. Tiers that fail are a miss, not an error.
    #[inline]
    pub async fn get(&self, key: &str) -> Result<Option<Arc<V>>, CacheError> {
        if let Some(value) = self.get_local(key) {
            return Ok(value);
        }
        Box::pin(self.find(key, None)).await.map(|hit| hit.and_then(|hit| hit.value))
    }

    /// As [`get`](Self::get), and says who answered; with `max_age`, a value that was loaded longer ago counts as
    /// none. `None` is "nobody has it", a [`Hit`] without value a known absence.
    ///
    /// Cancel safety: safe.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn get_with(&self, key: &str, max_age: Option<Duration>) -> Result<Option<Hit<V>>, CacheError> {
        let now = self.core.watch.now();
        if let Some(slot) = self.slot(key, now).filter(is::<V>)
            && max_age.is_none_or(|most| self.age(&slot) <= most)
        {
            self.core.counters.count(Count::L1Hit);
            return Ok(Some(self.hit(slot, Level::L1, false)));
        }
        Box::pin(self.find(key, max_age)).await
    }

    /// The value, if L1 has it and may serve it; asks nobody, waits for nothing. The outer `None` is a miss (not
    /// counted), the inner one a known absence.
    #[inline]
    #[must_use]
    pub fn get_local(&self, key: &str) -> Option<Option<Arc<V>>> {
        let mine = self.core.counters.mine();
        if mine.seen(Count::L1Hit).is_multiple_of(SAMPLE) {
            return self.get_local_timed(key);
        }
        let value = self.slot(key, self.core.watch.now())?.value;
        let value = value.map(AnyValue::downcast::<V>).transpose().ok()?;
        mine.add(Count::L1Hit, 1);
        Some(value)
    }

    /// Every 256th hit of a thread is timed.
    #[cold]
    fn get_local_timed(&self, key: &str) -> Option<Option<Arc<V>>> {
        let began = Instant::now();
        let value = self.slot(key, self.core.watch.now())?.value;
        let value = value.map(AnyValue::downcast::<V>).transpose().ok()?;
        self.core.counters.count(Count::L1Hit);
        self.core.latency.l1(&self.core.counters, began.elapsed());
        Some(value)
    }

    /// The L1 entry, if it may be served at `now`.
    #[inline]
    pub(crate) fn slot(&self, key: &str, now: u64) -> Option<Slot> {
        let slot = self.core.l1.get(KeyRef { region: self.region.id, text: key })?;
        if self.core.servable(&self.region, &slot, now) {
            return Some(slot);
        }
        self.core.counters.count(if now < slot.fresh_until { Count::L1Unverified } else { Count::L1Expired });
        None
    }

    /// The value in L1, whether or not it is still fresh; not counted, and not a use for eviction. For inspection.
    #[must_use]
    pub fn peek(&self, key: &str) -> Option<Hit<V>> {
        let now = self.core.watch.now();
        let slot = self.core.l1.look(KeyRef { region: self.region.id, text: key })?;
        if !self.core.keepable(&self.region, &slot, now) || !is::<V>(&slot) {
            return None;
        }
        let stale = !self.core.servable(&self.region, &slot, now);
        Some(self.hit(slot, Level::L1, stale))
    }

    /// The value, or what `loader` brings when no level has it. Of any number of concurrent callers one loader runs
    /// in the process and, while L2 can be asked, one in the fleet.
    ///
    /// A load that is slower than the soft time-out is answered with the expired value, if there is one, and goes
    /// on; so is a load that fails. After the hard time-out the load is dropped.
    ///
    /// Cancel safety: safe; the load goes on for others and for the cache.
    ///
    /// # Errors
    /// [`CacheError::Load`] when the load fails and there is nothing to fall back on, [`CacheError::Key`].
    pub async fn get_or_load<F, Fut, E>(&self, key: &str, loader: F) -> Result<Hit<V>, CacheError>
    where
        F: FnOnce(LoadCtx<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Loaded<V>, E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        let now = self.core.watch.now();
        if let Some(slot) = self.slot(key, now).filter(is::<V>) {
            self.core.counters.count(Count::L1Hit);
            return Ok(self.hit(slot, Level::L1, false));
        }
        Box::pin(self.load(key, true, loader)).await
    }

    /// Loads anew, whatever the levels hold, and stores the result in all of them.
    ///
    /// Cancel safety: safe; the load goes on.
    ///
    /// # Errors
    /// As [`get_or_load`](Self::get_or_load).
    pub async fn refresh<F, Fut, E>(&self, key: &str, loader: F) -> Result<Hit<V>, CacheError>
    where
        F: FnOnce(LoadCtx<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Loaded<V>, E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        Box::pin(self.reload(key, loader)).await
    }

    /// Stores a value as the newest: an invalidation of the key and a fill in one.
    ///
    /// Cancel safety: when dropped, the value may or may not have been stored; the old one is not served by this
    /// process any more.
    ///
    /// # Errors
    /// [`CacheError::NotPropagated`]: stored here, others may serve the old value until it is delivered.
    /// [`CacheError::Key`], [`CacheError::TooLarge`], [`CacheError::Encode`]: nothing was stored.
    pub async fn set(&self, key: &str, value: V) -> Result<Invalidated, CacheError> {
        let ttl = self.region.options.ttl;
        Box::pin(self.put(key, Some(value), ttl)).await
    }

    /// As [`set`](Self::set) with a time to live of its own.
    ///
    /// # Errors
    /// As [`set`](Self::set), and [`CacheError::Ttl`].
    pub async fn set_with_ttl(&self, key: &str, value: V, ttl: Duration) -> Result<Invalidated, CacheError> {
        crate::region::check_ttl(ttl)?;
        Box::pin(self.put(key, Some(value), ttl)).await
    }

    /// Removes the value everywhere: once this has returned, no read that begins in this process gets a value whose
    /// load began before, whatever Redis does.
    ///
    /// Cancel safety: when dropped, the old value is not served by this process any more, and delivery to the
    /// others is taken over by a background task.
    ///
    /// # Errors
    /// [`CacheError::NotPropagated`]: it holds here, others may serve the old value until it is delivered.
    pub async fn invalidate(&self, key: &str) -> Result<Invalidated, CacheError> {
        let key = Key::new(self.region.id, key)?;
        Box::pin(self.core.invalidate(&self.region, std::slice::from_ref(&key), true)).await
    }

    /// The same as [`invalidate`](Self::invalidate).
    ///
    /// # Errors
    /// As [`invalidate`](Self::invalidate).
    pub async fn remove(&self, key: &str) -> Result<Invalidated, CacheError> {
        self.invalidate(key).await
    }

    /// Removes every value of the region everywhere, as [`invalidate`](Self::invalidate) does for one.
    ///
    /// # Errors
    /// As [`invalidate`](Self::invalidate).
    pub async fn clear(&self) -> Result<Invalidated, CacheError> {
        Box::pin(self.core.clear_region(&self.region, true)).await
    }

    /// As [`clear`](Self::clear), but this process's L1 keeps the values for the case that loading fails.
    ///
    /// # Errors
    /// As [`invalidate`](Self::invalidate).
    pub async fn expire_all(&self) -> Result<Invalidated, CacheError> {
        Box::pin(self.core.clear_region(&self.region, false)).await
    }

    /// The region's name.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.region.name
    }

    pub(crate) fn age(&self, slot: &Slot) -> Duration {
        Duration::from_millis(self.core.watch.now().saturating_sub(slot.loaded_at))
    }

    pub(crate) fn hit(&self, slot: Slot, level: Level, stale: bool) -> Hit<V> {
        let age = self.age(&slot);
        let value = slot.value.and_then(|value| value.downcast::<V>().ok());
        Hit { value, level, stale, age, coherence: self.core.watch.state() }
    }
}

const SAMPLE: u64 = 256;

/// Whether the entry is a `V`, or a known absence.
pub(crate) fn is<V: CacheValue>(slot: &Slot) -> bool {
    slot.value.as_ref().is_none_or(|value| value.is::<V>())
}
