//! `AdminEvent` on tracing target `audit`: who did what to what, and how it ended. Never a secret, never a value.
//!
//! Not here: keeping the events. The append-only table is `access-control`'s (not yet).

use std::time::Duration;

/// Longest name of a thing in the audit trail, in characters.
const MAX_TARGET: usize = 256;

/// How an administrative operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdminOutcome {
    /// Done.
    Done,
    /// Tried, and failed.
    Failed,
    /// Not let in.
    Refused,
}

impl AdminOutcome {
    /// `done`, `failed`, `refused`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Refused => "refused",
        }
    }
}

/// One administrative operation, or the attempt.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AdminEvent {
    /// `token:{fingerprint}@{address}`, or `anonymous@{address}` when refused.
    pub who: String,
    /// `component/action`.
    pub what: String,
    /// What it was done to: a key, a channel; empty when the action says it all.
    pub target: String,
    /// How it ended.
    pub outcome: AdminOutcome,
    /// The problem's code, unless it went well.
    pub code: Option<String>,
    /// How long it took.
    pub duration: Duration,
}

impl AdminEvent {
    pub(crate) fn emit(&self) {
        let Self { who, what, target, outcome, code, duration } = self;
        let target: String = target.chars().take(MAX_TARGET).collect();
        let (outcome, code) = (outcome.as_str(), code.as_deref().unwrap_or(""));
        let duration_ms = duration.as_secs_f64() * 1000.0;
        tracing::info!(
            target: "audit",
            who = who.as_str(),
            what = what.as_str(),
            target = target.as_str(),
            outcome,
            code,
            duration_ms,
            "admin"
        );
    }
}
