//! One connection through the driver, and how its answers are read. The only file that drives fred: every connection
//! is opened here, without reconnecting, replay or time-outs of the driver's own (the callers have deadlines).

use crate::{Config, Endpoint, Error, Value, server_info::ServerInfo, tls};
use bytes::Bytes;
use fred::{
    clients::Client,
    error::{Error as FredError, ErrorKind},
    interfaces::{ClientLike, EventInterface, PubsubInterface},
    types::{
        ClusterHash, CustomCommand, Message, RespVersion, Value as FredValue,
        config::{
            Blocking, Config as FredConfig, ConnectionConfig, PerformanceConfig, Server, ServerConfig,
            TcpConfig, TlsConfig as FredTls, UnresponsiveConfig,
        },
    },
};
use futures_util::poll;
use secrecy::ExposeSecret;
use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{sync::broadcast, time::timeout};
use tokio_util::task::AbortOnDropHandle;

/// What drives a connection; ends with it, and dropping it ends the connection.
pub(crate) type Driver = AbortOnDropHandle<Result<(), FredError>>;

/// Slots for the driver's events on connections that nobody subscribes on.
const FEW_EVENTS: usize = 4;

/// Opens connections by the settings of one link.
#[derive(Clone, Debug)]
pub(crate) struct Opener {
    pub(crate) config: Arc<Config>,
    tls: Option<FredTls>,
}

/// A connection, as far as it is used.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    client: Client,
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
    /// The connection's queue is full.
    Full,
}

impl Opener {
    pub(crate) fn new(config: Arc<Config>) -> Result<Self, Error> {
        let tls = config.tls.as_ref().map(|tls| tls::connector(tls, config.topology.master())).transpose()?;
        Ok(Self { config, tls })
    }

    /// Connects, authenticates and selects the database. Cancel safe: dropped early, the connection is closed.
    pub(crate) async fn open(&self, endpoint: &Endpoint) -> Result<(Wire, Driver), Error> {
        self.open_for_events(endpoint, FEW_EVENTS).await
    }

    /// The same with room for `events` messages between the connection and who takes them.
    pub(crate) async fn open_for_events(
        &self,
        endpoint: &Endpoint,
        events: usize,
    ) -> Result<(Wire, Driver), Error> {
        let client = Client::new(
            self.server(endpoint),
            Some(PerformanceConfig { broadcast_channel_capacity: events, ..PerformanceConfig::default() }),
            Some(self.connection()),
            None,
        );
        // The driver announces the outcome once: listen first, then start.
        let listener = client.clone();
        let mut outcome = pin!(listener.wait_for_connect());
        if poll!(outcome.as_mut()).is_ready() {
            return Err(unavailable("the driver was connected before it was started"));
        }
        let mut driver = AbortOnDropHandle::new(client.connect());
        let connected = tokio::select! {
            biased;
            connected = outcome => connected,
            ended = &mut driver => Err(ended.map_err(FredError::from).and_then(|end| end).err().unwrap_or_else(closed)),
        };
        connected.map_err(|error| self.explain(endpoint, &error))?;
        Ok((Wire::new(client), driver))
    }

    fn server(&self, endpoint: &Endpoint) -> FredConfig {
        let config = &self.config;
        let password = config.password.as_ref().map(|password| password.expose_secret().to_owned());
        FredConfig {
            fail_fast: true,
            blocking: Blocking::Block,
            username: config.username.clone(),
            password,
            server: ServerConfig::Centralized { server: Server::new(endpoint.host.as_str(), endpoint.port) },
            version: RespVersion::RESP3,
            database: (config.database != 0).then_some(config.database),
            tls: self.tls.clone(),
        }
    }

    fn connection(&self) -> ConnectionConfig {
        let config = &self.config;
        ConnectionConfig {
            connection_timeout: config.connect_timeout,
            internal_command_timeout: config.connect_timeout,
            max_command_attempts: 1,
            max_command_buffer_len: config.max_queued,
            unresponsive: UnresponsiveConfig { max_timeout: None, interval: Duration::from_secs(2) },
            tcp: TcpConfig { nodelay: Some(true), ..TcpConfig::default() },
            // What these errors mean is decided by the generation, not by the driver.
            reconnect_errors: Vec::new(),
            ..ConnectionConfig::default()
        }
    }

    /// The driver's error while connecting, in our terms.
    fn explain(&self, endpoint: &Endpoint, error: &FredError) -> Error {
        let details = error.details();
        if details.starts_with("NOPERM") {
            return reply_error("connecting", details);
        }
        // rustls reports a refused handshake as invalid data.
        let refused = self.tls.is_some() && details.contains("InvalidData");
        match error.kind() {
            ErrorKind::Auth => Error::Auth(details.to_owned()),
            ErrorKind::Tls => Error::Tls { endpoint: endpoint.to_string(), message: details.to_owned() },
            // TLS alerts, for example.
            ErrorKind::Protocol | ErrorKind::Parse if self.tls.is_none() => Error::Tls {
                endpoint: endpoint.to_string(),
                message: format!("it does not answer as Redis does; does it expect TLS? ({details})"),
            },
            _ if refused => Error::Tls { endpoint: endpoint.to_string(), message: details.to_owned() },
            ErrorKind::IO if self.tls.is_none() && details.contains("ConnectionReset") => {
                unavailable(&format!("{endpoint} hung up; does it expect TLS? ({details})"))
            }
            _ => unavailable(&format!("connecting to {endpoint}: {details}")),
        }
    }
}

/// What a process that was itself stopped gets for reading what has come meanwhile.
const LAST_LOOK: Duration = Duration::from_millis(50);

impl Wire {
    fn new(client: Client) -> Self {
        Self { client, alive: Arc::default() }
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
                Value::from_frame(frame).map_err(Failure::Reply)
            }
            Err(error) => Err(failure(&error)),
        }
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

    /// Hands a subscription to the connection; only a later exchange on it shows that the server took it.
    pub(crate) async fn subscribe(&self, names: Vec<String>, patterns: bool) -> Result<(), Failure> {
        let done =
            if patterns { self.client.psubscribe(names).await } else { self.client.subscribe(names).await };
        done.map_err(|error| failure(&error))
    }

    /// The opposite, likewise.
    pub(crate) async fn unsubscribe(&self, names: Vec<String>, patterns: bool) -> Result<(), Failure> {
        let done = if patterns {
            self.client.punsubscribe(names).await
        } else {
            self.client.unsubscribe(names).await
        };
        done.map_err(|error| failure(&error))
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

fn closed() -> FredError {
    FredError::new(ErrorKind::IO, "the connection was closed")
}

/// Arguments for [`Wire::exchange`].
pub(crate) fn arguments<const N: usize>(bytes: [Bytes; N]) -> Vec<FredValue> {
    bytes.into_iter().map(FredValue::Bytes).collect()
}

#[cfg(test)]
mod tests;
