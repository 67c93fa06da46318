//! What follows from a look at a server: who the primary is, whose ban ends, whether all reads have to go to the
//! primary. One change at a time, told as events; it looks at nothing itself.
//!
//! The rule: a server that takes writes in a newer history (timeline) than any seen so far is the primary. Promotion
//! always begins a new timeline, hence a former primary that comes back is never taken for one, and of two that take
//! writes the later promoted wins. It can not replace fencing at the servers: until a look has seen the new primary,
//! the old one is written to if it still answers. A synchronous standby closes that gap.

use crate::{
    Error,
    error::Problem,
    events::PoolEvent,
    host::Host,
    probe::View,
    router::{Router, Servers},
    stats::{HostState, Role},
};
use std::sync::{Arc, atomic::Ordering::Relaxed};
use tokio::time::Instant;

impl Router {
    /// Takes in what looks saw. Those that belong together come together: at the start a server may be seen to take
    /// writes before the primary was.
    pub(crate) fn seen(&self, looks: &[(Arc<Host>, View)]) {
        {
            let _one = self.changing.lock();
            let before: Vec<_> =
                self.servers.load().all().map(|host| (Arc::clone(host), host.state())).collect();
            looks.iter().for_each(|(host, view)| take(host, *view));
            self.elect();
            self.lift_bans();
            self.force_by_lag();
            for (host, from) in before {
                let to = host.state();
                if from != to {
                    self.events.emit(PoolEvent::HostState { host: host.pool.name.clone(), from, to });
                    self.tell_of_a_tie(&host);
                }
            }
        }
        self.looked.notify_waiters();
    }

    /// Two servers that were promoted from one history, or the primary's twin: which of them is right only people know.
    fn tell_of_a_tie(&self, host: &Host) {
        let view = *host.view.lock();
        let tie = view.state == HostState::Writable && view.timeline >= self.timeline.load(Relaxed).max(2);
        if tie && host.pool.role() == Role::Replica {
            let (kept, refused) = (self.primary().name.clone(), host.pool.name.clone());
            self.events.emit(PoolEvent::TwoPrimaries { kept, refused });
        }
    }

    /// As an election that this replica won. `Err`: why it can not be.
    pub(crate) fn order_primary(&self, name: &str) -> Result<(), Error> {
        let _one = self.changing.lock();
        let host = self.replica(name)?;
        let view = *host.view.lock();
        let message = match () {
            () if self.cluster.differs(view.server.system_id).is_some() => "it belongs to another cluster",
            () if !view.writable => {
                "it takes no writes, as far as the latest look at it tells; promote it first"
            }
            () => {
                self.promote(&self.servers.load_full(), &host, view);
                return Ok(());
            }
        };
        let problem = Problem { setting: format!("primary {name}"), message: message.to_owned() };
        Err(Error::Invalid(vec![problem]))
    }

    fn elect(&self) {
        let servers = self.servers.load_full();
        let own = *servers.primary.view.lock();
        if own.writable && self.cluster.learn(own.server.system_id).is_ok() {
            // Positions of different histories do not compare.
            if (1..own.timeline).contains(&self.timeline.fetch_max(own.timeline, Relaxed)) {
                self.ring.lock().clear();
            }
        }
        if !self.config.failover {
            return;
        }
        let newest = servers.replicas.iter().map(|host| (*host.view.lock(), host));
        let newest =
            newest.filter(|(view, _)| view.writable && self.cluster.differs(view.server.system_id).is_none());
        let Some((view, host)) = newest.max_by_key(|(view, _)| view.timeline) else { return };
        // A server in the first history was never promoted: it is no replica, whatever the settings say.
        if view.timeline > self.timeline.load(Relaxed).max(1) && self.is_one_cluster(&servers, view) {
            self.promote(&servers, host, view);
        }
    }

    /// While no primary was ever seen, what all others that answered have to agree upon.
    fn is_one_cluster(&self, servers: &Servers, candidate: View) -> bool {
        let own = candidate.server.system_id;
        let other = |host: &Arc<Host>| ![0, own].contains(&host.view.lock().server.system_id);
        self.cluster.id() != 0 || !servers.all().any(other)
    }

    /// From now on `host` is written to, and whoever waits for the former primary is sent here.
    fn promote(&self, servers: &Servers, host: &Arc<Host>, view: View) {
        let former = &servers.primary;
        // The same, or the first that is seen.
        let _known = self.cluster.learn(view.server.system_id);
        self.timeline.store(view.timeline, Relaxed);
        self.ring.lock().clear();
        let others = servers.replicas.iter().filter(|other| !Arc::ptr_eq(other, host));
        let replicas = others.chain([former]).cloned().collect();
        // In this order: a session for writing is never looked for at a server whose role forbids it.
        host.pool.become_primary();
        self.servers.store(Arc::new(Servers { primary: Arc::clone(host), replicas }));
        former.pool.become_replica();
        let (from, to) = (former.pool.name.clone(), host.pool.name.clone());
        self.events.emit(PoolEvent::PrimaryChanged { from, to, timeline: view.timeline });
        host.view.lock().state = HostState::Up;
        let mut view = former.view.lock();
        view.state = HostState::Unknown;
        if view.writable {
            let (kept, refused) = (host.pool.name.clone(), former.pool.name.clone());
            self.events.emit(PoolEvent::TwoPrimaries { kept, refused });
        }
    }

    /// A replica that fails often is better than none.
    fn lift_bans(&self) {
        let servers = self.servers.load();
        let in_service = |host: &&Arc<Host>| !host.drained.load(Relaxed) && host.weight.load(Relaxed) > 0;
        let mut replicas = servers.replicas.iter().filter(in_service);
        if replicas.clone().any(|host| host.state() == HostState::Up) {
            return;
        }
        if let Some(host) = replicas.find(|host| host.state() == HostState::Banned) {
            host.ban.lock().lift();
            host.view.lock().state = HostState::Up;
            host.pool.serving.store(true, Relaxed);
        }
    }

    /// While every replica that answers is far behind, reads go to the primary; until one serves again.
    fn force_by_lag(&self) {
        let servers = self.servers.load();
        let now = Instant::now();
        let mut answering =
            servers.replicas.iter().filter(|host| !host.drained.load(Relaxed)).filter_map(|host| {
                let view = *host.view.lock();
                matches!(view.state, HostState::Up | HostState::Lagging).then_some(view)
            });
        let forced = self.forced_by_lag.load(Relaxed);
        let on = if forced {
            answering.all(|view| view.state == HostState::Lagging)
        } else {
            let mut answering = answering.peekable();
            answering.peek().is_some()
                && answering.all(|view| {
                    view.state == HostState::Lagging && view.lower_at(now) > self.config.force_primary_lag
                })
        };
        if on != forced {
            self.forced_by_lag.store(on, Relaxed);
            self.events.emit(PoolEvent::ForcedPrimaryReads { on, automatic: true });
        }
    }
}

fn take(host: &Host, view: View) {
    if view.role != host.pool.role() {
        // The look began before the server had its present role; the next one is not far.
        return;
    }
    *host.view.lock() = view;
    if host.pool.role() == Role::Replica {
        let serving = view.state == HostState::Up;
        host.pool.serving.store(serving, Relaxed);
        if !serving {
            host.pool.dismiss();
        }
    }
}
