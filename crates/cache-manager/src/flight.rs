//! One load that any number of callers wait for. It ends exactly once, also when its task is dropped: nobody waits
//! for ever. Not here: which load a caller joins (`ledger`).

use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::Level;
use crate::error::LoadError;
use crate::l1::Slot;

/// How a load ended.
#[derive(Clone, Debug)]
pub(crate) struct Landed {
    pub(crate) slot: Slot,
    pub(crate) level: Level,
}

/// A load that failed, and the expired value that the tiers still had.
#[derive(Clone, Debug)]
pub(crate) struct Crashed {
    pub(crate) error: LoadError,
    pub(crate) fallback: Option<Landed>,
}

impl From<LoadError> for Crashed {
    fn from(error: LoadError) -> Self {
        Self { error, fallback: None }
    }
}

type Outcome = Option<Result<Landed, Crashed>>;

/// A load under way, or one that failed a moment ago and whose error is still handed out.
#[derive(Debug)]
pub(crate) struct Flight {
    /// The ledger's position when the load began.
    pub(crate) start: u64,
    /// When it began.
    pub(crate) began: Instant,
    /// A read or load of the same key was answered since it began.
    pub(crate) overtaken: AtomicBool,
    outcome: watch::Sender<Outcome>,
    failed_at: OnceLock<Instant>,
}

impl Flight {
    pub(crate) fn new(start: u64) -> Self {
        Self {
            start,
            began: Instant::now(),
            overtaken: AtomicBool::new(false),
            outcome: watch::Sender::new(None),
            failed_at: OnceLock::new(),
        }
    }

    /// Tells all waiters. Only the first call counts.
    pub(crate) fn land(&self, outcome: Result<Landed, Crashed>) {
        self.outcome.send_if_modified(|held| {
            let first = held.is_none();
            if first {
                if outcome.is_err() {
                    let _ = self.failed_at.set(Instant::now());
                }
                *held = Some(outcome);
            }
            first
        });
    }

    /// Waits for the end of the load. Cancel safe: the load does not notice.
    pub(crate) async fn wait(&self) -> Result<Landed, Crashed> {
        let mut receiver = self.outcome.subscribe();
        match receiver.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Err(LoadError::Abandoned.into())),
            Err(_) => Err(LoadError::Abandoned.into()),
        }
    }

    /// Whether a new caller may still join: under way, or failed less than `backoff` ago.
    pub(crate) fn joinable(&self, backoff: Duration) -> bool {
        match &*self.outcome.borrow() {
            None => true,
            Some(Ok(_)) => false,
            Some(Err(_)) => self.failed_at.get().is_some_and(|at| at.elapsed() < backoff),
        }
    }
}
