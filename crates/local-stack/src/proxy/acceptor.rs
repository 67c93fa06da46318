//! The proxy's thread: accepts connections, refuses them by closing the port, and knows which are open.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Traffic;
use super::relay::relay;
use super::rules::{Direction, Rules};

/// Connections at a time; further ones are reset at once.
const MOST: usize = 4096;

/// What the thread and the handles both see.
#[derive(Debug, Default)]
pub(super) struct Shared {
    accepted: AtomicU64,
    bytes: [AtomicU64; 2],
    turns: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    listening: bool,
    last: u64,
    open: BTreeSet<u64>,
}

impl Shared {
    pub(super) fn count(&self, direction: Direction, bytes: usize) {
        self.bytes[direction as usize].fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn count_turn(&self) {
        self.turns.fetch_add(1, Relaxed);
    }

    pub(super) fn traffic(&self) -> Traffic {
        Traffic {
            connections: self.accepted.load(Relaxed),
            open: self.lock().open.len() as u64,
            bytes_up: self.bytes[0].load(Relaxed),
            bytes_down: self.bytes[1].load(Relaxed),
            round_trips: self.turns.load(Relaxed),
        }
    }

    pub(super) fn reset_counts(&self) {
        for count in [&self.accepted, &self.bytes[0], &self.bytes[1], &self.turns] {
            count.store(0, Relaxed);
        }
    }

    /// The number of the newest connection.
    pub(super) fn last_connection(&self) -> u64 {
        self.lock().last
    }

    /// Waits until no connection up to this one is open.
    pub(super) fn wait_ended(&self, last: u64, within: Duration) {
        self.wait(within, |state| state.open.first().is_some_and(|first| *first <= last));
    }

    /// Waits until the port is open, or closed.
    pub(super) fn wait_listening(&self, listening: bool, within: Duration) {
        self.wait(within, |state| state.listening != listening);
    }

    fn wait(&self, within: Duration, pending: impl Fn(&State) -> bool) {
        let waited = self.changed.wait_timeout_while(self.lock(), within, |state| pending(state));
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listening(&self, listening: bool) {
        self.lock().listening = listening;
        self.changed.notify_all();
    }
}

/// An open connection's entry, for as long as it lives.
#[derive(Debug)]
pub(super) struct Entry {
    shared: Arc<Shared>,
    number: u64,
}

impl Entry {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.accepted.fetch_add(1, Relaxed);
        let mut state = shared.lock();
        state.last += 1;
        let number = state.last;
        state.open.insert(number);
        drop(state);
        Self { shared: Arc::clone(shared), number }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.shared.lock().open.remove(&self.number);
        self.shared.changed.notify_all();
    }
}

/// Starts the thread. It ends when the sender of the rules is dropped.
pub(super) fn start(
    listener: std::net::TcpListener,
    addr: SocketAddr,
    rules: watch::Receiver<Rules>,
    shared: Arc<Shared>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    listener.set_nonblocking(true)?;
    shared.listening(true);
    let run = move || {
        // Registration with the runtime's reactor fails only where no descriptor is left; the port is then closed,
        // which every client sees.
        runtime.block_on(async {
            if let Ok(listener) = TcpListener::from_std(listener) {
                accept(listener, addr, rules, &shared).await;
            }
        });
    };
    std::thread::Builder::new().name("local-stack-proxy".into()).spawn(run).map(drop)
}

async fn accept(
    listener: TcpListener,
    addr: SocketAddr,
    mut rules: watch::Receiver<Rules>,
    shared: &Arc<Shared>,
) {
    let mut connections = JoinSet::new();
    let mut listener = Some(listener);
    loop {
        let refuse = rules.borrow_and_update().refuse;
        match (&listener, refuse) {
            (Some(_), true) => {
                listener = None;
                shared.listening(false);
            }
            (None, false) => {
                // Connections of before may hold the port for a moment.
                listener = TcpListener::bind(addr).await.ok();
                match &listener {
                    Some(_) => shared.listening(true),
                    None => tokio::time::sleep(Duration::from_millis(5)).await,
                }
                continue;
            }
            _ => {}
        }
        tokio::select! {
            changed = rules.changed() => {
                if changed.is_err() {
                    break;
                }
            }
            accepted = accepted(listener.as_ref()) => {
                if let Ok((client, _)) = accepted {
                    // The cuts of before its entry: one that comes later is one that it has to follow.
                    let born = rules.borrow().cuts;
                    if connections.len() < MOST {
                        connections.spawn(relay(client, Entry::new(shared), rules.clone(), born));
                    } else {
                        let _ = client.set_zero_linger();
                    }
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
    // They have seen the end of the rules as well, and are resetting their sockets.
    while connections.join_next().await.is_some() {}
}

async fn accepted(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => match listener.accept().await {
            Err(error) => {
                // Out of descriptors, say: not a busy loop.
                tokio::time::sleep(Duration::from_millis(5)).await;
                Err(error)
            }
            accepted => accepted,
        },
        None => std::future::pending().await,
    }
}
