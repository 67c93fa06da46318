//! A TCP proxy whose network can be made bad at run time: [`FaultProxy`].
//!
//! It runs on a thread and runtime of its own: a blocked or paused test runtime neither delays nor hastens it. Not
//! here: any understanding of what passes through; it sees bytes and turns.

mod acceptor;
mod relay;
mod rules;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use self::acceptor::Shared;
use self::rules::{Limit, Rules};
use crate::error::Error;
use crate::port;

/// How long a switch waits for the proxy's thread to have taken it over; it takes far less than a millisecond.
const TAKEOVER: Duration = Duration::from_secs(2);

/// A proxy on 127.0.0.1 in front of one server. Every method takes effect before it returns. A cheap handle; with the
/// last one the proxy ends and its connections are reset.
#[derive(Debug, Clone)]
pub struct FaultProxy {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    addr: SocketAddr,
    rules: watch::Sender<Rules>,
    shared: Arc<Shared>,
}

/// What becomes of the connections that exist when the target changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// They go on to the former target.
    Keep,
    /// They are reset.
    Cut,
}

/// What went through a proxy since it was started, or since [`FaultProxy::reset_counts`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Connections accepted.
    pub connections: u64,
    /// Connections open right now.
    pub open: u64,
    /// Bytes taken from clients.
    pub bytes_up: u64,
    /// Bytes taken from the target.
    pub bytes_down: u64,
    /// Turns: how often a client began to send at the start of its connection or after the target had sent.
    pub round_trips: u64,
}

impl FaultProxy {
    /// Starts one in front of `host:port`. Nothing is connected to before a client comes.
    ///
    /// Errors: no free port ([`Error::PortTaken`]), no thread.
    pub async fn start(target: impl Into<String>) -> Result<Self, Error> {
        Self::start_blocking(target)
    }

    /// [`start`](Self::start) outside of async code; it does not wait either.
    pub fn start_blocking(target: impl Into<String>) -> Result<Self, Error> {
        let listener = listen()?;
        let failed = |source| Error::Spawn { program: "the fault proxy's thread".into(), source };
        let addr = listener.local_addr().map_err(failed)?;
        let (rules, received) = watch::channel(Rules::new(target.into()));
        let shared = Arc::new(Shared::default());
        acceptor::start(listener, addr, received, Arc::clone(&shared)).map_err(failed)?;
        Ok(Self { inner: Arc::new(Inner { addr, rules, shared }) })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.inner.addr
    }

    /// A server's URL with this proxy's address in it.
    pub fn url(&self, url: &str) -> String {
        crate::via(url, self.addr())
    }

    /// Resets every connection (RST to both ends). New ones are accepted.
    pub fn cut(&self) {
        let last = self.inner.shared.last_connection();
        self.change(|rules| rules.cuts += 1);
        self.inner.shared.wait_ended(last, TAKEOVER);
    }

    /// Refuses new connections (the port is closed), or accepts them again. Existing ones go on.
    pub fn refuse(&self, on: bool) {
        self.change(|rules| rules.refuse = on);
        self.inner.shared.wait_listening(!on, TAKEOVER);
    }

    /// Both at once, as when the server has died: new connections are refused, existing ones reset. Ended by
    /// [`heal`](Self::heal).
    pub fn cut_and_refuse(&self) {
        self.refuse(true);
        self.cut();
    }

    /// Like a network that drops every packet, or lets them pass again: new connections are accepted and not answered,
    /// existing ones stall both ways. Nothing that was sent is lost, as with real packets: afterwards it flows on.
    pub fn black_hole(&self, on: bool) {
        self.change(|rules| rules.black_hole = on);
    }

    /// Delays every byte in each direction, so a round trip by twice this. Zero ends it.
    pub fn delay(&self, each_way: Duration) {
        self.delay_each(each_way, each_way);
    }

    /// Delays every byte: `up` to the target, `down` from it.
    pub fn delay_each(&self, up: Duration, down: Duration) {
        self.change(|rules| rules.delay = [up, down]);
    }

    /// Passes at most so many bytes a second in each direction of each connection. `None` ends it, and 0 is as 1.
    pub fn throttle(&self, bytes_per_second: impl Into<Option<u64>>) {
        let bytes_per_second = bytes_per_second.into();
        self.change(|rules| rules.throttle = bytes_per_second.map(|rate| rate.max(1)));
    }

    /// Resets each connection, present or future, as soon as so many more bytes have passed, both directions counted
    /// together. Ended by [`heal`](Self::heal).
    pub fn reset_after(&self, bytes: u64) {
        self.change(|rules| rules.limit(Limit::Both(bytes)));
    }

    /// Resets each connection, present or future, once so many more bytes of the target's answers have passed. With 0
    /// a request arrives and its answer does not: its outcome is unknown to the client. Ended by [`heal`](Self::heal).
    pub fn reset_answers_after(&self, bytes: u64) {
        self.change(|rules| rules.limit(Limit::Answers(bytes)));
    }

    /// Another target for new connections.
    pub fn retarget(&self, target: impl Into<String>, existing: Existing) {
        let target = target.into();
        self.change(|rules| rules.target = target);
        if existing == Existing::Cut {
            self.cut();
        }
    }

    /// Ends every fault. The target stays; connections that were reset stay so.
    pub fn heal(&self) {
        self.change(Rules::heal);
        self.inner.shared.wait_listening(true, TAKEOVER);
    }

    /// The counts so far.
    pub fn traffic(&self) -> Traffic {
        self.inner.shared.traffic()
    }

    /// Counts from zero again (connections open now are still counted as open).
    pub fn reset_counts(&self) {
        self.inner.shared.reset_counts();
    }

    /// [`Traffic::round_trips`].
    pub fn round_trips(&self) -> u64 {
        self.traffic().round_trips
    }

    /// [`Traffic::connections`].
    pub fn connections(&self) -> u64 {
        self.traffic().connections
    }

    fn change(&self, change: impl FnOnce(&mut Rules)) {
        self.inner.rules.send_modify(change);
    }
}

// A port of our range rather than any: while it is refused, no outgoing connection takes it.
fn listen() -> Result<std::net::TcpListener, Error> {
    let mut port = port::free()?;
    for _ in 0..8 {
        match std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(listener) => return Ok(listener),
            Err(_) => port = port::free()?,
        }
    }
    Err(Error::PortTaken { port })
}
