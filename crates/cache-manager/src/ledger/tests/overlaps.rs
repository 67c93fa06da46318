//! Reads and loads of one key that overlap, step by step.

use super::*;

/// Ends a load that brings `value`; what became of it, and what those who wait for it get.
fn land(model: &Model, flight: &Arc<Flight>, value: u64) -> (Fill, u64) {
    let slot = slot(flight.start, value);
    let landing = model.ledger.land(&key(0), &model.region, &model.l1, flight, Some(slot), |_| true);
    (landing.fill, landing.instead.map_or(value, |slot| version(&slot)))
}

fn lead(model: &Model) -> Arc<Flight> {
    match model.ledger.join(&key(0), &model.region, &model.l1, |_| true) {
        Join::Lead(led) => led.flight,
        other => panic!("joined what is void: {other:?}"),
    }
}

fn held(model: &Model) -> Option<u64> {
    model.l1.look(KeyRef { region: 0, text: &key(0).text }).map(|slot| version(&slot))
}

#[test]
fn a_load_that_lands_after_a_later_refresh_answers_with_the_refreshed_value() {
    let model = Model::new();
    let older = lead(&model);
    let refresh = model.ledger.lead(&key(0), &model.region);
    assert_eq!(land(&model, &refresh.flight, 2), (Fill::Done, 2));
    assert_eq!(land(&model, &older, 1), (Fill::Overtaken, 2));
    assert_eq!(held(&model), Some(2));
}

#[test]
fn of_two_reads_of_a_tier_the_one_that_lands_last_does_not_bring_an_evicted_version_back() {
    let model = Model::new();
    let (ledger, region, l1, key) = (&model.ledger, &model.region, &model.l1, key(0));
    let (one, two) = (ledger.begin(&key, region), ledger.begin(&key, region));
    ledger.fill(&key, region, l1, two.at, slot(two.start, 2));
    l1.remove(&key);
    ledger.fill(&key, region, l1, one.at, slot(one.start, 1));
    assert!(l1.look(KeyRef { region: 0, text: &key.text }).is_none());
    let three = ledger.begin(&key, region);
    ledger.fill(&key, region, l1, three.at, slot(three.start, 3));
    assert_eq!(l1.look(KeyRef { region: 0, text: &key.text }).map(|slot| version(&slot)), Some(3));
}

#[test]
fn a_load_that_a_read_overtook_is_not_joined_and_does_not_bring_the_older_version_back() {
    let model = Model::new();
    let (ledger, region, l1, key) = (&model.ledger, &model.region, &model.l1, key(0));
    let Join::Lead(older) = ledger.join(&key, region, l1, |_| true) else { panic!("nothing to join") };
    let read = ledger.begin(&key, region);
    ledger.fill(&key, region, l1, read.at, slot(read.start, 2));
    l1.remove(&key);
    let Join::Lead(_) = ledger.join(&key, region, l1, |_| true) else { panic!("joined what was overtaken") };
    assert_eq!(land(&model, &older.flight, 1).0, Fill::Overtaken);
    assert!(l1.look(KeyRef { region: 0, text: &key.text }).is_none());
}

#[test]
fn of_two_reads_the_newer_value_stays_whichever_began_and_landed_first() {
    let model = Model::new();
    let (ledger, region, l1, key) = (&model.ledger, &model.region, &model.l1, key(0));
    let early = ledger.begin(&key, region);
    ledger.advance();
    let late = ledger.begin(&key, region);
    // The one that began early read late.
    for (begun, value) in [(late, 2), (early, 3)] {
        ledger.fill(&key, region, l1, begun.at, Slot { version: value, ..slot(begun.start, value) });
    }
    assert_eq!(l1.look(KeyRef { region: 0, text: &key.text }).map(|slot| version(&slot)), Some(3));
}

#[test]
fn who_waited_for_a_load_that_a_read_overtook_gets_what_will_be_read_next() {
    let model = Model::new();
    let load = lead(&model);
    model.ledger.advance();
    let read = model.ledger.begin(&key(0), &model.region);
    let found = Slot { version: 7, ..slot(read.start, 1) };
    assert_eq!(model.ledger.fill(&key(0), &model.region, &model.l1, read.at, found), Fill::Done);
    // It began first and read its source last.
    assert_eq!(land(&model, &load, 2), (Fill::Overtaken, 1));
    assert_eq!(held(&model), Some(1));
}

#[test]
fn a_load_that_is_void_overtakes_one_that_began_later_and_that_one_none() {
    let model = Model::new();
    let void = lead(&model);
    model.ledger.fence(&key(0), &model.region, &model.l1, false);
    let late = lead(&model);
    // It read a change that this process has not heard of yet.
    assert_eq!(land(&model, &void, 2), (Fill::Fenced, 2));
    let next = lead(&model);
    assert_eq!(land(&model, &late, 1), (Fill::Overtaken, 1));
    assert_eq!(held(&model), None, "2 was handed out before");
    assert_eq!(land(&model, &next, 2), (Fill::Done, 2));
    assert_eq!(held(&model), Some(2), "however many come back at once, the third is kept");
}

#[test]
fn reads_that_come_back_at_once_get_into_l1_after_a_fence() {
    let model = Model::new();
    let (ledger, region, l1, key) = (&model.ledger, &model.region, &model.l1, key(0));
    let ordered = |start| Slot { version: 5, ..slot(start, 1) };
    let mut begun = ledger.begin(&key, region);
    ledger.fence(&key, region, l1, false);
    for read in 0.. {
        // Each begins before the one before it lands.
        let next = ledger.begin(&key, region);
        ledger.fill(&key, region, l1, begun.at, ordered(begun.start));
        if held(&model).is_some() {
            break;
        }
        assert!(read < 3, "they keep each other out");
        begun = next;
    }
}
