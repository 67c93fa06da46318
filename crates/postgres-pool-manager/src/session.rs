//! A connection on loan, and what happens around each of its statements: taint before, clean after, a time limit
//! between. It does not know where the connection came from.

use crate::{
    conn::{Mark, Verdict, verdict},
    error::{Error, kind, sqlstate},
    explain::RouteReason,
    insight::sketch::EVERY,
    lease::Lease,
    pgbouncer::{self, Around, Work},
    pool::Pool,
    recorder::Sample,
    slot::{Back, Slot},
    sql::{Effect, effect},
    stats::Role,
    watch::{End, Watch},
};
use resilience::Deadline;
use sqlx::{
    AssertSqlSafe, Execute, PgConnection, Postgres, SqlSafeStr, SqlStr,
    error::BoxDynError,
    postgres::{PgArguments, PgStatement},
};
use std::{future::Future, panic::Location, time::Duration};
use tokio::time::Instant;

/// The client waits for this much longer than the server works, so that the server's own error arrives first.
const GRACE: Duration = Duration::from_secs(1);

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
    /// Whether the connection was lost under it.
    pub(crate) lost: bool,
    reason: RouteReason,
}

impl Session {
    #[inline]
    pub(crate) fn new(
        mut lease: Lease,
        reason: RouteReason,
        deadline: Deadline,
        taken_at: &'static Location<'static>,
    ) -> Self {
        lease.set_used();
        let (conn, pool) = lease.parts();
        conn.loans = conn.loans.wrapping_add(1);
        conn.slot.lend(pool.clock.now(), taken_at, pool.watched);
        Self { lease, deadline, failure: None, lost: false, reason }
    }

    /// The driver's connection, for what the executor cannot do: LISTEN, COPY, cursors, session state.
    ///
    /// When the session is dropped, whatever was done is undone by one round trip in the background before anyone
    /// else gets the connection. No deadline is kept on it, and after
    /// [`reclaim_after`](crate::Config::reclaim_after), or when another server has become the primary, it is found closed
    /// by the server (behind PgBouncer only the next statement that is not raw is refused).
    ///
    /// Behind PgBouncer the connection is given up afterwards instead, and nothing undoes what was left at the server:
    /// there it is for COPY in a transaction, and everything else wants
    /// [`open_direct`](crate::PostgresPoolManager::open_direct).
    pub fn raw(&mut self) -> &mut PgConnection {
        let conn = self.lease.conn();
        (conn.mark.stateful, conn.mark.busy, conn.mark.cancellable) = (true, true, false);
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
        self.lease.pool.role() == Role::Replica
    }

    /// The name of the server it is connected to.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.lease.pool.name
    }

    /// Why it was taken from there.
    #[must_use]
    pub const fn route_reason(&self) -> RouteReason {
        self.reason
    }

    pub(crate) fn lease(&mut self) -> &mut Lease {
        &mut self.lease
    }

    pub(crate) fn slot(&self) -> &Slot {
        &self.lease.conn_ref().slot
    }

    pub(crate) fn mark(&mut self) -> &mut Mark {
        &mut self.lease.conn().mark
    }

    /// The loan is over for whoever watches it: from here on it is not taken back, unless it was.
    #[inline]
    pub(crate) fn is_back(&mut self) -> Back {
        let (conn, pool) = self.lease.parts();
        let now = pool.clock.now();
        if conn.loans % EVERY == 1
            && let Some(held) = conn.slot.held(now)
        {
            pool.recorder.used(held);
        }
        let back = conn.slot.give_back(now);
        if let Back::Reported(held) = back {
            pool.report_return(&conn.slot, held);
        }
        back
    }

    /// How long one statement, or a COMMIT, may take from now on.
    pub(crate) fn statement_deadline(&self) -> Deadline {
        self.deadline.capped(self.lease.pool.config.statement_timeout + GRACE)
    }

    /// Runs a statement to its end.
    pub(crate) async fn run<T: Send>(&mut self, query: Traced, work: impl Work<T>) -> Result<T, sqlx::Error> {
        let query = self.commented(query);
        self.start_query(&query)?.carry(query, work).await
    }

    /// With the comment that was asked for.
    pub(crate) fn commented(&self, query: Traced) -> Traced {
        self.lease.pool.comment.on(query)
    }

    /// As [`start`](Self::start), and notes what it is for whoever asks what the session does.
    pub(crate) fn start_query(&mut self, query: &Traced) -> Result<Run<'_>, sqlx::Error> {
        let (conn, pool) = self.lease.parts();
        let simple = query.arguments.is_none();
        let effect = conn.latest.effect_of(&query.sql, simple);
        if pool.watched {
            conn.slot.note(conn.latest.sql());
        }
        self.begin_statement(query.sql.as_str(), simple, effect)
    }

    /// Taints the connection for a statement with this text.
    pub(crate) fn start(&mut self, sql: &str, simple: bool) -> Result<Run<'_>, sqlx::Error> {
        self.begin_statement(sql, simple, effect(sql, simple))
    }

    fn begin_statement(&mut self, sql: &str, simple: bool, effect: Effect) -> Result<Run<'_>, sqlx::Error> {
        let (conn, pool) = self.lease.parts();
        if conn.slot.is_evicted() {
            (conn.mark.broken, self.lost) = (true, true);
            return Err(Error::PrimaryChanged { host: pool.label.clone(), sent: false }.into());
        }
        if conn.slot.is_reclaimed() {
            return Err(reclaimed(&conn.slot).into());
        }
        let started = Instant::now();
        let limit = started + pool.config.statement_timeout + GRACE;
        let at = self.deadline.instant().map_or(limit, |own| own.min(limit));
        if at <= started {
            // Sent, it might be carried out although its caller was told that there was no time.
            return Err(Error::Timeout { operation: "a statement", after: Duration::ZERO }.into());
        }
        let (mut around, mut cancellable) = (Around::Nothing, true);
        if pool.config.pgbouncer {
            pgbouncer::judge(sql, simple, conn.mark.in_tx)?;
            around = Around::next(&mut conn.mark, &mut conn.known, &pool.config, simple);
        } else {
            cancellable = !matches!(effect, Effect::Transaction(_));
            match effect {
                Effect::None => {}
                Effect::Transaction(statement) if conn.mark.in_tx => {
                    return Err(Error::TransactionControl { statement }.into());
                }
                Effect::State | Effect::Transaction(_) => conn.mark.stateful = true,
            }
        }
        conn.mark.busy = true;
        conn.mark.cancellable = cancellable;
        conn.statements = conn.statements.wrapping_add(1);
        let sample = Sample::of(conn.statements, sql);
        let note = Note {
            mark: &mut conn.mark,
            alarm: &mut conn.alarm,
            failure: &mut self.failure,
            lost: &mut self.lost,
            slot: &conn.slot,
            pool,
            started,
            at,
            own: self.deadline.instant(),
            sample,
        };
        Ok(Run { pg: &mut conn.pg, note, around })
    }

    /// As [`start`](Self::start), for what gives a statement a name at the server.
    pub(crate) fn prepare(&mut self) -> Result<Run<'_>, sqlx::Error> {
        if self.lease.pool.config.pgbouncer {
            return Err(Error::SessionState { statement: "PREPARE".to_owned() }.into());
        }
        self.start("", false)
    }
}

