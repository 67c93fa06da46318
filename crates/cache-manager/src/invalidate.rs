//! Invalidation: first this process, at once; then L3, then L2; then the journal.
//!
//! The order is the contract. The local fence comes before the first await, so nothing that this process begins from
//! then on can bring the old value back, and the key is *pending*: the tiers are left alone for it. L3 comes before L2,
//! because a load that is given L2's lease right after L2 was told may find its value in L3 and put it into L2. The
//! tiers come before the journal, because a process that hears the journal may ask them right away. A second fence comes at the
//! end, however the call ends: a load that began while the first steps were under way began before this call returns,
//! and whoever reads after it has returned must not join that load or find its value.
//!
//! Whatever fails, the key stays pending and a background task repeats all steps until they succeed; so it does when
//! the caller goes away in the middle. What the call delivered is its first fence: it says nothing of what other calls
//! on the key asked for after that.
//!
//! Not here: `set`, which goes the same way and leaves a value behind (`set`).

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use rand::seq::SliceRandom;
use resilience::Deadline;
use serde::{Deserialize, Serialize};

use crate::answer::Invalidated;
use crate::core::{Core, tier_key};
use crate::counters::Count;
use crate::error::CacheError;
use crate::key::Key;
use crate::ledger::Fenced;
use crate::region::Region;
use crate::tier::{TierError, TierKey};

/// What the journal carries: who says it, and what. New kinds are appended only; a kind that a process does not know is a gap to it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Notice {
    /// These keys of a region.
    Keys(String, Vec<String>),
    /// All keys of a region; `true` when they may not even be the last resort.
    Region(String, bool),
    /// All keys of all regions.
    Everything,
}

/// Keys of one region, each with the fence that is to be delivered.
type Group = (Arc<Region>, Vec<(Key, u64)>);

/// A step that failed.
pub(crate) struct Failed {
    step: &'static str,
    reason: String,
}

/// Keys that a call is invalidating. Dropped, it puts up the second fence, and what it did not deliver is taken over by
/// the background task.
pub(crate) struct Delivery<'a> {
    pub(crate) core: &'a Core,
    pub(crate) region: &'a Region,
    /// With the first fence, and whether the key was listed as pending.
    pub(crate) keys: Vec<(Key, Fenced)>,
    pub(crate) delivered: bool,
}

impl Drop for Delivery<'_> {
    fn drop(&mut self) {
        for (key, first) in &self.keys {
            self.core.ledger.fence(key, self.region, &self.core.l1, false);
            self.core.settle(key, *first, self.delivered);
        }
    }
}

/// Pending keys that the background task is delivering. Nothing in this process is to be voided for them any more.
struct Redelivery<'a> {
    core: &'a Core,
    keys: Vec<(Key, u64)>,
}

impl Drop for Redelivery<'_> {
    fn drop(&mut self) {
        for (key, fence) in &self.keys {
            self.core.ledger.settle(key, *fence, false);
        }
    }
}

/// The second fence of a whole region, or of all.
struct Raise<'a> {
    core: &'a Core,
    region: Option<&'a Region>,
    hard: bool,
}

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        match self.region {
            Some(region) => self.core.raise(region, self.hard),
            None => self.core.raise_everything(self.hard),
        }
    }
}

impl Core {
    /// Invalidates keys of one region. `l3`: whether L3 has to be told, or was told inside a transaction.
    pub(crate) async fn invalidate(
        &self,
        region: &Region,
        keys: &[Key],
        l3: bool,
    ) -> Result<Invalidated, CacheError> {
        let began = Instant::now();
        let result = self.invalidate_now(region, keys, l3).await;
        self.latency.write(began.elapsed(), "delete");
        self.counters.count(if result.is_ok() { Count::DeleteOk } else { Count::DeleteError });
        result
    }

