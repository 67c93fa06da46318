//! Who relays: one row that says so until a time of the server's clock. Everybody else waits for that time.

use super::sql::Sql;
use crate::{
    Error,
    postgres::{Topic, translate_query},
};
use parking_lot::Mutex;
use postgres_pool_manager::{
    PostgresPoolManager,
    sqlx::{self, AssertSqlSafe},
};
use resilience::Deadline;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use uuid::Uuid;

const OPERATION: &str = "elect the outbox's relay";
/// The topic of the notifications that the lease was given up.
pub(super) const TOPIC: &str = "outbox.relay";
/// The row is looked at so often, at least.
const LOOK: Duration = Duration::from_secs(1);

/// The right to relay, for a while.
#[derive(Debug)]
pub(super) struct Lease {
    pool: PostgresPoolManager,
    sql: Arc<Sql>,
    length: Duration,
    pub(super) holder: Uuid,
    pub(super) token: i64,
    /// By this process's clock, and earlier than the server's.
    nominal_end: Mutex<Instant>,
}

impl Lease {
    /// Waits until the lease is free, and takes it.
    pub(super) async fn take(
        pool: &PostgresPoolManager,
        sql: &Arc<Sql>,
        length: Duration,
        topic: &mut Topic,
    ) -> Result<Self, Error> {
        let holder = Uuid::new_v4();
        loop {
            topic.mark();
            let left: Option<f64> = sqlx::query_scalar(AssertSqlSafe(sql.lease_left.clone()))
                .fetch_optional(&pool.primary())
                .await
                .map_err(|error| translate_query(OPERATION, error))?;
            if let Some(left) = left.filter(|left| *left > 0.0) {
                topic.wait(Duration::from_secs_f64(left.min(LOOK.as_secs_f64()))).await;
                continue;
            }
            let asked = Instant::now();
            let taken: Option<i64> = sqlx::query_scalar(AssertSqlSafe(sql.take_lease.clone()))
                .bind(holder.to_string())
                .bind(length.as_secs_f64())
                .fetch_optional(&pool.primary())
                .await
                .map_err(|error| translate_query(OPERATION, error))?;
            if let Some(token) = taken {
                let (pool, sql) = (pool.clone(), Arc::clone(sql));
                let nominal_end = Mutex::new(asked + length.mul_f64(0.9));
                return Ok(Self { pool, sql, length, holder, token, nominal_end });
            }
        }
    }

    /// Whether nobody else can have taken it yet.
    pub(super) fn holds(&self) -> bool {
        Instant::now() < *self.nominal_end.lock()
    }

    /// Renews it every third of its length; returns when it is lost.
    pub(super) async fn keep(&self) {
        let period = self.length / 3;
        loop {
            tokio::time::sleep(period).await;
            let asked = Instant::now();
            let primary = self.pool.primary();
            let renewed = sqlx::query(AssertSqlSafe(self.sql.renew_lease.clone()))
                .bind(self.holder.to_string())
                .bind(self.token)
                .bind(self.length.as_secs_f64())
                .execute(&primary);
            match tokio::time::timeout(period, renewed).await {
                Ok(Ok(renewed)) if renewed.rows_affected() == 0 => return,
                Ok(Ok(_)) => *self.nominal_end.lock() = asked + self.length.mul_f64(0.9),
                Ok(Err(error)) => tracing::debug!(%error, "the outbox's lease was not renewed"),
                Err(_) => tracing::debug!("the outbox's lease was not renewed in time"),
            }
            if !self.holds() {
                return;
            }
        }
    }

    /// Gives it up, so that another takes it at once.
    pub(super) async fn release(&self, channel: &str) {
        let primary = self.pool.primary();
        let released = sqlx::query(AssertSqlSafe(self.sql.release_lease.clone()))
            .bind(self.holder.to_string())
            .bind(self.token)
            .bind(channel)
            .bind(TOPIC)
            .execute(&primary);
        let released = Deadline::after(LOOK).run(released).await;
        if !matches!(released, Ok(Ok(_))) {
            tracing::debug!("the outbox's lease was not given up and runs out by itself");
        }
    }
}
