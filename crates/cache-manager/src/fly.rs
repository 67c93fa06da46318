//! The load of one key, in a task of its own: whoever waits may go away. It claims the key in L2 (so that one process
//! of the fleet loads), looks into L3, runs the loader within the hard time-out, tells everybody, and only then fills
//! the tiers.
//!
//! The claims (`claims`) are made *before* the loader runs: a fill shows its claim, and a tier refuses it when an invalidation
//! came after the claim. Losing a tier anywhere on the way costs its share of the work and nothing else.

mod claims;

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use resilience::Deadline;

use crate::answer::{BoxError, CacheValue, Level, LoadCtx, Loaded};
use crate::cache::{Cache, is};
use crate::codec;
use crate::core::tier_key;
use crate::counters::Count;
use crate::error::LoadError;
use crate::flight::{Crashed, Flight, Landed};
use crate::key::Key;
use crate::l1::{AnyValue, Slot};
use crate::ledger::{Fill, Landing, Led};
use crate::load::millis;
use crate::region::jittered;
use crate::tier::Fresh;

use self::claims::Claims;

/// What is to be loaded, for whom.
pub(crate) struct Task<V> {
    cache: Cache<V>,
    key: Key,
    flight: Arc<Flight>,
    /// Leave the tiers alone.
    bypass: bool,
    /// Wait while another process loads; otherwise load beside it, and leave L2 to it.
    patient: bool,
    /// Load although there may be a fresh value.
    force: bool,
    /// Another process has L2's claim and this one does not wait for it, as batches do not: then it is not noted, or
    /// processes whose batches meet all the time would never take each other's values.
    beside: bool,
    /// The expired value, for the loader and for the case that it fails, and who had it.
    previous: Option<(Slot, Level)>,
}

impl<V: CacheValue> Task<V> {
    /// `kept`: what the caller may fall back on. It was looked up before the load was listed; if an invalidation came
    /// between the two, those who join the load later must not get it.
    pub(crate) fn new(cache: Cache<V>, key: Key, led: Led, kept: &Option<(Slot, Level)>) -> Self {
        let Led { flight, bypass, fence } = led;
        let previous = kept.clone().filter(|(slot, _)| slot.start >= fence);
        Self { cache, key, flight, bypass, patient: true, force: false, beside: false, previous }
    }

    pub(crate) fn patient(self, patient: bool) -> Self {
        Self { patient, ..self }
    }

    pub(crate) fn forced(self) -> Self {
        Self { force: true, ..self }
    }
}

/// A value on its way into the levels above the one that had it.
struct Brought {
    slot: Slot,
    level: Level,
    body: Option<Bytes>,
    fresh_for: Duration,
    age: Duration,
}

/// Ends the flight when its task is dropped (runtime shut down), so that nobody waits for ever.
struct EndOnDrop(Arc<Flight>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.land(Err(LoadError::Abandoned.into()));
    }
}

pub(crate) fn launch<V, F, Fut, E>(task: Task<V>, loader: F)
where
    V: CacheValue,
    F: FnOnce(LoadCtx<V>) -> Fut + Send + 'static,
    Fut: Future<Output = Result<Loaded<V>, E>> + Send + 'static,
    E: Into<BoxError> + 'static,
{
    let end = EndOnDrop(Arc::clone(&task.flight));
    let core = Arc::clone(&task.cache.core);
    core.tasks.spawn_on(
        async move {
            let _end = end;
            task.run(loader).await;
        },
        &core.runtime,
    );
}

