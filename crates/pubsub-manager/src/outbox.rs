//! The transactional outbox: messages that are published if, and only if, a transaction commits, also when the process dies
//! right after COMMIT.
//!
//! [`TxPublish::publish`](crate::TxPublish::publish) inserts the message in the transaction. One process, the relay, passes
//! on what has committed and then deletes it. An [`Outbox`] runs in every process; whoever holds the lease relays, and when
//! it dies another takes over within the lease's length, at once after a shutdown.
//!
//! # What is promised
//! - **At least once.** A row is deleted after its channel has accepted the message. A relay that dies, or loses its lease,
//!   between the two leaves it to the next: a repetition. On a durable channel it has the same id, by which handlers
//!   recognise it; on a plain one it is another message with the same content. What a plain channel's bus loses on its way
//!   to subscribers is lost as always, and told as a gap.
//! - **In order per key.** Rows are passed on in the order of their ids, and of each key one after another. If one
//!   transaction committed before another one published, its messages have smaller ids and come first, so whoever
//!   serialises the changes of a thing, by locking its row, has its messages in the order of the changes. Besides, a row
//!   waits until every transaction that began to write before its own has ended (`xid < xmin`), so that what began earlier
//!   is not overtaken by what merely commits earlier. A transaction that stays open therefore holds everything up;
//!   [`Blocker`] names it.
//! - **First deliveries are never out of order.** A relay that was stopped in the middle and goes on after another has taken
//!   over may publish what it had in hand (one call for each key: it looks at the lease's end before each). Its rows were in
//!   order from the oldest on, and whatever is older than a row has been delivered before the row is: by this relay, or by
//!   one that then deleted it. So what a stale relay publishes comes after all its predecessors, and everything else it
//!   says is a repetition. It can remove nothing: rows are deleted in a statement that asks for the lease.
//! - **No message blocks its key for ever.** One that the target refuses for what it is (too large, a name or a format that
//!   does not go) is put aside after [`OutboxConfig::max_attempts`], one that the target's backend refuses in words of its
//!   own after [`OutboxConfig::give_up_after`]: into a table with the reason, to be looked at, tried again
//!   ([`Outbox::retry`], behind what has been published since) or dropped. Until then only its key waits.
//! - **An outage loses nothing.** While a target cannot be reached, has no room, or does not answer, its messages wait. A
//!   relay that reaches none for two leases gives the lease to who else wants it: the trouble may be its own.
//!
//! # Cost
//! One INSERT in the transaction. After COMMIT the relay is called by a NOTIFY that a process sends at most once at a time
//! for all its transactions; without it, it looks every second. Rows are inserted and deleted, never updated, and the
//! relay does not read what it has deleted, so the table bears old snapshots that keep vacuum away.

mod dead;
mod deliver;
mod insight;
mod keys;
mod lease;
mod message;
mod relay;
mod sql;

pub use dead::{DeadMessage, Which};
pub use insight::{Blocker, OutboxFigures, OutboxStatus};
pub use message::{OutboxChannel, OutboxOptions};

#[doc(hidden)]
pub use message::OutboxMessage;
pub(crate) use message::{Call, store};

use crate::{Error, PostgresListener, Problem, PubSubManager};
use insight::{Counts, Instruments};
use relay::Relay;
use resilience::Deadline;
use serde::{Deserialize, Serialize};
use sql::Sql;
use std::{sync::Arc, time::Duration};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

/// Settings of an [`Outbox`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutboxConfig {
    /// Whoever relays has the right to for so long, and renews it every third of it: the longest that messages wait when it
    /// dies. 300 ms to 1 h; default 5 s, three renewals of which two may fail.
    pub lease: Duration,
    /// The table is looked at so often although nobody called. 1 ms to 1 s; default 1 s.
    pub poll: Duration,
    /// Limit of one delivery. 10 ms to 1 min; default 5 s.
    pub delivery_timeout: Duration,
    /// A message that is itself at fault is put aside after so many attempts. At least 1; default 5, about 1.5 s.
    pub max_attempts: u32,
    /// So is one that may be at fault, as its target's backend refuses it and does not say why in our words, after so long.
    /// Default 15 min: longer than most mistakes in a backend's settings last.
    pub give_up_after: Duration,
}

