//! The manager: probes with their last answers, groups, breakers. It waits for no backend when asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use resilience::{Breaker, BreakerStatus, Deadline};
use tokio::runtime::Handle;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::events::{Event, Events};
use crate::metrics::{self, Metrics};
use crate::report::aggregate;
use crate::runner;
use crate::state::{Entry, Inner, OVERALL};
use crate::{
    ComponentHealth, Config, Error, Group, GroupReport, HealthReport, Probe, ProbeSpec, Reach, Status,
    Timestamp,
};

/// Probes and breakers, each.
const LIMIT: usize = 1_000;

/// The health of a service. Cheap to clone; the background work ends with the last clone.
#[derive(Clone, Debug)]
pub struct HealthManager {
    inner: Arc<Inner>,
    /// Ends the tasks when the last handle goes, also without a shutdown.
    _stop: Arc<DropGuard>,
}

impl HealthManager {
    pub(crate) fn new(config: Config) -> Self {
        let stop = CancellationToken::new();
        let inner = Arc::new(Inner {
            events: Events::new(config.history),
            config,
            entries: Mutex::default(),
            overall: Mutex::new((Status::Unknown, Instant::now())),
            startup_passed: Mutex::new(false),
            breakers: Mutex::default(),
            metrics: Metrics::new(),
            runtime: Mutex::new(None),
            tasks: TaskTracker::new(),
            stop: stop.clone(),
        });
        let _gauge = metrics::observe_breakers(&inner);
        Self { inner, _stop: Arc::new(stop.drop_guard()) }
    }

