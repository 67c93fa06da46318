//! What changed, by order or by itself, for whoever wants to know: each event is logged once and told to every
//! listener. Nothing in the crate reads them; an event never decides anything.

use crate::stats::HostState;
use serde::Serialize;
use tokio::sync::broadcast;

/// Events that a slow listener may be behind before it misses some.
const BACKLOG: usize = 256;

/// Something that changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum PoolEvent {
    /// New limits for every server's pool.
    Resized {
        /// Connections kept.
        size: u32,
        /// Extra connections.
        max_overflow: u32,
        /// Idle connections held ready.
        min_idle: u32,
    },
    /// No session is handed out until `Resumed`.
    Suspended,
    /// Sessions are handed out again.
    Resumed,
    /// All reads go to the primary, or no longer.
    ForcedPrimaryReads {
        /// Whether they do.
        on: bool,
        /// By itself, because every replica was far behind, or by order.
        automatic: bool,
    },
    /// A replica was added.
    ReplicaAdded {
        /// Its name.
        host: String,
        /// Its share of the reads.
        weight: i32,
    },
    /// A replica was removed.
    ReplicaRemoved {
        /// Its name.
        host: String,
    },
    /// A replica was taken out of the reads, or put back.
    ReplicaDrained {
        /// Its name.
        host: String,
        /// Whether it is out.
        drained: bool,
    },
    /// A replica has another share of the reads.
    ReplicaWeighted {
        /// Its name.
        host: String,
        /// Its share.
        weight: i32,
    },
    /// A server is in another state.
    HostState {
        /// Its name.
        host: String,
        /// What it was.
        from: HostState,
        /// What it is.
        to: HostState,
    },
    /// Another server is written to from now on.
    PrimaryChanged {
        /// The former primary.
        from: String,
        /// The new one.
        to: String,
        /// Its history.
        timeline: u32,
    },
    /// Two servers take writes; one of them is not used. It has to be stopped by hand: whoever else writes to it
    /// loses what they write.
    TwoPrimaries {
        /// The one that is written to.
        kept: String,
        /// The other.
        refused: String,
    },
    /// A session is held beyond the leak threshold.
    SessionHeld {
        /// The server's name.
        host: String,
        /// For so long, in milliseconds.
        held_ms: u64,
        /// File and line of its acquisition.
        taken_at: String,
        /// The tracing span in which it was acquired.
        span: Option<&'static str>,
        /// The first words of its latest statement, without literals.
        statement: Option<String>,
    },
    /// It came back.
    SessionReturned {
        /// The server's name.
        host: String,
        /// After so long, in milliseconds.
        held_ms: u64,
        /// File and line of its acquisition.
        taken_at: String,
    },
    /// It was held beyond `reclaim_after` and lost its connection.
    SessionReclaimed {
        /// The server's name.
        host: String,
        /// After so long, in milliseconds.
        held_ms: u64,
        /// File and line of its acquisition.
        taken_at: String,
        /// The first words of its latest statement, without literals.
        statement: Option<String>,
    },
    /// A server refuses us for a reason that waiting will not mend: password, rights, certificates. Told once, until it
    /// lets us in again or refuses for another reason.
    ConnectRefused {
        /// The server's name.
        host: String,
        /// The reason and the mend.
        why: String,
    },
    /// This instance may have another number of connections to each server, those beside its pools included.
    BudgetShare {
        /// So many.
        share: u32,
        /// Of the fleet's.
        budget: u32,
    },
    /// This listener was too slow for so many events.
    Missed {
        /// How many.
        count: u64,
    },
}

/// Where events go.
#[derive(Clone, Debug)]
pub(crate) struct Events(broadcast::Sender<PoolEvent>);

impl Events {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(BACKLOG))
    }

    /// Logs it and tells the listeners; does not wait for them.
    pub(crate) fn emit(&self, event: PoolEvent) {
        tracing::info!(?event, "pool event");
        self.tell(event);
    }

    /// Tells the listeners what was logged already.
    pub(crate) fn tell(&self, event: PoolEvent) {
        // No listener is no error.
        let _ = self.0.send(event);
    }

    pub(crate) fn listen(&self) -> EventStream {
        EventStream(self.0.subscribe())
    }
}

/// The events from the moment of [`events`](crate::PostgresPoolManager::events) on.
#[derive(Debug)]
pub struct EventStream(broadcast::Receiver<PoolEvent>);

impl EventStream {
    /// The next event; `None` once the pool is gone.
    ///
    /// Cancel safety: no event is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<PoolEvent> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(count)) => Some(PoolEvent::Missed { count }),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}
