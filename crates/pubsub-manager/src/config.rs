//! Settings of the manager. Values only: nothing here reads the environment.

use crate::{Bus, Codec, DurableLimits, DurableStore, Error, PubSubManager, Traceparent};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

/// Settings of a [`PubSubManager`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Encoding of what this manager publishes; it reads all. Default MessagePack.
    pub codec: Codec,
    /// Largest encoded message. Default 1 MiB: a bus is for news, not for bulk.
    pub max_message_bytes: usize,
    /// Channels with a running counter; one more answers [`Error::Limit`]. Default 10,000.
    pub max_channels: usize,
    /// Publishes that may wait on one channel; one more answers [`Error::Limit`]. Default 4,096.
    pub max_pending: usize,
    /// Messages waiting on one channel share a frame up to this size. Default 64 KiB: a millisecond of a slow link.
    pub max_frame_bytes: usize,
    /// Subscriptions of this manager. Default 10,000.
    pub max_subscriptions: usize,
    /// Time limit of a publish without a deadline of its own. Default 2 s.
    pub publish_timeout: Duration,
    /// Time limit of a subscribe without a deadline of its own. Default 5 s.
    pub subscribe_timeout: Duration,
    /// How often a publisher tells its last number on each channel. Must be the same in the whole fleet: subscribers
    /// take 3.5 times this for silence. Default 1 s.
    pub announce_every: Duration,
    /// A channel unused for that long takes its leave and is forgotten. Default 60 s.
    pub idle_channel: Duration,
    /// How much a durable channel keeps, unless the channel says otherwise.
    pub durable: DurableLimits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            codec: Codec::default(),
            max_message_bytes: 1024 * 1024,
            max_channels: 10_000,
            max_pending: 4096,
            max_frame_bytes: 64 * 1024,
            max_subscriptions: 10_000,
            publish_timeout: Duration::from_secs(2),
            subscribe_timeout: Duration::from_secs(5),
            announce_every: Duration::from_secs(1),
            idle_channel: Duration::from_secs(60),
            durable: DurableLimits::default(),
        }
    }
}

/// One thing wrong with a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field.
    pub setting: &'static str,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Config {
    /// Checks everything at once.
    ///
    /// # Errors
    /// All problems found.
    pub fn validate(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        let counts = [
            ("max_message_bytes", self.max_message_bytes),
            ("max_channels", self.max_channels),
            ("max_pending", self.max_pending),
            ("max_frame_bytes", self.max_frame_bytes),
            ("max_subscriptions", self.max_subscriptions),
        ];
        for (setting, value) in counts {
            if value == 0 || value > u32::MAX as usize / 2 {
                problems.push(Problem { setting, message: format!("{value} is outside 1 to 2^31") });
            }
        }
        let times = [
            ("publish_timeout", self.publish_timeout),
            ("subscribe_timeout", self.subscribe_timeout),
            ("announce_every", self.announce_every),
            ("idle_channel", self.idle_channel),
        ];
        for (setting, value) in times {
            if value < Duration::from_millis(10) || value > Duration::from_secs(3600) {
                problems.push(Problem { setting, message: format!("{value:?} is outside 10 ms to 1 h") });
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// A manager over `deps`, with its tasks on the current runtime.
    ///
    /// # Errors
    /// [`Error::Config`] with all problems; [`Error::Unavailable`] outside a tokio runtime.
    pub fn build(self, deps: Deps) -> Result<PubSubManager, Error> {
        self.validate().map_err(|problems| Error::Config { problems })?;
        PubSubManager::start(self, deps)
    }
}

/// What a manager works over. Without a part, every call that needs it answers [`Error::Unavailable`].
#[derive(Clone, Debug, Default)]
pub struct Deps {
    /// Carries channels.
    pub bus: Option<Arc<dyn Bus>>,
    /// Keeps durable channels.
    pub durable: Option<Arc<dyn DurableStore>>,
    /// Tells the trace at hand, for whoever publishes without giving one. Default `None`: messages name no trace.
    pub traceparent: Option<Traceparent>,
}

impl Deps {
    /// Channels over `bus`.
    #[must_use]
    pub fn over(bus: impl Bus) -> Self {
        Self { bus: Some(Arc::new(bus)), ..Self::default() }
    }

    /// And durable channels in `store`.
    #[must_use]
    pub fn durable(self, store: impl DurableStore) -> Self {
        Self { durable: Some(Arc::new(store)), ..self }
    }
}
