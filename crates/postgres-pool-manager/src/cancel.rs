//! Whether the server is asked to end what nobody waits for any more. Only the choice; `orders` carries it out.

/// What becomes of a statement at the server when its session, transaction or handle's future is dropped while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cancel {
    /// Its connection is closed; the server notices within
    /// [`connection_check_interval`](crate::Config::connection_check_interval). The default: it takes no other
    /// connection, works behind every pooler and cannot hit anyone else.
    #[default]
    Connection,
    /// What does not end by itself within 50 ms is cancelled by one `pg_cancel_backend`, given within a second on an idle
    /// connection or on one opened for it (one beyond the pool's size), and the connection is kept if that succeeds.
    /// Guarded by the process' moment of start, so that another process of the same number is never hit. Never while a
    /// COMMIT is in flight, nor for what ran on [`raw`](crate::Session::raw), where one might be.
    Eager,
}