impl<V: CacheValue> Task<V> {
    async fn run<F, Fut, E>(mut self, loader: F)
    where
        F: FnOnce(LoadCtx<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Loaded<V>, E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        let deadline = Deadline::after(self.cache.region.options.hard_timeout);
        let mut claims = Claims::default();
        let found = if self.bypass { None } else { self.claim(&mut claims, deadline).await };
        let outcome = match found {
            Some(found) => Ok(found),
            None => {
                self.load_keeping(&claims, loader, deadline).await.and_then(|loaded| self.brought(loaded))
            }
        };
        match outcome {
            Ok(mut brought) => {
                if let Some(ticket) = &claims.l2 {
                    brought.slot.version = ticket.version;
                }
                // Before anybody sees the value.
                let noted = self.note_beside(brought.level);
                let Landing { fill, instead } = self.store(Some(&brought.slot), brought.level);
                let landed = match instead {
                    Some(slot) => Landed { slot, level: Level::L1 },
                    None => Landed { slot: brought.slot.clone(), level: brought.level },
                };
                if landed.level == Level::L1 {
                    self.forget_beside(noted);
                }
                self.flight.land(Ok(landed));
                // A value from L2 needs no fill, one that an invalidation overtook must not have one.
                if fill == Fill::Fenced || brought.level == Level::L2 {
                    self.give_back(claims).await;
                } else {
                    self.fill(claims, brought, noted).await;
                }
            }
            Err(error) => {
                self.cache.core.counters.count(Count::LoadError);
                let core = &self.cache.core;
                let good =
                    |(slot, _): &(Slot, Level)| core.keepable(&self.cache.region, slot, core.watch.now());
                let fallback = self.previous.take().filter(good).map(|(slot, level)| Landed { slot, level });
                let _ = self.store(None, Level::Loader);
                self.flight.land(Err(Crashed { error, fallback }));
                self.give_back(claims).await;
            }
        }
    }

    /// Runs the loader, and meanwhile keeps the lease in L2.
    async fn load_keeping<F, Fut, E>(
        &self,
        claims: &Claims,
        loader: F,
        deadline: Deadline,
    ) -> Result<Loaded<V>, LoadError>
    where
        F: FnOnce(LoadCtx<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Loaded<V>, E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        let previous =
            self.previous.as_ref().filter(|(slot, _)| is::<V>(slot)).and_then(|(slot, _)| slot.value.clone());
        let context = LoadCtx {
            #[cfg(feature = "postgres")]
            read_token: postgres_pool_manager::ReadToken::PRIMARY_ONLY,
            deadline,
            previous: previous.and_then(|value| value.downcast::<V>().ok()),
        };
        let began = Instant::now();
        let load =
            AssertUnwindSafe(
                async move { loader(context).await.map_err(|e| LoadError::Loader(e.into().into())) },
            );
        let load = deadline.run(load.catch_unwind());
        let outcome = tokio::select! {
            outcome = load => outcome,
            never = self.keep(claims) => match never {},
        };
        let core = &self.cache.core;
        core.latency.load(&core.counters, began.elapsed());
        match outcome {
            Err(_) => Err(LoadError::TimedOut { after: self.cache.region.options.hard_timeout }),
            Ok(Err(panic)) => Err(LoadError::panicked(panic.as_ref())),
            Ok(Ok(Err(error))) => Err(error),
            Ok(Ok(Ok(loaded))) => {
                core.counters.count(Count::LoadOk);
                self.cache.region.load_cost().observe(began.elapsed());
                Ok(loaded)
            }
        }
    }

