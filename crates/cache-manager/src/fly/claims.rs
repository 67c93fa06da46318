//! The claims of a load: asked for before it, kept during it, given back when they are not used. Not here: the load.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use resilience::Deadline;

use super::{Brought, Task};
use crate::answer::{CacheValue, Level};
use crate::core::tier_key;
use crate::counters::Count;
use crate::l1::Slot;
use crate::tier::{Claim, Guarded, Stored, Ticket, TierKey};

/// The rights to fill, and what is to be filled.
#[derive(Default)]
pub(super) struct Claims {
    pub(super) l2: Option<Ticket>,
    pub(super) l3: Option<Ticket>,
}

/// Shortest and longest pause between two questions whether the process that loads is done.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

impl<V: CacheValue> Task<V> {
    /// Claims the key in the tiers. `Some` when one of them turns out to have a value.
    pub(super) async fn claim(&mut self, claims: &mut Claims, deadline: Deadline) -> Option<Brought> {
        let core = Arc::clone(&self.cache.core);
        let region = Arc::clone(&self.cache.region);
        if let Some(l2) = core.l2_of(&region) {
            match self.claim_l2(l2, deadline).await {
                Ok(ticket) => claims.l2 = ticket,
                Err(slot) => {
                    return Some(Brought {
                        slot,
                        level: Level::L2,
                        body: None,
                        fresh_for: Duration::ZERO,
                        age: Duration::ZERO,
                    });
                }
            }
        }
        let l3 = core.l3_worth(&region)?;
        core.counters.count(Count::L3Read);
        let asked = Instant::now();
        let answer = l3.claim(&tier_key(&region, &self.key), self.force, deadline).await;
        core.latency.tier(&core.counters, Level::L3, asked.elapsed());
        match answer {
            Ok(Claim::Found(stored)) => {
                let slot = self.current(&stored, self.flight.start)?;
                // L2 gets what L3 had: its claim is older than this reading.
                let Stored { body, fresh_for, age, .. } = stored;
                Some(Brought { slot, level: Level::L3, body, fresh_for, age })
            }
            Ok(Claim::Granted { ticket, stale }) => {
                claims.l3 = Some(ticket);
                self.remember(stale, Level::L3);
                None
            }
            Ok(Claim::Busy { .. }) | Err(_) => None,
        }
    }

    /// What a tier found, unless it cannot be read or is outdated.
    fn current(&self, stored: &Stored, start: u64) -> Option<Slot> {
        let slot = self.cache.decode(stored, start, self.flight.began)?;
        (!self.cache.core.beside.outdates(&self.key, slot.loaded_at)).then_some(slot)
    }

    /// Keeps an expired value for the loader and for the case that it fails.
    fn remember(&mut self, stale: Option<Stored>, level: Level) {
        if self.previous.is_none() {
            let slot =
                stale.and_then(|stored| self.cache.decode(&stored, self.flight.start, self.flight.began));
            self.previous = slot.map(|slot| (slot, level));
        }
    }

    /// The lease in L2, `None` if L2 cannot be asked; or the value that another process loaded meanwhile. While
    /// another process loads, asks again after about as long as a load takes.
    async fn claim_l2(&mut self, l2: &Guarded, deadline: Deadline) -> Result<Option<Ticket>, Slot> {
        let key = tier_key(&self.cache.region, &self.key);
        let mut pause = self.cache.region.load_cost().estimate().clamp(PAUSE.0, PAUSE.1);
        let mut force = self.force;
        loop {
            let start = self.cache.core.ledger.position();
            match l2.claim(&key, force, deadline).await {
                Ok(Claim::Found(stored)) => {
                    match self.current(&stored, start) {
                        Some(slot) => return Err(slot),
                        // Bytes that are not a value of ours, or one that is outdated, are overwritten.
                        None if force => return Ok(None),
                        None => force = true,
                    }
                }
                Ok(Claim::Granted { ticket, stale }) => {
                    self.remember(stale, Level::L2);
                    return Ok(Some(ticket));
                }
                Ok(Claim::Busy { .. }) if !self.patient => {
                    self.beside = true;
                    return Ok(None);
                }
                Ok(Claim::Busy { ends_within }) => {
                    // What the other process brings is another value.
                    force = self.force;
                    let pause_now = pause.min(ends_within).min(deadline.remaining() / 2).max(PAUSE.0);
                    tokio::time::sleep(pause_now).await;
                    pause = (pause * 3 / 2).min(PAUSE.1);
                    if deadline.is_expired() {
                        return Ok(None);
                    }
                }
                Err(_) => return Ok(None),
            }
        }
    }

    pub(super) async fn keep(&self, claims: &Claims) -> Infallible {
        if let Some(ticket) = &claims.l2
            && let Some(every) = ticket.renew_every
            && let Some(l2) = self.cache.core.l2_of(&self.cache.region)
        {
            let key = tier_key(&self.cache.region, &self.key);
            loop {
                tokio::time::sleep(every).await;
                if let Ok(false) = l2.renew(&key, ticket).await {
                    break;
                }
            }
        }
        std::future::pending().await
    }

    pub(super) async fn give_back(&self, claims: Claims) {
        let key: TierKey = tier_key(&self.cache.region, &self.key);
        if let (Some(ticket), Some(l2)) = (claims.l2, self.cache.core.l2_of(&self.cache.region)) {
            l2.release(&key, ticket).await;
        }
    }
}
