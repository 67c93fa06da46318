//! The ledger against a model: at random, loads and reads begin and end, keys and regions are invalidated, values are
//! set, deliveries succeed and fail, L1 evicts, fences overflow. Nothing older than the last invalidation may ever be
//! found or joined, and a key is pending exactly while something asked for has not been delivered.

use std::any::TypeId;
use std::sync::Arc;
use std::time::Instant;

use proptest::prelude::*;

use super::{Begun, Fill, Join, Led, Ledger};
use crate::answer::Level;
use crate::config::{Config, RegionOptions};
use crate::flight::{Flight, Landed};
use crate::key::{Key, KeyRef};
use crate::l1::{L1, Slot};
use crate::region::{Region, Settled};

const KEYS: usize = 5;

#[derive(Debug, Clone, Copy)]
enum Step {
    Begin(usize),
    Fill(usize),
    Join(usize),
    Land(usize),
    /// Leads a load whatever is under way.
    Refresh(usize),
    /// By another process.
    Hear(usize),
    Invalidate(usize),
    /// The second fence, and whether it was delivered.
    Finish(usize, bool),
    Set(usize),
    Publish(usize, bool),
    Redeliver(bool),
    Clear,
    Expire,
    Evict(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..KEYS).prop_map(Step::Begin),
        any::<usize>().prop_map(Step::Fill),
        (0..KEYS).prop_map(Step::Join),
        any::<usize>().prop_map(Step::Land),
        (0..KEYS).prop_map(Step::Refresh),
        (0..KEYS).prop_map(Step::Hear),
        (0..KEYS).prop_map(Step::Invalidate),
        (any::<usize>(), any::<bool>()).prop_map(|(n, delivered)| Step::Finish(n, delivered)),
        (0..KEYS).prop_map(Step::Set),
        (any::<usize>(), any::<bool>()).prop_map(|(n, delivered)| Step::Publish(n, delivered)),
        any::<bool>().prop_map(Step::Redeliver),
        Just(Step::Clear),
        Just(Step::Expire),
        (0..KEYS).prop_map(Step::Evict),
    ]
}

struct Model {
    ledger: Ledger,
    region: Region,
    l1: L1,
    /// Version that counts now, a key; raised by each invalidation.
    truth: [u64; KEYS],
    reads: Vec<(usize, Begun, u64)>,
    flights: Vec<(usize, Arc<Flight>, u64)>,
    invalidations: Vec<(usize, u64)>,
    /// With the version that counted when the set began.
    sets: Vec<(usize, u64, u64)>,
    /// The newest fence asked for and the newest delivered, a key.
    asked: [u64; KEYS],
    delivered: [u64; KEYS],
}

fn key(n: usize) -> Key {
    Key::new(0, &format!("k{n}")).unwrap()
}

fn slot(start: u64, value: u64) -> Slot {
    let value: crate::l1::AnyValue = Arc::new(value);
    Slot {
        value: Some(value),
        start,
        version: 0,
        read_at: 0,
        loaded_at: 0,
        fresh_until: u64::MAX,
        keep_until: u64::MAX,
    }
}

fn version(slot: &Slot) -> u64 {
    *slot.value.as_ref().unwrap().downcast_ref::<u64>().unwrap()
}

impl Model {
    fn new() -> Self {
        // One fence a stripe: overflow is the rule.
        let config = Config { max_fences: 64, max_pending: 64, ..Config::default() };
        let settled = Settled::of(&config, &RegionOptions::default()).unwrap();
        let holds = Some((TypeId::of::<u64>(), "u64"));
        let region = Region::new(0, "r", settled, holds, Arc::default());
        Self {
            ledger: Ledger::new(&config),
            region,
            l1: L1::new(100),
            truth: [1; KEYS],
            reads: Vec::new(),
            flights: Vec::new(),
            invalidations: Vec::new(),
            sets: Vec::new(),
            asked: [0; KEYS],
            delivered: [0; KEYS],
        }
    }