    /// The loaded value as an entry and as bytes.
    fn brought(&self, loaded: Loaded<V>) -> Result<Brought, LoadError> {
        let region = &self.cache.region;
        let (value, ttl): (Option<AnyValue>, Duration) = match loaded {
            Loaded::Value { v, expiry } => {
                let ttl = expiry.unwrap_or(region.options.ttl);
                crate::region::check_ttl(ttl).map_err(|e| LoadError::Loader(Arc::new(e)))?;
                (Some(Arc::new(v)), ttl)
            }
            Loaded::Absent => (None, region.options.negative_ttl),
            Loaded::NotModified => match &self.previous {
                Some((previous, _)) => (previous.value.clone(), region.options.ttl),
                None => return Err(LoadError::NothingToRenew),
            },
        };
        let body = match value.as_deref().and_then(|value| (value as &dyn Any).downcast_ref::<V>()) {
            Some(value) => Some(codec::encode(region, value).map_err(|e| LoadError::Loader(Arc::new(e)))?),
            None => None,
        };
        let fresh_for = jittered(ttl);
        let now = self.cache.core.watch.now();
        let read_at = now.saturating_sub(millis(self.flight.began.elapsed()));
        let fresh_until = now.saturating_add(millis(fresh_for));
        let slot = Slot {
            value,
            start: self.flight.start,
            version: 0,
            read_at,
            loaded_at: read_at,
            fresh_until,
            keep_until: fresh_until.saturating_add(millis(region.options.stale_for)),
        };
        Ok(Brought { slot, level: Level::Loader, body, fresh_for, age: self.flight.began.elapsed() })
    }

    /// Until L2 has accepted the value, nobody knows that it has nothing older.
    fn note_beside(&self, level: Level) -> Option<u64> {
        let core = &self.cache.core;
        let shared = core.l2_of(&self.cache.region).is_some() && level != Level::L2 && !self.beside;
        shared.then(|| core.beside.note(&self.key, core.watch.now()))
    }

    /// Stores in L1 and takes the load off the list.
    fn store(&self, slot: Option<&Slot>, level: Level) -> Landing {
        let (core, region) = (&self.cache.core, &self.cache.region);
        let landing = match slot {
            // L2 knows its order, whoever asked.
            Some(slot) if level == Level::L2 => {
                let fill = core.ledger.fill(&self.key, region, &core.l1, self.flight.began, slot.clone());
                Landing { fill, instead: None }
            }
            _ => {
                let now = core.watch.now();
                // Who forces a load does not want what was loaded before.
                let since =
                    if self.force { now.saturating_sub(millis(self.flight.began.elapsed())) } else { 0 };
                let valid = |slot: &Slot| {
                    core.servable(region, slot, now) && is::<V>(slot) && slot.loaded_at >= since
                };
                core.ledger.land(&self.key, region, &core.l1, &self.flight, slot.cloned(), valid)
            }
        };
        if landing.fill == Fill::Fenced {
            core.counters.count(Count::FillFenced);
        }
        landing
    }

    fn forget_beside(&self, noted: Option<u64>) {
        if let Some(noted) = noted {
            self.cache.core.beside.forget(&self.key, noted);
        }
    }

    async fn fill(&self, claims: Claims, brought: Brought, noted: Option<u64>) {
        let core = &self.cache.core;
        let region = &self.cache.region;
        let key = tier_key(region, &self.key);
        let age = brought.age;
        let l2 = async {
            if let (Some(ticket), Some(l2)) = (claims.l2, core.l2_of(region)) {
                let keep_for = (brought.fresh_for + region.options.stale_for).min(core.config.l2_ttl);
                let fresh_for = brought.fresh_for;
                let fresh = Fresh { body: brought.body.clone(), fresh_for, keep_for, age };
                let filled = matches!(l2.fill(&key, ticket, fresh).await, Ok(true));
                core.counters.count(if filled { Count::L2Fill } else { Count::L2FillRefused });
                if filled {
                    self.forget_beside(noted);
                }
            }
        };
        let l3 = async {
            if let (Some(ticket), Some(l3)) = (claims.l3, core.l3_worth(region))
                && core.l3_may_fill()
            {
                let keep_for = brought.fresh_for + region.options.stale_for;
                let fresh = Fresh { body: brought.body.clone(), fresh_for: brought.fresh_for, keep_for, age };
                let filled = matches!(l3.fill(&key, ticket, fresh).await, Ok(true));
                core.counters.count(if filled { Count::L3Fill } else { Count::L3FillRefused });
            }
        };
        tokio::join!(l2, l3);
    }
}
