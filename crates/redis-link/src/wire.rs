//! One connection through the driver, and how its answers are read. It reconnects, replays and times out nothing: the
//! callers have deadlines.

use crate::{Channel, Endpoint, Error, Value, keys::ChannelKind, server_info::ServerInfo};
use bytes::Bytes;
use fred::{
    clients::Client,
    error::{Error as FredError, ErrorKind},
    interfaces::{ClientLike, EventInterface, PubsubInterface},
    types::{ClusterHash, CustomCommand, Message, Value as FredValue},
};
use futures_util::future::join_all;
use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};
use tokio::{sync::broadcast, time::timeout};
use tokio_util::task::AbortOnDropHandle;

/// What drives a connection; ends with it, and dropping it ends the connection.
pub(crate) type Driver = AbortOnDropHandle<Result<(), FredError>>;

/// A connection, as far as it is used.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    client: Client,
    /// When the server's certificate ends.
    expires: Option<SystemTime>,
    max_reply: usize,
    /// Something came since [`Wire::answered_within`] last looked.
    alive: Arc<AtomicBool>,
}

/// Why an exchange brought no value.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// The server answered with this error.
    Reply(String),
    /// The connection is over and the command did not reach it.
    NotSent(String),
    /// The connection is over; the command may have reached the server.
    Lost(String),
    /// The server answered with more bytes than the limit.
    Oversized(usize, usize),
    /// The connection's queue is full.
    Full,
}

/// What a process that was itself stopped gets for reading what has come meanwhile.
const LAST_LOOK: Duration = Duration::from_millis(50);

impl Wire {
    pub(crate) fn new(client: Client, expires: Option<SystemTime>, max_reply: usize) -> Self {
        Self { client, expires, max_reply, alive: Arc::default() }
    }

    /// When the server's certificate ends; `None` without TLS.
    pub(crate) const fn certificate_expires(&self) -> Option<SystemTime> {
        self.expires
    }

    /// Something came from the server. A read in the common case, so that many at a time do not disturb each other.
    pub(crate) fn mark_alive(&self) {
        if !self.alive.load(Relaxed) {
            self.alive.store(true, Relaxed);
        }
    }

    /// Waits for an answer as long as the server answers anything at all within each `limit`: behind much other work an
    /// answer may take longer. `None`: it does not.
    pub(crate) async fn answered_within<T>(
        &self,
        limit: Duration,
        answer: impl Future<Output = T>,
    ) -> Option<T> {
        let mut answer = pin!(answer);
        loop {
            self.alive.store(false, Relaxed);
            if let Ok(answer) = timeout(limit, answer.as_mut()).await {
                return Some(answer);
            }
            if let Ok(answer) = timeout(LAST_LOOK, answer.as_mut()).await {
                return Some(answer);
            }
            if !self.alive.load(Relaxed) {
                return None;
            }
        }
    }

    /// Sends one command and waits for its answer, for ever: callers bring the deadline.
    ///
    /// The command is handed over at the first poll; dropped later, the server still carries it out.
    pub(crate) async fn exchange(
        &self,
        name: &'static str,
        arguments: Vec<FredValue>,
    ) -> Result<Value, Failure> {
        let command = CustomCommand::new_static(name, ClusterHash::FirstKey, false);
        // The driver's future is kilobytes large, and would be so again in every layer above that holds it.
        match Box::pin(self.client.custom_raw(command, arguments)).await {
            Ok(frame) => {
                self.mark_alive();
                let value = Value::from_frame(frame).map_err(Failure::Reply)?;
                let size = value.size();
                if size > self.max_reply { Err(Failure::Oversized(size, self.max_reply)) } else { Ok(value) }
            }
            Err(error) => Err(failure(&error)),
        }
    }

    /// The same to a server that is just importing the key's slot.
    pub(crate) async fn exchange_asking(
        &self,
        name: &'static str,
        arguments: Vec<FredValue>,
    ) -> Result<Value, Failure> {
        let asking = CustomCommand::new_static("ASKING", ClusterHash::FirstKey, false);
        let command = CustomCommand::new_static(name, ClusterHash::FirstKey, false);
        // Sent together: `ASKING` holds for the one command that follows it.
        let both = self.client.pipeline();
        let handed = async {
            both.custom::<(), FredValue>(asking, Vec::new()).await?;
            both.custom::<(), FredValue>(command, arguments).await?;
            Ok::<_, FredError>(both.try_all::<FredValue>().await)
        };
        let answers = Box::pin(handed).await.map_err(|error| failure(&error))?;
        match answers.into_iter().next_back() {
            Some(Ok(value)) => {
                self.mark_alive();
                Ok(Value::from_driver(value))
            }
            Some(Err(error)) => Err(refused_or_lost(&error)),
            None => Err(Failure::Lost("no answer came".to_owned())),
        }
    }

    /// The same command with different arguments, handed over and answered together; in order, and each with its outcome. Its
    /// answers are short: none is measured.
    pub(crate) async fn exchange_together(
        &self,
        name: &'static str,
        all: Vec<Vec<FredValue>>,
    ) -> Result<Vec<Result<Value, Failure>>, Failure> {
        let together = self.client.pipeline();
        let handed = async {
            for arguments in all {
                let command = CustomCommand::new_static(name, ClusterHash::FirstKey, false);
                together.custom::<(), FredValue>(command, arguments).await?;
            }
            Ok::<_, FredError>(together.try_all::<FredValue>().await)
        };
        let answers = Box::pin(handed).await.map_err(|error| failure(&error))?;
        self.mark_alive();
        let read = |answer: Result<FredValue, FredError>| {
            answer.map(Value::from_driver).map_err(|error| refused_or_lost(&error))
        };
        Ok(answers.into_iter().map(read).collect())
    }

