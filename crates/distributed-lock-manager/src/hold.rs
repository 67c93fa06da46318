//! One lock in hand, and the task that renews it. The guard is its face; nothing here is public.

use crate::{LockError, backend::Request, lease::Lease, manager::Inner};
use parking_lot::Mutex;
use resilience::{
    Deadline,
    clock::{LeaseClock, LeaseInstant},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What guard, renewal and release share.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) inner: Arc<Inner>,
    pub(crate) request: Request,
    pub(crate) token: u64,
    acquired: LeaseInstant,
    lease: Mutex<Lease>,
    changed: Notify,
    stop_renewing: CancellationToken,
}

impl Hold {
    pub(crate) fn new(inner: Arc<Inner>, request: Request, token: u64, lease: Lease) -> Self {
        Self {
            inner,
            request,
            token,
            acquired: LeaseClock::now(),
            lease: Mutex::new(lease),
            changed: Notify::new(),
            stop_renewing: CancellationToken::new(),
        }
    }

    pub(crate) fn remaining(&self) -> Duration {
        self.lease.lock().remaining(LeaseClock::now())
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lease.lock().is_lost(LeaseClock::now())
    }

    pub(crate) fn lost_error(&self) -> LockError {
        LockError::Lost { name: self.request.name.to_string() }
    }

    /// Until the lock is lost. Sleeps in steps, because tokio's clock stands still while the machine is suspended and
    /// the lease's does not.
    pub(crate) async fn lost(&self) {
        loop {
            let changed = self.changed.notified();
            let (warning, step) = {
                let mut lease = self.lease.lock();
                if lease.is_lost(LeaseClock::now()) {
                    return;
                }
                (lease.warning(), self.step())
            };
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(warning.remaining().min(step)) => {}
            }
        }
    }

    fn step(&self) -> Duration {
        (self.request.lease / 20).clamp(Duration::from_millis(10), Duration::from_secs(1))
    }

    pub(crate) fn lose(&self) {
        self.lease.lock().lose();
        self.changed.notify_waiters();
    }

    /// Ends renewal and counts; how long the lock was held.
    pub(crate) fn end(&self, released: bool) {
        self.stop_renewing.cancel();
        let held = LeaseClock::now().saturating_since(self.acquired);
        if self.is_lost() {
            self.inner.counts.lost();
        }
        self.inner.counts.ended(held, released);
        self.inner.instruments.held(held);
    }

    pub(crate) fn stop_renewing(&self) {
        self.stop_renewing.cancel();
    }

    /// Renews every third of the lease until the guard is gone or the lock is lost.
    pub(crate) async fn keep_renewing(self: Arc<Self>) {
        tokio::select! {
            () = self.stop_renewing.cancelled() => {}
            () = self.lost() => self.changed.notify_waiters(),
            () = self.renew() => {}
        }
    }

    async fn renew(&self) {
        let timeout = self.inner.config.attempt_timeout.min(self.request.lease / 3);
        loop {
            loop {
                let wait = self.lease.lock().renewal().remaining();
                if wait.is_zero() {
                    break;
                }
                tokio::time::sleep(wait.min(self.step())).await;
            }
            let sent = LeaseClock::now();
            // Guards outlive the manager's shutdown.
            let Ok(backend) = self.inner.backend_even_after_shutdown() else { return };
            match backend.renew(&self.request, Deadline::after(timeout)).await {
                Ok(true) => self.lease.lock().renewed(sent),
                Ok(false) => {
                    tracing::warn!(name = %self.request.name, "a lock was lost: the store does not know it any more");
                    return self.lose();
                }
                Err(error) => {
                    tracing::debug!(name = %self.request.name, %error, "a lock could not be renewed yet");
                    tokio::time::sleep(self.step()).await;
                }
            }
        }
    }
}
