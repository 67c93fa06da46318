//! `set`: an invalidation of one key that leaves a value behind. Not here: the steps they share (`invalidate`).
//!
//! The value goes into the tier in two steps, the right to store it and the value, so that a request that arrives late is
//! refused when somebody else has changed the key since.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use resilience::Deadline;

use crate::answer::{CacheValue, Invalidated};
use crate::cache::Cache;
use crate::codec;
use crate::core::tier_key;
use crate::counters::Count;
use crate::error::CacheError;
use crate::invalidate::{Delivery, Failed, Notice};
use crate::key::Key;
use crate::l1::{AnyValue, Slot};
use crate::load::millis;
use crate::region::jittered;
use crate::tier::{Fresh, TierError};

impl<V: CacheValue> Cache<V> {
    pub(crate) async fn put(
        &self,
        key: &str,
        value: Option<V>,
        ttl: Duration,
    ) -> Result<Invalidated, CacheError> {
        let began = Instant::now();
        let key = self.key(key)?;
        let body = value.as_ref().map(|value| codec::encode(&self.region, value)).transpose()?;
        let result = self.put_now(&key, value.map(|value| Arc::new(value) as AnyValue), body, ttl).await;
        self.core.latency.write(began.elapsed(), "set");
        self.core.counters.count(if result.is_ok() { Count::SetOk } else { Count::SetError });
        result
    }

    async fn put_now(
        &self,
        key: &Key,
        value: Option<AnyValue>,
        body: Option<Bytes>,
        ttl: Duration,
    ) -> Result<Invalidated, CacheError> {
        let (core, region) = (&*self.core, &*self.region);
        let shared = core.shares(region);
        let fenced = core.ledger.fence(key, region, &core.l1, shared);
        let keys = if shared { vec![(key.clone(), fenced)] } else { Vec::new() };
        let mut delivery = Delivery { core, region, keys, delivered: false };
        let fresh_for = jittered(ttl);
        let stored = self.put_tiers(key, body, fresh_for).await;
        let now = core.watch.now();
        let fresh_until = now.saturating_add(millis(fresh_for));
        // Where somebody else won, the tiers have his value and L1 asks them.
        let won = !matches!(stored, Ok(None));
        let slot = Slot {
            value,
            start: fenced.at,
            version: stored.as_ref().map_or(0, |version| version.unwrap_or(0)),
            read_at: now,
            loaded_at: now,
            fresh_until,
            keep_until: fresh_until.saturating_add(millis(region.options.stale_for)),
        };
        // The second fence is part of it.
        core.ledger.publish(key, region, &core.l1, fenced.at, won.then_some(slot));
        for (key, first) in delivery.keys.drain(..) {
            core.settle(&key, first, stored.is_ok());
        }
        match stored {
            Ok(_) => Ok(Invalidated::Applied),
            Err(failed) => Err(failed.of(format!("{}:{}", region.name, key.text))),
        }
    }

    /// The first shared level that the region has holds the value, L3 beside L2 only learns that its own is void:
    /// two processes that set one key at once then cannot leave two levels with different winners.
    /// Returns the value's order among others, `None` if another change of the key came after it.
    async fn put_tiers(
        &self,
        key: &Key,
        body: Option<Bytes>,
        fresh_for: Duration,
    ) -> Result<Option<u64>, Failed> {
        let (core, region) = (&*self.core, &*self.region);
        let deadline = Deadline::after(core.config.invalidate_timeout);
        let tier_key = tier_key(region, key);
        let mut keep_for = fresh_for + region.options.stale_for;
        let holder = match (core.l2_of(region), core.l3_of(region)) {
            (Some(l2), l3) => {
                if let Some(l3) = l3 {
                    let keys = std::slice::from_ref(&tier_key);
                    l3.invalidate(keys, deadline).await.map_err(|e| Failed::new("l3", e))?;
                }
                keep_for = keep_for.min(core.config.l2_ttl);
                Some((l2, "l2"))
            }
            (None, l3) => l3.map(|l3| (l3, "l3")),
        };
        let mut version = Some(0);
        if let Some((tier, step)) = holder {
            match tier.seize(&tier_key, deadline).await {
                Ok(ticket) => {
                    let order = ticket.version;
                    let value = Fresh { body, fresh_for, keep_for, age: Duration::ZERO };
                    let put = tier.put(&tier_key, ticket, value, deadline).await;
                    version = put.map_err(|e| Failed::new(step, e))?.then_some(order);
                }
                // It holds nothing, and nothing will be read from it.
                Err(TierError::Missing(_)) => {}
                Err(error) => return Err(Failed::new(step, error)),
            }
        }
        let notice = Notice::Keys(region.name.to_string(), vec![key.text.to_string()]);
        core.announce(&notice, deadline).await.map(|()| version)
    }
}
