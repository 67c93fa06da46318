//! Runs the probes: one task a probe, and one that notices silence. Tasks hold the manager weakly, so that they end
//! with it, and each stops at its token.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use rand::Rng;
use resilience::Deadline;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::state::Inner;
use crate::{Probe, ProbeReport};

/// How often silence is looked for, at most; a shorter period of a probe shortens it.
pub(crate) const SWEEP: Duration = Duration::from_secs(1);

/// What a probe's task needs.
pub(crate) struct Run {
    pub(crate) name: String,
    pub(crate) probe: Arc<dyn Probe>,
    pub(crate) period: Duration,
    pub(crate) timeout: Duration,
    pub(crate) jitter: f64,
    pub(crate) wake: Arc<Notify>,
    pub(crate) done: watch::Sender<u64>,
    pub(crate) inner: Weak<Inner>,
    pub(crate) stop: CancellationToken,
}

/// Probes until stopped; the first run is at once.
pub(crate) async fn run(run: Run) {
    loop {
        let started = Instant::now();
        let report = tokio::select! {
            biased;
            () = run.stop.cancelled() => return,
            report = once(&run) => report,
        };
        let Some(inner) = run.inner.upgrade() else { return };
        inner.answered(&run.name, report, started.elapsed());
        drop(inner);
        run.done.send_modify(|count| *count += 1);
        let factor = 1.0 + rand::rng().random_range(-run.jitter..=run.jitter);
        tokio::select! {
            biased;
            () = run.stop.cancelled() => return,
            () = run.wake.notified() => {}
            () = tokio::time::sleep_until(started + run.period.mul_f64(factor)) => {}
        }
    }
}

/// One run under the hard time-out; a panic is a failure like any other.
async fn once(run: &Run) -> ProbeReport {
    let deadline = Deadline::after(run.timeout);
    let check = AssertUnwindSafe(run.probe.check(deadline)).catch_unwind();
    match tokio::time::timeout(run.timeout, check).await {
        Ok(Ok(report)) => report,
        Ok(Err(_panic)) => ProbeReport::unhealthy("the probe panicked"),
        Err(_elapsed) => ProbeReport::unhealthy(format!("no answer within {:?}", run.timeout)),
    }
}

/// Notices what has gone silent, and what that makes of the whole.
pub(crate) async fn sweep(inner: Weak<Inner>, period: Duration, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(period) => {}
        }
        let Some(inner) = inner.upgrade() else { return };
        inner.sweep();
    }
}