    async fn invalidate_now(
        &self,
        region: &Region,
        keys: &[Key],
        l3: bool,
    ) -> Result<Invalidated, CacheError> {
        let shared = self.shares(region);
        let mut delivery =
            Delivery { core: self, region, keys: Vec::with_capacity(keys.len()), delivered: false };
        for key in keys {
            let fenced = self.ledger.fence(key, region, &self.l1, shared);
            if shared {
                delivery.keys.push((key.clone(), fenced));
            }
        }
        if !shared {
            return Ok(Invalidated::Applied);
        }
        let delivered = self.deliver(region, keys, l3).await;
        delivery.delivered = delivered.is_ok();
        match delivered {
            Ok(()) => Ok(Invalidated::Applied),
            Err(failed) => {
                Err(failed.of(format!("{}:{}", region.name, keys.first().map_or("", |key| &key.text))))
            }
        }
    }

    /// A key without room on the list made its region pending, which is not settled here.
    pub(crate) fn settle(&self, key: &Key, first: Fenced, delivered: bool) {
        if !first.overflow {
            self.ledger.settle(key, first.at, delivered);
        }
    }

    /// L3, L2, journal, in this order.
    async fn deliver(&self, region: &Region, keys: &[Key], l3: bool) -> Result<(), Failed> {
        let deadline = Deadline::after(self.config.invalidate_timeout);
        let tier_keys: Vec<TierKey> = keys.iter().map(|key| tier_key(region, key)).collect();
        if let Some(tier) = self.l3_of(region).filter(|_| l3) {
            tier.invalidate(&tier_keys, deadline).await.map_err(|e| Failed::new("l3", e))?;
        }
        if let Some(tier) = self.l2_of(region) {
            tier.invalidate(&tier_keys, deadline).await.map_err(|e| Failed::new("l2", e))?;
        }
        // At most 1 KiB a key: one notice stays far below the journal's limit.
        for some in keys.chunks(32) {
            let some = some.iter().map(|key| key.text.to_string()).collect();
            self.announce(&Notice::Keys(region.name.to_string(), some), deadline).await?;
        }
        Ok(())
    }

