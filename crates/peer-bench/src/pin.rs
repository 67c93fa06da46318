//! One core for everybody: client, servers and peers.
//!
//! One operation at a time mostly measures how an idle processor wakes up, unless both ends share a core.

use anyhow::{Context as _, Result};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Runs `work` on a thread of its own that is bound to one core, with a current-thread runtime. Processes and
/// threads that `work` starts inherit the core.
pub(crate) fn pinned<T: Send>(work: impl AsyncFnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let allowed = sched_getaffinity(None).context("cannot read the allowed cores")?;
            let core = (0..CpuSet::MAX_CPU).rev().find(|core| allowed.is_set(*core)).unwrap_or(0);
            let mut one = CpuSet::new();
            one.set(core);
            sched_setaffinity(None::<Pid>, &one).context("cannot bind to one core")?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(work())
        });
        thread.join().map_err(|_| anyhow::anyhow!("a pinned measurement failed"))?
    })
}
