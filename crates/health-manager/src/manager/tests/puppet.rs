//! A probe that does what its test tells it, and counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use resilience::Deadline;

use crate::{Probe, ProbeReport};

/// What a test's probe does when it is run.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Say(ProbeReport),
    Hang,
    Panic,
    /// Answers after this long.
    Late(Duration),
}

#[derive(Debug)]
pub(super) struct Puppet {
    act: Mutex<Act>,
    pub(super) runs: AtomicU64,
    running: AtomicUsize,
    pub(super) at_once: AtomicUsize,
}

impl Puppet {
    pub(super) fn new(act: Act) -> Arc<Self> {
        Arc::new(Self {
            act: Mutex::new(act),
            runs: AtomicU64::new(0),
            running: AtomicUsize::new(0),
            at_once: AtomicUsize::new(0),
        })
    }

    pub(super) fn healthy() -> Arc<Self> {
        Self::new(Act::Say(ProbeReport::healthy()))
    }

    pub(super) fn set(&self, act: Act) {
        *self.act.lock() = act;
    }
}

struct Leave<'a>(&'a AtomicUsize);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Probe for Puppet {
    async fn check(&self, _deadline: Deadline) -> ProbeReport {
        self.runs.fetch_add(1, Ordering::SeqCst);
        let now = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.at_once.fetch_max(now, Ordering::SeqCst);
        let _leave = Leave(&self.running);
        let act = self.act.lock().clone();
        match act {
            Act::Say(report) => report,
            Act::Hang => std::future::pending().await,
            Act::Panic => panic!("a probe that panics"),
            Act::Late(after) => {
                tokio::time::sleep(after).await;
                ProbeReport::healthy()
            }
        }
    }
}
