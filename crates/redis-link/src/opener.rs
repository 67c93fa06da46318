//! Opens connections by the settings of one link, with the credentials and certificates of now. It knows no topology.

use crate::{
    Config, CredentialProvider, Credentials, Endpoint, Error, SentinelTopology,
    status::ErrorCounters,
    tls::{Seen, Tls},
    wire::{Driver, Wire, reply_error, unavailable},
};
use arc_swap::ArcSwapOption;
use fred::{
    clients::Client,
    error::{Error as FredError, ErrorKind},
    interfaces::ClientLike,
    types::{
        RespVersion,
        config::{
            Blocking, Config as FredConfig, ConnectionConfig, PerformanceConfig, Server, ServerConfig,
            TcpConfig, UnresponsiveConfig,
        },
    },
};
use futures_util::poll;
use resilience::Deadline;
use secrecy::ExposeSecret;
use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};
use tokio_util::task::AbortOnDropHandle;

/// Slots for the driver's events on connections that nobody subscribes on.
const FEW_EVENTS: usize = 4;

/// Opens connections by the settings of one link.
#[derive(Clone, Debug)]
pub(crate) struct Opener {
    pub(crate) config: Arc<Config>,
    /// Calls on its connections that failed.
    pub(crate) errors: Arc<ErrorCounters>,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    provider: Option<Arc<dyn CredentialProvider>>,
    access: ArcSwapOption<Access>,
    renewing: tokio::sync::Mutex<()>,
    /// The server, or what stands before it, knows no RESP3.
    resp2: AtomicBool,
}

/// What lets us in at one time.
#[derive(Debug)]
struct Access {
    /// Counts the changes.
    number: u64,
    credentials: Credentials,
    tls: Option<Arc<Tls>>,
}

impl Opener {
    pub(crate) fn new(config: Arc<Config>, provider: Option<Arc<dyn CredentialProvider>>) -> Self {
        let inner = Inner {
            provider,
            access: ArcSwapOption::empty(),
            renewing: tokio::sync::Mutex::default(),
            resp2: AtomicBool::new(false),
        };
        Self { config, errors: Arc::default(), inner: Arc::new(inner) }
    }

    /// Asks for the credentials and reads the certificates of now; answers a number that grows with every change.
    ///
    /// # Errors
    /// If there are none and never were. Later troubles are reported in the log, and the last good ones kept.
    pub(crate) async fn renew(&self) -> Result<u64, Error> {
        let _one_at_a_time = self.inner.renewing.lock().await;
        let before = self.inner.access.load_full();
        let before = before.as_deref();
        let keep = |error: Error| {
            tracing::warn!(%error, "Redis' credentials or certificates cannot be renewed; the old ones stay in use");
        };
        let credentials = match (self.credentials().await, before) {
            (Err(error), Some(before)) => {
                keep(error);
                before.credentials.clone()
            }
            (credentials, _) => credentials?,
        };
        let load = |tls| Tls::load(tls).map(Arc::new).map_err(|message| self.tls_error(message));
        let tls = match (self.config.tls.as_ref().map(load).transpose(), before) {
            (Err(error), Some(before)) => {
                keep(error);
                before.tls.clone()
            }
            (loaded, _) => loaded?,
        };
        if let Some(before) = before {
            let same = match (&tls, &before.tls) {
                (Some(now), Some(before)) => now.is_same(before),
                _ => true,
            };
            if same && credentials == before.credentials {
                return Ok(before.number);
            }
        }
        let number = before.map_or(0, |before| before.number + 1);
        self.inner.access.store(Some(Arc::new(Access { number, credentials, tls })));
        Ok(number)
    }

    /// The number of what is in use now; `None` before the first.
    pub(crate) fn access_number(&self) -> Option<u64> {
        self.inner.access.load().as_ref().map(|access| access.number)
    }

    async fn credentials(&self) -> Result<Credentials, Error> {
        let Some(provider) = &self.inner.provider else {
            let Config { username, password, .. } = &*self.config;
            return Ok(Credentials { username: username.clone(), password: password.clone() });
        };
        let limit = self.config.connect_timeout;
        match Deadline::after(limit).run(provider.credentials()).await {
            Ok(answer) => answer.map_err(|error| Error::Credentials(error.to_string())),
            Err(_) => Err(Error::Credentials(format!("no answer within {limit:?}"))),
        }
    }

    /// When our own certificate ends.
    pub(crate) fn ours_expires(&self) -> Option<SystemTime> {
        self.inner.access.load().as_ref()?.tls.as_ref()?.ours_expires
    }

    /// Whether the server, or what stands before it, knows no RESP3.
    pub(crate) fn speaks_resp2(&self) -> bool {
        self.inner.resp2.load(Relaxed)
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
        let access = self.access().await?;
        let database = (self.config.database != 0).then_some(self.config.database);
        let how = How { credentials: &access.credentials, tls: access.tls.as_deref(), database, events };
        self.connect(endpoint, &how).await
    }

