//! What a pool does in the background for what is idle, what operators may change, and what it tells about itself.
//! No caller waits for any of it.

use crate::{
    conn::Pooled,
    core::Limits,
    pool::Pool,
    shell::{Keeper, Shell},
    slot::Slot,
    stats::PoolStats,
};
use resilience::Deadline;
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

/// How often idle connections are looked after.
const INTERVAL: Duration = Duration::from_millis(500);

impl Pool {
    /// Maintenance until the pool closes; then until every session is back, for their time limits.
    pub(crate) async fn keep_up(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while self.closing.run_until_cancelled(ticks.tick()).await.is_some() {
            self.maintain();
        }
        while self.counts().in_use > 0 {
            ticks.tick().await;
            self.wake_due();
        }
    }

    fn wake_due(&self) {
        let now = self.clock.now();
        for slot in self.slots().iter() {
            slot.wake_if_due(now);
        }
    }

    /// One maintenance round: close what is too old or idle for too long, check what is idle for long or under
    /// suspicion, keep `min_idle`.
    fn maintain(self: &Arc<Self>) {
        let now = self.clock.now();
        let (idle, overflow) = (self.config.idle_timeout, self.config.overflow_idle_timeout);
        let closing = self.shell().reap(|conn, over, spare| {
            let age = now.saturating_since(conn.idle_since);
            conn.expires <= now || (over && age > overflow) || (spare > 0 && age > idle)
        });
        self.close_politely(closing);
        let due = |conn: &Pooled| {
            let interval = self.config.keepalive.mul_f64(conn.keepalive_jitter);
            conn.alarm != self.alarm() || now.saturating_since(conn.seen) > interval
        };
        for conn in self.shell().borrow_all(due) {
            let (mut lease, pool) = (self.lend(conn), Arc::clone(self));
            self.spawn(async move {
                pool.check(&mut lease, Deadline::never()).await;
            });
        }
        self.wake_due();
        self.look_for_leaks();
        Shell::open_wished(self);
    }

    /// With the protocol's farewell, in the background.
    pub(crate) fn close_politely(&self, conns: Vec<Pooled>) {
        if !conns.is_empty() {
            self.spawn(async move {
                for conn in conns {
                    // A server that does not take the farewell is left without.
                    let _ =
                        tokio::time::timeout(Duration::from_secs(1), sqlx::Connection::close(conn.pg)).await;
                }
            });
        }
    }

    pub(crate) fn resize(self: &Arc<Self>, size: u32, overflow: u32, min_idle: u32) {
        let surplus = Shell::resize(self, |limits| Limits { size, overflow, min_idle, ..limits });
        self.close_politely(surplus);
    }

    /// Sends waiters away to another server.
    pub(crate) fn dismiss(&self) {
        self.shell().dismiss();
    }

    /// Never more connections than `cap` from now on; those too many end as they come back.
    pub(crate) fn cap(self: &Arc<Self>, cap: u32) {
        let surplus = Shell::resize(self, |limits| Limits { cap, ..limits });
        self.close_politely(surplus);
    }

    pub(crate) fn suspend(&self) {
        self.shell().suspend();
    }

    pub(crate) fn resume(self: &Arc<Self>) {
        Shell::resume(self);
    }

    pub(crate) fn stats(&self) -> PoolStats {
        let (counts, limits) = self.shell().snapshot();
        let (now, threshold) = (self.clock.now(), self.config.leak_threshold.unwrap_or(Duration::MAX));
        let leaked = |slot: &&Arc<Slot>| slot.held(now).is_some_and(|held| held > threshold);
        PoolStats {
            active_connections: counts.in_use,
            idle: counts.idle,
            pool_size: limits.size.min(limits.cap),
            overflow: limits.max() - limits.size.min(limits.cap),
            utilization: f64::from(counts.in_use) / f64::from(limits.max().max(1)),
            connection_queue_size: counts.waiting,
            connecting: counts.connecting,
            overflow_in_use: (counts.in_use + counts.idle).saturating_sub(limits.size),
            max_connections: limits.max(),
            acquired_total: counts.acquired,
            acquire_timeouts_total: self.counters.timeouts.load(Relaxed),
            opened_total: self.counters.opened.load(Relaxed),
            discarded_total: self.counters.discarded.load(Relaxed),
            connection_errors_total: self.counters.errors.load(Relaxed),
            leaks: self.slots().iter().filter(leaked).count() as u32,
            hosts: Vec::new(),
        }
    }
}
