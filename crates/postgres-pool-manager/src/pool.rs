//! The shell around [`core`](crate::core) for one server: loans, returns, background work. The mutex is held for
//! the core's few instructions only; nothing is awaited, dropped or woken under it.

use crate::{
    config::Config,
    conn::{Pooled, Slot},
    core::{Core, Counts, Limits, Phase, Put, Take},
    error::Error,
    lease::{Connecting, Lease, Waiting},
    metrics,
    stats::Role,
};
use opentelemetry::metrics::Histogram;
use parking_lot::{Mutex, MutexGuard};
use resilience::{Deadline, clock::CoarseClock};
use sqlx::postgres::PgConnectOptions;
use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};
use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// The connections to one server.
pub(crate) struct Pool {
    pub(crate) name: String,
    /// Name and address for messages.
    pub(crate) label: String,
    pub(crate) role: Role,
    pub(crate) options: PgConnectOptions,
    pub(crate) config: Arc<Config>,
    pub(crate) clock: CoarseClock,
    pub(crate) counters: Counters,
    pub(crate) closing: CancellationToken,
    /// Whether reads may be routed here; kept by the prober, cleared at once when a connection is lost.
    pub(crate) serving: AtomicBool,
    pub(crate) query_duration: Histogram<f64>,
    core: Mutex<Core<Pooled, oneshot::Sender<Lease>>>,
    handle: Handle,
    /// Raised when a connection is lost: those that have not answered since are checked before their next loan.
    alarm: AtomicU32,
    /// Whether the latest sign from the server was a bad one.
    failing: AtomicBool,
    last_error: Mutex<Option<String>>,
    slots: Mutex<Vec<Arc<Slot>>>,
    drained: Notify,
}

impl fmt::Debug for Pool {
    /// Not the options: the driver would print the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("server", &self.label).field("role", &self.role).finish_non_exhaustive()
    }
}

/// Totals since the start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) opened: AtomicU64,
    pub(crate) discarded: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) timeouts: AtomicU64,
}

impl Pool {
    pub(crate) fn new(
        name: &str,
        role: Role,
        options: PgConnectOptions,
        config: Arc<Config>,
        handle: Handle,
    ) -> Arc<Self> {
        let label = match options.get_socket() {
            Some(path) => format!("{name} ({}:{})", path.display(), options.get_port()),
            None => format!("{name} ({}:{})", options.get_host(), options.get_port()),
        };
        let limits = Limits {
            size: config.size,
            overflow: config.max_overflow,
            min_idle: config.min_idle,
            connecting: config.max_connecting,
            queue: config.queue_limit,
        };
        Arc::new(Self {
            name: name.to_owned(),
            label,
            role,
            options,
            config,
            clock: CoarseClock::system(),
            counters: Counters::default(),
            closing: CancellationToken::new(),
            serving: AtomicBool::new(role == Role::Primary),
            query_duration: metrics::query_duration(),
            core: Mutex::new(Core::new(limits)),
            handle,
            alarm: AtomicU32::new(0),
            failing: AtomicBool::new(false),
            last_error: Mutex::new(None),
            slots: Mutex::new(Vec::new()),
            drained: Notify::new(),
        })
    }

    /// An idle connection, if there is one: no await, no allocation, no round trip. It may want a check first
    /// ([`Lease::wants_check`]).
    #[inline]
    pub(crate) fn try_lease(self: &Arc<Self>) -> Option<Lease> {
        match self.core.lock().take() {
            Take::Got(conn) => Some(self.lend(conn)),
            Take::Wait | Take::Closed => None,
        }
    }

    /// Waits, connects, checks: all within `deadline`. `Ok(None)`: dismissed, try another server.
    ///
    /// Cancel safety: a wait is withdrawn; a connection under check is given up.
    pub(crate) async fn lease(
        self: &Arc<Self>,
        mut tried: Option<Lease>,
        deadline: Deadline,
    ) -> Result<Option<Lease>, Error> {
        let started = Instant::now();
        loop {
            let lease = match tried.take() {
                Some(lease) => Some(lease),
                None => self.take_or_wait(deadline, started).await?,
            };
            let Some(mut lease) = lease else { return Ok(None) };
            if !lease.wants_check() {
                return Ok(Some(lease));
            }
            if self.check(&mut lease, deadline).await {
                return Ok(Some(lease));
            }
            if self.role == Role::Replica {
                return Ok(None);
            }
            if deadline.is_expired() {
                return Err(self.timeout(started));
            }
        }
    }

