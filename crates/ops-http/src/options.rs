//! What the server and the router are told: address, token, limits.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use database_services::settings::{Settings, SettingsErrors};
use tokio::runtime::Handle;

use crate::control::Control;
use crate::listen::Listen;
use crate::token::Token;

/// What one client, and all of them together, may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections; more wait in the kernel's backlog. Default 256.
    pub connections: usize,
    /// Bytes of a request's head. Default 16 KiB.
    pub header_bytes: usize,
    /// Number of headers. Default 64.
    pub headers: usize,
    /// Time for a request's head to arrive, also between two requests of one connection. Default 10 s.
    pub header_timeout: Duration,
    /// Bytes of a request's body. Default 1 MiB: the largest value that the cache takes by admin.
    pub body_bytes: usize,
    /// Time from a request's head to its answer. Default 30 s.
    pub request_timeout: Duration,
    /// A connection older than this is closed after the request under way. Default 10 min.
    pub connection_age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            header_bytes: 16 * 1024,
            headers: 64,
            header_timeout: Duration::from_secs(10),
            body_bytes: 1024 * 1024,
            request_timeout: Duration::from_secs(30),
            connection_age: Duration::from_secs(600),
        }
    }
}

/// Reads the settings anew, with these keys laid over them: what `POST /v1/service/reconfigure` takes effect by.
#[derive(Clone)]
pub struct Reload(ReloadFn);

type ReloadFn = Arc<dyn Fn(&BTreeMap<String, String>) -> Result<Settings, SettingsErrors> + Send + Sync>;

impl Reload {
    /// A way to read the settings anew.
    pub fn new(
        load: impl Fn(&BTreeMap<String, String>) -> Result<Settings, SettingsErrors> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(load))
    }

    pub(crate) fn load(&self, over: &BTreeMap<String, String>) -> Result<Settings, SettingsErrors> {
        (self.0)(over)
    }
}

impl fmt::Debug for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reload(..)")
    }
}

/// How [`Server::start`](crate::Server::start) serves.
#[derive(Clone, Debug, Default)]
pub struct ServeOptions {
    /// Where. Default `127.0.0.1:8000`.
    pub listen: Listen,
    /// A Unix socket that serves the same. Default none.
    pub socket: Option<PathBuf>,
    /// Opens details and admin; `None` (default) keeps both shut.
    pub token: Option<Token>,
    /// What clients may take.
    pub limits: Limits,
    /// How to read settings anew; `None` (default): `reconfigure` is refused.
    pub reload: Option<Reload>,
}

/// How [`router`](crate::router) answers when mounted in one's own service.
#[derive(Clone, Debug)]
pub struct RouterOptions {
    /// Opens details and admin; `None` keeps both shut.
    pub token: Option<Token>,
    /// What a request may take (body and time; the rest is the host server's).
    pub limits: Limits,
    /// The runtime that the services live on.
    pub runtime: Handle,
    /// What the admin transport asks of the process.
    pub control: Arc<Control>,
    /// How to read settings anew.
    pub reload: Option<Reload>,
}
