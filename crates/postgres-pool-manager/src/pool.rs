//! The connections to one server: loans, returns, signs of life, numbers. Who gets which connection is decided in
//! [`core`](crate::core), under the lock of [`shell`](crate::shell).

use crate::{
    comment::Comment,
    config::Config,
    conn::Pooled,
    core::{Counts, Limits, Phase},
    door::Door,
    error::Error,
    events::Events,
    insight::sketch::EVERY,
    lease::{Connecting, Lease},
    metrics::Counters,
    orders::Side,
    recorder::Recorder,
    shell::{Entry, Keeper, Shell},
    slot::Slot,
    stats::Role,
};
use parking_lot::{Mutex, MutexGuard};
use resilience::{Deadline, clock::CoarseClock};
use sqlx::postgres::PgConnectOptions;
use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
};
use tokio::{runtime::Handle, sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

/// The connections to one server.
pub(crate) struct Pool {
    pub(crate) name: String,
    /// Name and address for messages.
    pub(crate) label: String,
    /// Its role, which a failover changes.
    pub(crate) is_primary: AtomicBool,
    pub(crate) options: PgConnectOptions,
    pub(crate) door: Door,
    pub(crate) config: Arc<Config>,
    pub(crate) comment: Comment,
    pub(crate) clock: CoarseClock,
    pub(crate) counters: Counters,
    /// Shared by all servers' pools.
    pub(crate) events: Events,
    pub(crate) closing: CancellationToken,
    /// Whether reads may be routed here; kept by the prober, cleared at once when a connection is lost.
    pub(crate) serving: AtomicBool,
    /// Has the prober look now.
    pub(crate) look_now: Notify,
    /// Whether connections were lost since the last look.
    pub(crate) lost: AtomicBool,
    pub(crate) recorder: Arc<Recorder>,
    shell: Shell<Self>,
    handle: Handle,
    /// Raised when a connection is lost: those that have not answered since are checked before their next loan.
    alarm: AtomicU32,
    /// Whether the latest sign from the server was a bad one.
    failing: AtomicBool,
    last_error: Mutex<Option<String>>,
    slots: Mutex<Vec<Arc<Slot>>>,
    drained: Notify,
    pub(crate) side: Side,
    /// Whether anybody asks who holds what.
    pub(crate) watched: bool,
}

impl fmt::Debug for Pool {
    /// Not the options: the driver would print the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("server", &self.label)
            .field("role", &self.role())
            .finish_non_exhaustive()
    }
}

impl Pool {
    pub(crate) fn new(
        name: &str,
        role: Role,
        options: PgConnectOptions,
        door: Door,
        config: Arc<Config>,
        events: Events,
        handle: Handle,
    ) -> Arc<Self> {
        let label = match options.get_socket() {
            Some(path) => format!("{name} ({}:{})", path.display(), options.get_port()),
            None => format!("{name} ({}:{})", options.get_host(), options.get_port()),
        };
        let recorder = Arc::new(Recorder::new(name, &options));
        let limits = Limits {
            size: config.size,
            overflow: config.max_overflow,
            min_idle: config.min_idle,
            connecting: config.max_connecting,
            queue: config.queue_limit,
            cap: u32::MAX,
        };
        let watched = config.leak_threshold.is_some() || config.reclaim_after.is_some();
        Arc::new(Self {
            name: name.to_owned(),
            label,
            is_primary: AtomicBool::new(role == Role::Primary),
            options,
            comment: Comment::new(&config),
            door,
            config,
            clock: CoarseClock::system(),
            counters: Counters::default(),
            events,
            closing: CancellationToken::new(),
            serving: AtomicBool::new(role == Role::Primary),
            look_now: Notify::new(),
            lost: AtomicBool::new(false),
            recorder,
            shell: Shell::new(limits),
            handle,
            alarm: AtomicU32::new(0),
            failing: AtomicBool::new(false),
            last_error: Mutex::new(None),
            slots: Mutex::new(Vec::new()),
            drained: Notify::new(),
            side: Side::default(),
            watched,
        })
    }

