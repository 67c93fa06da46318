//! Who takes what a subscription brings, without a queue of ours in between.

use super::{SubscriptionEvent, queue::Queue};
use bytes::Bytes;
use std::fmt;

/// One message, as it arrives.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Incoming<'a> {
    /// The whole channel, with its namespace.
    pub channel: &'a str,
    /// It matched a pattern.
    pub pattern: bool,
    /// The payload; shares the buffer that it was received in.
    pub payload: Bytes,
}

/// Takes what a subscription brings, on the task that reads the connection: it must neither block nor wait, has to keep
/// within bounds by itself, and must not call the subscription's handle.
pub trait Listener: fmt::Debug + Send + Sync + 'static {
    /// Somebody published.
    fn message(&self, message: Incoming<'_>);

    /// Anything but a message. Events about one channel come in their order, and a loss comes after what had arrived before.
    fn event(&self, event: SubscriptionEvent);

    /// Nothing comes any more.
    fn ended(&self);
}

impl Listener for Queue {
    fn message(&self, message: Incoming<'_>) {
        let Incoming { channel, pattern, payload } = message;
        self.push_message(SubscriptionEvent::Message { channel: channel.to_owned(), pattern, payload });
    }

    fn event(&self, event: SubscriptionEvent) {
        match event {
            SubscriptionEvent::Lost { cause } => self.push_lost(cause),
            SubscriptionEvent::Overflow { missed } => self.push_missed(missed),
            SubscriptionEvent::ShardsLost { channels, cause } => self.push_shards_lost(&channels, cause),
            event @ (SubscriptionEvent::Message { .. }
            | SubscriptionEvent::Restored
            | SubscriptionEvent::ShardsRestored { .. }) => self.push(event),
        }
    }

    fn ended(&self) {
        self.close();
    }
}
