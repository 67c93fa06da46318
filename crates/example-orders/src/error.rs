//! What can go wrong with an order: which part said so, for a caller to tell a conflict from an outage.

use database_services::cache_manager::CacheError;
use database_services::distributed_lock_manager::{FencedError, LockError};
use database_services::{postgres_pool_manager as postgres, pubsub_manager as messages, sqlx};

/// Errors of [`Orders`](crate::Orders).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection, or a transaction that did not commit.
    #[error(transparent)]
    Database(#[from] postgres::Error),
    /// A statement failed.
    #[error(transparent)]
    Statement(#[from] sqlx::Error),
    /// An order could neither be found in the cache nor be loaded.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The daily job has no lock, or has lost it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A message could not be written, or nobody can be listened to.
    #[error(transparent)]
    Message(#[from] messages::Error),
    /// The daily job's transaction failed or was refused.
    #[error(transparent)]
    Archive(Box<FencedError<Self>>),
}

impl From<FencedError<Self>> for Error {
    fn from(error: FencedError<Self>) -> Self {
        match error {
            FencedError::Closure(error) => error,
            FencedError::Lock(error) => error.into(),
            FencedError::Database(error) => error.into(),
            other => Self::Archive(Box::new(other)),
        }
    }
}
