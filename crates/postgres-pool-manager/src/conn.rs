//! A pooled connection, how far it is from clean, and who is at its other end. It decides nothing about other connections.

use crate::{
    door::Cluster,
    error::{ConnectFailure, Error},
    failure::after_login,
    pgbouncer::Known,
    slot::{Backend, Slot},
    sql::Latest,
    stats::Role,
    token::parse_lsn,
};
use resilience::clock::CoarseInstant;
use sqlx::{Connection, Executor, PgConnection, Row, error::ErrorKind, postgres::PgRow};
use std::{sync::Arc, time::Duration};

/// A connection with what the pool knows of it.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) pg: PgConnection,
    pub(crate) mark: Mark,
    pub(crate) server: ServerId,
    /// When somebody last gave it back.
    pub(crate) idle_since: CoarseInstant,
    /// When the server last answered on it, in use or to a check.
    pub(crate) seen: CoarseInstant,
    /// When it is replaced.
    pub(crate) expires: CoarseInstant,
    /// Share of the keepalive interval that is this connection's, 0.8 to 1.2.
    pub(crate) keepalive_jitter: f64,
    /// The pool's alarm level when the server last answered here.
    pub(crate) alarm: u32,
    /// Statements run, for sampling.
    pub(crate) statements: u32,
    pub(crate) latest: Latest,
    /// Loans, for sampling.
    pub(crate) loans: u32,
    pub(crate) slot: Arc<Slot>,
    pub(crate) known: Known,
}

/// Connections move by pointer: in and out of the pool under its lock, and between tasks.
pub(crate) type Pooled = Box<Conn>;

/// How far a connection is from clean. All `false`: as good as new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// A statement was begun and its answer not read to the end.
    pub(crate) busy: bool,
    /// Inside a transaction.
    pub(crate) in_tx: bool,
    /// That transaction was opened read-only.
    pub(crate) read_only: bool,
    /// Inside a transaction that one statement has of its own; only behind PgBouncer.
    pub(crate) alone: bool,
    /// Session state may differ from a fresh connection's.
    pub(crate) stateful: bool,
    /// A statement failed: check before the next loan.
    pub(crate) suspect: bool,
    /// What is under way may be cancelled: it is a statement whose text is known to end no transaction.
    pub(crate) cancellable: bool,
    /// Not to be used again.
    pub(crate) broken: bool,
}

impl Mark {
    pub(crate) const fn is_clean(self) -> bool {
        !(self.busy || self.in_tx || self.alone || self.stateful || self.broken)
    }
}

/// Who the server at the other end is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerId {
    pub(crate) system_id: u64,
    /// Microseconds since 1970 at which the server started: a restart may set a standby's replay back.
    pub(crate) started: u64,
}

/// Everything of a session that one round trip can put back, and a count of statements that it cannot.
/// `DISCARD ALL` would throw the driver's prepared statements away too, and cannot share its message.
const RESET: &str = "ROLLBACK; CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; \
    SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES; \
    SELECT count(*) FILTER (WHERE from_sql)::text AS by_sql, count(*) FILTER (WHERE NOT from_sql)::text AS by_driver \
    FROM pg_prepared_statements";

/// How long an abandoned statement's answer is read before the connection is given up instead.
pub(crate) const DRAIN_LIMIT: Duration = Duration::from_millis(50);

const IDENTIFY: &str = "SELECT pg_is_in_recovery()::text AS standby, \
    (SELECT system_identifier::text FROM pg_control_system()) AS system_id, \
    (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint::text AS started, \
    pg_backend_pid()::text AS pid, (SELECT (extract(epoch FROM backend_start) * 1000000)::bigint::text \
    FROM pg_stat_activity WHERE pid = pg_backend_pid()) AS backend_started";

impl Conn {
    /// One round trip: alive, and of the role expected?
    pub(crate) async fn check(&mut self, role: Role) -> Result<(), sqlx::Error> {
        self.mark.busy = true;
        let row = self.pg.fetch_one("SELECT pg_is_in_recovery()::text AS standby").await?;
        (self.mark.busy, self.mark.suspect) = (false, false);
        let standby: String = row.try_get("standby")?;
        if (standby == "true") == (role == Role::Replica) {
            return Ok(());
        }
        self.mark.broken = true;
        Err(sqlx::Error::Protocol(format!("the server is no {role:?} any more")))
    }

    /// Reads an abandoned answer to its end. `false`: it does not end within `limit`, or the connection is no more.
    pub(crate) async fn read_rest(&mut self, limit: Duration) -> bool {
        if self.mark.broken {
            return false;
        }
        if self.mark.busy {
            self.mark.busy = !matches!(tokio::time::timeout(limit, self.drain()).await, Ok(true));
        }
        !self.mark.busy
    }