    fn take<T>(list: &mut Vec<T>, n: usize) -> Option<T> {
        if list.is_empty() { None } else { Some(list.swap_remove(n % list.len())) }
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Begin(n) => {
                let begun = self.ledger.begin(&key(n), &self.region);
                self.reads.push((n, begun, self.truth[n]));
            }
            Step::Fill(n) => {
                let Some((n, begun, value)) = Self::take(&mut self.reads, n) else { return };
                self.ledger.fill(&key(n), &self.region, &self.l1, Instant::now(), slot(begun.start, value));
            }
            Step::Join(n) => match self
                .ledger
                .join(&key(n), &self.region, &self.l1, |s| s.start >= self.region.soft_floor())
            {
                Join::Ready(slot) => assert_eq!(version(&slot), self.truth[n]),
                Join::Wait(flight) => {
                    let known = self.flights.iter().find(|(_, listed, _)| Arc::ptr_eq(listed, &flight));
                    assert_eq!(known.expect("a load of ours").2, self.truth[n], "joined an old load");
                }
                Join::Lead(Led { flight, .. }) => self.flights.push((n, flight, self.truth[n])),
            },
            Step::Land(n) => {
                let Some((n, flight, value)) = Self::take(&mut self.flights, n) else { return };
                let slot = slot(flight.start, value);
                let valid = |slot: &Slot| slot.start >= self.region.soft_floor();
                let landing =
                    self.ledger.land(&key(n), &self.region, &self.l1, &flight, Some(slot.clone()), valid);
                if let Some(instead) = &landing.instead {
                    assert_eq!(version(instead), self.truth[n]);
                }
                let slot = landing.instead.unwrap_or(slot);
                flight.land(Ok(Landed { slot, level: Level::Loader }));
            }
            Step::Refresh(n) => {
                self.flights.push((n, self.ledger.lead(&key(n), &self.region).flight, self.truth[n]));
            }
            Step::Hear(n) => {
                self.fence(n, false);
            }
            Step::Invalidate(n) => {
                let at = self.fence(n, true);
                self.invalidations.push((n, at));
            }
            Step::Finish(n, delivered) => {
                let Some((n, own)) = Self::take(&mut self.invalidations, n) else { return };
                self.fence(n, false);
                self.settle(n, own, delivered);
            }
            Step::Set(n) => {
                let at = self.fence(n, true);
                self.sets.push((n, at, self.truth[n]));
            }
            Step::Publish(n, delivered) => {
                let Some((n, own, truth)) = Self::take(&mut self.sets, n) else { return };
                // What was set counts from now on, unless something came between.
                let value = if self.truth[n] == truth { truth + 1 } else { 0 };
                self.truth[n] += 1;
                self.ledger.publish(&key(n), &self.region, &self.l1, own, Some(slot(own, value)));
                self.settle(n, own, delivered);
            }
            Step::Redeliver(delivered) => {
                for (key, own) in self.ledger.undelivered(100) {
                    self.settle(key.text[1..].parse().unwrap(), own, delivered);
                }
            }
            Step::Clear => {
                self.truth.iter_mut().for_each(|version| *version += 1);
                self.region.raise_hard(self.ledger.advance());
            }
            Step::Expire => {
                self.truth.iter_mut().for_each(|version| *version += 1);
                self.region.raise_soft(self.ledger.advance());
            }
            Step::Evict(n) => self.l1.remove(&key(n)),
        }
    }

    fn fence(&mut self, n: usize, pend: bool) -> u64 {
        self.truth[n] += 1;
        let fenced = self.ledger.fence(&key(n), &self.region, &self.l1, pend);
        if pend {
            assert!(!fenced.overflow);
            self.asked[n] = fenced.at;
        }
        fenced.at
    }

    fn settle(&mut self, n: usize, own: u64, delivered: bool) {
        self.ledger.settle(&key(n), own, delivered);
        if delivered {
            self.delivered[n] = self.delivered[n].max(own);
        }
    }

    fn check(&self) {
        for n in 0..KEYS {
            let under_way = self.invalidations.iter().any(|(of, _)| *of == n)
                || self.sets.iter().any(|(of, _, _)| *of == n);
            let pending = under_way || self.asked[n] > self.delivered[n];
            assert_eq!(self.ledger.bypass(&key(n), &self.region), pending, "whether key {n} is pending");
            let key = key(n);
            if let Some(slot) = self.l1.look(KeyRef { region: 0, text: &key.text })
                && slot.start >= self.region.soft_floor()
            {
                assert_eq!(version(&slot), self.truth[n], "key {n} is stale in L1");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]
    #[test]
    fn nothing_older_than_the_last_invalidation_is_found_or_joined(steps in proptest::collection::vec(step(), 1..80)) {
        let mut model = Model::new();
        for step in steps {
            model.run(step);
            model.check();
        }
    }
}

#[test]
fn a_key_stays_pending_until_its_newest_invalidation_is_delivered() {
    let model = Model::new();
    let (ledger, region, l1, key) = (&model.ledger, &model.region, &model.l1, key(0));
    let first = ledger.fence(&key, region, l1, true);
    let second = ledger.fence(&key, region, l1, true);
    ledger.settle(&key, first.at, true);
    assert!(ledger.bypass(&key, region));
    ledger.settle(&key, second.at, false);
    assert!(ledger.bypass(&key, region));
    assert_eq!(ledger.pending(), 1);
    let again = ledger.undelivered(10);
    assert_eq!(again.len(), 1);
    ledger.settle(&key, again[0].1, true);
    assert!(!ledger.bypass(&key, region));
    assert_eq!(ledger.pending(), 0);
}

#[test]
fn pending_keys_beyond_the_limit_make_the_region_pending() {
    let model = Model::new();
    for n in 0..64 {
        let key = Key::new(0, &format!("p{n}")).unwrap();
        assert!(!model.ledger.fence(&key, &model.region, &model.l1, true).overflow);
    }
    assert!(!model.region.is_pending());
    assert!(model.ledger.fence(&key(0), &model.region, &model.l1, true).overflow);
    assert!(model.region.is_pending());
}

#[test]
fn of_two_sets_at_once_neither_stays_in_l1_but_the_last_alone_does() {
    let model = Model::new();
    let (ledger, region, l1, key) = (&model.ledger, &model.region, &model.l1, key(0));
    let seen = || l1.look(KeyRef { region: 0, text: &key.text }).map(|slot| version(&slot));
    let (one, two) = (ledger.fence(&key, region, l1, true), ledger.fence(&key, region, l1, true));
    for (fenced, value) in [(two, 2), (one, 1)] {
        ledger.publish(&key, region, l1, fenced.at, Some(slot(fenced.at, value)));
        ledger.settle(&key, fenced.at, true);
        assert_eq!(seen(), None, "which of them won is known to the tiers alone");
    }
    let alone = ledger.fence(&key, region, l1, true);
    ledger.publish(&key, region, l1, alone.at, Some(slot(alone.at, 3)));
    ledger.settle(&key, alone.at, true);
    assert_eq!(seen(), Some(3));
    assert_eq!(ledger.pending(), 0);
}

mod overlaps;
