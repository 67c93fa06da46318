//! The background look at every server: who answers, who takes writes, how far each has come. One connection a
//! server, outside the pool, so that an exhausted pool does not blind it. It routes nothing.

use crate::{
    Error, ReadToken,
    config::Config,
    conn::{ServerId, lsn, text},
    connect::{attempt, describe},
    host::Host,
    lag::{Lag, LagRing},
    pool::Pool,
    router::Router,
    stats::{HostState, Role},
};
use resilience::{Backoff, BackoffConfig};
use sqlx::{Executor, PgConnection, postgres::PgRow};
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::time::Instant;

/// An answer that takes longer is none.
const LIMIT: Duration = Duration::from_secs(1);

/// A primary's position is the flushed one, not the inserted one: what no COMMIT has flushed may stay unreplayed on
/// an idle server. Its timeline is part of the log file's name; a standby's is the one that it receives.
const LOOK: &str = "SELECT standby::text, \
    CASE WHEN standby THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END::text AS position, \
    CASE WHEN standby THEN (SELECT received_tli::bigint FROM pg_stat_wal_receiver) \
        ELSE ('x' || substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8))::bit(32)::bigint END::text AS timeline, \
    (SELECT system_identifier::text FROM pg_control_system()) AS system_id, \
    (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint::text AS started \
    FROM pg_is_in_recovery() AS standby";

/// What a look saw of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) state: HostState,
    /// What the server was used for when the look began.
    pub(crate) role: Role,
    pub(crate) server: ServerId,
    /// Whether the latest look found that it takes writes.
    pub(crate) writable: bool,
    /// 0: not told (no right to see it, or no stream from a primary).
    pub(crate) timeline: u32,
    /// Replayed, or of a primary flushed, up to here.
    pub(crate) position: u64,
    pub(crate) lag: Option<Lag>,
    /// Taken before the question.
    at: Option<Instant>,
}

impl Default for View {
    fn default() -> Self {
        let (state, server) = (HostState::Unknown, ServerId::default());
        Self {
            state,
            role: Role::Replica,
            server,
            writable: false,
            timeline: 0,
            position: 0,
            lag: None,
            at: None,
        }
    }
}

impl View {
    pub(crate) fn satisfies(&self, token: &ReadToken) -> bool {
        self.state == HostState::Up && token.satisfied_by(self.server.system_id, self.timeline, self.position)
    }

    /// The upper bound of the lag, grown by the time since it was measured.
    pub(crate) fn upper_now(&self) -> Option<Duration> {
        let (lag, at) = (self.lag?, self.at?);
        lag.upper.map(|upper| upper + Instant::now().saturating_duration_since(at))
    }

    /// The lower bound of the lag; it grows only while something is lacking.
    pub(crate) fn lower_at(&self, now: Instant) -> Duration {
        match (self.lag, self.at) {
            (Some(lag), Some(at)) if lag.bytes > 0 => lag.lower + now.saturating_duration_since(at),
            (lag, _) => lag.map_or(Duration::ZERO, |lag| lag.lower),
        }
    }
}

/// Looks at a server until it is removed or the pool closes.
pub(crate) async fn watch(host: Arc<Host>, router: Arc<Router>) {
    let work = look_on(&host, &router);
    tokio::select! {
        () = host.stop.cancelled() => {}
        () = host.pool.closing.cancelled() => {}
        () = work => {}
    }
}

/// One look, with a connection of its own.
pub(crate) async fn look_once(host: &Arc<Host>, router: &Router) -> View {
    look(host, router, &mut None).await.0
}

async fn look_on(host: &Arc<Host>, router: &Router) {
    let mut backoff = Backoff::new(BackoffConfig {
        base: Duration::from_millis(100),
        // Whoever comes back, or is promoted, is found within a second.
        max: Duration::from_secs(1),
        ..BackoffConfig::default()
    });
    let mut ticks = tokio::time::interval(host.pool.config.probe_interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut connection: Option<PgConnection> = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = host.pool.look_now.notified() => {}
        }
        let (view, answered) = look(host, router, &mut connection).await;
        router.seen(&[(Arc::clone(host), view)]);
        if answered {
            backoff.reset();
        } else {
            connection = None;
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }
}

