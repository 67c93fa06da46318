//! A connection on loan, and what happens around each of its statements: taint before, clean after, a time limit
//! between. It does not know where the connection came from.

use crate::{
    conn::{Mark, Verdict, verdict},
    error::{Error, sqlstate},
    lease::Lease,
    pool::Pool,
    sql::{Effect, effect},
    stats::Role,
};
use resilience::Deadline;
use sqlx::{
    Execute, PgConnection, Postgres, SqlStr,
    error::BoxDynError,
    postgres::{PgArguments, PgStatement},
};
use std::{future::Future, panic::Location, time::Duration};
use tokio::time::Instant;

/// The client waits for this much longer than the server works, so that the server's own error arrives first.
const GRACE: Duration = Duration::from_secs(1);

/// One statement in so many has its duration measured.
const SAMPLE: u32 = 16;

/// A connection on loan; `&mut Session` is an [`sqlx::Executor`].
///
/// Statements commit by themselves. Dropping it returns the connection: at once if it is clean, after a reset in
/// the background if session state was touched, and not at all if it cannot be cleaned; no I/O is done on the
/// dropping side. Text such as `SET` or `BEGIN` is recognised and reset; state changed inside functions is
/// recognised for advisory locks and `set_config` only: use [`raw`](Self::raw) for anything else.
#[derive(Debug)]
pub struct Session {
    lease: Lease,
    deadline: Deadline,
    /// SQLSTATE of the latest failure, for the retry of transactions.
    pub(crate) failure: Option<String>,
}

impl Session {
    #[inline]
    pub(crate) fn new(mut lease: Lease, deadline: Deadline, taken_at: &'static Location<'static>) -> Self {
        let (conn, pool) = lease.parts();
        conn.slot.lend(pool.clock.now(), taken_at);
        Self { lease, deadline, failure: None }
    }

    /// The driver's connection, for what the executor cannot do: LISTEN, COPY, cursors, session state.
    ///
    /// When the session is dropped, whatever was done is undone by one round trip in the background before anyone
    /// else gets the connection. No deadline is kept on it.
    pub fn raw(&mut self) -> &mut PgConnection {
        let conn = self.lease.conn();
        (conn.mark.stateful, conn.mark.busy) = (true, true);
        &mut conn.pg
    }

    /// The limit of every statement from here on, beside `statement_timeout`.
    pub const fn set_deadline(&mut self, deadline: Deadline) {
        self.deadline = deadline;
    }

    /// The limit given at the acquisition, or set since; `never` unless given.
    #[must_use]
    pub const fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// Whether the connection is to a replica.
    #[must_use]
    pub fn is_replica(&self) -> bool {
        self.lease.pool.role == Role::Replica
    }

    /// The name of the server it is connected to.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.lease.pool.name
    }

    pub(crate) fn lease(&mut self) -> &mut Lease {
        &mut self.lease
    }

    pub(crate) fn mark(&mut self) -> &mut Mark {
        &mut self.lease.conn().mark
    }

    /// How long one statement, or a COMMIT, may take from now on.
    pub(crate) fn statement_deadline(&self) -> Deadline {
        self.deadline.capped(self.lease.pool.config.statement_timeout + GRACE)
    }

    /// Taints the connection for a statement with this text.
    pub(crate) fn start(&mut self, sql: &str, simple: bool) -> Result<Run<'_>, sqlx::Error> {
        let (conn, pool) = self.lease.parts();
        match effect(sql, simple) {
            Effect::None => {}
            Effect::Transaction(statement) if conn.mark.in_tx => {
                return Err(Error::TransactionControl { statement }.into());
            }
            Effect::State | Effect::Transaction(_) => conn.mark.stateful = true,
        }
        conn.mark.busy = true;
        conn.statements = conn.statements.wrapping_add(1);
        let started = Instant::now();
        let limit = started + pool.config.statement_timeout + GRACE;
        let at = self.deadline.instant().map_or(limit, |own| own.min(limit));
        let sampled = conn.statements % SAMPLE == 1;
        let note = Note {
            mark: &mut conn.mark,
            alarm: &mut conn.alarm,
            failure: &mut self.failure,
            pool,
            started,
            at,
            sampled,
        };
        Ok(Run { pg: &mut conn.pg, note })
    }
}

impl Drop for Session {
    #[inline]
    fn drop(&mut self) {
        let (conn, pool) = self.lease.parts();
        conn.slot.give_back(pool.clock.now());
    }
}

/// A statement under way.
pub(crate) struct Run<'e> {
    pub(crate) pg: &'e mut PgConnection,
    pub(crate) note: Note<'e>,
}

/// What is written down about a statement when it ends. Dropped before that, the connection stays tainted.
pub(crate) struct Note<'e> {
    mark: &'e mut Mark,
    alarm: &'e mut u32,
    failure: &'e mut Option<String>,
    pool: &'e Pool,
    started: Instant,
    pub(crate) at: Instant,
    sampled: bool,
}

impl Note<'_> {
    pub(crate) async fn watch<T>(
        mut self,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        match tokio::time::timeout_at(self.at, work).await {
            Ok(result) => self.settle(result),
            Err(_) => Err(self.timed_out()),
        }
    }

    pub(crate) fn settle<T>(&mut self, result: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        if self.sampled {
            self.pool.query_duration.record(self.started.elapsed().as_secs_f64(), &[]);
        }
        self.mark.busy = false;
        let Err(e) = result else {
            *self.alarm = self.pool.answered();
            return result;
        };
        match verdict(&e, self.pool.role == Role::Primary && !self.mark.read_only) {
            Verdict::Fine => {}
            Verdict::Suspect => self.mark.suspect = true,
            Verdict::Broken => {
                self.mark.broken = true;
                self.pool.failed(e.to_string());
                self.pool.suspect_all();
            }
        }
        *self.failure = sqlstate(&e);
        Err(e)
    }

    /// The statement may still run: the connection stays tainted.
    pub(crate) fn timed_out(&mut self) -> sqlx::Error {
        Error::Timeout { operation: "a statement", after: self.at - self.started }.into()
    }
}

/// A query taken apart, so that its text can be looked at and it can be run a second time.
#[derive(Clone)]
pub(crate) struct Traced {
    sql: SqlStr,
    statement: Option<PgStatement>,
    arguments: Option<PgArguments>,
    persistent: bool,
}

impl Traced {
    pub(crate) fn new<'q, E: Execute<'q, Postgres>>(mut query: E) -> Result<Self, sqlx::Error> {
        let statement = query.statement().cloned();
        let arguments = query.take_arguments().map_err(sqlx::Error::Encode)?;
        let persistent = query.persistent();
        Ok(Self { sql: query.sql(), statement, arguments, persistent })
    }

    pub(crate) fn text(&self) -> &str {
        self.sql.as_str()
    }

    pub(crate) const fn is_simple(&self) -> bool {
        self.arguments.is_none()
    }
}

impl<'q> Execute<'q, Postgres> for Traced {
    fn sql(self) -> SqlStr {
        self.sql
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.statement.as_ref()
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, BoxDynError> {
        Ok(self.arguments.take())
    }

    fn persistent(&self) -> bool {
        self.persistent
    }
}