    pub(crate) async fn announce(&self, notice: &Notice, deadline: Deadline) -> Result<(), Failed> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let payload = rmp_serde::to_vec(&(self.instance, notice))
            .map_err(|e| Failed { step: "journal", reason: e.to_string() })?;
        match deadline.run(journal.append(Bytes::from(payload), deadline)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Failed { step: "journal", reason: error.to_string() }),
            Err(_) => Err(Failed { step: "journal", reason: "no answer in time".to_owned() }),
        }
    }

    /// Invalidates a whole region. `hard`: its values may not even be the last resort.
    pub(crate) async fn clear_region(&self, region: &Region, hard: bool) -> Result<Invalidated, CacheError> {
        let mark = region.pending.set();
        self.raise(region, hard);
        let again = Raise { core: self, region: Some(region), hard };
        let result = self.deliver_region(region, hard).await;
        drop(again);
        if result.is_ok() {
            region.pending.clear(mark);
        }
        self.counters.count(if result.is_ok() { Count::ClearOk } else { Count::ClearError });
        result.map(|()| Invalidated::Applied).map_err(|failed| failed.of(format!("region {}", region.name)))
    }

    fn raise(&self, region: &Region, hard: bool) {
        let at = self.ledger.advance();
        if hard {
            region.raise_hard(at);
            self.l1.remove_region(region.id);
        } else {
            region.raise_soft(at);
        }
    }

    async fn deliver_region(&self, region: &Region, hard: bool) -> Result<(), Failed> {
        let deadline = Deadline::after(self.config.invalidate_timeout);
        self.clear_tiers(&region.name, self.l2_of(region).is_some(), self.l3_of(region).is_some(), deadline)
            .await?;
        self.announce(&Notice::Region(region.name.to_string(), hard), deadline).await
    }

    async fn clear_tiers(&self, name: &str, l2: bool, l3: bool, deadline: Deadline) -> Result<(), Failed> {
        if let Some(tier) = self.l3.as_deref().filter(|_| l3) {
            tier.clear(name, deadline).await.map_err(|e| Failed::new("l3", e))?;
        }
        if let Some(tier) = self.l2.as_deref().filter(|_| l2) {
            tier.clear(name, deadline).await.map_err(|e| Failed::new("l2", e))?;
        }
        Ok(())
    }

    /// Invalidates everything everywhere.
    pub(crate) async fn clear_everything(&self) -> Result<Invalidated, CacheError> {
        let mark = self.everything.set();
        self.raise_everything(true);
        let again = Raise { core: self, region: None, hard: true };
        let result = self.deliver_everything().await;
        drop(again);
        if result.is_ok() {
            self.everything.clear(mark);
        }
        self.counters.count(if result.is_ok() { Count::ClearOk } else { Count::ClearError });
        result.map(|()| Invalidated::Applied).map_err(|failed| failed.of("everything".to_owned()))
    }

    pub(crate) fn raise_everything(&self, hard: bool) {
        let at = self.ledger.advance();
        for region in self.regions() {
            if hard { region.raise_hard(at) } else { region.raise_soft(at) }
        }
    }

    async fn deliver_everything(&self) -> Result<(), Failed> {
        let deadline = Deadline::after(self.config.invalidate_timeout);
        self.clear_tiers(crate::tier::EVERYTHING, true, true, deadline).await?;
        self.announce(&Notice::Everything, deadline).await
    }

    /// One round over what could not be delivered; `false` when something still could not.
    pub(crate) async fn redeliver(&self) -> bool {
        if self.everything.is_on() {
            let mark = self.everything.mark();
            if self.deliver_everything().await.is_err() {
                return false;
            }
            self.everything.clear(mark);
        }
        for region in self.regions().iter().filter(|region| region.pending.is_on()) {
            let mark = region.pending.mark();
            if self.deliver_region(region, true).await.is_err() {
                return false;
            }
            region.pending.clear(mark);
        }
        let mut all = true;
        for (region, keys) in self.by_region(self.ledger.undelivered(256)) {
            all &= self.redeliver_keys(&region, Redelivery { core: self, keys }).await;
        }
        all
    }

    /// In one go; if that fails key by key, so that one that a store will never take does not hold up the others.
    async fn redeliver_keys(&self, region: &Region, mut rest: Redelivery<'_>) -> bool {
        let keys: Vec<Key> = rest.keys.iter().map(|(key, _)| key.clone()).collect();
        if self.deliver(region, &keys, true).await.is_ok() {
            rest.keys.drain(..).for_each(|(key, fence)| self.ledger.settle(&key, fence, true));
            return true;
        }
        // In another order each time: where two in a row fail, nothing works and the store is left alone.
        rest.keys.shuffle(&mut rand::rng());
        let (mut at, mut failed) = (0, 0);
        while at < rest.keys.len() && failed < 2 && keys.len() > 1 {
            if self.deliver(region, std::slice::from_ref(&rest.keys[at].0), true).await.is_ok() {
                let (key, fence) = rest.keys.swap_remove(at);
                self.ledger.settle(&key, fence, true);
                failed = 0;
            } else {
                (at, failed) = (at + 1, failed + 1);
            }
        }
        rest.keys.is_empty()
    }

    fn by_region(&self, keys: Vec<(Key, u64)>) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for (key, fence) in keys {
            match groups.iter_mut().find(|(region, _)| region.id == key.region) {
                Some((_, group)) => group.push((key, fence)),
                None => groups.extend(self.region_of(&key).map(|region| (region, vec![(key, fence)]))),
            }
        }
        groups
    }
}

impl Failed {
    #[expect(clippy::needless_pass_by_value, reason = "the error ends here")]
    pub(crate) fn new(step: &'static str, error: TierError) -> Self {
        Self { step, reason: error.to_string() }
    }

    pub(crate) fn of(self, what: String) -> CacheError {
        CacheError::NotPropagated { what, step: self.step, reason: self.reason }
    }
}
