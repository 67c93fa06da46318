//! Executors that acquire a session for each statement. They hold no connection.

use crate::{Acquire, PostgresPoolManager, ReadToken, router::Route};
use std::panic::Location;

/// `&Primary` is an [`sqlx::Executor`] that runs each statement on a session of its own of the primary.
#[derive(Clone, Debug)]
pub struct Primary {
    manager: PostgresPoolManager,
    taken_at: &'static Location<'static>,
}

impl Primary {
    pub(crate) const fn new(manager: PostgresPoolManager, taken_at: &'static Location<'static>) -> Self {
        Self { manager, taken_at }
    }

    pub(crate) fn acquire(&self) -> Acquire<'_> {
        Acquire::new(&self.manager, Route::Primary, self.taken_at)
    }
}

/// `&Replica` is an [`sqlx::Executor`] that runs each statement on a session of its own, of a replica that may
/// be read from, or of the primary when there is none.
///
/// A read whose replica is lost under it is repeated once on the primary, except for streams (`fetch`,
/// `fetch_many`). It is meant for statements that read: with no replica to choose a write would succeed, and one whose
/// replica is promoted and lost under it may be done twice.
#[derive(Clone, Debug)]
pub struct Replica {
    manager: PostgresPoolManager,
    taken_at: &'static Location<'static>,
    after: Option<ReadToken>,
}

impl Replica {
    pub(crate) const fn new(
        manager: PostgresPoolManager,
        after: Option<ReadToken>,
        taken_at: &'static Location<'static>,
    ) -> Self {
        Self { manager, taken_at, after }
    }

    pub(crate) fn acquire(&self) -> Acquire<'_> {
        Acquire::new(&self.manager, self.after.map_or(Route::Read, Route::ReadAfter), self.taken_at)
    }

    pub(crate) fn acquire_primary(&self) -> Acquire<'_> {
        Acquire::new(&self.manager, Route::Primary, self.taken_at)
    }
}
