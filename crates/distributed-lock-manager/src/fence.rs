//! Fenced transactions: the token is checked by the database that is written to, so that a holder who does not know yet
//! that he has lost the lock cannot commit. Reads outside of such a transaction are not covered.

use crate::{LockError, LockGuard};
use futures_util::future::BoxFuture;
use postgres_pool_manager::{
    Migration, MigrationSet, PostgresPoolManager, TransactionOptions, Tx,
    sqlx::{self, AssertSqlSafe},
};
use resilience::Deadline;

/// This crate's tables: `fences`, the greatest token that each lock's writers have shown.
#[must_use]
pub const fn migrations() -> MigrationSet {
    const FENCES: Migration = Migration {
        version: 1,
        name: "fences",
        sql: "CREATE TABLE {schema}.fences (
            scope text NOT NULL,
            name text NOT NULL,
            token numeric(20, 0) NOT NULL,
            updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            PRIMARY KEY (scope, name)
        )",
    };
    MigrationSet { component: "distributed-lock-manager", migrations: &[FENCES] }
}

/// Why a fenced transaction did not commit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FencedError<E> {
    /// The lock is lost, or its token is stale: [`LockError::Lost`] or [`LockError::Stale`]. Nothing was committed.
    #[error(transparent)]
    Lock(LockError),
    /// The closure's own; the transaction is rolled back.
    #[error("the transaction's closure failed")]
    Closure(E),
    /// The pool's or the server's.
    #[error(transparent)]
    Database(#[from] postgres_pool_manager::Error),
}

impl LockGuard {
    /// Runs `work` in a transaction that commits only while no later holder of this lock has run one: its first
    /// statement records the token, and a greater one there refuses it. Once a fenced transaction has done that, none
    /// with a smaller token commits.
    ///
    /// The statements of the transaction, and its pauses between them, are limited to what is left of the lease, so that
    /// a holder who was stopped in the middle blocks the next one for one lease at most. `work` runs once; whether to
    /// repeat a transaction that failed is the caller's to decide.
    ///
    /// Needs the table of [`migrations`].
    ///
    /// Cancel safety: dropped before COMMIT, the transaction is rolled back.
    ///
    /// # Errors
    /// [`FencedError::Lock`] with [`LockError::Lost`] or [`LockError::Stale`]: nothing was committed.
    pub async fn transaction<T, E, F>(
        &self,
        database: &PostgresPoolManager,
        options: TransactionOptions,
        work: F,
    ) -> Result<T, FencedError<E>>
    where
        F: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send,
        T: Send,
        E: Send,
    {
        self.check().map_err(FencedError::Lock)?;
        let within_lease = Deadline::after(self.remaining());
        let deadline = options.deadline.map_or(within_lease, |deadline| deadline.earlier(within_lease));
        let mut tx = database.begin(TransactionOptions { deadline: Some(deadline), ..options }).await?;
        self.fence(&mut tx).await?;
        let value = work(&mut tx).await.map_err(FencedError::Closure)?;
        tx.commit().await?;
        Ok(value)
    }

    /// Bounds the transaction by the lease, then shows the token.
    async fn fence<E>(&self, tx: &mut Tx) -> Result<(), FencedError<E>> {
        // Not zero, which would mean no limit.
        let left = self.remaining().as_millis().max(1);
        // SET takes no snapshot, so the fence is the first statement that sees data.
        let limits = format!(
            "SET LOCAL statement_timeout = {left}; SET LOCAL idle_in_transaction_session_timeout = {left}"
        );
        sqlx::raw_sql(AssertSqlSafe(limits)).execute(&mut *tx).await.map_err(database)?;
        let fences = tx.schema().table("fences");
        let show = format!(
            "INSERT INTO {fences} AS fence (scope, name, token) VALUES ($1, $2, $3::numeric) \
             ON CONFLICT (scope, name) DO UPDATE SET token = excluded.token, updated_at = clock_timestamp() \
             WHERE fence.token <= excluded.token"
        );
        let shown = sqlx::query(AssertSqlSafe(show))
            .bind(self.scope())
            .bind(self.name())
            .bind(self.token().to_string())
            .execute(&mut *tx)
            .await
            .map_err(database)?;
        if shown.rows_affected() == 0 {
            let (name, token) = (self.name().to_owned(), self.token());
            return Err(FencedError::Lock(LockError::Stale { name, token }));
        }
        Ok(())
    }
}

fn database<E>(error: sqlx::Error) -> FencedError<E> {
    FencedError::Database(error.into())
}
