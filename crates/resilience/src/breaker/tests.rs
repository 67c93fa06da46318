//! The breaker's rules: tables over its pure machine, random histories, and the public type under paused time.

use super::*;
use proptest::prelude::*;

/// Without jitter, so that times are exact.
fn exact() -> BreakerConfig {
    let mut config = BreakerConfig::default();
    config.open.jitter = 0.0;
    config
}

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const FAST: Duration = Duration::from_millis(1);
const SLOW: Duration = Duration::from_millis(1001);

/// Makes `count` calls with one outcome, those that are admitted.
fn calls(machine: &mut Machine, now: Duration, count: u64, outcome: Outcome, took: Duration) {
    for _ in 0..count {
        if let Ok(cycle) = machine.acquire(now, 0.0) {
            machine.record(now, cycle, outcome, took, 0.0);
        }
    }
}

fn opened(now: Duration) -> Machine {
    let mut machine = Machine::new(exact());
    calls(&mut machine, now, 20, Outcome::Failure, FAST);
    assert_eq!(machine.state(), BreakerState::Open);
    machine
}

#[test]
fn needs_enough_calls_and_half_of_them_failed() {
    let mut machine = Machine::new(exact());
    calls(&mut machine, at(0), 19, Outcome::Failure, FAST);
    assert_eq!(machine.state(), BreakerState::Closed);
    calls(&mut machine, at(1), 1, Outcome::Failure, FAST);
    assert_eq!(machine.state(), BreakerState::Open);

    let mut machine = Machine::new(exact());
    calls(&mut machine, at(0), 30, Outcome::Success, FAST);
    calls(&mut machine, at(0), 29, Outcome::Failure, FAST);
    assert_eq!(machine.state(), BreakerState::Closed);
    calls(&mut machine, at(0), 1, Outcome::Failure, FAST);
    assert_eq!(machine.state(), BreakerState::Open);
}

#[test]
fn a_success_can_complete_the_minimum() {
    let mut machine = Machine::new(exact());
    calls(&mut machine, at(0), 19, Outcome::Failure, FAST);
    calls(&mut machine, at(0), 1, Outcome::Success, FAST);
    assert_eq!(machine.state(), BreakerState::Open);
}

#[test]
fn slow_calls_open_it_at_four_fifths() {
    let mut machine = Machine::new(exact());
    calls(&mut machine, at(0), 5, Outcome::Success, FAST);
    calls(&mut machine, at(0), 19, Outcome::Success, SLOW);
    assert_eq!(machine.state(), BreakerState::Closed);
    calls(&mut machine, at(0), 1, Outcome::Success, SLOW);
    assert_eq!(machine.state(), BreakerState::Open);
    assert_eq!(machine.history().last().unwrap().cause, TransitionCause::SlowRate);
}

#[test]
fn ignored_calls_count_for_nothing() {
    let mut machine = Machine::new(exact());
    calls(&mut machine, at(0), 100, Outcome::Ignored, SLOW);
    assert_eq!(machine.totals(at(0)), window::Totals::default());
}

#[test]
fn what_is_older_than_ten_seconds_is_forgotten() {
    let mut machine = Machine::new(exact());
    calls(&mut machine, at(500), 19, Outcome::Failure, FAST);
    calls(&mut machine, at(9_999), 0, Outcome::Failure, FAST);
    assert_eq!(machine.totals(at(9_999)).failures, 19);
    assert_eq!(machine.totals(at(10_000)).failures, 0);
    calls(&mut machine, at(10_000), 19, Outcome::Failure, FAST);
    assert_eq!(machine.state(), BreakerState::Closed);
}

#[test]
fn a_million_successes_do_not_hide_what_follows() {
    let mut machine = Machine::new(exact());
    calls(&mut machine, at(0), 1_000_000, Outcome::Success, FAST);
    let mut now = 0;
    while machine.state() == BreakerState::Closed {
        now += 100;
        calls(&mut machine, at(now), 1, Outcome::Failure, FAST);
        assert!(now <= 12_000, "still closed after {now} ms of failures");
    }
}

