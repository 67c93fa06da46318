//! The [`core`](crate::core) behind its lock, and the handing-over of connections to those who wait. It opens
//! nothing, judges no connection and knows no time; what it needs of the pool is its [`Keeper`].
//!
//! The lock is held for the core's few instructions only: nothing is awaited, dropped or woken under it. Lock and
//! channel come from `sync`, hence `tests/model` (`cargo xtask model`) runs this very file, and the core's, under a
//! scheduler that tries their interleavings.

use super::{
    core::{Core, Counts, Limits, Phase, Put, Take},
    sync::{Mutex, oneshot},
};
use std::sync::Arc;

/// The pool, as its shell sees it. Called with no lock held.
pub(crate) trait Keeper: Sized {
    type Conn;
    /// A connection out of the pool. Dropping it leads to [`Shell::put`] or [`Shell::forfeit`], once.
    type Loan;

    fn shell(&self) -> &Shell<Self>;

    fn lend(self: &Arc<Self>, conn: Self::Conn) -> Self::Loan;

    /// A connection that was given back and is not counted any more.
    fn surplus(&self, conn: Self::Conn);

    /// Starts so many attempts to connect. Each asks [`Shell::still_wanted`] before it tries, and ends with
    /// [`Shell::arrived`] or [`Shell::abandoned`] unless told that it is not.
    fn open(self: &Arc<Self>, attempts: u32);
}

/// See the file's head.
pub(crate) struct Shell<K: Keeper> {
    core: Mutex<Core<K::Conn, oneshot::Sender<K::Loan>>>,
}

/// Answer to a caller that may wait.
pub(crate) enum Entry<'a, K: Keeper> {
    Loan(K::Loan),
    Queued(Place<'a, K>),
    /// So many wait already, which is the limit.
    Full(u32),
    Closed,
}

/// A place in the queue; left when dropped. What was handed over and not looked at goes back with it.
pub(crate) struct Place<'a, K: Keeper> {
    keeper: &'a K,
    ticket: u64,
    turn: oneshot::Receiver<K::Loan>,
    over: bool,
}

impl<K: Keeper> Place<'_, K> {
    /// Counted since the start.
    pub(crate) const fn number(&self) -> u64 {
        self.ticket
    }

    /// Waits for the turn; `None`: sent away.
    pub(crate) async fn turn(&mut self) -> Option<K::Loan> {
        let loan = (&mut self.turn).await.ok();
        self.over = true;
        loan
    }
}

impl<K: Keeper> Drop for Place<'_, K> {
    fn drop(&mut self) {
        if !self.over {
            self.keeper.shell().core.lock().cancel(self.ticket);
        }
    }
}