async fn look(host: &Arc<Host>, router: &Router, connection: &mut Option<PgConnection>) -> (View, bool) {
    let (before, pool) = (Instant::now(), &host.pool);
    let role = pool.role();
    let answer = match tokio::time::timeout(LIMIT, ask(pool, connection)).await {
        Ok(Ok(row)) => Ok(row),
        Ok(Err(e)) => Err(describe(&e)),
        Err(_) => Err(format!("no answer to a look within {LIMIT:?}")),
    };
    let answered = answer.is_ok();
    let mut view = match answer {
        Ok(row) => seen(&row, before, pool, role, router),
        Err(error) => {
            if role == Role::Replica {
                pool.failed(error);
            }
            let last = *host.view.lock();
            View { state: HostState::Unreachable, role, writable: false, at: Some(before), ..last }
        }
    };
    if role == Role::Replica {
        judge(host, &mut view, before, &router.config);
    }
    (view, answered)
}

async fn ask(pool: &Pool, connection: &mut Option<PgConnection>) -> Result<PgRow, Error> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(attempt(&pool.door, &pool.label, &pool.options).await?),
    };
    Ok(connection.fetch_one(LOOK).await?)
}

/// A replica that was lost although it had served gets a strike, and is out while it is banned for that.
fn judge(host: &Host, view: &mut View, now: Instant, config: &Config) {
    let served = host.view.lock().state == HostState::Up;
    let lost = host.pool.lost.swap(false, Relaxed) || view.state == HostState::Unreachable;
    let mut ban = host.ban.lock();
    if served && lost && !config.replica_ban.is_zero() {
        ban.strike(now, config.replica_ban);
    }
    if view.state == HostState::Up && ban.holds(now) {
        view.state = HostState::Banned;
    }
}

fn seen(row: &PgRow, at: Instant, pool: &Pool, role: Role, router: &Router) -> View {
    let number = |column: &str| text(row, column).and_then(|n| n.parse().ok()).unwrap_or(0);
    let server = ServerId { system_id: number("system_id"), started: number("started") };
    let writable = text(row, "standby").as_deref() != Some("true");
    let position = lsn(row, "position");
    let ours = router.cluster.differs(server.system_id).is_none();
    let mut lag = None;
    let state = match (role, writable) {
        _ if !ours => HostState::OtherCluster,
        (Role::Primary, false) => HostState::Standby,
        (Role::Primary, true) => {
            if let Some(position) = position
                && pool.role() == role
            {
                router.ring.lock().push(at, position);
            }
            HostState::Up
        }
        (Role::Replica, true) => HostState::Writable,
        (Role::Replica, false) => {
            let ring = router.ring.lock();
            lag = position.map(|position| ring.lag(at, position));
            let near = lag.is_some_and(|lag| near_enough(lag, at, &ring, &router.config));
            if near { HostState::Up } else { HostState::Lagging }
        }
    };
    let timeline = u32::try_from(number("timeline")).unwrap_or(0);
    View { state, role, server, writable, timeline, position: position.unwrap_or(0), lag, at: Some(at) }
}

/// Within the limit; while the primary gives no samples, within it when they stopped, and not for too long ago.
fn near_enough(lag: Lag, now: Instant, ring: &LagRing, config: &Config) -> bool {
    let (Some(upper), Some(newest)) = (lag.upper, ring.newest()) else { return false };
    let silence = now.saturating_duration_since(newest);
    let silent = silence > LIMIT + config.probe_interval;
    upper <= config.replica_lag_limit
        || (silent
            && silence <= config.replica_reads_without_primary
            && upper.saturating_sub(silence) <= config.replica_lag_limit)
}
