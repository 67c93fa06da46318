//! A tier in this process's memory: what a test needs that has several managers and no server. Bounded by refusing
//! fills, not by eviction; not meant to serve.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use resilience::Deadline;

use super::{Claim, Fresh, Stored, Ticket, Tier, TierError, TierKey};

const MOST: usize = 1 << 20;

/// Cloning shares the content, as two processes share a server's.
#[derive(Debug, Clone, Default)]
pub struct MemoryTier(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    content: Mutex<Content>,
    broken: AtomicBool,
}

#[derive(Debug, Default)]
struct Content {
    values: HashMap<TierKey, Held>,
    leases: HashMap<TierKey, (u64, Instant)>,
    counter: u64,
}

#[derive(Debug, Clone)]
struct Held {
    value: Fresh,
    at: Instant,
    version: u64,
}

const LEASE: Duration = Duration::from_secs(2);

impl Held {
    fn stored(&self) -> Option<Stored> {
        let passed = self.at.elapsed();
        (passed < self.value.keep_for).then(|| Stored {
            body: self.value.body.clone(),
            fresh_for: self.value.fresh_for.saturating_sub(passed),
            age: self.value.age + passed,
            version: self.version,
        })
    }
}

impl Content {
    fn stored(&self, key: &TierKey) -> Option<Stored> {
        self.values.get(key).and_then(Held::stored)
    }

    fn lease(&mut self, key: &TierKey) -> Ticket {
        self.counter += 1;
        self.leases.insert(key.clone(), (self.counter, Instant::now()));
        Ticket { held: Box::new(self.counter), version: self.counter, renew_every: Some(LEASE / 3) }
    }
}

impl MemoryTier {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes every call fail, or work again.
    pub fn set_broken(&self, broken: bool) {
        self.0.broken.store(broken, Ordering::SeqCst);
    }

    /// Loses everything, as a server that was restarted empty.
    pub fn lose_all(&self) {
        let mut content = self.0.content.lock();
        content.values.clear();
        content.leases.clear();
    }

    fn content(&self) -> Result<parking_lot::MutexGuard<'_, Content>, TierError> {
        if self.0.broken.load(Ordering::SeqCst) {
            return Err(TierError::Unavailable("broken on purpose".to_owned()));
        }
        Ok(self.0.content.lock())
    }
}

#[async_trait]
impl Tier for MemoryTier {
    async fn read(&self, keys: &[TierKey], _: Deadline) -> Result<Vec<Option<Stored>>, TierError> {
        let content = self.content()?;
        Ok(keys.iter().map(|key| content.stored(key)).collect())
    }

    async fn claim(&self, key: &TierKey, force: bool, _: Deadline) -> Result<Claim, TierError> {
        let mut content = self.content()?;
        let stale = content.stored(key);
        if let Some(found) = stale.clone().filter(|stored| !force && !stored.fresh_for.is_zero()) {
            return Ok(Claim::Found(found));
        }
        if let Some((_, at)) = content.leases.get(key)
            && at.elapsed() < LEASE
        {
            return Ok(Claim::Busy { ends_within: LEASE - at.elapsed() });
        }
        Ok(Claim::Granted { ticket: content.lease(key), stale })
    }

    async fn renew(&self, key: &TierKey, ticket: &Ticket, _: Deadline) -> Result<bool, TierError> {
        let mut content = self.content()?;
        match content.leases.get_mut(key) {
            Some((token, at)) if *token == ticket.version => {
                *at = Instant::now();
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn fill(
        &self,
        key: &TierKey,
        ticket: Ticket,
        value: Fresh,
        _: Deadline,
    ) -> Result<bool, TierError> {
        let mut content = self.content()?;
        let mine = content.leases.get(key).is_some_and(|(token, _)| *token == ticket.version);
        if !mine || content.values.len() >= MOST {
            return Ok(false);
        }
        content.leases.remove(key);
        content.values.insert(key.clone(), Held { value, at: Instant::now(), version: ticket.version });
        Ok(true)
    }

    async fn release(&self, key: &TierKey, ticket: Ticket, _: Deadline) {
        if let Ok(mut content) = self.content()
            && content.leases.get(key).is_some_and(|(token, _)| *token == ticket.version)
        {
            content.leases.remove(key);
        }
    }

    async fn seize(&self, key: &TierKey, _: Deadline) -> Result<Ticket, TierError> {
        let mut content = self.content()?;
        content.values.remove(key);
        Ok(content.lease(key))
    }

    async fn invalidate(&self, keys: &[TierKey], _: Deadline) -> Result<(), TierError> {
        let mut content = self.content()?;
        for key in keys {
            content.values.remove(key);
            content.leases.remove(key);
        }
        Ok(())
    }

    async fn clear(&self, region: &str, _: Deadline) -> Result<(), TierError> {
        let mut content = self.content()?;
        let meant = |key: &TierKey| region == super::EVERYTHING || *key.region == *region;
        content.values.retain(|key, _| !meant(key));
        content.leases.retain(|key, _| !meant(key));
        Ok(())
    }

    async fn ping(&self, _: Deadline) -> Result<(), TierError> {
        self.content().map(drop)
    }
}
