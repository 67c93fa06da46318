//! What the outbox is doing: counts of this process, and figures of the table that the relay asks for once a second.

use super::sql::Sql;
use crate::{Error, postgres::translate_query};
use opentelemetry::{
    KeyValue,
    metrics::{ObservableCounter, ObservableGauge},
};
use parking_lot::Mutex;
use postgres_pool_manager::{
    PostgresPoolManager,
    sqlx::{self, AssertSqlSafe, Row as _, postgres::PgRow},
};
use serde::Serialize;
use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// Who holds up the relay: it passes on only what no older transaction can precede.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Blocker {
    /// The server's process of the oldest transaction that has written something.
    pub pid: Option<i32>,
    /// For how long it has been open.
    pub open_for: Option<Duration>,
    /// Its name, where it is a prepared transaction that nobody has finished.
    pub prepared: Option<String>,
}

/// What is in the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OutboxFigures {
    /// Messages that wait; ten thousand means that many or more.
    pub pending: u64,
    /// Age of the oldest, from its publish in the transaction; `None` when nothing waits.
    pub lag: Option<Duration>,
    /// Messages put aside; ten thousand means that many or more.
    pub dead: u64,
    /// The transaction that everything waits for, if there is one.
    pub blocked_by: Option<Blocker>,
}

/// What an outbox is doing, without asking the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutboxStatus {
    /// Whether this process relays.
    pub leader: bool,
    /// Messages that this process has delivered.
    pub delivered: u64,
    /// Deliveries that failed and were, or will be, tried again.
    pub retried: u64,
    /// Messages that this process has put aside.
    pub buried: u64,
    /// Keys held up by a message that cannot be delivered now.
    pub held_keys: u64,
    /// The table's figures, at most some seconds old; `None` in processes that do not relay.
    pub figures: Option<OutboxFigures>,
    /// Why relaying, or waiting for its turn, does not work now.
    pub error: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) leader: AtomicBool,
    pub(super) delivered: AtomicU64,
    pub(super) retried: AtomicU64,
    pub(super) buried: AtomicU64,
    pub(super) held_keys: AtomicU64,
    figures: Mutex<Option<OutboxFigures>>,
    error: Mutex<Option<String>>,
}

impl Counts {
    pub(super) fn failed(&self, error: Option<&Error>) {
        if let Some(error) = error {
            tracing::debug!(%error, "the outbox is not relayed");
        }
        *self.error.lock() = error.map(ToString::to_string);
    }

    pub(super) fn not_leading(&self) {
        self.leader.store(false, Relaxed);
        self.held_keys.store(0, Relaxed);
        *self.figures.lock() = None;
    }

    pub(super) fn status(&self) -> OutboxStatus {
        OutboxStatus {
            leader: self.leader.load(Relaxed),
            delivered: self.delivered.load(Relaxed),
            retried: self.retried.load(Relaxed),
            buried: self.buried.load(Relaxed),
            held_keys: self.held_keys.load(Relaxed),
            figures: self.figures.lock().clone(),
            error: self.error.lock().clone(),
        }
    }

    fn figure(&self, read: impl Fn(&OutboxFigures) -> f64) -> Option<f64> {
        self.figures.lock().as_ref().map(read)
    }
}

/// Asks once a second, for ever.
pub(super) async fn sample(pool: &PostgresPoolManager, sql: &Sql, counts: &Counts) {
    loop {
        match figures(pool, sql).await {
            Ok(figures) => *counts.figures.lock() = Some(figures),
            Err(error) => tracing::debug!(%error, "the outbox's figures are not known"),
        }
        tokio::time::sleep(SAMPLE_EVERY).await;
    }
}

pub(super) async fn figures(pool: &PostgresPoolManager, sql: &Sql) -> Result<OutboxFigures, Error> {
    let read = |row: &PgRow| {
        let time = |seconds: Option<f64>| seconds.map(|seconds| Duration::from_secs_f64(seconds.max(0.0)));
        let (pid, prepared) = (row.try_get("pid")?, row.try_get("prepared")?);
        let blocker = Blocker { pid, open_for: time(row.try_get("open_for")?), prepared };
        let known = blocker.pid.is_some() || blocker.prepared.is_some();
        Ok(OutboxFigures {
            pending: row.try_get::<i64, _>("pending")?.unsigned_abs(),
            lag: time(row.try_get("lag")?),
            dead: row.try_get::<i64, _>("dead")?.unsigned_abs(),
            blocked_by: known.then_some(blocker),
        })
    };
    let row = sqlx::query(AssertSqlSafe(sql.sample.clone())).fetch_one(&pool.primary()).await;
    row.and_then(|row| read(&row)).map_err(|error| translate_query("inspect the outbox", error))
}

/// Keeps the instruments alive.
#[derive(Debug)]
pub(super) struct Instruments {
    _counters: [ObservableCounter<u64>; 3],
    _gauges: [ObservableGauge<f64>; 5],
}

impl Instruments {
    pub(super) fn new(counts: &Arc<Counts>) -> Self {
        let meter = opentelemetry::global::meter("database_services");
        let counter = |name: &'static str, description: &'static str, read: fn(&Counts) -> &AtomicU64| {
            let counts: Weak<Counts> = Arc::downgrade(counts);
            meter
                .u64_observable_counter(name)
                .with_description(description)
                .with_callback(move |observer| {
                    if let Some(counts) = counts.upgrade() {
                        observer.observe(read(&counts).load(Relaxed), &[]);
                    }
                })
                .build()
        };
        let gauge = |name: &'static str, description: &'static str, read: fn(&Counts) -> Option<f64>| {
            let counts: Weak<Counts> = Arc::downgrade(counts);
            meter
                .f64_observable_gauge(name)
                .with_description(description)
                .with_callback(move |observer| {
                    // Only the relay knows the table's figures; the others say nothing.
                    if let Some(value) = counts.upgrade().and_then(|counts| read(&counts)) {
                        observer.observe(value, &[] as &[KeyValue]);
                    }
                })
                .build()
        };
        let lag = |counts: &Counts| counts.figure(|known| known.lag.unwrap_or_default().as_secs_f64());
        // The process' number as the value: a label would know no bound.
        let pid = |counts: &Counts| {
            let pid = |known: &OutboxFigures| known.blocked_by.as_ref().and_then(|blocker| blocker.pid);
            counts.figure(|known| f64::from(pid(known).unwrap_or(0)))
        };
        Self {
            _counters: [
                counter("messaging.outbox.delivered_total", "Messages relayed.", |counts| &counts.delivered),
                counter("messaging.outbox.retried_total", "Deliveries that failed.", |counts| {
                    &counts.retried
                }),
                counter("messaging.outbox.buried_total", "Messages put aside.", |counts| &counts.buried),
            ],
            _gauges: [
                gauge("messaging.outbox.leader", "1 in the process that relays.", |counts| {
                    Some(f64::from(u8::from(counts.leader.load(Relaxed))))
                }),
                gauge("messaging.outbox.pending", "Messages that wait, counted up to 10,000.", |counts| {
                    counts.figure(|known| known.pending as f64)
                }),
                gauge(
                    "messaging.outbox.dead",
                    "Messages put aside and still there, counted up to 10,000.",
                    |counts| counts.figure(|known| known.dead as f64),
                ),
                gauge("messaging.outbox.lag_seconds", "Age of the oldest message that waits.", lag),
                gauge(
                    "messaging.outbox.blocking_pid",
                    "Server process whose transaction everything waits for; 0: none.",
                    pid,
                ),
            ],
        }
    }
}