impl<K: Keeper> Shell<K> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { core: Mutex::new(Core::new(limits)) }
    }

    /// An idle connection, if there is one.
    #[inline]
    pub(crate) fn try_take(&self) -> Option<K::Conn> {
        match self.core.lock().take() {
            Take::Got(conn) => Some(conn),
            Take::Wait | Take::Closed => None,
        }
    }

    /// An idle connection, else a place in the queue: one critical section, or a connection that comes back between
    /// the two would lie idle beside a waiter.
    pub(crate) fn enter(keeper: &Arc<K>) -> Entry<'_, K> {
        let (give, turn) = oneshot::channel();
        let mut core = keeper.shell().core.lock();
        let ticket = match core.take() {
            Take::Got(conn) => {
                drop(core);
                return Entry::Loan(keeper.lend(conn));
            }
            Take::Closed => return Entry::Closed,
            Take::Wait => core.enqueue(give).map_err(|_| core.counts().waiting),
        };
        drop(core);
        match ticket {
            Ok(ticket) => {
                let place = Place { keeper: keeper.as_ref(), ticket, turn, over: false };
                Self::open_wished(keeper);
                Entry::Queued(place)
            }
            Err(waiting) => Entry::Full(waiting),
        }
    }

    /// A clean connection is back.
    #[inline]
    pub(crate) fn put(keeper: &Arc<K>, conn: K::Conn) {
        let put = keeper.shell().core.lock().put(conn);
        Self::settle(keeper, put);
    }

    /// One that [`borrow_if`](Self::borrow_if) gave is back: it is used no sooner than if it had stayed.
    pub(crate) fn put_unused(keeper: &Arc<K>, conn: K::Conn) {
        let put = keeper.shell().core.lock().put_unused(conn);
        Self::settle(keeper, put);
    }

    /// An attempt to connect succeeded.
    pub(crate) fn arrived(keeper: &Arc<K>, conn: K::Conn) {
        let put = keeper.shell().core.lock().connected(conn);
        Self::settle(keeper, put);
        Self::open_wished(keeper);
    }

    #[inline]
    fn settle(keeper: &Arc<K>, put: Put<K::Conn, oneshot::Sender<K::Loan>>) {
        match put {
            Put::Kept => {}
            // A waiter that left in this very moment gives the loan back by dropping it.
            Put::Hand(waiter, conn) => drop(waiter.send(keeper.lend(conn))),
            Put::Close(conn) => keeper.surplus(conn),
        }
    }

    /// A connection in use is no more; its permit is free.
    pub(crate) fn forfeit(keeper: &Arc<K>) {
        keeper.shell().core.lock().forfeit();
        Self::open_wished(keeper);
    }

    /// Starts the attempts to connect that the core wants.
    pub(crate) fn open_wished(keeper: &Arc<K>) {
        let attempts = keeper.shell().core.lock().wish();
        if attempts > 0 {
            keeper.open(attempts);
        }
    }

    /// A place for one attempt, whether or not anybody waits. `false`: no room.
    pub(crate) fn reserve(&self) -> bool {
        self.core.lock().reserve()
    }

    /// Asked before each attempt; `false`: the attempt counts no longer.
    pub(crate) fn still_wanted(&self) -> bool {
        self.core.lock().still_wanted()
    }

    /// An attempt ended with nothing.
    pub(crate) fn abandoned(&self) {
        self.core.lock().abandoned();
    }

    /// New limits; returns the idle connections that are too many now.
    pub(crate) fn resize(keeper: &Arc<K>, change: impl FnOnce(Limits) -> Limits) -> Vec<K::Conn> {
        let surplus = {
            let mut core = keeper.shell().core.lock();
            let limits = change(core.limits());
            core.resize(limits)
        };
        Self::open_wished(keeper);
        surplus
    }

    pub(crate) fn suspend(&self) {
        self.core.lock().suspend();
    }

    pub(crate) fn resume(keeper: &Arc<K>) {
        let served = keeper.shell().core.lock().resume();
        for (waiter, conn) in served {
            Self::settle(keeper, Put::Hand(waiter, conn));
        }
        Self::open_wished(keeper);
    }

    /// Sends all waiters away, who may try elsewhere.
    pub(crate) fn dismiss(&self) {
        let gone = self.core.lock().dismiss();
        drop(gone);
    }

    /// For good; returns what was idle.
    pub(crate) fn close(&self) -> Vec<K::Conn> {
        let (idle, waiters) = self.core.lock().close();
        drop(waiters);
        idle
    }

    /// As [`Core::reap`].
    pub(crate) fn reap(&self, expired: impl FnMut(&K::Conn, bool, u32) -> bool) -> Vec<K::Conn> {
        self.core.lock().reap(expired)
    }

    /// As [`Core::borrow_if`], for all at once: one that is back already must not be found again.
    pub(crate) fn borrow_all(&self, due: impl Fn(&K::Conn) -> bool) -> Vec<K::Conn> {
        let mut core = self.core.lock();
        std::iter::from_fn(|| core.borrow_if(&due)).collect()
    }

    /// Numbers and limits of one moment.
    pub(crate) fn snapshot(&self) -> (Counts, Limits) {
        let core = self.core.lock();
        (core.counts(), core.limits())
    }

    pub(crate) fn phase(&self) -> Phase {
        self.core.lock().phase()
    }
}
