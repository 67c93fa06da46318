//! The one reader of the table in a process, and the one who tidies it up. Which rows a look brings is decided by
//! snapshots; see one level up.

use super::{PostgresListener, Routes, TOPIC, lane_of};
use crate::{
    BusEvent, BusStatus, Error,
    postgres::{Topic, translate_query},
};
use bytes::Bytes;
use futures_core::Stream;
use parking_lot::Mutex;
use postgres_pool_manager::{
    DirectConnection, Schema,
    sqlx::{self, AssertSqlSafe, Row, postgres::PgRow},
};
use resilience::{Backoff, BackoffConfig, Deadline};
use std::{future::poll_fn, pin::pin, sync::Arc, time::Duration};
use tokio::time::timeout;

const OPERATION: &str = "read the bus";
const OPEN_WITHIN: Duration = Duration::from_secs(5);
/// The next row, or the end, has to come within this time: with the time between two looks it is less than publishers may
/// be silent before they are missed.
const ROW_WITHIN: Duration = Duration::from_secs(2);

pub(super) struct Reader {
    listener: PostgresListener,
    routes: Arc<Routes>,
    state: Arc<Mutex<BusStatus>>,
    topic: Topic,
    poll: Duration,
    sql: String,
    /// The snapshot of the last look; `None` before the first, and while nobody wants anything.
    seen: Option<String>,
    interrupted: bool,
}

impl Reader {
    pub(super) fn new(
        listener: PostgresListener,
        routes: Arc<Routes>,
        state: Arc<Mutex<BusStatus>>,
        poll: Duration,
    ) -> Self {
        let (topic, sql) = (listener.topic(TOPIC), look(listener.pool().schema()));
        Self { listener, routes, state, topic, poll, sql, seen: None, interrupted: false }
    }

    /// For ever.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(BackoffConfig::default());
        loop {
            while self.routes.is_empty() {
                self.routes.joined.notified().await;
            }
            self.topic.primary_is_current();
            let error = match self.listener.open(OPERATION, Deadline::after(OPEN_WITHIN)).await {
                Ok(connection) => self.follow(connection, &mut backoff).await,
                Err(error) => error,
            };
            tracing::debug!(%error, "reading the bus was interrupted");
            *self.state.lock() = BusStatus { connected: false, reason: Some(error.to_string()) };
            if !std::mem::replace(&mut self.interrupted, true) {
                self.routes.tell_all(&BusEvent::Interrupted);
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// Until the connection fails.
    async fn follow(&mut self, mut connection: DirectConnection, backoff: &mut Backoff) -> Error {
        loop {
            if self.topic.primary_has_changed() {
                let reason = "another server has become the primary".into();
                return Error::Unavailable { operation: OPERATION, reason };
            }
            self.topic.mark();
            let joining = self.routes.joining();
            if let Err(error) = self.look(&mut connection).await {
                return error;
            }
            self.routes.confirm(joining);
            backoff.reset();
            tokio::select! {
                () = self.topic.wait(self.poll) => {}
                () = self.routes.joined.notified() => {}
            }
            if self.routes.is_empty() {
                // Whoever comes next begins with a snapshot of that time.
                self.seen = None;
                self.routes.joined.notified().await;
            }
        }
    }

    /// Hands out what the last look could not see.
    async fn look(&mut self, connection: &mut DirectConnection) -> Result<(), Error> {
        let query = sqlx::query(AssertSqlSafe(self.sql.clone())).bind(self.seen.as_deref());
        let mut rows = pin!(query.fetch(&mut **connection));
        let mut now = None;
        loop {
            // As a stream: after an outage there may be more than memory should hold.
            let row = timeout(ROW_WITHIN, poll_fn(|context| rows.as_mut().poll_next(context))).await;
            let row = row.map_err(|_| Error::Unknown { operation: OPERATION })?;
            let Some(row) = row else { break };
            let row = row.map_err(|error| translate_query(OPERATION, error))?;
            if now.is_some() {
                self.deliver(&row).map_err(|error| translate_query(OPERATION, error))?;
                continue;
            }
            // The first row is the snapshot.
            let snapshot: String =
                row.try_get("snapshot").map_err(|error| translate_query(OPERATION, error))?;
            self.restored(&snapshot);
            now = Some(snapshot);
        }
        self.seen = now;
        Ok(())
    }

    fn restored(&mut self, now: &str) {
        if std::mem::take(&mut self.interrupted) {
            self.routes.tell_all(&BusEvent::Restored);
        }
        *self.state.lock() = BusStatus { connected: true, reason: None };
        if self.seen.as_deref().is_some_and(|seen| horizon(now) < horizon(seen)) {
            tracing::warn!(
                "the bus's server has lost transactions that were seen; reading on from its present"
            );
            self.routes.tell_all(&BusEvent::Overflowed);
        }
    }

    fn deliver(&self, row: &PgRow) -> Result<(), sqlx::Error> {
        let (lane, subject, frame): (i16, &str, &[u8]) =
            (row.try_get("lane")?, row.try_get("subject")?, row.try_get("frame")?);
        if let Some(lane) = lane_of(lane) {
            self.routes.deliver(lane, subject, &Bytes::copy_from_slice(frame));
        }
        Ok(())
    }
}

/// The first transaction that a snapshot, `xmin:xmax:running`, knows nothing of.
fn horizon(snapshot: &str) -> Option<u64> {
    snapshot.split(':').nth(1)?.parse().ok()
}

/// First the snapshot, then the rows that are visible in it and were not in `$1`. Without `$1` only the snapshot.
fn look(schema: &Schema) -> String {
    let rows = "SELECT id, lane, subject, frame, NULL AS snapshot FROM {schema}.bus_frames WHERE";
    schema.sql(&format!(
        "SELECT 0 AS id, 0::smallint AS lane, '' AS subject, ''::bytea AS frame, pg_current_snapshot()::text AS snapshot \
         UNION ALL ({rows} xid >= pg_snapshot_xmax($1::text::pg_snapshot)) \
         UNION ALL ({rows} xid = ANY (ARRAY(SELECT pg_snapshot_xip($1::text::pg_snapshot)))) \
         ORDER BY id"
    ))
}

/// Deletes what is older than `retention`, for ever. Processes that do so at the same time share the work.
pub(super) async fn prune(listener: PostgresListener, retention: Duration) {
    const BATCH: u64 = 1000;
    const ROUNDS: usize = 100;
    // The oldest thousand are looked at, not the whole table; who else deletes them is not waited for.
    let sql = listener.pool().schema().sql(
        "DELETE FROM {schema}.bus_frames WHERE id IN (SELECT id FROM \
           (SELECT id, at FROM {schema}.bus_frames ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED) oldest \
         WHERE at < clock_timestamp() - $1 * interval '1 microsecond')",
    );
    let age = i64::try_from(retention.as_micros()).unwrap_or(i64::MAX);
    loop {
        tokio::time::sleep((retention / 6).mul_f64(rand::random_range(0.5..1.5))).await;
        for _ in 0..ROUNDS {
            let deleted = sqlx::query(AssertSqlSafe(sql.clone()))
                .bind(age)
                .bind(i64::try_from(BATCH).unwrap_or(i64::MAX))
                .execute(&listener.pool().primary())
                .await;
            match deleted {
                Ok(deleted) if deleted.rows_affected() == BATCH => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::debug!(%error, "the bus was not tidied up and will be later");
                    break;
                }
            }
        }
    }
}
