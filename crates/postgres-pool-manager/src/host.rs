//! One server as the router sees it: its pool, what the last look saw, whether it may serve a read and why not. It
//! looks at nothing itself and chooses nothing.

use crate::{
    ReadToken,
    lease::Lease,
    pool::Pool,
    probe::View,
    stats::{HostState, HostStatus, Role},
};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A server of the cluster, whichever role it has at the moment.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) pool: Arc<Pool>,
    /// Its share of the reads while it is a replica.
    pub(crate) weight: AtomicI32,
    pub(crate) drained: AtomicBool,
    /// What the last look saw.
    pub(crate) view: Mutex<View>,
    pub(crate) stop: CancellationToken,
    /// Its balance in the smooth weighted round robin; changed under the router's `turn`.
    pub(crate) turn: AtomicI64,
    pub(crate) ban: Mutex<Ban>,
    /// The position of a token that was waited for in vain; 0: none.
    pub(crate) missed: AtomicU64,
}

impl Host {
    pub(crate) fn new(pool: Arc<Pool>, weight: i32) -> Arc<Self> {
        Arc::new(Self {
            pool,
            weight: AtomicI32::new(weight),
            drained: AtomicBool::new(false),
            view: Mutex::new(View::default()),
            stop: CancellationToken::new(),
            turn: AtomicI64::new(0),
            ban: Mutex::new(Ban::default()),
            missed: AtomicU64::new(0),
        })
    }

    /// Whether it may serve a read. With a token: only if it was seen to have replayed it.
    pub(crate) fn serves(&self, token: Option<&ReadToken>) -> bool {
        self.pool.serving.load(Relaxed)
            && !self.drained.load(Relaxed)
            && self.weight.load(Relaxed) > 0
            && token.is_none_or(|token| self.view.lock().satisfies(token))
    }

    /// In words; `None`: it may serve the read.
    pub(crate) fn refusal(&self, token: Option<&ReadToken>) -> Option<String> {
        let view = *self.view.lock();
        if self.drained.load(Relaxed) {
            return Some("drained".to_owned());
        }
        if self.weight.load(Relaxed) <= 0 {
            return Some("its weight is 0".to_owned());
        }
        if view.state == HostState::Lagging {
            let lag = view.lag.and_then(|lag| lag.upper);
            return Some(lag.map_or_else(
                || "its lag is unknown".to_owned(),
                |lag| format!("up to {lag:?} behind, which is beyond the limit"),
            ));
        }
        if view.state != HostState::Up || !self.pool.serving.load(Relaxed) {
            return Some(self.pool.last_error().unwrap_or_else(|| format!("it is {:?}", view.state)));
        }
        token
            .filter(|token| !view.satisfies(token))
            .map(|token| token.unsatisfied(view.server.system_id, view.timeline, view.position))
    }

    /// A restart may have set replay back since the look: then the connection is to another run of the server. And
    /// what was seen when the host was chosen may have changed while the caller waited.
    pub(crate) fn still_satisfies(&self, token: &ReadToken, lease: &Lease) -> bool {
        let (view, server) = (self.view.lock(), lease.conn_ref().server);
        view.server == server && view.satisfies(token)
    }

    /// Whether it is worth asking how far it is for this token: it serves, and did not stay behind an earlier one.
    pub(crate) fn may_catch_up(&self, token: &ReadToken) -> bool {
        let view = self.view.lock();
        self.serves(None)
            && view.position >= self.missed.load(Relaxed)
            && token.satisfied_by(view.server.system_id, view.timeline, u64::MAX)
    }

    pub(crate) fn state(&self) -> HostState {
        self.view.lock().state
    }

    pub(crate) fn status(&self) -> HostStatus {
        let view = *self.view.lock();
        let (pool, primary) = (&self.pool, self.pool.role() == Role::Primary);
        let state = match (primary, view.state) {
            (false, _) if self.drained.load(Relaxed) => HostState::Drained,
            (false, state) => state,
            (true, _) if pool.is_down() => HostState::Unreachable,
            (true, HostState::Standby) => HostState::Standby,
            (true, _) => HostState::Up,
        };
        let socket = pool.options.get_socket().map(|path| path.display().to_string());
        HostStatus {
            name: pool.name.clone(),
            host: socket.unwrap_or_else(|| pool.options.get_host().to_owned()),
            port: pool.options.get_port(),
            role: pool.role(),
            weight: self.weight.load(Relaxed),
            state,
            lag_seconds: if primary { Some(0.0) } else { view.upper_now().map(|d| d.as_secs_f64()) },
            lag_lower_seconds: if primary { Some(0.0) } else { view.lag.map(|lag| lag.lower.as_secs_f64()) },
            lag_bytes: if primary { Some(0) } else { view.lag.map(|lag| lag.bytes) },
            requests: pool.counts().acquired,
            last_error: pool.last_error(),
        }
    }
}

/// Failures are forgotten after so long without one.
const FORGIVEN: Duration = Duration::from_secs(600);
const LONGEST: Duration = Duration::from_secs(900);

/// What keeps a replica that fails again and again from being tried at every good answer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ban {
    strikes: u32,
    last: Option<Instant>,
    until: Option<Instant>,
}

impl Ban {
    /// It failed. The first time it is back with its next good answer; from the second on it stays out for `base`,
    /// then twice as long each time.
    pub(crate) fn strike(&mut self, now: Instant, base: Duration) {
        if self.last.is_none_or(|last| now.saturating_duration_since(last) > FORGIVEN + base) {
            self.strikes = 0;
        }
        (self.strikes, self.last) = (self.strikes + 1, Some(now));
        if let Some(doublings) = self.strikes.checked_sub(2) {
            let time = base.saturating_mul(1 << doublings.min(16)).min(LONGEST.max(base));
            self.until = Some(now + time);
        }
    }

    pub(crate) fn holds(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    pub(crate) fn lift(&mut self) {
        self.until = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bans_begin_with_the_second_failure_and_grow() {
        let (mut ban, start, minute) = (Ban::default(), Instant::now(), Duration::from_secs(60));
        ban.strike(start, minute);
        assert!(!ban.holds(start), "once is no habit");
        for (after, length) in [(1, 60), (100, 120), (300, 240)] {
            let at = start + Duration::from_secs(after);
            ban.strike(at, minute);
            assert!(
                ban.holds(at + Duration::from_secs(length - 1))
                    && !ban.holds(at + Duration::from_secs(length))
            );
        }
        for _ in 0..40 {
            ban.strike(start, minute);
        }
        assert!(!ban.holds(start + LONGEST), "no longer than a quarter of an hour");
        ban.lift();
        assert!(!ban.holds(start));
        let later = start + FORGIVEN + minute * 10;
        ban.strike(later, minute);
        assert!(!ban.holds(later), "forgotten");
    }
}