#[test]
fn open_refuses_until_the_wait_is_over() {
    let mut machine = opened(at(1000));
    assert_eq!(machine.retry_after(at(2000)), Some(at(4000)));
    let refusal = machine.acquire(at(5_999), 0.0).unwrap_err();
    assert_eq!(refusal, Refusal { state: BreakerState::Open, retry_after: Some(at(1)) });
    assert!(machine.acquire(at(6000), 0.0).is_ok());
    assert_eq!(machine.state(), BreakerState::HalfOpen);
    assert_eq!(machine.refused(), 1);
}

#[test]
fn three_good_trials_close_it_and_say_how_long_it_took() {
    let mut machine = opened(at(0));
    let trials: Vec<_> = (0..3).map(|_| machine.acquire(at(5000), 0.0).unwrap()).collect();
    let fourth = machine.acquire(at(5000), 0.0).unwrap_err();
    assert_eq!(fourth, Refusal { state: BreakerState::HalfOpen, retry_after: Some(at(10_000)) });
    for cycle in trials {
        assert_eq!(machine.state(), BreakerState::HalfOpen);
        machine.record(at(6000), cycle, Outcome::Success, FAST, 0.0);
    }
    assert_eq!(machine.state(), BreakerState::Closed);
    assert_eq!(machine.last_recovery(), Some(at(6000)));
    assert_eq!((machine.opened_at(), machine.failure_count(at(6000))), (None, 0));
}

#[test]
fn one_bad_trial_opens_it_for_longer_up_to_a_minute() {
    let mut machine = opened(at(0));
    let mut now = at(0);
    for wait in [5, 10, 20, 40, 60, 60].map(Duration::from_secs) {
        assert!(machine.acquire(now + wait - FAST, 0.0).is_err());
        now += wait;
        let cycle = machine.acquire(now, 0.0).unwrap();
        machine.record(now, cycle, Outcome::Failure, FAST, 0.0);
        assert_eq!(machine.state(), BreakerState::Open);
    }
    assert_eq!(machine.times_opened(), 7);
    assert_eq!(machine.failure_count(now), 26);
    // After a recovery it begins at the base again.
    now += Duration::from_secs(60);
    calls(&mut machine, now, 3, Outcome::Success, FAST);
    assert_eq!(machine.state(), BreakerState::Closed);
    calls(&mut machine, now, 20, Outcome::Failure, FAST);
    assert_eq!(machine.retry_after(now), Some(Duration::from_secs(5)));
}

#[test]
fn slow_trials_open_it_again() {
    let mut machine = opened(at(0));
    calls(&mut machine, at(5000), 3, Outcome::Success, SLOW);
    assert_eq!(machine.state(), BreakerState::Open);
    assert_eq!(machine.history().last().unwrap().cause, TransitionCause::TrialFailed);
}

#[test]
fn a_cancelled_trial_gives_its_permit_back() {
    let mut machine = opened(at(0));
    for _ in 0..50 {
        let cycle = machine.acquire(at(5000), 0.0).unwrap();
        machine.record(at(5000), cycle, Outcome::Ignored, FAST, 0.0);
    }
    calls(&mut machine, at(5000), 3, Outcome::Success, FAST);
    assert_eq!(machine.state(), BreakerState::Closed);
}

#[test]
fn trials_that_hang_open_it_again_after_ten_seconds() {
    let mut machine = opened(at(0));
    let hanging = machine.acquire(at(5000), 0.0).unwrap();
    machine.tick(at(14_999), 0.0);
    assert_eq!(machine.state(), BreakerState::HalfOpen);
    machine.tick(at(15_000), 0.0);
    assert_eq!(machine.state(), BreakerState::Open);
    assert_eq!(machine.history().last().unwrap().cause, TransitionCause::TrialTimedOut);
    // Its answer comes too late to count, and a fresh set is there.
    machine.record(at(15_001), hanging, Outcome::Success, FAST, 0.0);
    assert_eq!(machine.state(), BreakerState::Open);
    let fresh: Vec<_> = (0..4).map(|_| machine.acquire(at(25_000), 0.0).is_ok()).collect();
    assert_eq!(fresh, [true, true, true, false]);
}