    async fn take_or_wait(
        self: &Arc<Self>,
        deadline: Deadline,
        started: Instant,
    ) -> Result<Option<Lease>, Error> {
        let (give, receive) = oneshot::channel();
        let ticket = {
            let mut core = self.core.lock();
            match core.take() {
                Take::Got(conn) => {
                    drop(core);
                    return Ok(Some(self.lend(conn)));
                }
                Take::Closed => return Err(Error::Closed),
                Take::Wait => core.enqueue(give).map_err(|_| core.counts().waiting),
            }
        };
        let ticket =
            ticket.map_err(|n| Error::QueueFull { host: self.label.clone(), waiting: n as usize })?;
        let waiting = Waiting::new(self, ticket);
        self.connect_as_wished();
        match deadline.run(receive).await {
            Ok(Ok(lease)) => {
                std::mem::forget(waiting);
                Ok(Some(lease))
            }
            Ok(Err(_dismissed)) if self.closing.is_cancelled() => Err(Error::Closed),
            Ok(Err(_dismissed)) => Ok(None),
            Err(_) => Err(self.timeout(started)),
        }
    }

    /// Idle for long, or from before a failure: marked, so that it is checked even if this caller goes away.
    #[inline]
    pub(crate) fn lend(self: &Arc<Self>, mut conn: Pooled) -> Lease {
        let idle = self.clock.now().saturating_since(conn.idle_since);
        conn.mark.suspect |= idle > self.config.check_after_idle || conn.alarm != self.alarm.load(Relaxed);
        Lease::new(conn, self)
    }

    /// One round trip within `check_timeout` and the deadline. `false`: the connection is to be given up.
    pub(crate) async fn check(&self, lease: &mut Lease, deadline: Deadline) -> bool {
        let limit = deadline.capped(self.config.check_timeout);
        match limit.run(lease.conn().check(self.role)).await {
            Ok(Ok(())) => {
                lease.conn().alarm = self.answered();
                return true;
            }
            Ok(Err(e)) => self.lost(lease, e.to_string()),
            // A caller in a hurry says nothing about the server: the answer is read in the background.
            Err(_) if deadline.is_expired() => {}
            Err(_) => self.lost(lease, "the check got no answer".to_owned()),
        }
        false
    }

    /// A connection turned out to be dead or of the wrong role.
    pub(crate) fn lost(&self, lease: &mut Lease, why: String) {
        lease.conn().mark.broken = true;
        self.failed(why);
        self.suspect_all();
    }

    /// Every connection is checked before its next loan; a replica gets no reads until the next probe.
    pub(crate) fn suspect_all(&self) {
        self.alarm.fetch_add(1, Relaxed);
        if self.role == Role::Replica {
            self.serving.store(false, Relaxed);
        }
    }

    pub(crate) fn failed(&self, why: String) {
        self.counters.errors.fetch_add(1, Relaxed);
        *self.last_error.lock() = Some(why);
        self.failing.store(true, Relaxed);
    }

    /// The server answered on this connection; the alarm level to note there.
    #[inline]
    pub(crate) fn answered(&self) -> u32 {
        if self.failing.load(Relaxed) {
            self.failing.store(false, Relaxed);
        }
        self.alarm.load(Relaxed)
    }

    /// Whether there is no sign that the server can be used.
    pub(crate) fn is_down(&self) -> bool {
        self.failing.load(Relaxed) && self.counts().idle == 0
    }

    fn timeout(&self, started: Instant) -> Error {
        self.counters.timeouts.fetch_add(1, Relaxed);
        let counts = self.counts();
        Error::AcquireTimeout {
            host: self.label.clone(),
            after: started.elapsed(),
            total: counts.in_use + counts.idle + counts.connecting,
            active: counts.in_use,
            idle: counts.idle,
            waiting: counts.waiting,
            last_connect_error: self.last_error(),
        }
    }

