//! What the pool sees of a connection that is on loan: since when, taken where, doing what; and whether it was taken
//! back. It touches neither the connection nor the pool's counts.

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use resilience::clock::CoarseInstant;
use sqlx::SqlStr;
use std::{
    panic::Location,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    task::Context,
    time::Duration,
};
use tracing::{Metadata, span};

/// Not on loan.
const FREE: u64 = 0;

/// Taken back from whoever holds it.
const RECLAIMED: u64 = u64::MAX;

/// Which process of the server serves a connection. Numbers of processes come again, the moment of start does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) pid: i32,
    /// Microseconds since 1970.
    pub(crate) started: i64,
}

/// The pool keeps one for each open connection.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) backend: Backend,
    /// Coarse milliseconds since when it is on loan, or one of the two above.
    since: AtomicU64,
    /// The `since` of the loan that was reported last.
    reported: AtomicU64,
    /// Its server lost the role that it was opened for.
    evicted: AtomicBool,
    /// When whoever waits for an answer is to be woken, in coarse milliseconds; or one of the two below.
    wake_at: AtomicU64,
    waker: AtomicWaker,
    loan: Mutex<Loan>,
}

/// Nobody is to be woken.
const NEVER: u64 = u64::MAX;

/// Somebody was woken.
const WOKEN: u64 = 0;

/// Who has it. What was true of the last loan stands until the next.
#[derive(Clone, Debug)]
pub(crate) struct Loan {
    pub(crate) taken_at: &'static Location<'static>,
    /// Its number and description alone: the span ends when its owner ends it.
    pub(crate) span: Option<(span::Id, &'static Metadata<'static>)>,
    pub(crate) statement: Option<SqlStr>,
}

/// How a loan ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Back {
    Quiet,
    /// It had been reported as leaked, after so long.
    Reported(Duration),
    /// It had been taken back: its permit is free already.
    Reclaimed,
}

impl Slot {
    #[track_caller]
    pub(crate) fn new(backend: Backend) -> Arc<Self> {
        let loan = Loan { taken_at: Location::caller(), span: None, statement: None };
        let (since, reported) = (AtomicU64::new(FREE), AtomicU64::new(FREE));
        let (evicted, wake_at, waker) = (AtomicBool::new(false), AtomicU64::new(NEVER), AtomicWaker::new());
        Arc::new(Self { backend, since, reported, evicted, wake_at, waker, loan: Mutex::new(loan) })
    }

    /// `watched`: whether anybody may ask for the span.
    pub(crate) fn lend(&self, now: CoarseInstant, taken_at: &'static Location<'static>, watched: bool) {
        let current = || tracing::dispatcher::get_default(|to| to.current_span().into_inner());
        let span = if watched { current() } else { None };
        *self.loan.lock() = Loan { taken_at, span, statement: None };
        self.since.store(now.as_millis().clamp(1, RECLAIMED - 1), Relaxed);
    }

    /// The statement that it runs now.
    pub(crate) fn note(&self, statement: &SqlStr) {
        self.loan.lock().statement = Some(statement.clone());
    }

    /// The loan is over. Once: whatever follows is quiet.
    pub(crate) fn give_back(&self, now: CoarseInstant) -> Back {
        let since = self.since.swap(FREE, Relaxed);
        if since == RECLAIMED {
            Back::Reclaimed
        } else if since != FREE && since == self.reported.load(Relaxed) {
            Back::Reported(Duration::from_millis(now.as_millis().saturating_sub(since)))
        } else {
            Back::Quiet
        }
    }

    /// How long it is on loan; `None`: it is not, or not any more.
    pub(crate) fn held(&self, now: CoarseInstant) -> Option<Duration> {
        age(self.since.load(Relaxed), now)
    }

    pub(crate) fn loan(&self) -> Loan {
        self.loan.lock().clone()
    }

    /// How long it is on loan if that is beyond `threshold` and was not told of this loan before.
    pub(crate) fn report(&self, now: CoarseInstant, threshold: Duration) -> Option<Duration> {
        let since = self.since.load(Relaxed);
        let held = age(since, now).filter(|held| *held > threshold)?;
        (self.reported.swap(since, Relaxed) != since).then_some(held)
    }

    /// Takes it back if it is on loan for longer than `after`, and says for how long; `None`: it is not, or came back
    /// in this very moment. Of the two only one happens, so its permit is freed once.
    pub(crate) fn reclaim(&self, now: CoarseInstant, after: Duration) -> Option<Duration> {
        let since = self.since.load(Relaxed);
        let held = age(since, now).filter(|held| *held > after)?;
        let reclaimed = self.since.compare_exchange(since, RECLAIMED, Relaxed, Relaxed).is_ok();
        if reclaimed {
            self.waker.wake();
        }
        reclaimed.then_some(held)
    }

    /// Not to be used again, from this moment on.
    pub(crate) fn evict(&self) {
        self.evicted.store(true, Release);
        self.waker.wake();
    }

    #[inline]
    pub(crate) fn is_evicted(&self) -> bool {
        self.evicted.load(Acquire)
    }

    /// Whether no answer is to be waited for any more.
    pub(crate) fn is_lost(&self) -> bool {
        self.is_evicted() || self.is_reclaimed()
    }

    /// Who waits for an answer, one task at a time. Before the looks at what they are woken for.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        self.waker.register(cx.waker());
    }

    pub(crate) fn wake_at(&self, at: CoarseInstant) {
        self.wake_at.store(at.as_millis().clamp(WOKEN + 1, NEVER - 1), Relaxed);
    }

    pub(crate) fn was_woken(&self) -> bool {
        self.wake_at.load(Acquire) == WOKEN
    }

    /// Wakes who wanted it by now.
    pub(crate) fn wake_if_due(&self, now: CoarseInstant) {
        let at = self.wake_at.load(Relaxed);
        // Once: another statement may have set its own meanwhile.
        if (1..=now.as_millis()).contains(&at)
            && self.wake_at.compare_exchange(at, WOKEN, Release, Relaxed).is_ok()
        {
            self.waker.wake();
        }
    }

    pub(crate) fn is_reclaimed(&self) -> bool {
        self.since.load(Relaxed) == RECLAIMED
    }
}

fn age(since: u64, now: CoarseInstant) -> Option<Duration> {
    let on_loan = since != FREE && since != RECLAIMED;
    on_loan.then(|| Duration::from_millis(now.as_millis().saturating_sub(since)))
}
