//! What may change while the pool runs: one set of values, changed in one step that is checked as a whole, and told
//! as events. What needs a new pool (addresses, time-outs) is not here.

use crate::{
    Config, Error, PoolEvent, PostgresPoolManager, ReplicaEndpoint,
    core::Phase,
    error::Problem,
    host::Host,
    pool::Pool,
    router::{Router, Servers},
    stats::Role,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
};

/// What may change at run time; see [`tune`](PostgresPoolManager::tune).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Tunable {
    /// Connections kept to each server; 1 or more.
    pub size: u32,
    /// Extra connections above `size` while callers wait.
    pub max_overflow: u32,
    /// Idle connections held ready, at most `size`.
    pub min_idle: u32,
    /// No session is handed out; callers wait, up to their deadlines.
    pub suspended: bool,
    /// All reads go to the primary.
    pub force_primary_reads: bool,
    /// Every replica by its name. One that is left out stays as it is.
    pub replicas: BTreeMap<String, ReplicaTunable>,
}

/// What may change of a replica at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ReplicaTunable {
    /// Its share of the reads beside the other replicas' weights; 0 or more.
    pub weight: i32,
    /// It gets no more reads; sessions in use are not disturbed.
    pub drained: bool,
}

impl PostgresPoolManager {
    /// The values in force.
    #[must_use]
    pub fn tunable(&self) -> Tunable {
        let router = self.router();
        let servers = router.servers.load();
        let limits = servers.primary.pool.limits();
        let replicas = servers.replicas.iter().map(|host| {
            let (weight, drained) = (host.weight.load(Relaxed), host.drained.load(Relaxed));
            (host.pool.name.clone(), ReplicaTunable { weight, drained })
        });
        Tunable {
            size: limits.size,
            max_overflow: limits.overflow,
            min_idle: limits.min_idle,
            suspended: servers.primary.pool.phase() == Phase::Suspended,
            force_primary_reads: router.force_primary.load(Relaxed),
            replicas: replicas.collect(),
        }
    }

    /// Changes what `change` changes, all of it or nothing; each change is an event. Answers the values now in force.
    ///
    /// New sizes hold at once and in both directions, also while the pool is empty or exhausted: a shrink closes
    /// idle connections now and those in use as they come back.
    ///
    /// `change` may not call what changes the manager: changes, failovers among them, wait for it to end.
    ///
    /// # Errors
    /// Values out of range, all of them; [`Error::UnknownHost`]; [`Error::Closed`] after a shutdown.
    pub fn tune(&self, change: impl FnOnce(&mut Tunable)) -> Result<Tunable, Error> {
        let router = self.router();
        let _changing = router.changing.lock();
        let before = self.tunable();
        let mut wanted = before.clone();
        change(&mut wanted);
        self.check(&wanted)?;
        self.apply_sizes(&before, &wanted);
        for (name, replica) in &wanted.replicas {
            let host = router.replica(name)?;
            let (weight, drained) = (replica.weight, replica.drained);
            if host.weight.swap(weight, Relaxed) != weight {
                router.events.emit(PoolEvent::ReplicaWeighted { host: name.clone(), weight });
            }
            if host.drained.swap(drained, Relaxed) != drained {
                router.events.emit(PoolEvent::ReplicaDrained { host: name.clone(), drained });
            }
        }
        let on = wanted.force_primary_reads;
        if router.force_primary.swap(on, Relaxed) != on {
            router.events.emit(PoolEvent::ForcedPrimaryReads { on, automatic: false });
        }
        if before.suspended != wanted.suspended {
            for pool in router.pools() {
                if wanted.suspended { pool.suspend() } else { pool.resume() }
            }
            router.events.emit(if wanted.suspended { PoolEvent::Suspended } else { PoolEvent::Resumed });
        }
        Ok(self.tunable())
    }

    fn check(&self, wanted: &Tunable) -> Result<(), Error> {
        if self.router().primary().phase() == Phase::Closed {
            return Err(Error::Closed);
        }
        for name in wanted.replicas.keys() {
            self.router().replica(name)?;
        }
        let sizes = Config {
            size: wanted.size,
            max_overflow: wanted.max_overflow,
            min_idle: wanted.min_idle,
            ..self.config().clone()
        };
        let mut problems = sizes.validate().err().unwrap_or_default();
        for (name, replica) in wanted.replicas.iter().filter(|(_, replica)| replica.weight < 0) {
            let message = format!("{} is below 0; 0 takes a replica out of the reads", replica.weight);
            problems.push(Problem { setting: format!("replicas.{name}.weight"), message });
        }
        if problems.is_empty() { Ok(()) } else { Err(Error::Invalid(problems)) }
    }

    fn apply_sizes(&self, before: &Tunable, wanted: &Tunable) {
        let sizes = |t: &Tunable| (t.size, t.max_overflow, t.min_idle);
        if sizes(before) == sizes(wanted) {
            return;
        }
        let (size, max_overflow, min_idle) = sizes(wanted);
        for pool in self.router().pools() {
            pool.resize(size, max_overflow, min_idle);
        }
        self.router().events.emit(PoolEvent::Resized { size, max_overflow, min_idle });
    }