    /// Connects to a Sentinel, who has users of his own.
    pub(crate) async fn open_sentinel(
        &self,
        endpoint: &Endpoint,
        sentinel: &SentinelTopology,
    ) -> Result<(Wire, Driver), Error> {
        let access = self.access().await?;
        let credentials =
            Credentials { username: sentinel.username.clone(), password: sentinel.password.clone() };
        let tls = access.tls.as_deref().filter(|_| sentinel.tls);
        let how = How { credentials: &credentials, tls, database: None, events: FEW_EVENTS };
        self.connect(endpoint, &how).await
    }

    async fn access(&self) -> Result<Arc<Access>, Error> {
        if self.inner.access.load().is_none() {
            self.renew().await?;
        }
        self.inner.access.load_full().ok_or_else(|| unavailable("there are no credentials yet"))
    }

    async fn connect(&self, endpoint: &Endpoint, how: &How<'_>) -> Result<(Wire, Driver), Error> {
        if !self.speaks_resp2() {
            match self.attempt(endpoint, how, RespVersion::RESP3).await {
                Err((error, _)) if knows_no_resp3(&error) => {}
                outcome => return outcome.map_err(|(error, seen)| self.explain(endpoint, &error, seen)),
            }
        }
        let outcome = self.attempt(endpoint, how, RespVersion::RESP2).await;
        let opened = outcome.map_err(|(error, seen)| self.explain(endpoint, &error, seen))?;
        if !self.inner.resp2.swap(true, Relaxed) {
            tracing::info!(%endpoint, "the server knows no RESP3; going on with RESP2");
        }
        Ok(opened)
    }

    async fn attempt(
        &self,
        endpoint: &Endpoint,
        how: &How<'_>,
        version: RespVersion,
    ) -> Result<(Wire, Driver), (FredError, Option<Arc<Seen>>)> {
        let (tls, seen) = how.tls.map(Tls::connector).unzip();
        let password = how.credentials.password.as_ref().map(|p| p.expose_secret().to_owned());
        let settings = FredConfig {
            fail_fast: true,
            blocking: Blocking::Block,
            username: how.credentials.username.clone(),
            password,
            server: ServerConfig::Centralized { server: Server::new(endpoint.host.as_str(), endpoint.port) },
            version,
            database: how.database,
            tls,
        };
        let performance =
            PerformanceConfig { broadcast_channel_capacity: how.events, ..PerformanceConfig::default() };
        let client = Client::new(settings, Some(performance), Some(self.connection()), None);
        // The driver announces the outcome once: listen first, then start.
        let listener = client.clone();
        let mut outcome = pin!(listener.wait_for_connect());
        if poll!(outcome.as_mut()).is_ready() {
            let early = "the driver was connected before it was started";
            return Err((FredError::new(ErrorKind::Unknown, early), seen));
        }
        let mut driver = AbortOnDropHandle::new(client.connect());
        let connected = tokio::select! {
            biased;
            connected = outcome => connected,
            ended = &mut driver => Err(ended.map_err(FredError::from).and_then(|end| end).err().unwrap_or_else(closed)),
        };
        match connected {
            Ok(()) => {
                let expires = seen.and_then(|seen| seen.expires());
                Ok((Wire::new(client, expires, self.config.max_reply), driver))
            }
            Err(error) => Err((error, seen)),
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
    fn explain(&self, endpoint: &Endpoint, error: &FredError, seen: Option<Arc<Seen>>) -> Error {
        let (details, secure) = (error.details(), seen.is_some());
        if let Some(problem) = seen.and_then(|seen| seen.problem()) {
            return Error::Certificate { endpoint: endpoint.to_string(), problem };
        }
        if details.starts_with("NOPERM") {
            return reply_error("connecting", details);
        }
        // rustls reports a refused handshake as invalid data.
        let refused = secure && details.contains("InvalidData");
        match error.kind() {
            ErrorKind::Auth => Error::Auth(details.to_owned()),
            ErrorKind::Tls => Error::Tls { endpoint: endpoint.to_string(), message: details.to_owned() },
            // TLS alerts, for example.
            ErrorKind::Protocol | ErrorKind::Parse if !secure => Error::Tls {
                endpoint: endpoint.to_string(),
                message: format!("it does not answer as Redis does; does it expect TLS? ({details})"),
            },
            _ if refused => Error::Tls { endpoint: endpoint.to_string(), message: details.to_owned() },
            ErrorKind::IO if !secure && details.contains("ConnectionReset") => {
                unavailable(&format!("{endpoint} hung up; does it expect TLS? ({details})"))
            }
            _ => unavailable(&format!("connecting to {endpoint}: {details}")),
        }
    }

    fn tls_error(&self, message: String) -> Error {
        Error::Tls { endpoint: self.config.topology.to_string(), message }
    }
}

/// How one connection is made.
struct How<'a> {
    credentials: &'a Credentials,
    tls: Option<&'a Tls>,
    database: Option<u8>,
    events: usize,
}

/// An old proxy, a server whose `HELLO` was renamed, a user that may not say it.
fn knows_no_resp3(error: &FredError) -> bool {
    let details = error.details();
    details.starts_with("NOPROTO")
        || details.contains("unknown command") && details.to_ascii_uppercase().contains("HELLO")
        || details.starts_with("NOPERM") && details.contains("'hello'")
}

fn closed() -> FredError {
    FredError::new(ErrorKind::IO, "the connection was closed")
}
