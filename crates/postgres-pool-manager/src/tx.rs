//! Transactions that know what has to happen after them. It does not retry; [`transaction`](crate::transaction) does.

use crate::{Error, PostgresPoolManager, ReadToken, Schema, Session, commit, pgbouncer};
use futures_core::future::BoxFuture;
use resilience::Deadline;
use sqlx::{AssertSqlSafe, Executor, SqlSafeStr, SqlStr};
use std::fmt;
use tracing::Instrument;

/// How a transaction isolates itself from others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Isolation {
    /// Postgres' default: each statement sees what was committed before it began.
    #[default]
    ReadCommitted,
    /// All statements see one snapshot; a conflicting write fails with 40001.
    RepeatableRead,
    /// As if transactions ran one after another; a conflict fails with 40001.
    Serializable,
}

/// Options of a transaction.
#[derive(Clone, Copy, Debug, Default)]
pub struct TransactionOptions {
    /// Default read committed.
    pub isolation: Isolation,
    /// Refuse writes. Default `false`.
    pub read_only: bool,
    /// For all of it: acquisition, statements, COMMIT, retries. Default `None`: the acquisition has
    /// `acquire_timeout`, each statement `statement_timeout`, and retries start within `acquire_timeout`.
    pub deadline: Option<Deadline>,
}

impl TransactionOptions {
    const fn begin(self) -> &'static str {
        match (self.isolation, self.read_only) {
            (Isolation::ReadCommitted, false) => "BEGIN",
            (Isolation::ReadCommitted, true) => "BEGIN READ ONLY",
            (Isolation::RepeatableRead, false) => "BEGIN ISOLATION LEVEL REPEATABLE READ",
            (Isolation::RepeatableRead, true) => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            (Isolation::Serializable, false) => "BEGIN ISOLATION LEVEL SERIALIZABLE",
            (Isolation::Serializable, true) => "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY",
        }
    }
}

/// What became of a COMMIT, for hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    /// Committed; a read with the token sees it.
    Committed(ReadToken),
    /// Perhaps committed: the answer was lost. What is safe to do for nothing should be done (invalidate);
    /// what asserts that it happened should not (publish).
    Unknown,
}

/// What runs after COMMIT.
pub(crate) type Hook = Box<dyn FnOnce(CommitOutcome) -> BoxFuture<'static, ()> + Send>;

/// An open transaction on the primary; `&mut Tx` is an [`sqlx::Executor`].
///
/// Dropping it rolls back in the background, without I/O on the dropping side, and drops its hooks. `BEGIN`,
/// `COMMIT` and `ROLLBACK` as text are refused; savepoints are not.
///
/// It is the only transaction that has hooks. One opened on [`Session::raw`] has none, for nobody would run them:
///
/// ```compile_fail,E0599
/// # async fn wrong(session: &mut postgres_pool_manager::Session) -> Result<(), sqlx::Error> {
/// use postgres_pool_manager::sqlx::{self, Connection};
/// let mut tx = session.raw().begin().await?;
/// tx.on_commit(|_outcome| Box::pin(async {}));
/// # Ok(()) }
/// ```
pub struct Tx {
    session: Session,
    manager: PostgresPoolManager,
    before: Vec<SqlStr>,
    hooks: Vec<Hook>,
}

impl Tx {
    pub(crate) async fn begin(
        manager: PostgresPoolManager,
        mut session: Session,
        options: TransactionOptions,
    ) -> Result<Self, Error> {
        // Marked first: a BEGIN whose answer nobody waited for has to be undone too.
        (session.mark().in_tx, session.mark().read_only) = (true, options.read_only);
        let config = &session.lease().pool.config;
        let begin = if config.pgbouncer {
            SqlSafeStr::into_sql_str(AssertSqlSafe(pgbouncer::begin(config, options.begin())))
        } else {
            options.begin().into_sql_str()
        };
        let statement = session.start("", true)?;
        statement.note.watch(statement.pg.execute(begin)).await?;
        Ok(Self { session, manager, before: Vec::new(), hooks: Vec::new() })
    }

    /// Runs `hook` after COMMIT was answered, or its answer was lost, and before [`commit`](Self::commit)
    /// returns; in the order of registration. Dropped unrun on rollback and at every retry.
    ///
    /// A hook gets what is left of the transaction's deadline, at least a second, and is dropped beyond it. It
    /// also runs when whoever called `commit` went away.
    pub fn on_commit<F>(&mut self, hook: F)
    where
        F: FnOnce(CommitOutcome) -> BoxFuture<'static, ()> + Send + 'static,
    {
        self.hooks.push(Box::new(hook));
    }

    /// Sends `sql`, one statement, in one message with the COMMIT and before it: no round trip of its own. Its rows
    /// are ignored; if it fails, is no single statement, or would begin or end a transaction, this one is rolled back.
    pub fn before_commit(&mut self, sql: impl SqlSafeStr) {
        self.before.push(sql.into_sql_str());
    }

    /// Commits and runs the hooks. The token comes with the answer to COMMIT, without a round trip of its own.
    ///
    /// Cancel safety: once polled, COMMIT and hooks run to their end in the background even if this future is
    /// dropped; which of the two outcomes it had is then known to the hooks alone.
    ///
    /// # Errors
    /// [`Error::RolledBack`]: the server rolled back, nothing happened. [`Error::Timeout`]: the deadline had passed
    /// before it was sent, nothing happened. [`Error::OutcomeUnknown`]: the answer was lost or did not come in time;
    /// never repeat the transaction blindly.
    pub async fn commit(self) -> Result<ReadToken, Error> {
        let Self { session, manager, before, hooks } = self;
        let work = commit::run(session, before, hooks).in_current_span();
        commit::Carried::new(work, manager.handle()).await
    }

    /// Rolls back and returns the connection. Dropping the transaction does the same without waiting.
    ///
    /// # Errors
    /// The server did not confirm; it rolls back all the same, at the latest when it misses the connection.
    pub async fn rollback(mut self) -> Result<(), Error> {
        let statement = self.session.start("", true)?;
        statement.note.watch(statement.pg.execute("ROLLBACK")).await?;
        (self.session.mark().in_tx, self.session.mark().read_only) = (false, false);
        Ok(())
    }

    /// The schema of the system's own tables.
    #[must_use]
    pub fn schema(&self) -> &Schema {
        self.manager.schema()
    }

    /// The manager whose transaction this is.
    #[must_use]
    pub const fn manager(&self) -> &PostgresPoolManager {
        &self.manager
    }

    /// The transaction's deadline, `never` unless it was given one.
    #[must_use]
    pub const fn deadline(&self) -> Deadline {
        self.session.deadline()
    }

    pub(crate) const fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Whether its connection was lost: then it is rolled back. Not one that was taken back, which is told and not
    /// repeated.
    pub(crate) fn lost(&self) -> bool {
        self.session.lost && !self.session.slot().is_reclaimed()
    }

    /// SQLSTATE of the latest failed statement.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.session.failure.as_deref()
    }
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { session, before, hooks, .. } = self;
        f.debug_struct("Tx")
            .field("session", session)
            .field("before", before)
            .field("hooks", &hooks.len())
            .finish()
    }
}
