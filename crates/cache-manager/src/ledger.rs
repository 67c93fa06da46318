//! What this process knows of invalidations, and which loads are under way: the one place that decides whether a
//! value may be stored.
//!
//! One counter orders everything. A load (or a read of L2 or L3) notes it when it begins, `start`. An invalidation of a
//! key raises it to `s`, notes `fence[key] = s`, removes the key from L1 and takes its load off the list, all under the
//! lock of the key's stripe. A value is stored in L1 under the same lock, and only if no fence of its key is newer than
//! its `start`. So after an invalidation has returned, L1 holds nothing, nobody joins a load, and no fill succeeds, that
//! began before it; and whatever began after it is untouched.
//!
//! Fences are forgotten after `retention`; a value whose load began longer ago than that is not stored at all. The
//! number of fences is bounded: where a stripe is full, the key's whole region is fenced by raising its floor
//! (`region`), which every *read* compares with the entry's `start`.
//!
//! A key is *pending* while an invalidation of it has not reached the tiers and the journal: until then this process
//! leaves the tiers alone for that key. What is *asked* is the newest fence of a call that pends, and only a delivery
//! that began at it or later answers it. Pending keys are bounded too: beyond, the region is pending.
//!
//! Reads of the tiers may overtake each other, and loads. Of two that overlap either may have the newer value, although
//! nothing that this process has heard of voids the other. Of two reads L2's order says which; where there is none L1
//! keeps neither. A load that was overtaken is taken off the list: nobody joins it any more, what it brings is not
//! kept, and those who wait for it get what L1 has instead.
//!
//! Not here: talking to tiers or to other processes (`invalidate`).

mod outcome;

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use quick_cache::DefaultHashBuilder;

use crate::flight::Flight;
use crate::key::{Key, KeyRef};
use crate::l1::{L1, Slot};
use crate::region::Region;

pub(crate) use outcome::{Begun, Fenced, Fill, Join, Landing, Led};

const STRIPES: usize = 64;
/// Landing positions kept a stripe; keys that share one only cost each other a fill now and then.
const LANDINGS: usize = 32;
/// With more loads than this in a stripe, failed ones are not kept for their back-off.
const FAILED_PER_STRIPE: usize = 512;

#[derive(Debug, Clone, Copy)]
struct Fence {
    at: u64,
    set: Instant,
}

/// Invalidations of one key on their way.
#[derive(Debug, Default)]
struct Pending {
    /// Calls that are delivering right now.
    calls: u32,
    /// The newest fence that has to be delivered.
    asked: u64,
    /// The newest fence that has been.
    delivered: u64,
}

type Map<V> = HashMap<Key, V, DefaultHashBuilder>;

#[derive(Debug, Default)]
struct Stripe {
    fences: Map<Fence>,
    flights: Map<Arc<Flight>>,
    pending: Map<Pending>,
    /// By hash: where the counter stood when a value of such a key landed.
    landed: [u64; LANDINGS],
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Ledger {
    sequence: AtomicU64,
    stripes: Box<[Mutex<Stripe>]>,
    hasher: DefaultHashBuilder,
    fences_per_stripe: usize,
    retention: Duration,
    backoff: Duration,
    pending: AtomicUsize,
    max_pending: usize,
}

impl Ledger {
    pub(crate) fn new(config: &crate::Config) -> Self {
        Self {
            sequence: AtomicU64::new(1),
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            hasher: DefaultHashBuilder::default(),
            fences_per_stripe: (config.max_fences / STRIPES).max(1),
            retention: config.hard_timeout * 2 + Duration::from_secs(5),
            backoff: config.failure_backoff,
            pending: AtomicUsize::new(0),
            max_pending: config.max_pending,
        }
    }

    fn stripe(&self, key: &Key) -> MutexGuard<'_, Stripe> {
        // The upper half: the maps go by the lower.
        let at = (self.hasher.hash_one(key) >> 32) as usize % STRIPES;
        self.stripes[at].lock()
    }

    fn landing(&self, key: &Key) -> usize {
        self.hasher.hash_one(key) as usize / STRIPES % LANDINGS
    }

    /// The counter now.
    pub(crate) fn position(&self) -> u64 {
        self.sequence.load(Ordering::SeqCst)
    }

