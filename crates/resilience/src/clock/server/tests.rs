//! Which observations the server clock keeps, and what it then says.

use super::*;

const SERVER: u64 = 1_800_000_000_000_000;

fn ago(millis: u64) -> LeaseInstant {
    LeaseClock::now() - Duration::from_millis(millis)
}

fn off_by(clock: &ServerClock, expected_micros: u64) -> u64 {
    clock.now_unix_micros().abs_diff(expected_micros)
}

#[test]
fn answers_with_local_time_until_it_knows_better() {
    let clock = ServerClock::new();
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
    assert!(off_by(&clock, wall) < 5_000_000);
    assert_eq!((clock.uncertainty(), clock.age()), (None, None));
}

#[test]
fn takes_the_middle_of_the_round_trip() {
    let clock = ServerClock::new();
    let sent = LeaseClock::now();
    clock.observe(SERVER, sent, sent + Duration::from_millis(10));
    let expected = SERVER + LeaseClock::now().saturating_since(sent).as_micros() as u64 - 5_000;
    assert!(off_by(&clock, expected) < 1_000_000);
    assert!(clock.uncertainty().unwrap() >= Duration::from_millis(5));
    assert!(clock.uncertainty().unwrap() < Duration::from_millis(6));
}

#[test]
fn a_worse_observation_that_agrees_is_not_taken() {
    let clock = ServerClock::new();
    clock.observe(SERVER, ago(2), ago(1));
    let good = clock.uncertainty().unwrap();
    clock.observe(SERVER, ago(400), LeaseClock::now());
    assert!(clock.uncertainty().unwrap() < good + Duration::from_millis(5));
}

#[test]
fn a_contradicting_observation_is_a_stepped_clock() {
    let clock = ServerClock::new();
    clock.observe(SERVER, ago(2), ago(1));
    clock.observe(SERVER + 3_600_000_000, ago(100), LeaseClock::now());
    assert!(off_by(&clock, SERVER + 3_600_000_000) < 5_000_000);
}

#[test]
fn certainty_fades_so_that_a_later_observation_wins() {
    let clock = ServerClock::new();
    let now = LeaseClock::now();
    // A test may run soon after boot, so the old one lies at boot at the earliest.
    let hours = now.saturating_since(LeaseInstant::from_nanos(0)).min(Duration::from_secs(10_000));
    let old = now - hours;
    clock.observe(SERVER - hours.as_micros() as u64, old, old);
    let faded = clock.uncertainty().unwrap();
    clock.observe(SERVER, now - faded / 2, now);
    assert!(clock.age().unwrap() < Duration::from_secs(5));
}

#[test]
fn reset_forgets() {
    let clock = ServerClock::new();
    clock.observe(SERVER, ago(2), ago(1));
    clock.clone().reset();
    assert_eq!(clock.uncertainty(), None);
}
