//! The pool's rules as a pure state machine: who gets which connection, how many are wanted. It knows no I/O, no
//! time and no task; `C` is a connection, `W` the way to reach a waiting caller.
//!
//! Every connection is in one of three states: idle (here), in use (with a caller or being cleaned), connecting.
//! Together they never exceed size + overflow, except right after a shrink, until enough have come back.

use std::collections::VecDeque;

/// What may change at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) size: u32,
    pub(crate) overflow: u32,
    pub(crate) min_idle: u32,
    /// Connection attempts at a time while nothing turns over.
    pub(crate) connecting: u32,
    pub(crate) queue: usize,
    /// Never more connections than this, whatever the others say: the share in the fleet's budget.
    pub(crate) cap: u32,
}

impl Limits {
    pub(crate) fn max(&self) -> u32 {
        self.wanted().min(self.cap)
    }

    /// As set, without regard to the cap.
    pub(crate) fn wanted(&self) -> u32 {
        self.size.saturating_add(self.overflow)
    }
}

/// Answer to a caller.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Take<C> {
    Got(C),
    /// Nothing idle: enqueue.
    Wait,
    Closed,
}

/// What to do with a connection that came back or was opened.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Put<C, W> {
    Kept,
    /// It is the waiter's now and still counts as in use.
    Hand(W, C),
    /// One too many, or the pool is closed; no longer counted.
    Close(C),
}

/// Numbers at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) in_use: u32,
    pub(crate) idle: u32,
    pub(crate) connecting: u32,
    pub(crate) waiting: u32,
    pub(crate) acquired: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// Nothing is handed out; what comes back is kept.
    Suspended,
    Closed,
}

#[derive(Debug)]
pub(crate) struct Core<C, W> {
    limits: Limits,
    phase: Phase,
    /// Longest idle first.
    idle: Vec<C>,
    in_use: u32,
    connecting: u32,
    /// Longest waiting first, by ascending ticket.
    waiters: VecDeque<(u64, W)>,
    next_ticket: u64,
    acquired: u64,
    /// A connection has come back since the latest new one.
    turned: bool,
    /// The latest new one found callers waiting, and nothing had come back while it was opened.
    stuck: bool,
}

impl<C, W> Core<C, W> {
    pub(crate) fn new(limits: Limits) -> Self {
        let (idle, waiters) = (Vec::with_capacity(limits.max() as usize), VecDeque::new());
        let (phase, next_ticket) = (Phase::Open, 0);
        let (turned, stuck) = (true, false);
        Self {
            limits,
            phase,
            idle,
            in_use: 0,
            connecting: 0,
            waiters,
            next_ticket,
            acquired: 0,
            turned,
            stuck,
        }
    }

    /// The connection used last, if any is idle. Idle connections and waiters never coexist while open, hence
    /// nobody is overtaken.
    #[inline]
    pub(crate) fn take(&mut self) -> Take<C> {
        match self.phase {
            Phase::Open => match self.idle.pop() {
                Some(connection) => {
                    self.in_use += 1;
                    self.acquired += 1;
                    Take::Got(connection)
                }
                None => Take::Wait,
            },
            Phase::Suspended => Take::Wait,
            Phase::Closed => Take::Closed,
        }
    }