    /// An idle connection, if there is one: no await, no allocation, no round trip. It may want a check first
    /// ([`Lease::wants_check`]).
    #[inline]
    pub(crate) fn try_lease(self: &Arc<Self>) -> Option<Lease> {
        self.shell.try_take().map(|conn| self.lend(conn))
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
            if self.role() == Role::Replica {
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
        match Shell::enter(self) {
            Entry::Loan(lease) => Ok(Some(lease)),
            Entry::Closed => Err(Error::Closed),
            Entry::Full(n) => Err(Error::QueueFull { host: self.label.clone(), waiting: n as usize }),
            Entry::Queued(mut place) => match deadline.run(place.turn()).await {
                Ok(None) if self.closing.is_cancelled() => Err(Error::Closed),
                Ok(turn) => {
                    if turn.is_some() && place.number() % u64::from(EVERY) == 0 {
                        self.recorder.waited(started.elapsed());
                    }
                    Ok(turn)
                }
                Err(_) => Err(self.timeout(started)),
            },
        }
    }

    /// One round trip within `check_timeout` and the deadline. `false`: the connection is to be given up.
    pub(crate) async fn check(&self, lease: &mut Lease, deadline: Deadline) -> bool {
        let limit = deadline.capped(self.config.check_timeout);
        match limit.run(lease.conn().check(self.role())).await {
            Ok(Ok(())) if self.door.cluster.differs(lease.conn().server.system_id).is_some() => {
                self.lost(lease, "the server belongs to another cluster".to_owned());
            }
            Ok(Ok(())) => {
                let conn = lease.conn();
                (conn.alarm, conn.seen) = (self.answered(), self.clock.now());
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
        if self.role() == Role::Replica {
            self.serving.store(false, Relaxed);
        }
        self.lost.store(true, Relaxed);
        self.look_now.notify_one();
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

    pub(crate) fn timeout(&self, started: Instant) -> Error {
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
        self.shell.reserve().then(|| Connecting::new(self))
    }

    /// The caller's task is not involved; without a running runtime the future is dropped, and what it owns with it.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        drop(self.handle.spawn(work));
    }

    /// A clean connection is back.
    #[inline]
    pub(crate) fn give_back(self: &Arc<Self>, mut conn: Pooled) {
        conn.idle_since = self.clock.now();
        conn.seen = conn.idle_since;
        Shell::put(self, conn);
    }

    /// A new connection is in.
    pub(crate) fn arrived(self: &Arc<Self>, mut conn: Pooled) {
        self.counters.opened.fetch_add(1, Relaxed);
        *self.last_error.lock() = None;
        let now = self.clock.now();
        (conn.idle_since, conn.seen) = (now, now);
        self.answered();
        {
            let mut slots = self.slots.lock();
            // Closed connections leave their slots behind with no other owner.
            slots.retain(|slot| Arc::strong_count(slot) > 1);
            slots.push(Arc::clone(&conn.slot));
        }
        Shell::arrived(self, conn);
    }

    /// A connection in use is no more; its permit is free.
    pub(crate) fn discard(self: &Arc<Self>, conn: Pooled) {
        self.counters.discarded.fetch_add(1, Relaxed);
        drop(conn);
        self.free();
    }

    /// Frees the permit of a connection that is not to come back.
    pub(crate) fn free(self: &Arc<Self>) {
        Shell::forfeit(self);
        self.drained.notify_waiters();
    }

    /// For good; works without a runtime.
    pub(crate) fn close(&self) {
        self.closing.cancel();
        self.close_politely(self.shell.close());
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

    pub(crate) fn slots(&self) -> MutexGuard<'_, Vec<Arc<Slot>>> {
        self.slots.lock()
    }

    pub(crate) fn alarm(&self) -> u32 {
        self.alarm.load(Relaxed)
    }

    pub(crate) fn limits(&self) -> Limits {
        self.shell.snapshot().1
    }

    pub(crate) fn counts(&self) -> Counts {
        self.shell.snapshot().0
    }

    pub(crate) fn phase(&self) -> Phase {
        self.shell.phase()
    }

    /// The latest failure, until a connection succeeds.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.last_error.lock().clone()
    }
}

impl Keeper for Pool {
    type Conn = Pooled;
    type Loan = Lease;

    #[inline]
    fn shell(&self) -> &Shell<Self> {
        &self.shell
    }

    /// Idle for long, or from before a failure: marked, so that it is checked even if this caller goes away.
    #[inline]
    fn lend(self: &Arc<Self>, mut conn: Pooled) -> Lease {
        let silent = self.clock.now().saturating_since(conn.seen);
        conn.mark.suspect |= silent > self.config.check_after_idle || conn.alarm != self.alarm.load(Relaxed);
        Lease::new(conn, self)
    }

    fn surplus(&self, conn: Pooled) {
        drop(conn);
        self.drained.notify_waiters();
    }

    fn open(self: &Arc<Self>, attempts: u32) {
        for _ in 0..attempts {
            self.spawn(crate::connect::connecting(Connecting::new(self)));
        }
    }
}
