//! The manager: takes locks, has callers wait in order, and accounts for all of it. It owns no connection; the backend
//! does.

use crate::{
    BackendStatus, Config, LockBackend, LockError, LockGuard, LockOptions, Stats, Wakes,
    acquire::Acquiring,
    backend::{AcquisitionId, Request},
    config::{check_lease, check_name},
    metrics::{Counts, Instruments},
    queue::Queues,
};
use resilience::Deadline;
use serde::Serialize;
use std::{future::Future, pin::pin, sync::Arc, time::Duration};
use tokio::{runtime::Handle, sync::oneshot};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

/// Takes and keeps distributed locks. Clones share it.
#[derive(Clone, Debug)]
pub struct DistributedLockManager(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) counts: Arc<Counts>,
    pub(crate) instruments: Instruments,
    backend: Option<Arc<dyn LockBackend>>,
    holder: Arc<str>,
    pub(crate) queues: Arc<Queues>,
    runtime: Handle,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What a manager is doing now, without asking the server.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// The backend's name, `none` without one.
    pub backend: &'static str,
    /// Whether it works.
    pub connected: bool,
    /// If not, why.
    pub reason: Option<String>,
    /// Something that an operator should change, although it works now.
    pub warning: Option<String>,
    /// Counts.
    pub stats: Stats,
}

impl DistributedLockManager {
    pub(crate) fn start(config: Config, backend: Option<Arc<dyn LockBackend>>) -> Result<Self, LockError> {
        let runtime =
            Handle::try_current().map_err(|error| LockError::Unavailable { reason: error.to_string() })?;
        let counts = Arc::new(Counts::default());
        let queues = Queues::new(config.max_waiters);
        if let Some(backend) = &backend {
            backend.attach(Wakes::new(&queues));
        }
        Ok(Self(Arc::new(Inner {
            instruments: Instruments::new(&counts),
            holder: config.holder.as_str().into(),
            config,
            counts,
            backend,
            queues,
            runtime,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })))
    }

    /// Acquires the lock `name`, waiting in line for it.
    ///
    /// Waiters of one process are served in order; between processes the first to ask after a release gets it.
    /// While the store cannot be reached, it is asked again until the wait is over.
    ///
    /// Cancel safety: dropped at any point, it leaves no lock behind: what was or will be acquired is given back at once
    /// while the store answers, and ends with its lease otherwise.
    ///
    /// # Errors
    /// [`LockError::Timeout`], [`LockError::Unknown`], [`LockError::Unavailable`], [`LockError::Invalid`],
    /// [`LockError::TooManyWaiters`], [`LockError::Backend`], [`LockError::Shutdown`]; with a wait of zero also
    /// [`LockError::Busy`].
    pub async fn acquire(&self, name: &str, options: LockOptions) -> Result<LockGuard, LockError> {
        let result = self.acquire_owned(name, options).await;
        if let Err(error) = &result {
            self.0.counts.failed(error);
        }
        result
    }

    /// Asks once: [`acquire`](Self::acquire) with a wait of zero.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire), with [`LockError::Busy`] in place of a time-out.
    pub async fn try_acquire(&self, name: &str, options: LockOptions) -> Result<LockGuard, LockError> {
        self.acquire(name, options.wait(Duration::ZERO)).await
    }

    /// Runs `work` under the lock and releases it afterwards. Where the lock is lost meanwhile, `work` is dropped at its
    /// next await before the lease can end.
    ///
    /// What `work` answers is never thrown away: a lock that turns out to be gone only when it is given back (a flushed
    /// Redis, a key deleted by hand) is logged as a warning and counted in [`Stats::lost`]. Work that must not overlap even
    /// then checks the token, or takes the guard and calls [`LockGuard::release`] itself.
    ///
    /// Cancel safety: as [`acquire`](Self::acquire); `work` is dropped.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire), and [`LockError::Lost`]: `work` was not finished.
    pub async fn with_lock<T>(
        &self,
        name: &str,
        options: LockOptions,
        work: impl AsyncFnOnce(&LockGuard) -> T,
    ) -> Result<T, LockError> {
        let guard = self.acquire(name, options).await?;
        let done = {
            let work = pin!(work(&guard));
            tokio::select! {
                biased;
                () = guard.lost() => None,
                value = work => Some(value),
            }
        };
        let Some(value) = done else { return Err(guard.hold().lost_error()) };
        match guard.release().await {
            Ok(()) => {}
            Err(LockError::Lost { .. }) => {
                tracing::warn!(
                    name,
                    "the work is done, but its lock was gone: somebody else may have had it"
                );
            }
            Err(error) => {
                tracing::debug!(name, %error, "the work is done, but its lock could not be given back yet");
            }
        }
        Ok(value)
    }

    /// Counts so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.counts.stats(self.0.queues.waiting())
    }

    /// What it is doing now, without asking the server.
    #[must_use]
    pub fn status(&self) -> Status {
        let (name, status) = match &self.0.backend {
            Some(backend) => (backend.name(), backend.status()),
            None => {
                ("none", BackendStatus { connected: false, reason: Some(NO_BACKEND.into()), warning: None })
            }
        };
        let BackendStatus { connected, reason, warning } = status;
        Status { backend: name, connected, reason, warning, stats: self.stats() }
    }

    /// Asks the server, and says how long the answer took.
    ///
    /// # Errors
    /// Any error means that acquiring would fail now.
    pub async fn health_check(&self, deadline: Deadline) -> Result<Duration, LockError> {
        self.0.backend()?.health_check(deadline).await
    }

    /// Refuses new acquires, sends waiters away and waits up to `grace` until all guards are given back. Guards that are
    /// still held then stay valid, are renewed as long as the store can be reached, and may be released afterwards.
    ///
    /// Cancel safety: the end has begun and goes on.
    pub async fn shutdown(&self, grace: Duration) {
        self.0.stop.cancel();
        self.0.tasks.close();
        let _late = tokio::time::timeout(grace, self.0.tasks.wait()).await;
    }

    async fn acquire_owned(&self, name: &str, options: LockOptions) -> Result<LockGuard, LockError> {
        check_name(name)?;
        let lease = options.lease.unwrap_or(self.0.config.default_lease);
        check_lease(lease)?;
        self.0.backend()?;
        let (id, holder) = (AcquisitionId::random(), Arc::clone(&self.0.holder));
        let request = Request { name: name.into(), id, holder, lease };
        let acquiring = Acquiring::new(Arc::clone(&self.0), request, options);
        let (reply, answer) = oneshot::channel();
        self.0.spawn(acquiring.run(reply));
        answer.await.unwrap_or(Err(LockError::Shutdown))
    }
}

const NO_BACKEND: &str = "no backend is configured";

impl Inner {
    pub(crate) fn backend(&self) -> Result<&Arc<dyn LockBackend>, LockError> {
        if self.stop.is_cancelled() {
            return Err(LockError::Shutdown);
        }
        self.backend_even_after_shutdown()
    }

    pub(crate) fn backend_even_after_shutdown(&self) -> Result<&Arc<dyn LockBackend>, LockError> {
        self.backend.as_ref().ok_or_else(|| LockError::Unavailable { reason: NO_BACKEND.into() })
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn scope(&self) -> &str {
        self.backend.as_ref().map_or("none", |backend| backend.scope())
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(task, &self.runtime);
    }

    pub(crate) async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Shutdown waits for it to be dropped.
    pub(crate) fn waited_for(&self) -> TaskTrackerToken {
        self.tasks.token()
    }

    /// For what ends with a guard, which shutdown waits for itself.
    pub(crate) fn spawn_untracked(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }
}