    /// Makes it as good as new once its answer is read: rolls back, resets. `false`: it cannot be.
    pub(crate) async fn clean(&mut self, limit: Duration) -> bool {
        let rest = async {
            if self.mark.stateful {
                self.reset().await
            } else if self.mark.in_tx || self.mark.alone {
                self.pg.execute("ROLLBACK").await.is_ok()
            } else {
                true
            }
        };
        let clean = matches!(tokio::time::timeout(limit, rest).await, Ok(true));
        if clean {
            self.mark = Mark::default();
        }
        clean
    }

    /// Reads until the server is ready. The abandoned statement's own error is no obstacle.
    async fn drain(&mut self) -> bool {
        loop {
            match self.pg.flush().await {
                Ok(()) => return true,
                Err(sqlx::Error::Database(e)) if !is_fatal(e.as_ref()) => {}
                Err(_) => return false,
            }
        }
    }

    async fn reset(&mut self) -> bool {
        let Ok(rows) = self.pg.fetch_all(RESET).await else {
            return false;
        };
        // A transaction of the driver's own that was forgotten, not dropped: the next BEGIN would be a SAVEPOINT.
        if self.pg.is_in_transaction() {
            return false;
        }
        // Prepared by SQL text: a stranger to the next user. Fewer than the driver believes in: it would fail.
        let Some(row) = rows.last() else { return false };
        let count =
            |column: &str| row.try_get::<String, _>(column).ok().and_then(|n| n.parse::<usize>().ok());
        count("by_sql") == Some(0)
            && count("by_driver").is_some_and(|n| n >= self.pg.cached_statements_size())
    }
}

/// Learns who the server is and which of its processes serves us, and refuses the wrong role and another cluster.
pub(crate) async fn identify(
    pg: &mut PgConnection,
    role: Role,
    host: &str,
    cluster: &Cluster,
) -> Result<(ServerId, Backend), Error> {
    let failed = |failure, source| Error::Connect { host: host.to_owned(), failure, source };
    let row = pg.fetch_one(IDENTIFY).await.map_err(|e| failed(after_login(&e), Some(e)))?;
    let number = |column: &str| text(&row, column).and_then(|n| n.parse().ok()).unwrap_or(0);
    let server = ServerId { system_id: number("system_id"), started: number("started") };
    // Numbers of processes are small, and the moment is in this century.
    let backend = Backend { pid: number("pid") as i32, started: number("backend_started") as i64 };
    let known = match (role, text(&row, "standby").as_deref() == Some("true")) {
        (Role::Primary, true) => return Err(failed(ConnectFailure::NotWritable, None)),
        (Role::Replica, false) => return Err(failed(ConnectFailure::NotReplica, None)),
        (Role::Primary, false) => cluster.learn(server.system_id).err(),
        (Role::Replica, true) => cluster.differs(server.system_id),
    };
    match known {
        None => Ok((server, backend)),
        Some(known) => {
            let text = format!("system identifier {}, expected {known}", server.system_id);
            let source = std::io::Error::new(std::io::ErrorKind::InvalidData, text);
            Err(failed(ConnectFailure::OtherCluster, Some(source.into())))
        }
    }
}

pub(crate) fn text(row: &PgRow, column: &str) -> Option<String> {
    row.try_get::<Option<String>, _>(column).ok().flatten()
}

pub(crate) fn lsn(row: &PgRow, column: &str) -> Option<u64> {
    text(row, column).as_deref().and_then(parse_lsn)
}

/// What a failed statement says about its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing was sent, or the answer was complete.
    Fine,
    /// The statement failed, the connection probably did not.
    Suspect,
    /// Gone, and others to the same server perhaps too.
    Broken,
}

/// `writable`: a server that refuses writes is not the one that was asked for.
pub(crate) fn verdict(e: &sqlx::Error, writable: bool) -> Verdict {
    match e {
        sqlx::Error::Database(db) => {
            let code = db.code().unwrap_or_default();
            let demoted = code == "25006" && writable;
            if is_fatal(db.as_ref()) || code.starts_with("08") || code.starts_with("57P") || demoted {
                Verdict::Broken
            } else {
                Verdict::Suspect
            }
        }
        sqlx::Error::RowNotFound | sqlx::Error::Encode(_) | sqlx::Error::InvalidArgument(_) => Verdict::Fine,
        sqlx::Error::ColumnNotFound(_) | sqlx::Error::ColumnIndexOutOfBounds { .. } => Verdict::Fine,
        sqlx::Error::ColumnDecode { .. } => Verdict::Fine,
        sqlx::Error::TypeNotFound { .. } => Verdict::Suspect,
        _ => Verdict::Broken,
    }
}

fn is_fatal(e: &dyn sqlx::error::DatabaseError) -> bool {
    use sqlx::postgres::{PgDatabaseError, PgSeverity};
    let severity = e.try_downcast_ref::<PgDatabaseError>().map(PgDatabaseError::severity);
    matches!(severity, Some(PgSeverity::Fatal | PgSeverity::Panic)) && e.kind() == ErrorKind::Other
}