    /// Raises the counter; what began before is older than the result.
    pub(crate) fn advance(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Begins a read of the tiers.
    pub(crate) fn begin(&self, key: &Key, region: &Region) -> Begun {
        let start = self.position();
        let bypass = self.bypass(key, region);
        Begun { start, at: Instant::now(), bypass }
    }

    /// Whether the tiers must be left alone for this key at this moment.
    pub(crate) fn bypass(&self, key: &Key, region: &Region) -> bool {
        region.is_pending()
            || (self.pending.load(Ordering::SeqCst) > 0 && self.stripe(key).pending.contains_key(key))
    }

    /// Notes an invalidation of `key`. With `pend`, the key is also listed as pending, for one call of
    /// [`settle`](Self::settle).
    pub(crate) fn fence(&self, key: &Key, region: &Region, l1: &L1, pend: bool) -> Fenced {
        let mut stripe = self.stripe(key);
        let mut overflow = false;
        if pend {
            // Listed before the counter moves: who begins after this fence sees the key as pending.
            overflow = !self.pend(&mut stripe, key);
            if overflow {
                region.pending.set();
            }
        }
        let at = self.advance();
        if pend && let Some(pending) = stripe.pending.get_mut(key) {
            pending.asked = at;
        }
        self.note(&mut stripe, key, region, at);
        l1.remove(key);
        stripe.flights.remove(key);
        Fenced { at, overflow }
    }

    fn note(&self, stripe: &mut Stripe, key: &Key, region: &Region, at: u64) {
        let set = Instant::now();
        if stripe.fences.len() >= self.fences_per_stripe && !stripe.fences.contains_key(key) {
            let retention = self.retention;
            stripe.fences.retain(|_, fence| fence.set.elapsed() <= retention);
            if stripe.fences.len() >= self.fences_per_stripe {
                region.raise_hard(at);
                stripe.fences.retain(|kept, _| kept.region != region.id);
                return;
            }
        }
        stripe.fences.insert(key.clone(), Fence { at, set });
    }

    fn pend(&self, stripe: &mut Stripe, key: &Key) -> bool {
        if let Some(pending) = stripe.pending.get_mut(key) {
            pending.calls += 1;
            return true;
        }
        if self.pending.fetch_add(1, Ordering::SeqCst) >= self.max_pending {
            self.pending.fetch_sub(1, Ordering::SeqCst);
            return false;
        }
        stripe.pending.insert(key.clone(), Pending { calls: 1, ..Pending::default() });
        true
    }

    /// Ends one call that was to deliver its invalidation `own`. The key is no longer pending when no other call is at
    /// it and the newest invalidation asked for, or a later one, has been delivered.
    pub(crate) fn settle(&self, key: &Key, own: u64, delivered: bool) {
        let mut stripe = self.stripe(key);
        let Some(pending) = stripe.pending.get_mut(key) else { return };
        pending.calls = pending.calls.saturating_sub(1);
        if delivered {
            pending.delivered = pending.delivered.max(own);
        }
        if pending.calls == 0 && pending.asked <= pending.delivered {
            stripe.pending.remove(key);
            self.pending.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Up to `most` pending keys that no call is delivering, for one delivery each. Their number is bounded, their
    /// age is not: an entry that they void may live for as long as its loader chose.
    pub(crate) fn undelivered(&self, most: usize) -> Vec<(Key, u64)> {
        let mut found = Vec::new();
        for stripe in &self.stripes {
            for (key, pending) in &mut stripe.lock().pending {
                if found.len() < most && pending.calls == 0 {
                    pending.calls = 1;
                    found.push((key.clone(), pending.asked));
                }
            }
        }
        found
    }

    /// Keys pending now.
    pub(crate) fn pending(&self) -> usize {
        self.pending.load(Ordering::SeqCst)
    }

    /// Joins the load of `key`, or lists a new one. `valid` says whether an L1 entry may be served now.
    pub(crate) fn join(&self, key: &Key, region: &Region, l1: &L1, valid: impl Fn(&Slot) -> bool) -> Join {
        let mut stripe = self.stripe(key);
        if let Some(slot) = l1.look(KeyRef { region: key.region, text: &key.text }).filter(valid) {
            return Join::Ready(slot);
        }
        if let Some(flight) = stripe.flights.get(key)
            && flight.start >= region.soft_floor()
            && flight.joinable(self.backoff)
        {
            return Join::Wait(Arc::clone(flight));
        }
        Join::Lead(list(&mut stripe, key, region, self.position()))
    }

    /// Lists a new load of `key` even though another may be under way (`refresh`). It counts as the newer one.
    pub(crate) fn lead(&self, key: &Key, region: &Region) -> Led {
        let mut stripe = self.stripe(key);
        list(&mut stripe, key, region, self.advance())
    }

    /// Stores a value that was read from a tier in L1 unless an invalidation is newer than its start.
    pub(crate) fn fill(&self, key: &Key, region: &Region, l1: &L1, began: Instant, slot: Slot) -> Fill {
        let mut stripe = self.stripe(key);
        overtake(&mut stripe, key);
        let at = self.landing(key);
        let held = l1.look(KeyRef { region: key.region, text: &key.text });
        let known =
            |held: &&Slot| held.version != 0 && slot.version != 0 && held.start >= region.soft_floor();
        let ordered = held.as_ref().filter(known);
        // L3 has no order: of two of its values the one that was loaded later is taken for the newer.
        let later = |held: &Slot| held.version == 0 && held.loaded_at <= slot.loaded_at;
        let unordered = slot.version == 0 && held.as_ref().is_some_and(later);
        let alone = slot.start >= stripe.landed[at] || unordered;
        let refusal = self.refusal(&stripe, key, region, began, &slot);
        let newer = ordered.is_some_and(|held| held.version > slot.version);
        if refusal.is_none() && ordered.is_none() && !alone {
            // It does not count as landed, or reads that come back at once would keep each other out of L1.
            l1.remove(key);
            return Fill::Overtaken;
        }
        stripe.landed[at] = self.advance();
        if refusal.is_none() && !newer && !region.options.skip_l1 {
            l1.insert(key.clone(), slot);
        }
        refusal.unwrap_or(Fill::Done)
    }

    /// Why the value must not go into L1, whatever L1 holds.
    fn refusal(
        &self,
        stripe: &Stripe,
        key: &Key,
        region: &Region,
        began: Instant,
        slot: &Slot,
    ) -> Option<Fill> {
        let fenced = stripe.fences.get(key).is_some_and(|fence| fence.at > slot.start);
        if fenced || slot.start < region.hard_floor() || began.elapsed() > self.retention {
            return Some(Fill::Fenced);
        }
        (slot.start < region.soft_floor()).then_some(Fill::Unverified)
    }

    /// Ends a load: stores its value, if there is one, and takes it off the list in one step, so that nobody misses
    /// both. Failed loads stay listed for their back-off. `valid` as in [`join`](Self::join).
    pub(crate) fn land(
        &self,
        key: &Key,
        region: &Region,
        l1: &L1,
        flight: &Arc<Flight>,
        slot: Option<Slot>,
        valid: impl Fn(&Slot) -> bool,
    ) -> Landing {
        let mut stripe = self.stripe(key);
        let listed = stripe.flights.get(key).is_some_and(|listed| Arc::ptr_eq(listed, flight));
        let Some(slot) = slot else {
            if listed && stripe.flights.len() > FAILED_PER_STRIPE {
                stripe.flights.remove(key);
            }
            return Landing { fill: Fill::Done, instead: None };
        };
        let refusal = self.refusal(&stripe, key, region, flight.began, &slot);
        let fill = refusal.unwrap_or(if listed { Fill::Done } else { Fill::Overtaken });
        if listed && fill != Fill::Fenced {
            stripe.flights.remove(key);
            if !region.options.skip_l1 {
                // Also when it may not be served: it is the better last resort.
                l1.insert(key.clone(), slot);
            }
        } else {
            // Whoever was overtaken may have read its source last. L1's entry will be read next, so it is the answer.
            let held = l1.look(KeyRef { region: key.region, text: &key.text }).filter(valid);
            if held.is_some() {
                return Landing { fill, instead: held };
            }
            if fill == Fill::Overtaken {
                l1.remove(key);
            }
            // Nor may the load that is listed bring something older afterwards. Once, or readers that come back at once
            // would have every load overtake the next one.
            if !flight.overtaken.load(Ordering::Relaxed) {
                overtake(&mut stripe, key);
            }
        }
        stripe.landed[self.landing(key)] = self.advance();
        Landing { fill, instead: None }
    }

    /// Stores a value that was set, as the newest, if no other invalidation of the key has come since `own`.
    /// Otherwise, or without a value, L1 stays empty and the tiers say which one won. A fence for all that began meanwhile.
    pub(crate) fn publish(&self, key: &Key, region: &Region, l1: &L1, own: u64, slot: Option<Slot>) {
        let mut stripe = self.stripe(key);
        let alone = stripe.pending.get(key).is_none_or(|pending| pending.calls <= 1)
            && stripe.fences.get(key).is_none_or(|fence| fence.at <= own)
            && own >= region.soft_floor();
        let at = self.advance();
        self.note(&mut stripe, key, region, at);
        l1.remove(key);
        stripe.flights.remove(key);
        if let Some(slot) = slot.filter(|_| alone && !region.options.skip_l1) {
            l1.insert(key.clone(), Slot { start: at, ..slot });
        }
    }

    /// Forgets old fences and failed loads whose back-off is over.
    pub(crate) fn sweep(&self) {
        for stripe in &self.stripes {
            let mut stripe = stripe.lock();
            let retention = self.retention;
            stripe.fences.retain(|_, fence| fence.set.elapsed() <= retention);
            stripe.flights.retain(|_, flight| flight.joinable(self.backoff));
        }
    }
}

/// What a load under way brings may be older than what is handed out now; when each of them read its source the order
/// of their beginnings does not say.
fn overtake(stripe: &mut Stripe, key: &Key) {
    if let Some(flight) = stripe.flights.remove(key) {
        flight.overtaken.store(true, Ordering::Relaxed);
    }
}

fn list(stripe: &mut Stripe, key: &Key, region: &Region, start: u64) -> Led {
    let flight = Arc::new(Flight::new(start));
    if let Some(replaced) = stripe.flights.insert(key.clone(), Arc::clone(&flight)) {
        replaced.overtaken.store(true, Ordering::Relaxed);
    }
    let bypass = region.is_pending() || stripe.pending.contains_key(key);
    let fence = stripe.fences.get(key).map_or(0, |fence| fence.at).max(region.hard_floor());
    Led { flight, bypass, fence }
}

#[cfg(test)]
mod tests;
