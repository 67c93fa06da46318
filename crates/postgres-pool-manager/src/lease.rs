//! What is out of the pool for a while, each with the drop that puts it right: a loan, a place in the queue, an
//! attempt to connect, a connection being cleaned. No drop here does I/O or needs a running runtime.

use crate::{
    conn::{Conn, Pooled},
    pool::Pool,
};
use std::sync::Arc;

/// A caller in the queue; leaves it when dropped.
pub(crate) struct Waiting<'a> {
    pool: &'a Pool,
    ticket: u64,
}

impl<'a> Waiting<'a> {
    pub(crate) const fn new(pool: &'a Pool, ticket: u64) -> Self {
        Self { pool, ticket }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.pool.withdraw(self.ticket);
    }
}

/// A connection attempt; gives its place up when dropped.
#[derive(Debug)]
pub(crate) struct Connecting {
    pub(crate) pool: Arc<Pool>,
    done: bool,
}

impl Connecting {
    pub(crate) fn new(pool: &Arc<Pool>) -> Self {
        Self { pool: Arc::clone(pool), done: false }
    }

    /// `false`: nobody needs it any more, and its place is given up.
    pub(crate) fn still_wanted(&mut self) -> bool {
        let wanted = self.pool.still_wanted();
        self.done = !wanted;
        wanted
    }

    pub(crate) fn succeeded(mut self, conn: Pooled) {
        self.done = true;
        self.pool.arrived(conn);
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        if !self.done {
            self.pool.abandoned();
        }
    }
}

/// A connection out of the pool. Dropping it returns it if clean, has it cleaned in the background if that can
/// be done, else gives it up; only then is its permit free. No I/O on the dropping side.
#[derive(Debug)]
pub(crate) struct Lease {
    conn: Option<Pooled>,
    pub(crate) pool: Arc<Pool>,
}

impl Lease {
    #[inline]
    pub(crate) fn new(conn: Pooled, pool: &Arc<Pool>) -> Self {
        Self { conn: Some(conn), pool: Arc::clone(pool) }
    }

    /// Whether it has to be checked before it is handed out.
    #[inline]
    pub(crate) fn wants_check(&self) -> bool {
        self.conn.as_ref().is_some_and(|conn| conn.mark.suspect)
    }

    #[inline]
    pub(crate) fn conn(&mut self) -> &mut Conn {
        self.conn.as_mut().expect("a lease has its connection until it is dropped")
    }

    pub(crate) fn parts(&mut self) -> (&mut Conn, &Pool) {
        (self.conn.as_mut().expect("a lease has its connection until it is dropped"), &self.pool)
    }

    pub(crate) fn conn_ref(&self) -> &Conn {
        self.conn.as_ref().expect("a lease has its connection until it is dropped")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(conn) = self.conn.take() else { return };
        if conn.mark.broken || conn.expires <= self.pool.clock.now() {
            self.pool.discard(conn);
        } else if conn.mark.is_clean() {
            self.pool.give_back(conn);
        } else {
            let mut cleaning = Cleaning { conn: Some(conn), pool: Arc::clone(&self.pool) };
            self.pool.spawn(async move { cleaning.run().await });
        }
    }
}

/// A connection being made clean; given up when dropped before that.
struct Cleaning {
    conn: Option<Pooled>,
    pool: Arc<Pool>,
}

impl Cleaning {
    async fn run(&mut self) {
        let limit = self.pool.config.check_timeout;
        let clean = match &mut self.conn {
            Some(conn) => conn.clean(limit).await,
            None => return,
        };
        if clean && let Some(conn) = self.conn.take() {
            self.pool.give_back(conn);
        }
    }
}

impl Drop for Cleaning {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            self.pool.discard(conn);
        }
    }
}
