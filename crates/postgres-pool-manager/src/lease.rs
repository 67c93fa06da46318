//! What is out of the pool for a while, each with the drop that puts it right: a loan, an attempt to
//! connect, a connection being cleaned. No drop here does I/O or needs a running runtime.

use crate::{
    conn::{Conn, DRAIN_LIMIT, Pooled},
    pool::Pool,
    shell::{Keeper, Shell},
};
use std::sync::Arc;

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
        let wanted = self.pool.shell().still_wanted();
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
            self.pool.shell().abandoned();
        }
    }
}

/// A connection out of the pool. Dropping it returns it if clean, has it cleaned in the background if that can
/// be done, else gives it up; only then is its permit free. No I/O on the dropping side.
#[derive(Debug)]
pub(crate) struct Lease {
    conn: Option<Pooled>,
    used: Used,
    pub(crate) pool: Arc<Pool>,
}

/// What became of the loan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Used {
    /// Nobody got it: a check in the background keeps nothing from growing old.
    No,
    Yes,
    /// It was taken back, and its permit with it.
    Reclaimed,
}

impl Lease {
    #[inline]
    pub(crate) fn new(conn: Pooled, pool: &Arc<Pool>) -> Self {
        Self { conn: Some(conn), used: Used::No, pool: Arc::clone(pool) }
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

    #[inline]
    pub(crate) fn set_used(&mut self) {
        self.used = Used::Yes;
    }

    pub(crate) fn set_reclaimed(&mut self) {
        self.used = Used::Reclaimed;
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
        let expired = conn.expires <= self.pool.clock.now();
        if self.used == Used::Reclaimed {
            drop(conn);
        } else if conn.mark.broken || conn.slot.is_evicted() || (expired && !conn.mark.is_clean()) {
            self.pool.discard(conn);
        } else if expired {
            self.pool.close_politely(vec![conn]);
            self.pool.free();
        } else if conn.mark.is_clean() {
            if self.used == Used::Yes {
                self.pool.give_back(conn)
            } else {
                Shell::put_unused(&self.pool, conn)
            }
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
        let Some(conn) = &mut self.conn else { return };
        if self.pool.config.pgbouncer && conn.mark.stateful {
            // What was left at the server is out of reach: the next message may go to another one.
            return;
        }
        // A short rest is read, a long one cancelled if that is wanted; else the connection is given up.
        let read = conn.read_rest(DRAIN_LIMIT).await || self.pool.cancel(conn).await;
        let clean = read && conn.clean(self.pool.config.check_timeout).await;
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