    /// A place for one attempt to connect; `None`: no room.
    pub(crate) fn reserve(self: &Arc<Self>) -> Option<Connecting> {
        let room = self.core.lock().reserve();
        room.then(|| Connecting::new(self))
    }

    /// Starts the connection attempts that the core wants.
    pub(crate) fn connect_as_wished(self: &Arc<Self>) {
        let attempts = self.core.lock().wish();
        for _ in 0..attempts {
            self.spawn(crate::connect::connecting(Connecting::new(self)));
        }
    }

    /// The caller's task is not involved; without a running runtime the future is dropped, and what it owns with it.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        drop(self.handle.spawn(work));
    }

    /// A clean connection is back.
    #[inline]
    pub(crate) fn give_back(self: &Arc<Self>, mut conn: Pooled) {
        conn.idle_since = self.clock.now();
        let put = self.core.lock().put(conn);
        self.settle(put);
    }

    #[inline]
    pub(crate) fn settle(self: &Arc<Self>, put: Put<Pooled, oneshot::Sender<Lease>>) {
        match put {
            Put::Kept => {}
            // A waiter that left in this very moment hands the lease back by dropping it.
            Put::Hand(waiter, conn) => drop(waiter.send(self.lend(conn))),
            Put::Close(conn) => {
                drop(conn);
                self.drained.notify_waiters();
            }
        }
    }

    /// A new connection is in.
    pub(crate) fn arrived(self: &Arc<Self>, mut conn: Pooled) {
        self.counters.opened.fetch_add(1, Relaxed);
        *self.last_error.lock() = None;
        (conn.idle_since, conn.alarm) = (self.clock.now(), self.answered());
        {
            let mut slots = self.slots.lock();
            // Closed connections leave their slots behind with no other owner.
            slots.retain(|slot| Arc::strong_count(slot) > 1);
            slots.push(Arc::clone(&conn.slot));
        }
        let put = self.core.lock().connected(conn);
        self.settle(put);
        self.connect_as_wished();
    }

    /// A connection in use is no more; its permit is free.
    pub(crate) fn discard(self: &Arc<Self>, conn: Pooled) {
        self.counters.discarded.fetch_add(1, Relaxed);
        drop(conn);
        self.core.lock().forfeit();
        self.drained.notify_waiters();
        self.connect_as_wished();
    }

    /// Sends waiters away to another server.
    pub(crate) fn dismiss(&self) {
        let gone = self.core.lock().dismiss();
        drop(gone);
    }

    /// For good; works without a runtime.
    pub(crate) fn close(&self) {
        self.closing.cancel();
        let (idle, waiters) = self.core.lock().close();
        drop(waiters);
        self.close_politely(idle);
    }

    /// After [`close`](Self::close): until every session is back, or `deadline`; the number still out.
    pub(crate) async fn drained(&self, deadline: Deadline) -> u32 {
        loop {
            let back = self.drained.notified();
            tokio::pin!(back);
            back.as_mut().enable();
            let counts = self.counts();
            if counts.in_use == 0 || deadline.run(back).await.is_err() {
                return counts.in_use;
            }
        }
    }

    pub(crate) fn core(&self) -> MutexGuard<'_, Core<Pooled, oneshot::Sender<Lease>>> {
        self.core.lock()
    }

    pub(crate) fn slots(&self) -> MutexGuard<'_, Vec<Arc<Slot>>> {
        self.slots.lock()
    }

    pub(crate) fn alarm(&self) -> u32 {
        self.alarm.load(Relaxed)
    }

    pub(crate) fn limits(&self) -> Limits {
        self.core.lock().limits()
    }

    /// A caller left the queue.
    pub(crate) fn withdraw(&self, ticket: u64) {
        self.core.lock().cancel(ticket);
    }

    /// Asked by a connecting task before each attempt.
    pub(crate) fn still_wanted(&self) -> bool {
        self.core.lock().still_wanted()
    }

    /// A connecting task ended with nothing.
    pub(crate) fn abandoned(&self) {
        self.core.lock().abandoned();
    }

    pub(crate) fn counts(&self) -> Counts {
        self.core.lock().counts()
    }

    pub(crate) fn phase(&self) -> Phase {
        self.core.lock().phase()
    }

    /// The latest failure, until a connection succeeds.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.last_error.lock().clone()
    }
}
