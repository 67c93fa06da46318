//! From the connection's events to the listener. Messages are handed on, and none is interpreted.

use super::Inner;
use crate::{
    subscription::{SubscriptionEvent, listener::Incoming},
    wire::Wire,
};
use bytes::Bytes;
use fred::types::{Message, MessageKind, Value as FredValue};
use tokio::sync::broadcast::{
    Receiver,
    error::{RecvError, TryRecvError},
};

/// Hands on what is received, until nothing comes any more.
pub(super) async fn pump(inner: &Inner, wire: &Wire, messages: &mut Receiver<Message>) {
    loop {
        let received = messages.recv().await.map_err(|error| match error {
            RecvError::Lagged(missed) => TryRecvError::Lagged(missed),
            RecvError::Closed => TryRecvError::Closed,
        });
        wire.mark_alive();
        if !take(inner, received) {
            return;
        }
    }
}

/// Hands on what was received; `false` when nothing more is there.
pub(super) fn take(inner: &Inner, received: Result<Message, TryRecvError>) -> bool {
    match received {
        Ok(message) => {
            inner.listener.message(Incoming {
                channel: &message.channel,
                pattern: message.kind == MessageKind::PMessage,
                payload: payload(message.value),
            });
            true
        }
        Err(TryRecvError::Lagged(missed)) => {
            inner.listener.event(SubscriptionEvent::Overflow { missed });
            true
        }
        Err(TryRecvError::Empty | TryRecvError::Closed) => false,
    }
}

/// The driver makes a string of what is UTF-8; both share the buffer.
fn payload(value: FredValue) -> Bytes {
    match value {
        FredValue::String(text) => text.into_inner(),
        FredValue::Bytes(bytes) => bytes,
        other => other.as_bytes().map(Bytes::copy_from_slice).unwrap_or_default(),
    }
}