impl Drop for Session {
    #[inline]
    fn drop(&mut self) {
        if self.is_back() == Back::Reclaimed {
            self.lease.set_reclaimed();
        }
    }
}

pub(crate) fn reclaimed(slot: &Slot) -> Error {
    Error::Reclaimed { taken_at: slot.loan().taken_at }
}

/// A statement under way.
pub(crate) struct Run<'e> {
    pub(crate) pg: &'e mut PgConnection,
    pub(crate) note: Note<'e>,
    pub(crate) around: Around<'e>,
}

/// What is written down about a statement when it ends. Dropped before that, the connection stays tainted.
pub(crate) struct Note<'e> {
    mark: &'e mut Mark,
    alarm: &'e mut u32,
    failure: &'e mut Option<String>,
    lost: &'e mut bool,
    slot: &'e Slot,
    pool: &'e Pool,
    started: Instant,
    at: Instant,
    /// The caller's own limit, if it gave one.
    pub(crate) own: Option<Instant>,
    sample: Option<Sample>,
}

impl<'e> Note<'e> {
    /// `now`: a stream may be asked for its first row long after it was made.
    pub(crate) fn limits(&self, now: Instant) -> Watch<'e> {
        Watch::new(self.slot, self.pool, now, self.at)
    }

    pub(crate) async fn watch<T>(
        mut self,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        match self.limits(self.started).over(work).await {
            Ok(result) => self.settle(result),
            Err(end) => Err(self.given_up(end)),
        }
    }

    pub(crate) fn settle<T>(&mut self, result: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        if let Some(sample) = self.sample.take() {
            let kind = result.as_ref().err().map(kind);
            self.pool.recorder.statement(sample, self.started.elapsed(), kind);
        }
        (self.mark.busy, self.mark.cancellable, self.mark.alone) = (false, false, false);
        let Err(e) = result else {
            *self.alarm = self.pool.answered();
            return result;
        };
        match verdict(&e, self.pool.role() == Role::Primary && !self.mark.read_only) {
            Verdict::Fine => {}
            Verdict::Suspect => self.mark.suspect = true,
            Verdict::Broken => {
                (self.mark.broken, *self.lost) = (true, true);
                self.pool.failed(e.to_string());
                self.pool.suspect_all();
            }
        }
        *self.failure = sqlstate(&e);
        Err(if self.slot.is_reclaimed() { reclaimed(self.slot).into() } else { e })
    }

    /// No answer is waited for any more. The statement may still run: the connection stays tainted.
    pub(crate) fn given_up(&mut self, end: End) -> sqlx::Error {
        let after = self.at - self.started;
        if let Some(sample) = self.sample.take() {
            let kind = if end == End::TimedOut { "timeout" } else { "connection_lost" };
            self.pool.recorder.statement(sample, self.started.elapsed(), Some(kind));
        }
        match end {
            End::TimedOut => Error::Timeout { operation: "a statement", after },
            End::Lost => {
                (self.mark.broken, *self.lost) = (true, true);
                if self.slot.is_reclaimed() {
                    reclaimed(self.slot)
                } else {
                    Error::PrimaryChanged { host: self.pool.label.clone(), sent: true }
                }
            }
        }
        .into()
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

    pub(crate) const fn is_prepared(&self) -> bool {
        self.statement.is_some()
    }

    /// The server is to forget it at once.
    pub(crate) fn nameless(mut self) -> Self {
        self.persistent = false;
        self
    }

    pub(crate) fn text(&self) -> &str {
        self.sql.as_str()
    }

    /// `once`: this text will not come again.
    pub(crate) fn with_comment(mut self, comment: &str, once: bool) -> Self {
        let text = format!("{} /*{comment}*/", self.sql.as_str());
        // The text is the caller's own; the comment is encoded so that nothing in it can end it.
        self.sql = AssertSqlSafe(text).into_sql_str();
        self.persistent &= !once;
        self
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