impl Default for OutboxConfig {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(5),
            poll: Duration::from_secs(1),
            delivery_timeout: Duration::from_secs(5),
            max_attempts: 5,
            give_up_after: Duration::from_secs(15 * 60),
        }
    }
}

impl OutboxConfig {
    /// Checks everything at once.
    ///
    /// # Errors
    /// All problems found.
    pub fn validate(&self) -> Result<(), Vec<Problem>> {
        let (milli, second) = (Duration::from_millis(1), Duration::from_secs(1));
        let mut problems = Vec::new();
        let bounds = [
            ("lease", self.lease, 300 * milli, 3600 * second),
            ("poll", self.poll, milli, second),
            ("delivery_timeout", self.delivery_timeout, 10 * milli, 60 * second),
        ];
        for (setting, value, least, most) in bounds {
            if value < least || value > most {
                let message = format!("{value:?} is outside {least:?} to {most:?}");
                problems.push(Problem { setting, message });
            }
        }
        if self.max_attempts == 0 {
            problems.push(Problem { setting: "max_attempts", message: "0 is below 1".into() });
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

/// The outbox of a database, as one process sees it: a candidate for the relay, and what operators need. Clones share it;
/// the last one dropped hands the relay over.
#[derive(Clone, Debug)]
pub struct Outbox(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    listener: PostgresListener,
    sql: Arc<Sql>,
    counts: Arc<Counts>,
    stop: CancellationToken,
    tasks: TaskTracker,
    _stop: DropGuard,
    _instruments: Instruments,
}

impl Outbox {
    /// Starts a candidate for the relay of `listener`'s database, which need not be reachable yet; its schema needs
    /// [`migrations`](crate::migrations). What it relays is published by `manager`, which has to have the bus and the store
    /// of durable channels that the messages are for. Its task runs on the listener's runtime.
    ///
    /// # Errors
    /// [`Error::Config`] with all problems.
    pub fn start(
        listener: PostgresListener,
        manager: PubSubManager,
        config: OutboxConfig,
    ) -> Result<Self, Error> {
        config.validate().map_err(|problems| Error::Config { problems })?;
        let sql = Arc::new(Sql::new(listener.pool().schema()));
        let (counts, stop, tasks) = (Arc::<Counts>::default(), CancellationToken::new(), TaskTracker::new());
        let relay = Relay {
            listener: listener.clone(),
            manager,
            config,
            sql: Arc::clone(&sql),
            counts: Arc::clone(&counts),
            stop: stop.clone(),
        };
        tasks.spawn_on(relay.run(), listener.runtime());
        tasks.close();
        let (instruments, guard) = (Instruments::new(&counts), stop.clone().drop_guard());
        let inner = Inner { listener, sql, counts, stop, tasks, _stop: guard, _instruments: instruments };
        Ok(Self(Arc::new(inner)))
    }

    /// What it is doing, without asking the server.
    #[must_use]
    pub fn status(&self) -> OutboxStatus {
        self.0.counts.status()
    }

    /// Asks the server what is in the tables; any process may.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn inspect(&self, deadline: Deadline) -> Result<OutboxFigures, Error> {
        const OPERATION: &str = "inspect the outbox";
        let asked = deadline.run(insight::figures(self.0.listener.pool(), &self.0.sql)).await;
        asked.map_err(|_| Error::Unknown { operation: OPERATION })?
    }

    /// Finishes the deliveries under way, hands the relay over, and waits for both up to `grace`.
    ///
    /// Cancel safety: the end has begun and goes on.
    pub async fn shutdown(&self, grace: Duration) {
        self.0.stop.cancel();
        let _late = tokio::time::timeout(grace, self.0.tasks.wait()).await;
    }
}
