//! The audit line of a command that acts on servers directly, in the form of the admin transport's own: who did what to
//! what, and how it ended. On stderr like every log line here, for whoever collects it.

use std::time::Instant;

use crate::exit::Outcome;

/// Runs what changes something, and says so.
pub(crate) async fn audited(what: &str, target: &str, work: impl Future<Output = Outcome>) -> Outcome {
    let started = Instant::now();
    let outcome = work.await;
    let user = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let who = format!("dbsvc:{}", user.as_deref().unwrap_or("unknown"));
    let (result, exit) = match &outcome {
        Ok(exit) => ("done", *exit as u8),
        Err(failed) => ("failed", failed.exit as u8),
    };
    let duration_ms = started.elapsed().as_secs_f64() * 1000.0;
    tracing::info!(target: "audit", who, what, target, outcome = result, exit, duration_ms, "admin");
    outcome
}