#[test]
fn the_few_trials_of_a_quiet_time_decide() {
    let mut machine = opened(at(0));
    calls(&mut machine, at(5000), 1, Outcome::Success, FAST);
    machine.tick(at(14_999), 0.0);
    assert_eq!(machine.state(), BreakerState::HalfOpen);
    machine.tick(at(15_000), 0.0);
    assert_eq!(machine.state(), BreakerState::Closed);
    assert_eq!(machine.history().last().unwrap().cause, TransitionCause::TrialPassed);
    assert_eq!(machine.last_recovery(), Some(at(15_000)));

    let mut machine = opened(at(0));
    calls(&mut machine, at(5000), 1, Outcome::Success, SLOW);
    machine.tick(at(15_000), 0.0);
    assert_eq!(machine.state(), BreakerState::Open);
    assert_eq!(machine.history().last().unwrap().cause, TransitionCause::TrialFailed);
}

#[test]
fn a_half_open_breaker_that_nobody_asks_starts_a_fresh_cycle() {
    let mut machine = opened(at(0));
    calls(&mut machine, at(5000), 1, Outcome::Ignored, FAST);
    machine.tick(at(60_000), 0.0);
    assert_eq!(machine.state(), BreakerState::HalfOpen);
    let fresh: Vec<_> = (0..4).map(|_| machine.acquire(at(60_000), 0.0).is_ok()).collect();
    assert_eq!(fresh, [true, true, true, false]);
}

#[test]
fn calls_of_the_closed_time_do_not_decide_the_trial() {
    let mut machine = Machine::new(exact());
    let old = machine.acquire(at(0), 0.0).unwrap();
    calls(&mut machine, at(0), 20, Outcome::Failure, FAST);
    calls(&mut machine, at(5000), 1, Outcome::Success, FAST);
    machine.record(at(5001), old, Outcome::Failure, SLOW, 0.0);
    assert_eq!(machine.state(), BreakerState::HalfOpen);
    assert_eq!(machine.last_failure(), Some(at(5001)));
}

#[test]
fn an_operator_decides() {
    let mut machine = Machine::new(exact());
    machine.force_open(at(0));
    let refusal = machine.acquire(at(1_000_000), 0.0).unwrap_err();
    assert_eq!(refusal, Refusal { state: BreakerState::ForcedOpen, retry_after: None });
    machine.disable(at(1));
    calls(&mut machine, at(1), 100, Outcome::Failure, FAST);
    assert_eq!((machine.state(), machine.failure_count(at(1))), (BreakerState::Disabled, 0));
    machine.reset(at(2));
    assert_eq!(machine.state(), BreakerState::Closed);
    assert!(machine.history().all(|step| step.cause == TransitionCause::Operator));
}

#[test]
fn the_history_is_bounded_and_numbered() {
    let mut machine = Machine::new(exact());
    for round in 0..100 {
        machine.force_open(at(round));
        machine.reset(at(round));
    }
    let sequence: Vec<_> = machine.history().map(|step| step.sequence).collect();
    assert_eq!(sequence, (137..=200).collect::<Vec<_>>());
}

#[derive(Clone, Debug)]
enum Act {
    Acquire,
    Tell { which: usize, outcome: usize },
    Wait { millis: u64 },
    Reset,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => Just(Act::Acquire),
        6 => (any::<prop::sample::Index>(), 0..3_usize)
            .prop_map(|(which, outcome)| Act::Tell { which: which.index(64), outcome }),
        3 => (0_u64..20_000).prop_map(|millis| Act::Wait { millis }),
        1 => Just(Act::Reset),
    ]
}

