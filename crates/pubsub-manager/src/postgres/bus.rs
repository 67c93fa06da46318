//! The bus over PostgreSQL: a table of frames that every process reads as it grows.
//!
//! # Why nothing is skipped
//! Rows appear in the order in which their transactions commit, which is not that of their numbers; "everything after the
//! last number" would skip what commits late. Each row carries the number of its transaction, and the reader keeps the
//! *snapshot* of its last look: which transactions it could see. The next look asks for exactly the rows that the former
//! could not: those of transactions that were running then, and of later ones. Nothing is skipped whatever the order of
//! commits, and a transaction that is open for an hour delays nobody but itself.
//!
//! A look that fails half-way is repeated; the numbers in the envelopes tell the copies. Within one look rows come in the order of their ids. A publisher has one frame of a channel under way at a time, so the
//! frames of its channel arrive in order.
//!
//! # Losses
//! Rows are kept for [`PostgresBusConfig::retention`]. A reader whose connection was away for less gets what was published
//! meanwhile; otherwise the numbers in the envelopes count what is missing. So they do for what a crash of the server or a
//! failover loses: publishing does not wait for the disk (`synchronous_commit` is off on its connection). The server then
//! gives numbers of transactions that the reader has seen already; where it has fewer behind it than were seen it is read
//! from its present on, and what was published under such numbers before the reader was back counts as missed.
//!
//! # Cost
//! Frames of one process that are published at the same time share one INSERT. There are up to three connections for each
//! process beside its pool: the listener's, one that reads once something is subscribed, one that writes once something is
//! published. Every process reads every frame and routes it to who wants it; lanes differ in name only. It is for a service
//! that has no Redis and some thousands of messages a second, not for more.

mod reader;
mod routes;
mod writer;

use super::PostgresListener;
use crate::{Bus, BusStatus, BusStream, Error, Filter, Lane, Subject};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use postgres_pool_manager::PoolState;
use resilience::Deadline;
use routes::Routes;
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
use writer::Outgoing;

/// Frames that may wait to be inserted. Each is as large as a channel's frame.
const PENDING: usize = 1024;

/// How the bus looks at its table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PostgresBusConfig {
    /// Frames are kept for so long: the longest outage of a subscriber's connection that costs it nothing. The same in the
    /// whole fleet, where the shortest counts. Default 60 s.
    pub retention: Duration,
    /// The table is looked at so often although no notification came. At most 1 s; default 1 s.
    pub poll: Duration,
}

impl Default for PostgresBusConfig {
    fn default() -> Self {
        Self { retention: Duration::from_secs(60), poll: Duration::from_secs(1) }
    }
}

/// A bus over a PostgreSQL table.
#[derive(Debug)]
pub struct PostgresBus {
    listener: PostgresListener,
    outgoing: mpsc::Sender<Outgoing>,
    routes: Arc<Routes>,
    state: Arc<Mutex<BusStatus>>,
    stop: CancellationToken,
    _stop: DropGuard,
}

impl PostgresBus {
    /// A bus over `listener`'s database, which need not be reachable yet; its schema needs
    /// [`migrations`](crate::migrations). Its tasks run on the listener's runtime. A `retention` below 1 s and a `poll`
    /// outside of 1 ms to 1 s are brought into those bounds.
    #[must_use]
    pub fn new(listener: PostgresListener, config: &PostgresBusConfig) -> Self {
        let (outgoing, queue) = mpsc::channel(PENDING);
        let (routes, stop) = (Arc::<Routes>::default(), CancellationToken::new());
        let state = Arc::new(Mutex::new(BusStatus { connected: true, reason: None }));
        let poll = config.poll.clamp(Duration::from_millis(1), Duration::from_secs(1));
        let reader = reader::Reader::new(listener.clone(), Arc::clone(&routes), Arc::clone(&state), poll);
        let retention = config.retention.max(Duration::from_secs(1));
        let pruned = reader::prune(listener.clone(), retention);
        let written = writer::run(listener.clone(), queue);
        let runtime = listener.runtime();
        let ended = Arc::clone(&routes);
        let reading = stop.clone().run_until_cancelled_owned(reader.run());
        runtime.spawn(async move {
            reading.await;
            ended.end();
        });
        runtime.spawn(stop.clone().run_until_cancelled_owned(pruned));
        runtime.spawn(stop.clone().run_until_cancelled_owned(written));
        Self { listener, outgoing, routes, state, _stop: stop.clone().drop_guard(), stop }
    }
}

#[async_trait]
impl Bus for PostgresBus {
    fn name(&self) -> &'static str {
        "postgresql"
    }

    async fn publish(
        &self,
        lane: Lane,
        subject: &Subject,
        frame: Bytes,
        deadline: Deadline,
    ) -> Result<Option<u64>, Error> {
        const OPERATION: &str = "publish";
        let (reply, answer) = oneshot::channel();
        let outgoing = Outgoing { lane, subject: subject.as_str().to_owned(), frame, deadline, reply };
        let queued = self.outgoing.try_send(outgoing);
        queued.map_err(|_| Error::Limit { what: "frames waiting for the database", limit: PENDING })?;
        match deadline.run(answer).await {
            Ok(Ok(written)) => written.map(|()| None),
            Ok(Err(_writer_gone)) => Err(Error::Shutdown { operation: OPERATION }),
            Err(_) => Err(Error::Unknown { operation: OPERATION }),
        }
    }

    /// While the database is away this waits for it, up to the deadline.
    async fn subscribe(&self, filter: &Filter, deadline: Deadline) -> Result<Box<dyn BusStream>, Error> {
        let (stream, confirmed) = self.routes.add(filter);
        match deadline.run(confirmed).await {
            Ok(Ok(())) => Ok(Box::new(stream)),
            Ok(Err(_ended)) => Err(Error::Shutdown { operation: "subscribe" }),
            Err(_) => {
                let reason = self.state.lock().reason.clone();
                let reason = reason.unwrap_or_else(|| "the database did not answer in time".into());
                Err(Error::Unavailable { operation: "subscribe", reason })
            }
        }
    }

    fn status(&self) -> BusStatus {
        let reading = self.state.lock().clone();
        if !reading.connected {
            return reading;
        }
        // With nothing subscribed nothing is read, and the pool knows more.
        let pool = self.listener.pool().status();
        let connected = matches!(pool.state, PoolState::Connected | PoolState::Degraded);
        BusStatus { connected, reason: pool.reason.filter(|_| !connected) }
    }

    async fn health_check(&self, deadline: Deadline) -> Result<Duration, Error> {
        self.listener.health_check(deadline).await
    }

    fn end(&self) {
        self.stop.cancel();
    }
}

/// A lane's number in the table.
const fn lane_number(lane: Lane) -> i16 {
    match lane {
        Lane::Plain => 0,
        Lane::Sharded => 1,
        Lane::Raw => 2,
    }
}

/// A number that a later version wrote is no lane of ours.
const fn lane_of(number: i16) -> Option<Lane> {
    match number {
        0 => Some(Lane::Plain),
        1 => Some(Lane::Sharded),
        2 => Some(Lane::Raw),
        _ => None,
    }
}

/// The topic of the notifications.
const TOPIC: &str = "bus";