    /// Adds a probe; on a started manager it runs at once.
    ///
    /// # Errors
    /// A name that is taken or cannot be used; a probe of something outside the process in liveness.
    pub fn register(&self, spec: ProbeSpec, probe: Arc<dyn Probe>) -> Result<(), Error> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if spec.name.is_empty()
            || spec.name.len() > 64
            || spec.name == OVERALL
            || !spec.name.chars().all(plain)
        {
            return Err(Error::Name(spec.name));
        }
        if spec.reach == Reach::Outside && self.inner.groups_of(&spec).contains(&Group::Liveness) {
            return Err(Error::OutsideLiveness(spec.name));
        }
        let runtime = self.inner.runtime.lock();
        let mut entries = self.inner.entries.lock();
        if entries.contains_key(&spec.name) {
            return Err(Error::Duplicate(spec.name));
        }
        if entries.len() >= LIMIT {
            return Err(Error::TooMany { what: "probes", limit: LIMIT });
        }
        let mut entry = Entry {
            period: spec.period.unwrap_or(self.inner.config.period).max(Duration::from_millis(10)),
            timeout: spec.timeout.unwrap_or(self.inner.config.timeout),
            probe,
            wake: Arc::new(Notify::new()),
            done: watch::Sender::new(0),
            stop: self.inner.stop.child_token(),
            waiting_since: None,
            last: None,
            failures: 0,
            told: Status::Unknown,
            since: Timestamp::now(),
            unwell_since: None,
            spec,
        };
        if let Some(runtime) = runtime.as_ref() {
            entry.spawn(&self.inner, runtime);
        }
        entries.insert(entry.spec.name.clone(), entry);
        Ok(())
    }

    /// Removes a probe and ends its task; `false`: there is none of that name.
    pub fn deregister(&self, name: &str) -> bool {
        let entry = self.inner.entries.lock().remove(name);
        if let Some(entry) = &entry {
            entry.stop.cancel();
        }
        entry.is_some()
    }

    /// Starts probing on the current runtime. A second call does nothing.
    ///
    /// # Errors
    /// A configured group that names a probe which does not exist, or for liveness one that looks outside the
    /// process; no runtime; shut down already.
    pub fn start(&self) -> Result<(), Error> {
        let handle = Handle::try_current().map_err(|_outside| Error::NoRuntime)?;
        if self.inner.stop.is_cancelled() {
            return Err(Error::Shutdown);
        }
        let mut runtime = self.inner.runtime.lock();
        if runtime.is_some() {
            return Ok(());
        }
        let mut entries = self.inner.entries.lock();
        check_groups(&self.inner.config.groups, &entries)?;
        for entry in entries.values_mut() {
            entry.spawn(&self.inner, &handle);
        }
        let shortest = entries.values().map(|entry| entry.period).min().unwrap_or(runner::SWEEP);
        let sweep = runner::sweep(
            Arc::downgrade(&self.inner),
            shortest.min(runner::SWEEP),
            self.inner.stop.child_token(),
        );
        self.inner.tasks.spawn_on(sweep, &handle);
        *runtime = Some(handle);
        Ok(())
    }

    /// Runs every probe now and waits until each has answered, at most until the deadline.
    ///
    /// Cancel safety: nothing is lost; the probes run on.
    pub async fn check_now(&self, deadline: Deadline) -> HealthReport {
        let waits: Vec<_> = {
            let entries = self.inner.entries.lock();
            let started = entries.values().filter(|entry| entry.waiting_since.is_some());
            started
                .map(|entry| {
                    let done = entry.done.subscribe();
                    let before = *done.borrow();
                    entry.wake.notify_one();
                    (done, before)
                })
                .collect()
        };
        let all = async {
            for (mut done, before) in waits {
                let _ = done.wait_for(|count| *count > before).await; // An error: it was removed.
            }
        };
        let _ = deadline.run(all).await; // What has not answered is told by its age.
        self.check_health()
    }

    /// The health of everything, from the last answers. Waits for nothing.
    pub fn check_health(&self) -> HealthReport {
        let components = self.inner.components(|_| true);
        HealthReport { status: aggregate(components.values()), timestamp: Timestamp::now(), components }
    }

    /// The answer of a group, from the last answers. Waits for nothing.
    pub fn group(&self, group: Group) -> GroupReport {
        self.inner.group(group)
    }

    /// One component's health; `None`: there is none of that name.
    pub fn component(&self, name: &str) -> Option<ComponentHealth> {
        self.inner.components(|entry| entry.spec.name == name).remove(name)
    }

    /// The last changes of status, oldest first.
    pub fn history(&self) -> Vec<Event> {
        self.inner.events.history()
    }

    /// Changes of status from now on. A receiver that is more than 64 behind loses the oldest and is told.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    /// Makes a breaker known by name; one of the same name is replaced.
    ///
    /// # Errors
    /// More than 1,000.
    pub fn register_breaker(&self, name: impl Into<String>, breaker: Breaker) -> Result<(), Error> {
        let name = name.into();
        let mut breakers = self.inner.breakers.lock();
        if breakers.len() >= LIMIT && !breakers.contains_key(&name) {
            return Err(Error::TooMany { what: "breakers", limit: LIMIT });
        }
        breakers.insert(name, breaker);
        Ok(())
    }

    /// All breakers and what they are doing.
    pub fn breakers(&self) -> BTreeMap<String, BreakerStatus> {
        self.inner.breakers.lock().iter().map(|(name, breaker)| (name.clone(), breaker.status())).collect()
    }

    /// Closes a breaker by hand.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn reset_breaker(&self, name: &str) -> Result<(), Error> {
        let breakers = self.inner.breakers.lock();
        let Some(breaker) = breakers.get(name) else {
            let known: Vec<_> = breakers.keys().map(String::as_str).collect();
            return Err(Error::UnknownBreaker(name.to_owned(), known.join(", ")));
        };
        breaker.reset();
        tracing::warn!(breaker = name, "circuit breaker reset by hand");
        Ok(())
    }

    /// Ends all probing and waits for the tasks; answers stay readable and age. Idempotent.
    ///
    /// Cancel safety: the tasks end all the same.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

fn check_groups(
    groups: &BTreeMap<Group, Vec<String>>,
    entries: &BTreeMap<String, Entry>,
) -> Result<(), Error> {
    for (group, names) in groups {
        for name in names {
            match entries.get(name) {
                None => {
                    let known: Vec<_> = entries.keys().map(String::as_str).collect();
                    let known = known.join(", ");
                    return Err(Error::MissingProbe { group: *group, probe: name.clone(), known });
                }
                Some(entry) if *group == Group::Liveness && entry.spec.reach == Reach::Outside => {
                    return Err(Error::OutsideLiveness(name.clone()));
                }
                Some(_) => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