proptest! {
    /// Whatever happens: a half-open cycle has at most three permits out, an open breaker lets nothing pass before its
    /// time and can always be tried within a minute, and history is a chain.
    #[test]
    fn invariants_hold_in_any_history(acts in prop::collection::vec(act(), 1..400), unit in 0.0_f64..1.0) {
        let config = BreakerConfig { minimum_calls: 3, ..BreakerConfig::default() };
        let mut machine = Machine::new(config);
        let mut now = Duration::ZERO;
        let mut out: Vec<(u64, Duration, BreakerState)> = Vec::new();
        for act in acts {
            match act {
                Act::Wait { millis } => now += at(millis),
                Act::Reset => machine.reset(now),
                Act::Acquire => {
                    let before = (machine.state(), machine.retry_after(now));
                    match machine.acquire(now, unit) {
                        Ok(cycle) => {
                            if let (BreakerState::Open, Some(wait)) = before {
                                prop_assert_eq!(wait, Duration::ZERO);
                            }
                            out.push((cycle, now, machine.state()));
                        }
                        Err(refusal) => {
                            prop_assert!(refusal.retry_after.unwrap() <= Duration::from_secs(60));
                        }
                    }
                }
                Act::Tell { which, outcome } if !out.is_empty() => {
                    let (cycle, since, _) = out.remove(which % out.len());
                    let outcome = [Outcome::Success, Outcome::Failure, Outcome::Ignored][outcome];
                    machine.record(now, cycle, outcome, now - since, unit);
                }
                Act::Tell { .. } => {}
            }
            let last_cycle = out.iter().filter(|(_, _, state)| *state == BreakerState::HalfOpen);
            let newest = last_cycle.clone().map(|(cycle, ..)| *cycle).max();
            prop_assert!(last_cycle.filter(|(cycle, ..)| Some(*cycle) == newest).count() <= 3);
            let steps: Vec<_> = machine.history().copied().collect();
            for pair in steps.windows(2) {
                prop_assert_eq!(pair[0].to, pair[1].from);
                prop_assert_eq!(pair[0].sequence + 1, pair[1].sequence);
                prop_assert!(pair[0].at <= pair[1].at);
            }
        }
        // Nothing keeps it open for ever.
        for _ in 0..10 {
            now += Duration::from_secs(60);
            calls(&mut machine, now, 3, Outcome::Success, FAST);
        }
        prop_assert_eq!(machine.state(), BreakerState::Closed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_permit_measures_its_own_age() {
    let breaker = Breaker::default();
    for _ in 0..20 {
        let permit = breaker.try_acquire().unwrap();
        tokio::time::advance(SLOW / 20).await;
        permit.success();
    }
    assert_eq!(breaker.status().slow_calls, 0);
    let permits: Vec<_> = (0..80).map(|_| breaker.try_acquire().unwrap()).collect();
    tokio::time::advance(SLOW).await;
    permits.into_iter().for_each(Permit::success);
    assert_eq!(breaker.state(), BreakerState::Open);
    let refused = breaker.try_acquire().unwrap_err();
    assert!(refused.retry_after.unwrap() <= Duration::from_secs(5));
    assert_eq!(refused.to_string(), "the circuit breaker is open");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_permit_is_a_cancelled_call() {
    let breaker = Breaker::default();
    for _ in 0..100 {
        drop(breaker.try_acquire().unwrap());
    }
    breaker.try_acquire().unwrap().ignored();
    assert_eq!(breaker.status().calls, 0);
}

#[tokio::test(start_paused = true)]
async fn status_and_history_tell_an_outage() {
    let breaker = Breaker::default();
    let other = breaker.clone();
    for _ in 0..20 {
        breaker.try_acquire().unwrap().failure();
    }
    let status = other.status();
    assert_eq!((status.state, status.failure_count, status.times_opened), (BreakerState::Open, 20, 1));
    assert!(status.opened_at.is_some() && status.last_failure_time.is_some() && status.retry_after.is_some());
    tokio::time::advance(Duration::from_secs(5)).await;
    for _ in 0..3 {
        breaker.try_acquire().unwrap().success();
    }
    let status = other.status();
    assert_eq!(status.state, BreakerState::Closed);
    assert_eq!(status.last_recovery, Some(Duration::from_secs(5)));
    let states: Vec<_> = other.history().iter().map(|transition| transition.to).collect();
    assert_eq!(states, [BreakerState::Open, BreakerState::HalfOpen, BreakerState::Closed]);
    other.force_open();
    assert!(breaker.try_acquire().is_err());
    other.disable();
    breaker.try_acquire().unwrap().failure();
    other.reset();
    assert_eq!(breaker.state(), BreakerState::Closed);
}
