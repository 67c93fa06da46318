//! Probing under paused time: hard time-outs, staleness, groups, events, panics, endings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use resilience::{Breaker, BreakerConfig, BreakerState, Deadline};
use tokio::time::{Instant, advance};

mod puppet;

use puppet::{Act, Puppet};

use crate::{Config, Error, Group, HealthManager, ProbeReport, ProbeSpec, Status};

fn config() -> Config {
    Config { jitter: 0.0, ..Config::default() }
}

fn manager() -> HealthManager {
    config().build().unwrap()
}

/// Lets time pass in small steps, so that every task runs when its time has come.
async fn pass(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        advance(Duration::from_millis(50).min(end - Instant::now())).await;
        tokio::task::yield_now().await;
    }
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

fn status(health: &HealthManager, name: &str) -> Status {
    health.component(name).unwrap().status
}

#[tokio::test(start_paused = true)]
async fn critical_fails_and_the_rest_degrades() {
    let health = manager();
    let (database, cache) = (Puppet::healthy(), Puppet::healthy());
    health.register(ProbeSpec::new("database").critical().group(Group::Readiness), database.clone()).unwrap();
    health.register(ProbeSpec::new("cache"), cache.clone()).unwrap();
    assert_eq!(health.check_health().status, Status::Unknown, "a critical probe has not answered yet");
    health.start().unwrap();
    pass(Duration::from_millis(100)).await;
    assert_eq!(health.check_health().status, Status::Healthy);
    cache.set(Act::Say(ProbeReport::unhealthy("down")));
    pass(Duration::from_secs(5)).await;
    assert_eq!(health.check_health().status, Status::Degraded);
    assert!(health.group(Group::Readiness).passing);
    database.set(Act::Say(ProbeReport::unhealthy("gone")));
    pass(Duration::from_secs(5)).await;
    let report = health.check_health();
    assert_eq!(report.status, Status::Unhealthy);
    assert_eq!(report.components["database"].reason.as_deref(), Some("gone"));
    assert_eq!(report.components["database"].consecutive_failures, 1);
    assert!(!health.group(Group::Readiness).passing);
    assert!(health.group(Group::Liveness).passing, "an outage outside must never restart the process");
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_hangs_is_cut_and_never_doubled() {
    let health = manager();
    let probe = Puppet::new(Act::Hang);
    health.register(ProbeSpec::new("slow"), probe.clone()).unwrap();
    health.start().unwrap();
    pass(Duration::from_millis(1_900)).await;
    assert_eq!(status(&health, "slow"), Status::Unknown);
    pass(Duration::from_millis(200)).await;
    let slow = health.component("slow").unwrap();
    assert_eq!((slow.status, slow.reason.as_deref()), (Status::Unhealthy, Some("no answer within 2s")));
    for _ in 0..20 {
        health.check_now(Deadline::after(Duration::from_millis(1))).await;
    }
    pass(Duration::from_secs(60)).await;
    assert_eq!(probe.at_once.load(Ordering::SeqCst), 1);
    probe.set(Act::Say(ProbeReport::healthy()));
    pass(Duration::from_secs(7)).await;
    assert_eq!(status(&health, "slow"), Status::Healthy);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failure_and_probing_goes_on() {
    let health = manager();
    let probe = Puppet::new(Act::Panic);
    health.register(ProbeSpec::new("wild"), probe.clone()).unwrap();
    health.start().unwrap();
    pass(Duration::from_millis(100)).await;
    assert_eq!(health.component("wild").unwrap().reason.as_deref(), Some("the probe panicked"));
    probe.set(Act::Say(ProbeReport::healthy()));
    pass(Duration::from_secs(5)).await;
    assert_eq!(status(&health, "wild"), Status::Healthy);
}

#[tokio::test(start_paused = true)]
async fn three_missed_periods_are_a_failure() {
    let health = manager();
    let probe = Puppet::healthy();
    // Its own time-out is so long that only silence can tell.
    let spec = ProbeSpec::new("silent").critical().within(Duration::from_secs(3_600));
    health.register(spec, probe.clone()).unwrap();
    health.start().unwrap();
    pass(Duration::from_millis(100)).await;
    probe.set(Act::Hang);
    pass(Duration::from_millis(14_800)).await;
    assert_eq!(status(&health, "silent"), Status::Healthy, "2.98 periods of silence");
    pass(Duration::from_millis(1_200)).await;
    let silent = health.component("silent").unwrap();
    assert_eq!((silent.status, silent.stale), (Status::Unhealthy, true));
    assert!(silent.reason.unwrap().starts_with("no answer for 1"));
    assert_eq!(health.check_health().status, Status::Unhealthy);
    let told = health.history().into_iter().any(|e| e.component == "silent" && e.to == Status::Unhealthy);
    assert!(told, "silence has to be an event without anybody asking");
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_never_answers_is_stale_too() {
    let health = manager();
    let spec = ProbeSpec::new("mute").within(Duration::from_secs(3_600));
    health.register(spec, Puppet::new(Act::Hang)).unwrap();
    health.start().unwrap();
    pass(Duration::from_secs(14)).await;
    assert_eq!(status(&health, "mute"), Status::Unknown);
    pass(Duration::from_secs(2)).await;
    assert_eq!(status(&health, "mute"), Status::Unhealthy);
}

#[tokio::test(start_paused = true)]
async fn transitions_are_events_with_recovery_time() {
    let health = manager();
    let mut events = health.events();
    let probe = Puppet::healthy();
    health.register(ProbeSpec::new("database").critical(), probe.clone()).unwrap();
    health.start().unwrap();
    pass(Duration::from_millis(100)).await;
    probe.set(Act::Say(ProbeReport::unhealthy("gone")));
    pass(Duration::from_secs(5)).await;
    probe.set(Act::Say(ProbeReport::healthy()));
    pass(Duration::from_secs(5)).await;
    let told: Vec<_> =
        health.history().into_iter().map(|e| (e.sequence, e.component, e.from, e.to)).collect();
    let step = |n, component: &str, from, to| (n, component.to_owned(), from, to);
    assert_eq!(
        told,
        [
            step(1, "database", Status::Unknown, Status::Healthy),
            step(2, "overall", Status::Unknown, Status::Healthy),
            step(3, "database", Status::Healthy, Status::Unhealthy),
            step(4, "overall", Status::Healthy, Status::Unhealthy),
            step(5, "database", Status::Unhealthy, Status::Healthy),
            step(6, "overall", Status::Unhealthy, Status::Healthy),
        ]
    );
    let recovery = health.history()[4].recovery_seconds.unwrap();
    assert!((4.9..5.2).contains(&recovery), "{recovery}");
    for sequence in 1..=6 {
        assert_eq!(events.recv().await.unwrap().sequence, sequence);
    }
}

#[tokio::test(start_paused = true)]
async fn the_history_is_bounded() {
    let health = Config { history: 3, ..config() }.build().unwrap();
    let probe = Puppet::healthy();
    health.register(ProbeSpec::new("flapping"), probe.clone()).unwrap();
    health.start().unwrap();
    for round in 0..10 {
        probe.set(Act::Say(if round % 2 == 0 {
            ProbeReport::unhealthy("x")
        } else {
            ProbeReport::healthy()
        }));
        health.check_now(Deadline::after(Duration::from_secs(1))).await;
    }
    let history = health.history();
    assert_eq!(history.len(), 3);
    assert_eq!(history[2].sequence - history[0].sequence, 2);
}

#[tokio::test(start_paused = true)]
async fn check_now_waits_for_an_answer_and_not_for_longer_than_asked() {
    let health = manager();
    let (quick, late) = (Puppet::healthy(), Puppet::new(Act::Late(Duration::from_millis(700))));
    health.register(ProbeSpec::new("quick"), quick.clone()).unwrap();
    health.register(ProbeSpec::new("late"), late).unwrap();
    health.start().unwrap();
    let before = Instant::now();
    health.check_now(Deadline::after(Duration::from_millis(300))).await;
    assert_eq!(before.elapsed(), Duration::from_millis(300));
    assert_eq!((status(&health, "quick"), status(&health, "late")), (Status::Healthy, Status::Unknown));
    health.check_now(Deadline::after(Duration::from_secs(2))).await;
    assert_eq!(status(&health, "late"), Status::Healthy);
    assert!(quick.runs.load(Ordering::SeqCst) >= 2);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_names_a_missing_probe_refuses_to_start() {
    let groups = BTreeMap::from([(Group::Readiness, vec!["database".to_owned(), "quue".to_owned()])]);
    let health = Config { groups, ..config() }.build().unwrap();
    health.register(ProbeSpec::new("database"), Puppet::healthy()).unwrap();
    let told = health.start().unwrap_err().to_string();
    assert_eq!(told, "group readiness names the probe \"quue\", which does not exist; there are: database");
    health.register(ProbeSpec::new("quue"), Puppet::healthy()).unwrap();
    health.start().unwrap();
    pass(Duration::from_millis(100)).await;
    assert_eq!(health.group(Group::Readiness).components.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn liveness_refuses_what_looks_outside() {
    let health = manager();
    let outside = ProbeSpec::new("database").group(Group::Liveness);
    assert_eq!(health.register(outside, Puppet::healthy()), Err(Error::OutsideLiveness("database".into())));
    let inside = ProbeSpec::new("memory").in_process().critical().group(Group::Liveness);
    health.register(inside, Puppet::new(Act::Say(ProbeReport::unhealthy("out of memory")))).unwrap();
    health.start().unwrap();
    assert!(health.group(Group::Liveness).passing, "what is not known yet does not restart a process");
    pass(Duration::from_millis(100)).await;
    assert!(!health.group(Group::Liveness).passing);
    let groups = BTreeMap::from([(Group::Liveness, vec!["database".to_owned()])]);
    let configured = Config { groups, ..config() }.build().unwrap();
    let refused = configured.register(ProbeSpec::new("database"), Puppet::healthy());
    assert_eq!(refused, Err(Error::OutsideLiveness("database".into())));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_ready_before_the_start_and_after_the_shutdown() {
    let health = manager();
    assert!(!health.group(Group::Readiness).passing && !health.group(Group::Startup).passing);
    assert!(health.group(Group::Liveness).passing);
    health.start().unwrap();
    assert!(health.group(Group::Readiness).passing, "nothing to wait for");
    health.shutdown().await;
    assert!(!health.group(Group::Readiness).passing);
    assert!(health.group(Group::Liveness).passing);
}

#[tokio::test(start_paused = true)]
async fn startup_stays_passed() {
    let health = manager();
    let probe = Puppet::new(Act::Say(ProbeReport::unhealthy("not yet")));
    health.register(ProbeSpec::new("database").critical().group(Group::Startup), probe.clone()).unwrap();
    health.start().unwrap();
    pass(Duration::from_millis(100)).await;
    assert!(!health.group(Group::Startup).passing);
    probe.set(Act::Say(ProbeReport::healthy()));
    pass(Duration::from_secs(7)).await;
    probe.set(Act::Say(ProbeReport::unhealthy("gone")));
    pass(Duration::from_secs(7)).await;
    assert!(health.group(Group::Startup).passing);
    assert_eq!(health.group(Group::Startup).status, Status::Unhealthy);
}

#[tokio::test(start_paused = true)]
async fn names_are_checked_and_unique_and_can_be_taken_back() {
    let health = manager();
    for bad in ["", "a b", "overall", &"x".repeat(65)] {
        assert_eq!(health.register(ProbeSpec::new(bad), Puppet::healthy()), Err(Error::Name(bad.into())));
    }
    health.register(ProbeSpec::new("a"), Puppet::healthy()).unwrap();
    assert_eq!(health.register(ProbeSpec::new("a"), Puppet::healthy()), Err(Error::Duplicate("a".into())));
    health.start().unwrap();
    let late = Puppet::healthy();
    health.register(ProbeSpec::new("late"), late.clone()).unwrap();
    pass(Duration::from_millis(100)).await;
    assert_eq!(status(&health, "late"), Status::Healthy, "registered on a running manager, it runs at once");
    assert!(health.deregister("late") && !health.deregister("late"));
    let runs = late.runs.load(Ordering::SeqCst);
    pass(Duration::from_secs(30)).await;
    assert_eq!(late.runs.load(Ordering::SeqCst), runs);
}

#[tokio::test(start_paused = true)]
async fn breakers_are_shown_and_reset_by_name() {
    let health = manager();
    let breaker = Breaker::new(BreakerConfig::default());
    health.register_breaker("redis", breaker.clone()).unwrap();
    breaker.force_open();
    assert_eq!(health.breakers()["redis"].state, BreakerState::ForcedOpen);
    health.reset_breaker("redis").unwrap();
    assert_eq!(health.breakers()["redis"].state, BreakerState::Closed);
    assert_eq!(
        health.reset_breaker("other").unwrap_err().to_string(),
        "there is no breaker named \"other\"; there are: redis"
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_runs_on_after_shutdown_or_drop() {
    for drop_only in [false, true] {
        let health = manager();
        let probe = Puppet::healthy();
        let probe_alive = Arc::downgrade(&probe);
        health.register(ProbeSpec::new("a"), probe).unwrap();
        health.start().unwrap();
        pass(Duration::from_millis(100)).await;
        if drop_only {
            drop(health);
            pass(Duration::from_millis(100)).await;
            assert!(probe_alive.upgrade().is_none(), "a task holds on to the probe");
        } else {
            health.shutdown().await;
            health.shutdown().await;
            let probe = probe_alive.upgrade().unwrap();
            let runs = probe.runs.load(Ordering::SeqCst);
            pass(Duration::from_secs(60)).await;
            assert_eq!(probe.runs.load(Ordering::SeqCst), runs);
            assert_eq!(status(&health, "a"), Status::Unhealthy, "what is not probed goes stale");
            assert_eq!(health.start(), Err(Error::Shutdown));
        }
    }
}

#[test]
fn it_works_without_a_runtime() {
    let health = manager();
    health.register(ProbeSpec::new("a"), Puppet::healthy()).unwrap();
    assert_eq!(health.start(), Err(Error::NoRuntime));
    assert_eq!(health.check_health().status, Status::Healthy, "nothing critical is unknown");
}

/// Answers that come at the same time are told in one order: each event begins where the one before it ended.
#[test]
fn what_is_told_is_a_chain() {
    let health = Config { history: 100_000, ..config() }.build().unwrap();
    for name in ["a", "b"] {
        health.register(ProbeSpec::new(name).critical(), Puppet::healthy()).unwrap();
    }
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let inner = &health.inner;
            scope.spawn(move || {
                for round in 0..4000 {
                    let report = match (round + thread) % 3 {
                        0 => ProbeReport::healthy(),
                        1 => ProbeReport::degraded("slow"),
                        _ => ProbeReport::unhealthy("gone"),
                    };
                    inner.answered(["a", "b"][round % 2], report, Duration::ZERO);
                }
            });
        }
    });
    let mut told = BTreeMap::new();
    for event in health.history() {
        let before = told.insert(event.component.clone(), event.to).unwrap_or(Status::Unknown);
        assert_eq!(event.from, before, "{event:?}");
    }
    assert_eq!(told["overall"], health.check_health().status);
}

#[test]
fn settings_are_checked_together() {
    let bad = Config {
        period: Duration::ZERO,
        timeout: Duration::ZERO,
        jitter: 2.0,
        history: 0,
        ..Config::default()
    };
    assert_eq!(bad.validate().unwrap_err().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn reports_read_as_json() {
    let health = manager();
    let report = ProbeReport::degraded("one replica lags").detail("lag", 7).took(Duration::from_millis(3));
    health.register(ProbeSpec::new("database").critical(), Puppet::new(Act::Say(report))).unwrap();
    health.start().unwrap();
    pass(Duration::from_millis(100)).await;
    let json = serde_json::to_value(health.check_health()).unwrap();
    assert_eq!(json["status"], "degraded");
    assert_eq!(json["components"]["database"]["response_time_ms"], 3.0);
    assert_eq!(json["components"]["database"]["details"]["lag"], 7);
    assert!(json["timestamp"].as_str().unwrap().ends_with('Z'));
}