    /// Queues a caller whom [`take`](Self::take) told to wait, in the same critical section. `Err`: full.
    pub(crate) fn enqueue(&mut self, waiter: W) -> Result<u64, W> {
        if self.waiters.len() >= self.limits.queue {
            return Err(waiter);
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiters.push_back((ticket, waiter));
        Ok(ticket)
    }

    /// A waiter went away. `false`: it had been served or refused already.
    pub(crate) fn cancel(&mut self, ticket: u64) -> bool {
        match self.waiters.binary_search_by_key(&ticket, |(t, _)| *t) {
            Ok(at) => self.waiters.remove(at).is_some(),
            Err(_) => false,
        }
    }

    /// A connection in use is clean and back.
    #[inline]
    pub(crate) fn put(&mut self, connection: C) -> Put<C, W> {
        (self.turned, self.stuck) = (true, false);
        self.accept(connection)
    }

    #[inline]
    fn accept(&mut self, connection: C) -> Put<C, W> {
        if self.phase == Phase::Closed || self.total() > self.limits.max() {
            self.in_use -= 1;
            return Put::Close(connection);
        }
        if self.phase == Phase::Open
            && let Some((_, waiter)) = self.waiters.pop_front()
        {
            self.acquired += 1;
            return Put::Hand(waiter, connection);
        }
        self.in_use -= 1;
        self.idle.push(connection);
        Put::Kept
    }

    /// As [`put`](Self::put) for one that nobody used: kept, it is the last to be used.
    pub(crate) fn put_unused(&mut self, connection: C) -> Put<C, W> {
        let put = self.accept(connection);
        if matches!(put, Put::Kept) {
            self.idle.rotate_right(1);
        }
        put
    }

    /// A connection in use is gone.
    pub(crate) fn forfeit(&mut self) {
        self.in_use -= 1;
    }

    /// How many attempts to connect are to be started now; they count as connecting from here on.
    ///
    /// While connections are turning over one attempt at a time will do: a burst that the present ones can serve
    /// is over before a second attempt would have helped. Once a whole attempt went by and none has come back, it is no
    /// burst: then as many at a time as may be.
    pub(crate) fn wish(&mut self) -> u32 {
        let live = self.in_use + self.idle.len() as u32;
        let at_once = live == 0 || live < self.limits.min_idle || self.stuck;
        let parallel = if at_once { self.limits.connecting } else { 1 };
        let start = self.wanted(self.connecting).min(parallel.saturating_sub(self.connecting));
        self.connecting += start;
        start
    }

    /// A place for one attempt, whether or not anybody waits. `false`: no room.
    pub(crate) fn reserve(&mut self) -> bool {
        let room = self.phase == Phase::Open && self.total() < self.limits.max();
        self.connecting += u32::from(room);
        room
    }

    /// Connections wanted beyond the present ones and `coming`, within the limits.
    fn wanted(&self, coming: u32) -> u32 {
        if self.phase != Phase::Open {
            return 0;
        }
        let (idle, live) = (self.idle.len() as u32, self.in_use + self.idle.len() as u32);
        let for_waiters = (self.waiters.len() as u32).saturating_sub(coming);
        let room = self.limits.max().saturating_sub(live + coming);
        let for_idle = self.limits.min_idle.saturating_sub(idle + coming);
        let room_in_size = self.limits.size.saturating_sub(live + coming);
        for_waiters.min(room).max(for_idle.min(room_in_size).min(room))
    }

    /// Asked by a connecting task before each attempt; `false`: it ends and counts no longer.
    pub(crate) fn still_wanted(&mut self) -> bool {
        let wanted = self.wanted(self.connecting - 1) > 0;
        if !wanted {
            self.connecting -= 1;
        }
        wanted
    }

    /// A connecting task ended without a connection.
    pub(crate) fn abandoned(&mut self) {
        self.connecting -= 1;
    }

    /// A connecting task succeeded.
    pub(crate) fn connected(&mut self, connection: C) -> Put<C, W> {
        self.connecting -= 1;
        self.in_use += 1;
        self.stuck = !self.turned && !self.waiters.is_empty();
        self.turned = false;
        self.accept(connection)
    }

    /// New limits; returns the idle connections that are too many now.
    pub(crate) fn resize(&mut self, limits: Limits) -> Vec<C> {
        self.limits = limits;
        let surplus = self.total().saturating_sub(limits.max()) as usize;
        let surplus = surplus.min(self.idle.len());
        self.idle.drain(..surplus).collect()
    }

    /// Takes out idle connections for which `expired(connection, is_overflow)` holds, longest idle first;
    /// overflow: as long as there are more connections than the size.
    pub(crate) fn reap(&mut self, mut expired: impl FnMut(&C, bool, u32) -> bool) -> Vec<C> {
        let mut out = Vec::new();
        let mut at = 0;
        while at < self.idle.len() {
            let over = self.total() > self.limits.size;
            let spare = (self.idle.len() as u32).saturating_sub(self.limits.min_idle);
            if expired(&self.idle[at], over, spare) {
                out.push(self.idle.remove(at));
            } else {
                at += 1;
            }
        }
        out
    }

    /// Takes an idle connection for background work, the longest idle for which `due` holds; it counts as in
    /// use. None while somebody waits or the pool is not open.
    pub(crate) fn borrow_if(&mut self, due: impl Fn(&C) -> bool) -> Option<C> {
        if self.phase != Phase::Open {
            return None;
        }
        let at = self.idle.iter().position(due)?;
        self.in_use += 1;
        Some(self.idle.remove(at))
    }

    pub(crate) fn suspend(&mut self) {
        if self.phase == Phase::Open {
            self.phase = Phase::Suspended;
        }
    }

    /// Ends a suspension; returns the waiters that can be served at once.
    pub(crate) fn resume(&mut self) -> Vec<(W, C)> {
        let mut served = Vec::new();
        if self.phase == Phase::Suspended {
            self.phase = Phase::Open;
            while !self.waiters.is_empty()
                && let Some(connection) = self.idle.pop()
                && let Some((_, waiter)) = self.waiters.pop_front()
            {
                self.in_use += 1;
                self.acquired += 1;
                served.push((waiter, connection));
            }
        }
        served
    }

    /// Sends all waiters away, who may try elsewhere.
    pub(crate) fn dismiss(&mut self) -> Vec<W> {
        self.waiters.drain(..).map(|(_, waiter)| waiter).collect()
    }

    /// For good. Connections in use are closed as they come back.
    pub(crate) fn close(&mut self) -> (Vec<C>, Vec<W>) {
        self.phase = Phase::Closed;
        (self.idle.drain(..).collect(), self.dismiss())
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    pub(crate) fn counts(&self) -> Counts {
        let (idle, waiting) = (self.idle.len() as u32, self.waiters.len() as u32);
        Counts { in_use: self.in_use, idle, connecting: self.connecting, waiting, acquired: self.acquired }
    }

    fn total(&self) -> u32 {
        self.in_use + self.idle.len() as u32 + self.connecting
    }
}

#[cfg(test)]
mod tests;
