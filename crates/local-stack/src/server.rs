//! One server: where it is, what can be asked of it, and the faults that can be done to it. Not here: how it is
//! started the first time (`postgres`, `redis`).

mod certificate;
mod faults;
mod talk;

use std::fmt;
use std::fs;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::account::Account;
use crate::address::Address;
use crate::authority::Authority;
use crate::error::Error;
use crate::launcher::{Job, Launcher};
use crate::process::{self, Process};
use crate::resp::{Access, At};

/// Which program a server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// PostgreSQL.
    Postgres,
    /// Redis or Valkey.
    Redis,
    /// Redis or Valkey as a Sentinel.
    Sentinel,
    /// PgBouncer.
    PgBouncer,
}

/// One server of a stack. A cheap handle; it does not keep the stack alive.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    kind: Kind,
    address: Address,
    redis: Option<Access>,
    ours: Option<Ours>,
    /// Who made its certificate, if it has one.
    authority: OnceLock<Authority>,
}

/// What is known of a server that is our own child.
#[derive(Debug)]
pub(crate) struct Ours {
    pub(crate) launcher: Launcher,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) home: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) account: Option<Account>,
    pub(crate) process: Mutex<Arc<Process>>,
    pub(crate) paused: AtomicBool,
}

impl Server {
    pub(crate) fn ours(name: &str, kind: Kind, address: Address, redis: Option<Access>, ours: Ours) -> Self {
        Self::of(name, kind, address, redis, Some(ours))
    }

    pub(crate) fn external(name: &str, kind: Kind, address: Address) -> Self {
        let redis = (kind == Kind::Redis).then(|| Access {
            at: At::Tcp(address.host.clone(), address.port),
            username: address.user.clone(),
            password: address.password.clone(),
        });
        Self::of(name, kind, address, redis, None)
    }

    fn of(name: &str, kind: Kind, address: Address, redis: Option<Access>, ours: Option<Ours>) -> Self {
        let (name, authority) = (name.to_owned(), OnceLock::new());
        Self { inner: Arc::new(Inner { name, kind, address, redis, ours, authority }) }
    }

    /// Says once that its certificate is of this authority.
    pub(crate) fn secured(self, authority: Option<&Authority>) -> Self {
        if let Some(authority) = authority {
            self.inner.authority.get_or_init(|| authority.clone());
        }
        self
    }

    pub(crate) fn authority(&self) -> Option<&Authority> {
        self.inner.authority.get()
    }

    pub(crate) fn address(&self) -> &Address {
        &self.inner.address
    }

    /// Whether we started it.
    pub(crate) fn is_ours(&self) -> bool {
        self.inner.ours.is_some()
    }

    /// User and password of our own commands, of a Redis server.
    pub(crate) fn login(&self) -> Option<(&str, &str)> {
        let access = self.inner.redis.as_ref()?;
        Some((access.username.as_deref().unwrap_or("default"), access.password.as_deref()?))
    }

    /// Its name within the stack, such as `postgres-0` (the primary), `redis-1` (the first replica), `sentinel-0`,
    /// `pgbouncer-0`.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// What it runs.
    pub fn kind(&self) -> Kind {
        self.inner.kind
    }

    /// Its URL, password included. Postgres: the database `postgres`, as superuser; with TLS also whom to trust
    /// (`sslrootcert`) and, if it is required, what to show. Redis: with TLS `rediss://`.
    pub fn url(&self) -> String {
        self.inner.address.url()
    }

    /// Its URL with another database: a name for Postgres, a number for Redis.
    pub fn url_for(&self, database: &str) -> String {
        self.inner.address.with_path(database).url()
    }

    /// Its URL as another user.
    pub fn url_as(&self, user: &str, password: &str, database: &str) -> String {
        let mut address = self.inner.address.with_path(database);
        address.user = Some(user.into());
        address.password = Some(password.into());
        address.url()
    }

    /// The host, `127.0.0.1` for our own.
    pub fn host(&self) -> &str {
        &self.inner.address.host
    }

    /// The TCP port; it stays the same over restarts.
    pub fn port(&self) -> u16 {
        self.inner.address.port
    }

    /// `host:port`, for a [`FaultProxy`](crate::FaultProxy) in front of it.
    pub fn target(&self) -> String {
        format!("{}:{}", self.host(), self.port())
    }

    /// Host and port as a socket address; `None` if an external server's name does not resolve.
    pub fn addr(&self) -> Option<SocketAddr> {
        (self.host(), self.port()).to_socket_addrs().ok()?.next()
    }

    /// The user name of [`url`](Self::url).
    pub fn user(&self) -> Option<&str> {
        self.inner.address.user.as_deref()
    }

    /// The password of [`url`](Self::url).
    pub fn password(&self) -> Option<&str> {
        self.inner.address.password.as_deref()
    }

    /// Its Unix socket, of our own servers. Only root and the servers' user can reach it; Postgres asks for no
    /// password there.
    pub fn socket(&self) -> Option<&Path> {
        self.inner.ours.as_ref().map(|ours| ours.socket.as_path())
    }

    /// The number of its process (Postgres: the postmaster's), while it runs and is ours.
    pub fn pid(&self) -> Option<u32> {
        let process = self.inner.ours.as_ref()?.process();
        process.exit_status().is_none().then(|| process.id())
    }

    /// Whether its process runs (a paused one does). Always true for an external one, of which nothing is known.
    pub fn is_running(&self) -> bool {
        self.inner.ours.as_ref().is_none_or(|ours| ours.process().exit_status().is_none())
    }

    /// Whether [`pause`](Self::pause) is in effect.
    pub fn is_paused(&self) -> bool {
        self.is_running() && self.inner.ours.as_ref().is_some_and(|ours| ours.paused.load(Ordering::SeqCst))
    }

    /// Its log so far; empty for an external one.
    pub fn log(&self) -> String {
        let bytes = self.log_path().and_then(|path| fs::read(path).ok()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The file of its log.
    pub fn log_path(&self) -> Option<&Path> {
        self.inner.ours.as_ref().map(|ours| ours.log.as_path())
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({} at {}, pid {:?})", self.name(), self.target(), self.pid())
    }
}

impl Ours {
    pub(crate) fn process(&self) -> Arc<Process> {
        Arc::clone(&self.lock())
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Arc<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn spawn_again(&self) -> Result<Arc<Process>, Error> {
        let Self { launcher, program, arguments, home, log, account, .. } = self;
        launcher.spawn(Job { program, arguments, home, log, account: *account })
    }

    pub(crate) fn tail(&self) -> String {
        process::tail(&self.log)
    }
}
