//! The background look at primary and replicas: who answers, how far each has come. One connection a server,
//! outside the pool, so that an exhausted pool does not blind it. It routes nothing.

use crate::{
    ReadToken,
    config::Config,
    conn::{ServerId, lsn, text},
    connect::describe,
    lag::{Lag, LagRing},
    pool::Pool,
    router::Host,
    stats::HostState,
};
use parking_lot::Mutex;
use resilience::{Backoff, BackoffConfig};
use sqlx::{ConnectOptions, Executor, PgConnection, postgres::PgRow};
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::time::Instant;

/// An answer that takes longer is none.
const LIMIT: Duration = Duration::from_secs(1);

/// The flushed position, not the inserted one: what no COMMIT has flushed may stay unreplayed on an idle server.
const SAMPLE: &str = "SELECT pg_current_wal_flush_lsn()::text AS lsn";

const LOOK: &str = "SELECT pg_is_in_recovery()::text AS standby, pg_last_wal_replay_lsn()::text AS replayed, \
    (SELECT received_tli::text FROM pg_stat_wal_receiver) AS timeline, \
    (SELECT system_identifier::text FROM pg_control_system()) AS system_id, \
    (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint::text AS started";

/// What a probe saw of a replica.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) state: HostState,
    pub(crate) server: ServerId,
    /// 0: not told (no right to see it, or no stream from a primary).
    timeline: u32,
    replayed: u64,
    pub(crate) lag: Option<Lag>,
    /// Taken before the question.
    pub(crate) at: Option<Instant>,
}

impl Default for View {
    fn default() -> Self {
        let (state, server) = (HostState::Unknown, ServerId::default());
        Self { state, server, timeline: 0, replayed: 0, lag: None, at: None }
    }
}

impl View {
    pub(crate) fn satisfies(&self, token: &ReadToken) -> bool {
        self.state == HostState::Up && token.satisfied_by(self.server.system_id, self.timeline, self.replayed)
    }
}

/// Samples the primary until the pool closes.
pub(crate) async fn sample_primary(pool: Arc<Pool>, ring: Arc<Mutex<LagRing>>) {
    let closing = pool.closing.clone();
    let work = watch(&pool, SAMPLE, |before, row| {
        // A server without a position is a standby: the pool's own checks deal with it.
        if let Some(lsn) = row.ok().and_then(|row| lsn(&row, "lsn")) {
            ring.lock().push(before, lsn);
        }
    });
    tokio::select! {
        () = closing.cancelled() => {}
        () = work => {}
    }
}

/// Looks at a replica until it is removed, and says whether it may serve.
pub(crate) async fn watch_replica(host: Arc<Host>, ring: Arc<Mutex<LagRing>>, config: Arc<Config>) {
    let work = watch(&host.pool, LOOK, |before, row| {
        let view = match &row {
            Ok(row) => seen(row, before, &ring.lock(), &config),
            Err(error) => {
                host.pool.failed(error.clone());
                View { state: HostState::Unreachable, at: Some(before), ..*host.view.lock() }
            }
        };
        let before = std::mem::replace(&mut *host.view.lock(), view);
        let serving = view.state == HostState::Up;
        host.pool.serving.store(serving, Relaxed);
        if !serving {
            host.pool.dismiss();
        }
        if before.state != view.state {
            let (replica, lag) = (&host.pool.name, view.lag);
            tracing::info!(%replica, from = ?before.state, to = ?view.state, ?lag, "replica changed state");
        }
    });
    tokio::select! {
        () = host.stop.cancelled() => {}
        () = host.pool.closing.cancelled() => {}
        () = work => {}
    }
}

fn seen(row: &PgRow, at: Instant, ring: &LagRing, config: &Config) -> View {
    let number = |column: &str| text(row, column).and_then(|n| n.parse().ok()).unwrap_or(0);
    let server = ServerId { system_id: number("system_id"), started: number("started") };
    let replayed = lsn(row, "replayed");
    let lag = replayed.map(|replayed| ring.lag(at, replayed));
    let state = if text(row, "standby").as_deref() != Some("true") {
        HostState::Writable
    } else if lag.is_some_and(|lag| near_enough(lag, at, ring, config)) {
        HostState::Up
    } else {
        HostState::Lagging
    };
    let timeline = u32::try_from(number("timeline")).unwrap_or(0);
    View { state, server, timeline, replayed: replayed.unwrap_or(0), lag, at: Some(at) }
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

/// Asks `question` every interval, on a connection of its own, for ever.
async fn watch(pool: &Pool, question: &'static str, mut seen: impl FnMut(Instant, Result<PgRow, String>)) {
    let mut backoff =
        Backoff::new(BackoffConfig { base: Duration::from_millis(100), ..BackoffConfig::default() });
    let mut ticks = tokio::time::interval(pool.config.probe_interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut connection: Option<PgConnection> = None;
    loop {
        ticks.tick().await;
        let before = Instant::now();
        match tokio::time::timeout(LIMIT, ask(pool, &mut connection, question)).await {
            Ok(Ok(row)) => {
                backoff.reset();
                seen(before, Ok(row));
                continue;
            }
            Ok(Err(e)) => seen(before, Err(describe(&e))),
            Err(_) => seen(before, Err(format!("no answer to a probe within {LIMIT:?}"))),
        }
        connection = None;
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

async fn ask(
    pool: &Pool,
    connection: &mut Option<PgConnection>,
    question: &'static str,
) -> Result<PgRow, sqlx::Error> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(pool.options.connect().await?),
    };
    connection.fetch_one(question).await
}
