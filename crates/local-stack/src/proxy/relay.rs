//! One connection through the proxy: two flows, each a reader and a writer with a bounded queue between them, so that
//! a delay does not slow the flow down and a stall fills buffers and then stops the sender, as on a real network.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::acceptor::{Entry, Shared};
use super::rules::{Direction, Passed, Rules};

/// One chunk at most, and how many may be under way in one direction: a megabyte.
const CHUNK: usize = 16 * 1024;
const UNDER_WAY: usize = 64;
const CONNECT: Duration = Duration::from_secs(10);

/// The connection ends by a reset: a cut, a limit, an error of either end, or the end of the proxy.
#[derive(Debug)]
struct Severed;

impl<E: std::error::Error> From<E> for Severed {
    fn from(_: E) -> Self {
        Self
    }
}

/// Relays until both ends have said their last, or resets both.
pub(super) async fn relay(client: TcpStream, entry: Entry, rules: watch::Receiver<Rules>, born: u64) {
    let target = tokio::select! {
        biased;
        () = cut(rules.clone(), born) => Err(Severed),
        target = connect(rules.clone()) => target,
    };
    let Ok(mut target) = target else {
        let _ = client.set_zero_linger();
        return;
    };
    let mut client = client;
    let _ = (client.set_nodelay(true), target.set_nodelay(true));
    let line = Line { shared: entry.shared(), answered: AtomicBool::new(true), passed: Mutex::default() };
    let ended = {
        let ((from_client, to_client), (from_target, to_target)) = (client.split(), target.split());
        tokio::select! {
            biased;
            () = cut(rules.clone(), born) => Err(Severed),
            ended = async {
                tokio::try_join!(
                    line.flow(Direction::Up, from_client, to_target, rules.clone()),
                    line.flow(Direction::Down, from_target, to_client, rules.clone()),
                )
            } => ended.map(drop),
        }
    };
    if ended.is_err() {
        let _ = (client.set_zero_linger(), target.set_zero_linger());
    }
    // The sockets close before the entry goes: whoever waits for its end finds them closed.
    drop((client, target));
    drop(entry);
}

/// Ends once everything was cut since this connection began, or the proxy is gone.
async fn cut(mut rules: watch::Receiver<Rules>, born: u64) {
    let _ = rules.wait_for(|rules| rules.cuts != born).await;
}

async fn connect(mut rules: watch::Receiver<Rules>) -> Result<TcpStream, Severed> {
    let target = rules.wait_for(|rules| !rules.black_hole).await?.target.clone();
    Ok(timeout(CONNECT, TcpStream::connect(target)).await??)
}

#[derive(Debug)]
struct Chunk {
    bytes: Vec<u8>,
    came: Instant,
}

/// What both flows of a connection share.
struct Line<'a> {
    shared: &'a Shared,
    /// The target was the last to send, so the client's next bytes begin a round trip.
    answered: AtomicBool,
    passed: Mutex<Passed>,
}

impl Line<'_> {
    async fn flow(
        &self,
        direction: Direction,
        from: impl AsyncRead + Unpin,
        to: impl AsyncWrite + Unpin,
        rules: watch::Receiver<Rules>,
    ) -> Result<(), Severed> {
        let (sender, receiver) = mpsc::channel(UNDER_WAY);
        tokio::try_join!(
            self.read(direction, from, sender, rules.clone()),
            self.write(direction, to, receiver, rules)
        )?;
        Ok(())
    }

    async fn read(
        &self,
        direction: Direction,
        mut from: impl AsyncRead + Unpin,
        sender: mpsc::Sender<Chunk>,
        mut rules: watch::Receiver<Rules>,
    ) -> Result<(), Severed> {
        let mut buffer = vec![0; CHUNK];
        loop {
            rules.wait_for(|rules| !rules.black_hole).await?;
            let count = from.read(&mut buffer).await?;
            if count == 0 {
                return Ok(());
            }
            self.shared.count(direction, count);
            let answered = self.answered.swap(direction == Direction::Down, Relaxed);
            if answered && direction == Direction::Up {
                self.shared.count_turn();
            }
            sender.send(Chunk { bytes: buffer[..count].to_vec(), came: Instant::now() }).await?;
        }
    }

    async fn write(
        &self,
        direction: Direction,
        mut to: impl AsyncWrite + Unpin,
        mut receiver: mpsc::Receiver<Chunk>,
        mut rules: watch::Receiver<Rules>,
    ) -> Result<(), Severed> {
        let mut spent_until = Instant::now();
        while let Some(Chunk { bytes, came }) = receiver.recv().await {
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                due(&mut rules, direction, came, spent_until).await?;
                let (throttle, limit) = {
                    let rules = rules.borrow();
                    (rules.throttle, rules.limit)
                };
                // Twenty milliseconds' worth at a time.
                let piece = throttle.map_or(rest.len(), |rate| rest.len().min(clamped(rate / 50)));
                let piece = self.passed().allowed(limit, direction, piece);
                if piece == 0 {
                    return Err(Severed);
                }
                to.write_all(&rest[..piece]).await?;
                rest = &rest[piece..];
                if let Some(rate) = throttle {
                    let cost = Duration::from_secs_f64(piece as f64 / rate as f64);
                    spent_until = spent_until.max(Instant::now()) + cost;
                }
                if self.passed().pass(limit, direction, piece) {
                    return Err(Severed);
                }
            }
        }
        // The other end has said its last: pass that on too.
        Ok(to.shutdown().await?)
    }

    fn passed(&self) -> std::sync::MutexGuard<'_, Passed> {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until the next bytes may pass under the rules as they are by then.
async fn due(
    rules: &mut watch::Receiver<Rules>,
    direction: Direction,
    came: Instant,
    spent_until: Instant,
) -> Result<(), Severed> {
    loop {
        let at = {
            let rules = rules.borrow_and_update();
            let at = came + rules.delay[direction as usize];
            match (rules.black_hole, rules.throttle) {
                (true, _) => None,
                (false, Some(_)) => Some(at.max(spent_until)),
                (false, None) => Some(at),
            }
        };
        match at {
            None => rules.changed().await?,
            Some(at) if at <= Instant::now() => return Ok(()),
            Some(at) => {
                tokio::select! {
                    () = sleep_until(at) => {}
                    changed = rules.changed() => changed?,
                }
            }
        }
    }
}

fn clamped(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(CHUNK).clamp(1, CHUNK)
}
