//! A miss: L2, then the one load that all who miss wait for. Not here: the load itself (`fly`).

use std::sync::Arc;
use std::time::Instant;

use resilience::Deadline;

use crate::answer::{BoxError, CacheValue, Hit, Level, LoadCtx, Loaded};
use crate::cache::{Cache, is};
use crate::core::tier_key;
use crate::counters::Count;
use crate::error::CacheError;
use crate::flight::Flight;
use crate::key::{Key, KeyRef};
use crate::l1::Slot;
use crate::ledger::{Begun, Fill, Join};
use crate::tier::{Guarded, Stored};
use crate::{codec, fly};

/// What a tier had.
pub(crate) enum Found {
    Fresh(Slot),
    /// Expired, but good enough when loading fails.
    Stale(Slot),
    /// Maybe older than what was handed out (`beside`): good enough for who has no loader, not for L1.
    Outdated(Slot),
    Nothing,
}

impl<V: CacheValue> Cache<V> {
    /// A miss without a loader: L2, then L3.
    pub(crate) async fn find(
        &self,
        key: &str,
        max_age: Option<std::time::Duration>,
    ) -> Result<Option<Hit<V>>, CacheError> {
        let key = self.key(key)?;
        let begun = self.core.ledger.begin(&key, &self.region);
        let young = |slot: &Slot| max_age.is_none_or(|most| self.age(slot) <= most);
        if !begun.bypass {
            if let Found::Fresh(slot) | Found::Outdated(slot) = self.read_l2(&key, begun).await
                && young(&slot)
            {
                self.core.counters.count(Count::L2Hit);
                return Ok(Some(self.hit(slot, Level::L2, false)));
            }
            if let Some(l3) = self.core.l3_worth(&self.region)
                && let Found::Fresh(slot) | Found::Outdated(slot) =
                    self.read_tier(l3, &key, begun, Level::L3).await
                && young(&slot)
            {
                self.core.counters.count(Count::L3Hit);
                return Ok(Some(self.hit(slot, Level::L3, false)));
            }
        }
        self.core.counters.count(Count::Nothing);
        Ok(None)
    }

    /// A miss with a loader. `patient`: whether to wait for another process that loads the key.
    pub(crate) async fn load<F, Fut, E>(
        &self,
        key: &str,
        patient: bool,
        loader: F,
    ) -> Result<Hit<V>, CacheError>
    where
        F: FnOnce(LoadCtx<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Loaded<V>, E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        let key = self.key(key)?;
        let mut kept = self.kept(&key);
        let begun = self.core.ledger.begin(&key, &self.region);
        if !begun.bypass {
            match self.read_l2(&key, begun).await {
                Found::Fresh(slot) => {
                    self.core.counters.count(Count::L2Hit);
                    return Ok(self.hit(slot, Level::L2, false));
                }
                Found::Stale(slot) | Found::Outdated(slot) => kept = kept.or(Some((slot, Level::L2))),
                Found::Nothing => {}
            }
        }
        let now = self.core.watch.now();
        let valid = |slot: &Slot| self.core.servable(&self.region, slot, now) && is::<V>(slot);
        match self.core.ledger.join(&key, &self.region, &self.core.l1, valid) {
            Join::Ready(slot) => {
                self.core.counters.count(Count::L1Hit);
                Ok(self.hit(slot, Level::L1, false))
            }
            Join::Wait(flight) => {
                // Whoever waits for its loaders to be called or dropped must not wait for this load.
                drop(loader);
                self.wait(&key, &flight, kept).await
            }
            Join::Lead(led) => {
                let flight = Arc::clone(&led.flight);
                fly::launch(fly::Task::new(self.clone(), key.clone(), led, &kept).patient(patient), loader);
                self.wait(&key, &flight, kept).await
            }
        }
    }

    /// Loads whatever the levels hold.
    pub(crate) async fn reload<F, Fut, E>(&self, key: &str, loader: F) -> Result<Hit<V>, CacheError>
    where
        F: FnOnce(LoadCtx<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Loaded<V>, E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        let key = self.key(key)?;
        let kept = self.kept(&key);
        let led = self.core.ledger.lead(&key, &self.region);
        let flight = Arc::clone(&led.flight);
        fly::launch(fly::Task::new(self.clone(), key.clone(), led, &kept).forced(), loader);
        self.wait(&key, &flight, kept).await
    }

