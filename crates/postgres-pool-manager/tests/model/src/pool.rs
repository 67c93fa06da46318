//! A pool whose connections are numbers: everything that the shell needs of one, and a book in which it is written
//! down what exists and who holds it. No rule of the pool is repeated here.

use crate::{
    core::{Counts, Limits, Phase},
    shell::{Entry, Keeper, Shell},
};
use std::{
    collections::BTreeSet,
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

pub(crate) struct Pool {
    shell: Shell<Self>,
    /// The book's lock is no point of the schedule: nothing happens under it.
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
pub(crate) struct Book {
    next: u32,
    attempts: u32,
    /// Connecting tasks that have not ended.
    pub(crate) opening: u32,
    open: BTreeSet<u32>,
    held: BTreeSet<u32>,
    /// The most that were held at once.
    pub(crate) most: usize,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Conn(u32);

/// A connection on loan; comes back when dropped, unless it was lost.
pub(crate) struct Loan {
    conn: Option<Conn>,
    pool: Arc<Pool>,
    pub(crate) lost: bool,
}

impl Drop for Loan {
    fn drop(&mut self) {
        let Some(conn) = self.conn.take() else { return };
        {
            let mut book = self.pool.book();
            assert!(book.held.remove(&conn.0), "{} came back twice", conn.0);
            if self.lost {
                book.open.remove(&conn.0);
            }
        }
        if self.lost { Shell::forfeit(&self.pool) } else { Shell::put(&self.pool, conn) }
    }
}

impl Keeper for Pool {
    type Conn = Conn;
    type Loan = Loan;

    fn shell(&self) -> &Shell<Self> {
        &self.shell
    }

    fn lend(self: &Arc<Self>, conn: Conn) -> Loan {
        let mut book = self.book();
        assert!(book.open.contains(&conn.0), "{} was lent though it is closed", conn.0);
        assert!(book.held.insert(conn.0), "{} was lent twice", conn.0);
        book.most = book.most.max(book.held.len());
        drop(book);
        Loan { conn: Some(conn), pool: Arc::clone(self), lost: false }
    }

    fn surplus(&self, conn: Conn) {
        self.closed(conn);
    }

    fn open(self: &Arc<Self>, attempts: u32) {
        for _ in 0..attempts {
            let pool = Arc::clone(self);
            self.book().opening += 1;
            drop(shuttle::future::spawn(async move {
                Arc::clone(&pool).connecting().await;
                pool.book().opening -= 1;
            }));
        }
    }
}

impl Pool {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { shell: Shell::new(limits), book: Mutex::new(Book::default()) })
    }

    pub(crate) fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().expect("a panic ends the whole run")
    }

    /// As the pool's own task: asks, tries, asks again. Every third attempt fails.
    async fn connecting(self: Arc<Self>) {
        while self.shell.still_wanted() {
            shuttle::future::yield_now().await;
            let new = {
                let mut book = self.book();
                book.attempts += 1;
                (book.attempts % 3 != 0).then(|| book.create())
            };
            if let Some(conn) = new {
                return Shell::arrived(&self, conn);
            }
            if self.shell.phase() == Phase::Closed {
                return self.shell.abandoned();
            }
        }
    }

    fn closed(&self, conn: Conn) {
        let mut book = self.book();
        assert!(!book.held.contains(&conn.0), "{} was closed under whoever holds it", conn.0);
        assert!(book.open.remove(&conn.0), "{} was closed twice", conn.0);
    }

    /// Waits as long as it takes; `None`: sent away, or the pool is closed.
    pub(crate) async fn acquire(self: &Arc<Self>) -> Option<Loan> {
        match Shell::enter(self) {
            Entry::Loan(loan) => Some(loan),
            Entry::Queued(mut place) => place.turn().await,
            Entry::Full(_) | Entry::Closed => None,
        }
    }

    /// Leaves after so many polls.
    pub(crate) async fn acquire_within(self: &Arc<Self>, polls: u32) -> Option<Loan> {
        Impatient { future: pin!(self.acquire()), left: polls }.await.flatten()
    }

    pub(crate) fn resize(self: &Arc<Self>, size: u32) {
        for conn in Shell::resize(self, |limits| Limits { size, ..limits }) {
            self.closed(conn);
        }
    }

    pub(crate) fn close(&self) {
        for conn in self.shell.close() {
            self.closed(conn);
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.shell.snapshot().0
    }

    /// What has to hold at every moment, asked at this one.
    pub(crate) fn look(&self) {
        let (counts, _) = self.shell.snapshot();
        assert!(
            counts.idle == 0 || counts.waiting == 0,
            "somebody waits beside idle connections: {counts:?}"
        );
    }

    /// What has to hold once everybody has gone: no permit lost, none invented.
    pub(crate) fn settled(&self) {
        let (counts, limits) = self.shell.snapshot();
        assert_eq!((counts.in_use, counts.waiting, counts.connecting), (0, 0, 0), "{counts:?}");
        let book = self.book();
        assert!(book.held.is_empty());
        assert_eq!(book.open.len(), counts.idle as usize, "a connection is lost or invented");
        assert!(counts.idle <= limits.max(), "{counts:?} over {limits:?}");
    }
}

impl Book {
    fn create(&mut self) -> Conn {
        self.next += 1;
        self.open.insert(self.next);
        Conn(self.next)
    }
}

/// Gives its future up after so many polls.
struct Impatient<'a, F> {
    future: Pin<&'a mut F>,
    left: u32,
}

impl<F: Future> Future for Impatient<'_, F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if self.left == 0 => Poll::Ready(None),
            Poll::Pending => {
                self.left -= 1;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}
