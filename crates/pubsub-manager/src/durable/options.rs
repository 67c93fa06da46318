//! How a consumer consumes. Values only.

use super::{StartFrom, words};
use crate::{Error, Problem};
use resilience::BackoffConfig;
use std::{sync::Arc, time::Duration};

/// How a consumer, or a handler, consumes.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsumerOptions {
    /// The consumer's name within its group, by the rules of [`GroupName`](crate::GroupName). A consumer that starts again
    /// under its name first gets what it had not settled; two that run at once must not share one. Default: the host's name and
    /// a random number, so nothing is taken up and others get it after [`ack_timeout`](Self::ack_timeout).
    pub name: Option<String>,
    /// Messages delivered and not settled, those that wait in this process among them. Default 64.
    pub prefetch: usize,
    /// Messages handled at once; for handlers only. Default 16.
    pub concurrency: usize,
    /// A message whose consumer has not been heard of for so long is delivered again, to any. A consumer that lives tells so
    /// every third of it, however long it works. Default 30 s: longer than a restart or a failover.
    pub ack_timeout: Duration,
    /// A message that was delivered so often without success becomes a dead letter. Default 10. A delivery whose
    /// connection is cut counts: with 1 that makes a dead letter of a message that nobody has seen.
    pub max_deliveries: u32,
    /// How long a message waits that could not be handled, by the number of its deliveries. Default 1 s doubling to 5 min.
    pub backoff: BackoffConfig,
    /// Where the group begins if it is created now. Default [`StartFrom::Earliest`].
    pub start: StartFrom,
    /// Dead letters of the group; beyond them a message is tried again every minute instead. Default 100,000.
    pub max_dead_letters: u64,
    /// A consumer without pending messages that was not heard of for so long is forgotten by the store. Default 1 h.
    pub forget_after: Duration,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self {
            name: None,
            prefetch: 64,
            concurrency: 16,
            ack_timeout: Duration::from_secs(30),
            max_deliveries: 10,
            backoff: BackoffConfig {
                base: Duration::from_secs(1),
                max: Duration::from_secs(300),
                ..BackoffConfig::default()
            },
            start: StartFrom::Earliest,
            max_dead_letters: 100_000,
            forget_after: Duration::from_secs(3600),
        }
    }
}

impl ConsumerOptions {
    /// Checks everything at once and settles the name.
    pub(super) fn checked(&self) -> Result<Arc<str>, Error> {
        let mut problems = Vec::new();
        let mut check = |good: bool, setting: &'static str, message: &str| {
            if !good {
                problems.push(Problem { setting, message: message.to_owned() });
            }
        };
        check((1..=10_000).contains(&self.prefetch), "prefetch", "must be 1 to 10,000");
        check((1..=10_000).contains(&self.concurrency), "concurrency", "must be 1 to 10,000");
        let times = Duration::from_millis(100)..=Duration::from_secs(24 * 3600);
        check(times.contains(&self.ack_timeout), "ack_timeout", "must be 100 ms to 24 h");
        check(self.forget_after >= Duration::from_secs(1), "forget_after", "must be at least 1 s");
        check(self.max_deliveries >= 1, "max_deliveries", "must be at least 1");
        if !problems.is_empty() {
            return Err(Error::Config { problems });
        }
        match &self.name {
            Some(name) => words::check("consumer", name).map(|()| name.as_str().into()),
            None => Ok(random_name().into()),
        }
    }
}

/// The host's name where the system tells it, and 64 random bits.
fn random_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String =
        host.trim().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(64).collect();
    format!("{}-{:016x}", if host.is_empty() { "consumer" } else { &host }, rand::random::<u64>())
}