    /// Waits for a load; with an expired value at hand only until the soft time-out.
    pub(crate) async fn wait(
        &self,
        key: &Key,
        flight: &Flight,
        kept: Option<(Slot, Level)>,
    ) -> Result<Hit<V>, CacheError> {
        let soft = self.region.options.soft_timeout.saturating_sub(flight.began.elapsed());
        let outcome = match &kept {
            Some(_) => tokio::time::timeout(soft, flight.wait()).await.ok(),
            None => Some(flight.wait().await),
        };
        match outcome {
            Some(Ok(landed)) if is::<V>(&landed.slot) => {
                self.core.counters.count(counted(landed.level));
                Ok(self.hit(landed.slot, landed.level, false))
            }
            Some(Ok(_)) => {
                self.core.counters.count(Count::Failed);
                Err(CacheError::WrongType { key: key.text.to_string(), asked: std::any::type_name::<V>() })
            }
            late_or_failed => {
                let (error, fallback) = match late_or_failed {
                    Some(Err(crashed)) => (crashed.error, crashed.fallback.map(|l| (l.slot, l.level))),
                    _ => (crate::LoadError::Abandoned, None),
                };
                if let Some((slot, level)) = kept.or(fallback).filter(|(slot, _)| is::<V>(slot)) {
                    self.core.counters.count(counted(level));
                    self.core.counters.count(Count::Stale);
                    return Ok(self.hit(slot, level, true));
                }
                self.core.counters.count(Count::Failed);
                Err(CacheError::Load(error))
            }
        }
    }

    pub(crate) async fn read_l2(&self, key: &Key, begun: Begun) -> Found {
        match self.core.l2_of(&self.region) {
            Some(l2) => self.read_tier(l2, key, begun, Level::L2).await,
            None => Found::Nothing,
        }
    }

    /// Reads one tier; a fresh value goes into L1.
    async fn read_tier(&self, tier: &Guarded, key: &Key, begun: Begun, level: Level) -> Found {
        let deadline = Deadline::after(self.region.options.hard_timeout);
        let Ok(answer) = tier.read_one(tier_key(&self.region, key), deadline).await else {
            return Found::Nothing;
        };
        self.core.counters.count(if level == Level::L2 { Count::L2Read } else { Count::L3Read });
        self.core.latency.tier(&self.core.counters, level, begun.at.elapsed());
        let Some(stored) = answer else { return Found::Nothing };
        let fresh = !stored.fresh_for.is_zero();
        let Some(slot) = self.decode(&stored, begun.start, begun.at) else { return Found::Nothing };
        if !fresh {
            return Found::Stale(slot);
        }
        if self.core.beside.outdates(key, slot.loaded_at) {
            return Found::Outdated(slot);
        }
        if self.core.ledger.fill(key, &self.region, &self.core.l1, begun.at, slot.clone()) == Fill::Fenced {
            self.core.counters.count(Count::FillFenced);
        }
        Found::Fresh(slot)
    }

    /// An L1 entry from what a tier had; `None`, counted, if its bytes are not a `V`.
    pub(crate) fn decode(&self, stored: &Stored, start: u64, began: Instant) -> Option<Slot> {
        let value = match &stored.body {
            None => None,
            Some(body) => match codec::decode::<V>(&self.region, body) {
                Some(value) => Some(Arc::new(value) as crate::l1::AnyValue),
                None => {
                    self.core.counters.count(Count::Undecodable);
                    return None;
                }
            },
        };
        let now = self.core.watch.now();
        let read_at = now.saturating_sub(millis(began.elapsed()));
        let fresh_until = now.saturating_add(millis(stored.fresh_for));
        Some(Slot {
            value,
            start,
            version: stored.version,
            read_at,
            loaded_at: now.saturating_sub(millis(stored.age)),
            fresh_until,
            keep_until: fresh_until.saturating_add(millis(self.region.options.stale_for)),
        })
    }

    /// The L1 entry that may be served if loading fails.
    pub(crate) fn kept(&self, key: &Key) -> Option<(Slot, Level)> {
        let slot = self.core.l1.look(KeyRef { region: key.region, text: &key.text })?;
        let good = self.core.keepable(&self.region, &slot, self.core.watch.now()) && is::<V>(&slot);
        good.then_some((slot, Level::L1))
    }

    pub(crate) fn key(&self, key: &str) -> Result<Key, CacheError> {
        if self.core.is_shut_down() {
            return Err(CacheError::Shutdown);
        }
        Key::new(self.region.id, key)
    }
}

pub(crate) fn counted(level: Level) -> Count {
    match level {
        Level::L1 => Count::L1Hit,
        Level::L2 => Count::L2Hit,
        Level::L3 => Count::L3Hit,
        Level::Loader => Count::Loaded,
    }
}

pub(crate) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
