//! The pool's errors in this crate's words: what counts is whether it may have happened.

use crate::Error;
use postgres_pool_manager::{Error as PoolError, sqlx};
use std::{sync::Arc, time::Duration};

/// For [`translate`]: nothing had been sent yet.
pub(crate) const BEFORE_SENDING: bool = false;
/// For [`translate`]: the statement had been sent.
pub(crate) const AFTER_SENDING: bool = true;

pub(crate) fn translate(operation: &'static str, error: PoolError, sent: bool) -> Error {
    match error {
        PoolError::Closed => Error::Shutdown { operation },
        PoolError::Query(error) => translate_query(operation, error),
        PoolError::PrimaryChanged { sent: true, .. } | PoolError::OutcomeUnknown { .. } => {
            Error::Unknown { operation }
        }
        PoolError::Timeout { .. } if sent => Error::Unknown { operation },
        PoolError::Timeout { after, .. } | PoolError::AcquireTimeout { after, .. } => {
            Error::Timeout { operation, after }
        }
        PoolError::Connect { .. } | PoolError::QueueFull { .. } | PoolError::PrimaryChanged { .. } => {
            Error::Unavailable { operation, reason: reason(&error) }
        }
        error => Error::Backend { operation, source: Arc::new(error) },
    }
}

/// Of a statement that was sent.
pub(crate) fn translate_query(operation: &'static str, error: sqlx::Error) -> Error {
    match PoolError::from(error) {
        PoolError::Query(sqlx::Error::Database(error)) if is_absence(error.code().as_deref()) => {
            Error::Unavailable { operation, reason: error.to_string() }
        }
        PoolError::Query(error @ (sqlx::Error::Database(_) | sqlx::Error::ColumnDecode { .. })) => {
            Error::Backend { operation, source: Arc::new(error) }
        }
        PoolError::Query(_) => Error::Unknown { operation },
        error => translate(operation, error, AFTER_SENDING),
    }
}

/// The server is there and will not do it now: it shuts down, starts up, takes no writes, has no room, or gave the
/// statement up. It rolled back.
fn is_absence(code: Option<&str>) -> bool {
    code.is_some_and(|code| {
        matches!(&code[..2.min(code.len())], "57" | "53" | "40" | "55") || code == "25006"
    })
}

fn reason(error: &PoolError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// What a wait for a deadline comes to before anything was sent.
pub(crate) const fn late(operation: &'static str, after: Duration) -> Error {
    Error::Timeout { operation, after }
}
