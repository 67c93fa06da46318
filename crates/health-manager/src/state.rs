//! What is known of each probe, and what that makes of the whole. It runs nothing; the runner tells it.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use resilience::Breaker;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::events::{Event, Events};
use crate::metrics::Metrics;
use crate::report::aggregate;
use crate::runner::{self, Run};
use crate::{ComponentHealth, Config, Group, GroupReport, Probe, ProbeReport, ProbeSpec, Status, Timestamp};

/// The component name of everything together.
pub(crate) const OVERALL: &str = "overall";
/// An answer counts for this many periods.
const STALE_PERIODS: u32 = 3;

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) entries: Mutex<BTreeMap<String, Entry>>,
    pub(crate) overall: Mutex<(Status, Instant)>,
    pub(crate) startup_passed: Mutex<bool>,
    pub(crate) breakers: Mutex<BTreeMap<String, Breaker>>,
    pub(crate) events: Events,
    pub(crate) metrics: Metrics,
    pub(crate) runtime: Mutex<Option<Handle>>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) spec: ProbeSpec,
    pub(crate) probe: Arc<dyn Probe>,
    pub(crate) period: Duration,
    pub(crate) timeout: Duration,
    pub(crate) wake: Arc<Notify>,
    pub(crate) done: watch::Sender<u64>,
    pub(crate) stop: CancellationToken,
    /// When silence began to count: at its start.
    pub(crate) waiting_since: Option<Instant>,
    pub(crate) last: Option<(ProbeReport, Duration, Instant)>,
    pub(crate) failures: u64,
    /// What was last told as its status, since when.
    pub(crate) told: Status,
    pub(crate) since: Timestamp,
    pub(crate) unwell_since: Option<Instant>,
}

impl Entry {
    pub(crate) fn spawn(&mut self, inner: &Arc<Inner>, runtime: &Handle) {
        self.waiting_since = Some(Instant::now());
        let run = Run {
            name: self.spec.name.clone(),
            probe: Arc::clone(&self.probe),
            period: self.period,
            timeout: self.timeout,
            jitter: inner.config.jitter,
            wake: Arc::clone(&self.wake),
            done: self.done.clone(),
            inner: Weak::clone(&Arc::downgrade(inner)),
            stop: self.stop.clone(),
        };
        inner.tasks.spawn_on(runner::run(run), runtime);
    }

    /// As of now: an answer that is too old has become a failure.
    pub(crate) fn health(&self) -> ComponentHealth {
        let age = self.last.as_ref().map(|(_, _, at)| at.elapsed());
        let silence = age.or_else(|| self.waiting_since.map(|at| at.elapsed())).unwrap_or_default();
        let stale = silence > self.period * STALE_PERIODS;
        let (status, reason) = match &self.last {
            _ if stale => (Status::Unhealthy, Some(format!("no answer for {:.1} s", silence.as_secs_f64()))),
            Some((report, ..)) => (report.status, report.reason.clone()),
            None => (Status::Unknown, Some("not probed yet".to_owned())),
        };
        let took = self.last.as_ref().map(|(report, took, _)| report.response_time.unwrap_or(*took));
        ComponentHealth {
            status,
            reason,
            since: if status == self.told { self.since } else { Timestamp::now() },
            age_ms: age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            response_time_ms: took.map(|took| took.as_secs_f64() * 1_000.0),
            stale,
            critical: self.spec.critical,
            consecutive_failures: self.failures,
            details: self.last.as_ref().map(|(report, ..)| report.details.clone()).unwrap_or_default(),
        }
    }

    /// Notes a change since it was last told.
    pub(crate) fn change(&mut self) -> Option<Event> {
        let now = self.health();
        if now.status == self.told {
            return None;
        }
        let (from, at) = (self.told, Timestamp::now());
        self.told = now.status;
        self.since = at;
        let unwell = matches!(now.status, Status::Degraded | Status::Unhealthy);
        let recovery = if now.status == Status::Healthy { self.unwell_since.take() } else { None };
        if unwell {
            self.unwell_since.get_or_insert_with(Instant::now);
        }
        Some(Event {
            sequence: 0,
            at,
            component: self.spec.name.clone(),
            from,
            to: now.status,
            reason: now.reason,
            recovery_seconds: recovery.map(|since| since.elapsed().as_secs_f64()),
        })
    }
}

impl Inner {
    /// Takes a probe's answer.
    pub(crate) fn answered(&self, name: &str, report: ProbeReport, took: Duration) {
        self.tell(|entries| {
            let Some(entry) = entries.get_mut(name) else { return Vec::new() };
            entry.failures = if report.status == Status::Unhealthy { entry.failures + 1 } else { 0 };
            entry.last = Some((report, took, Instant::now()));
            entry.change().into_iter().collect()
        });
    }

    pub(crate) fn sweep(&self) {
        self.tell(|entries| entries.values_mut().filter_map(Entry::change).collect());
        self.group(Group::Startup); // Passes as soon as it can, whether or not anybody asks.
    }

    /// Publishes changes of components, and what they make of the whole. `overall` is held from before the first look
    /// until the last word, so that what is told is told in the order in which it came about.
    fn tell(&self, changes: impl FnOnce(&mut BTreeMap<String, Entry>) -> Vec<Event>) {
        let mut overall = self.overall.lock();
        let events = changes(&mut self.entries.lock());
        for event in events {
            self.events.publish(event, &self.metrics);
        }
        let components = self.components(|_| true);
        let status = aggregate(components.values());
        let (from, since) = *overall;
        if from == status {
            return;
        }
        *overall = (status, Instant::now());
        let unwell = matches!(from, Status::Degraded | Status::Unhealthy);
        let worst = components.iter().max_by_key(|(_, health)| (health.critical, health.status));
        let reason = worst.and_then(|(name, health)| Some(format!("{name}: {}", health.reason.as_deref()?)));
        let event = Event {
            sequence: 0,
            at: Timestamp::now(),
            component: OVERALL.to_owned(),
            from,
            to: status,
            reason: reason.filter(|_| status != Status::Healthy),
            recovery_seconds: (status == Status::Healthy && unwell).then(|| since.elapsed().as_secs_f64()),
        };
        self.events.publish(event, &self.metrics);
    }

    pub(crate) fn components(&self, wanted: impl Fn(&Entry) -> bool) -> BTreeMap<String, ComponentHealth> {
        let entries = self.entries.lock();
        entries
            .iter()
            .filter(|(_, entry)| wanted(entry))
            .map(|(name, entry)| (name.clone(), entry.health()))
            .collect()
    }

    pub(crate) fn groups_of(&self, spec: &ProbeSpec) -> Vec<Group> {
        let configured = self.config.groups.iter().filter(|(_, names)| names.contains(&spec.name));
        configured.map(|(group, _)| *group).chain(spec.groups.iter().copied()).collect()
    }

    pub(crate) fn group(&self, group: Group) -> GroupReport {
        let components = self.components(|entry| self.groups_of(&entry.spec).contains(&group));
        let status = aggregate(components.values());
        // Before the start there is nothing to fail, and after the end nothing to trust.
        let probing = self.runtime.lock().is_some() && !self.stop.is_cancelled();
        let passing = match group {
            Group::Liveness => status != Status::Unhealthy,
            Group::Readiness => probing && status.is_serving(),
            Group::Startup => {
                let mut passed = self.startup_passed.lock();
                *passed |= probing && status.is_serving();
                *passed
            }
        };
        GroupReport { group, passing, status, timestamp: Timestamp::now(), components }
    }
}