    /// `INFO`, parsed.
    pub(crate) async fn info(&self, endpoint: &Endpoint) -> Result<ServerInfo, Error> {
        let reply = self.exchange("INFO", Vec::new()).await.map_err(|failure| failure.into_error("INFO"))?;
        let hint = || {
            // The driver hands out nil when the server hangs up during the set-up.
            let what =
                if reply.is_nil() { "hung up; does it expect TLS?" } else { "does not answer as Redis does" };
            unavailable(&format!("{endpoint} {what}"))
        };
        reply.as_str().ok().and_then(ServerInfo::parse).ok_or_else(hint)
    }

    /// Messages that arrive from now on.
    pub(crate) fn messages(&self) -> broadcast::Receiver<Message> {
        self.client.message_rx()
    }

    /// Hands a subscription to names or patterns to the connection; only a later exchange on it shows that the server took it.
    pub(crate) async fn subscribe(&self, names: Vec<String>, patterns: bool) -> Result<(), Failure> {
        let done =
            if patterns { self.client.psubscribe(names).await } else { self.client.subscribe(names).await };
        done.map_err(|error| failure(&error))
    }

    /// Subscribes to sharded channels, one command for each, all at once, and waits for the answers: the server's for each,
    /// or how many sharded channels the connection is subscribed to after it.
    pub(crate) async fn subscribe_shards(&self, channels: &[Channel]) -> Vec<Result<i64, Failure>> {
        // The driver's own command takes one answer for any number of channels, and the server sends one for each.
        let asked = channels.iter().map(|channel| async {
            let answer = self.exchange("SSUBSCRIBE", arguments([channel.as_bytes().clone()])).await?;
            let count = answer.as_array().ok().and_then(|parts| parts.last()?.as_int().ok());
            count.ok_or_else(|| Failure::Lost("SSUBSCRIBE was answered with something else".to_owned()))
        });
        // The first poll of each hands it over: in this order.
        join_all(asked).await
    }

    /// The opposite, likewise. Of sharded channels on a cluster, one at a time, as their slots differ.
    pub(crate) async fn unsubscribe(&self, names: Vec<String>, kind: ChannelKind) -> Result<(), Failure> {
        let done = match kind {
            ChannelKind::Name => self.client.unsubscribe(names).await,
            ChannelKind::Pattern => self.client.punsubscribe(names).await,
            ChannelKind::Shard => self.client.sunsubscribe(names).await,
        };
        done.map_err(|error| failure(&error))
    }
}

/// The driver's reading of an error reply, where it does not hand out the reply itself.
fn refused_or_lost(error: &FredError) -> Failure {
    match error.kind() {
        ErrorKind::IO | ErrorKind::Canceled | ErrorKind::Timeout | ErrorKind::Backpressure => failure(error),
        _ => Failure::Reply(error.details().to_owned()),
    }
}

fn failure(error: &FredError) -> Failure {
    let details = error.details().to_owned();
    match error.kind() {
        ErrorKind::Backpressure => Failure::Full,
        // Still in the queue when the connection ended.
        ErrorKind::Canceled => Failure::NotSent(details),
        ErrorKind::Unknown if details.contains("not initialized") || details.contains("Failed to send") => {
            Failure::NotSent("the connection is closed".to_owned())
        }
        ErrorKind::InvalidArgument | ErrorKind::InvalidCommand => Failure::Reply(format!("ERR {details}")),
        _ => Failure::Lost(details),
    }
}

impl Failure {
    /// For exchanges outside of a generation, while it is being opened or on a connection of its own.
    pub(crate) fn into_error(self, operation: &'static str) -> Error {
        match self {
            Self::Reply(message) => reply_error(operation, &message),
            Self::NotSent(cause) => unavailable(&cause),
            Self::Lost(cause) => Error::Unknown { operation, cause },
            Self::Oversized(size, limit) => Error::ReplyTooLarge { operation, size, limit },
            Self::Full => Error::Overloaded,
        }
    }
}

/// What an error reply means.
pub(crate) fn reply_error(operation: &'static str, message: &str) -> Error {
    let code = message.split_whitespace().next().unwrap_or_default();
    match code {
        "NOPERM" => Error::Acl { command: denied(message), message: message.to_owned() },
        _ if message.contains("ACL failure in script") => {
            Error::Acl { command: denied(message), message: message.to_owned() }
        }
        "NOAUTH" | "WRONGPASS" => Error::Auth(message.to_owned()),
        _ => Error::Server { operation, code: code.to_owned(), message: message.to_owned() },
    }
}

/// What the server refused: it quotes the command, or speaks of a key or a channel.
fn denied(message: &str) -> String {
    if let Some(command) = message.split('\'').nth(1) {
        return command.to_owned();
    }
    let what = if message.contains("channel") { "a channel" } else { "a key" };
    what.to_owned()
}

pub(crate) fn unavailable(cause: &str) -> Error {
    Error::Unavailable { since: Duration::ZERO, cause: cause.to_owned() }
}

/// Arguments for [`Wire::exchange`].
pub(crate) fn arguments<const N: usize>(bytes: [Bytes; N]) -> Vec<FredValue> {
    bytes.into_iter().map(FredValue::Bytes).collect()
}

#[cfg(test)]
mod tests;