    /// New size and overflow for every server's pool; `min_idle` as configured, as far as the size allows.
    ///
    /// # Errors
    /// A size of 0, or a sum above 10,000; [`Error::Closed`].
    pub fn resize(&self, size: u32, max_overflow: u32) -> Result<(), Error> {
        let min_idle = self.config().min_idle.min(size);
        self.tune(|t| (t.size, t.max_overflow, t.min_idle) = (size, max_overflow, min_idle)).map(drop)
    }

    /// Sends all reads to the primary, or lets them go to replicas again. Without effect after a shutdown.
    pub fn force_primary_reads(&self, on: bool) {
        // Nothing here is out of range.
        let _ = self.tune(|t| t.force_primary_reads = on);
    }

    /// Hands out no sessions until [`resume`](Self::resume); callers wait, up to their deadlines.
    pub fn suspend(&self) {
        let _ = self.tune(|t| t.suspended = true);
    }

    /// Ends a suspension.
    pub fn resume(&self) {
        let _ = self.tune(|t| t.suspended = false);
    }

    /// Gives a replica no more reads, or gives it reads again. Sessions in use are not disturbed.
    ///
    /// # Errors
    /// No replica of this name.
    pub fn drain_replica(&self, name: &str, drained: bool) -> Result<(), Error> {
        self.tune_replica(name, |replica| replica.drained = drained)
    }

    /// Changes a replica's share of the reads.
    ///
    /// # Errors
    /// No replica of this name, or a weight below 0.
    pub fn set_replica_weight(&self, name: &str, weight: i32) -> Result<(), Error> {
        self.tune_replica(name, |replica| replica.weight = weight)
    }

    fn tune_replica(&self, name: &str, change: impl FnOnce(&mut ReplicaTunable)) -> Result<(), Error> {
        self.router().replica(name)?;
        let changed = self.tune(|t| {
            // Removed in this very moment: nothing is left to be changed.
            if let Some(replica) = t.replicas.get_mut(name) {
                change(replica);
            }
        });
        changed.map(drop)
    }

    /// Adds a replica, with the sizes in force and suspended like the others; it serves after the first look at it
    /// that finds it near enough.
    ///
    /// # Errors
    /// Its address, name or weight is unusable; [`Error::Closed`] after a shutdown.
    pub fn add_replica(&self, replica: &ReplicaEndpoint) -> Result<(), Error> {
        let router = self.router();
        let _changing = router.changing.lock();
        let mut wanted = self.config().clone();
        let present = router.servers.load();
        wanted.replicas = vec![replica.clone()];
        wanted.validate().map_err(Error::Invalid)?;
        if present.all().any(|host| host.pool.name == replica.name) {
            let message = format!("there is a server named {:?} already", replica.name);
            return Err(Error::Invalid(vec![Problem { setting: "replicas".into(), message }]));
        }
        let pool = self.new_pool(&replica.name, &replica.url, Role::Replica)?;
        self.like_the_primary(&present.primary.pool, &pool)?;
        let host = Host::new(pool, replica.weight);
        self.look_after(&host);
        let replicas = present.replicas.iter().cloned().chain([host]).collect();
        router.servers.store(Arc::new(Servers { primary: Arc::clone(&present.primary), replicas }));
        self.watch_all();
        let (host, weight) = (replica.name.clone(), replica.weight);
        router.events.emit(PoolEvent::ReplicaAdded { host, weight });
        Ok(())
    }

    fn like_the_primary(&self, primary: &Pool, pool: &Arc<Pool>) -> Result<(), Error> {
        match primary.phase() {
            Phase::Open => {}
            Phase::Suspended => pool.suspend(),
            Phase::Closed => return Err(Error::Closed),
        }
        // First what it may not exceed: a new size opens connections.
        pool.grant(primary.door.share.load(Relaxed));
        let limits = primary.limits();
        pool.resize(limits.size, limits.overflow, limits.min_idle);
        Ok(())
    }

    /// Takes this replica for the primary from now on, by order: where two servers were promoted from one history, or
    /// [`failover`](Config::failover) is off. The same happens as at a failover; tokens of the other one's history are not
    /// told apart from this one's.
    ///
    /// # Errors
    /// No replica of this name; it takes no writes, or is of another cluster.
    pub fn set_primary(&self, name: &str) -> Result<(), Error> {
        self.router().order_primary(name)
    }

    /// Removes a replica; sessions in use are closed as they come back.
    ///
    /// # Errors
    /// No replica of this name.
    pub fn remove_replica(&self, name: &str) -> Result<(), Error> {
        let router: &Router = self.router();
        let _changing = router.changing.lock();
        let host = router.replica(name)?;
        let present = router.servers.load();
        let others = present.replicas.iter().filter(|other| !Arc::ptr_eq(other, &host));
        let (primary, replicas) = (Arc::clone(&present.primary), others.cloned().collect());
        router.servers.store(Arc::new(Servers { primary, replicas }));
        host.stop.cancel();
        host.pool.close();
        router.events.emit(PoolEvent::ReplicaRemoved { host: name.to_owned() });
        Ok(())
    }
}
