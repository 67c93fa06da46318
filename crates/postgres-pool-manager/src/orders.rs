//! What one process of the server can be told to do to another: to cancel its statement, or to end. Always by number
//! and moment of start together, so that a number that came again is never hit; always within a second.

use crate::{cancel::Cancel, conn::Conn, connect::attempt, pool::Pool, slot::Backend};
use resilience::Deadline;
use sqlx::{AssertSqlSafe, Executor, PgConnection};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::Mutex;

/// For an order to be given and answered, connecting included.
const LIMIT: Duration = Duration::from_secs(1);

/// How long a cancelled statement's answer is waited for.
const ANSWER: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Cancel,
    Terminate,
}

/// The connection for orders while the pool has none idle: one at most beyond the pool's size, and only for as long as
/// somebody has an order to give.
#[derive(Debug, Default)]
pub(crate) struct Side {
    pg: Mutex<Option<PgConnection>>,
    /// Those who use it or wait for it.
    wanted: AtomicU32,
}

/// Wants the side connection; whoever is the last to want it closes it.
struct Wanted<'a>(&'a Side);

impl<'a> Wanted<'a> {
    fn new(side: &'a Side) -> Self {
        side.wanted.fetch_add(1, Relaxed);
        Self(side)
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        if self.0.wanted.fetch_sub(1, Relaxed) == 1
            && let Ok(mut side) = self.0.pg.try_lock()
        {
            drop(side.take());
        }
    }
}

impl Order {
    fn sql(self, Backend { pid, started }: Backend) -> String {
        let function = match self {
            Self::Cancel => "pg_cancel_backend",
            Self::Terminate => "pg_terminate_backend",
        };
        format!(
            "SELECT {function}(pid) FROM pg_stat_activity \
            WHERE pid = {pid} AND (extract(epoch FROM backend_start) * 1000000)::bigint = {started}"
        )
    }
}

impl Pool {
    /// Cancels the statement that was abandoned on `conn` and reads what is left of its answer. `false`: not wanted,
    /// not allowed or not confirmed, and the connection is to be given up.
    ///
    /// The connection is nobody's meanwhile: once the server has confirmed, nothing that is sent afterwards can be hit.
    pub(crate) async fn cancel(self: &Arc<Self>, conn: &mut Conn) -> bool {
        let allowed = self.config.cancel == Cancel::Eager && conn.mark.cancellable;
        allowed && self.order(Order::Cancel, conn.slot.backend).await && conn.read_rest(ANSWER).await
    }

    /// Gives an order. `false`: it is not known to have been carried out.
    pub(crate) async fn order(self: &Arc<Self>, order: Order, backend: Backend) -> bool {
        if self.config.pgbouncer {
            // The process of that number may serve somebody else by now.
            return false;
        }
        let sql = order.sql(backend);
        let given = async {
            if let Some(mut lease) = self.try_lease() {
                let conn = lease.conn();
                (conn.mark.busy, conn.mark.cancellable) = (true, false);
                let given = conn.pg.execute(AssertSqlSafe(sql)).await;
                conn.mark.busy = given.is_err();
                return given.is_ok();
            }
            let _wanted = Wanted::new(&self.side);
            let mut side = self.side.pg.lock().await;
            // Out of its place while in use: dropped half-way, it is closed.
            let open = match side.take() {
                Some(pg) => Ok(pg),
                None => attempt(&self.door, &self.label, &self.options).await,
            };
            let Ok(mut pg) = open else { return false };
            let given = pg.execute(AssertSqlSafe(sql)).await.is_ok();
            if given {
                *side = Some(pg);
            }
            given
        };
        Deadline::after(LIMIT).run(given).await.unwrap_or(false)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
