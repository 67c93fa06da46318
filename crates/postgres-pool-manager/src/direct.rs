//! Connections beside the pools: for LISTEN, for COPY and session state where PgBouncer stands between, for the
//! migrator. Each is its holder's alone; nothing is reset, nothing is handed to anybody else.

use crate::{
    ConnectFailure, Error, PostgresPoolManager,
    config::Endpoint,
    conn::{identify, text},
    connect::{attempt, direct_options},
    door::Door,
    pool::Pool,
    stats::Role,
};
use resilience::Deadline;
use secrecy::ExposeSecret;
use sqlx::{
    Connection, Executor, PgConnection, Postgres,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{Arc, atomic::Ordering::Relaxed},
};
use tokio::time::Instant;

/// Counts a connection beside a server's pool for as long as it lives.
#[derive(Debug)]
pub(crate) struct Beside(Arc<Pool>);

impl Beside {
    pub(crate) fn new(pool: &Arc<Pool>) -> Self {
        pool.door.beside.fetch_add(1, Relaxed);
        pool.fit();
        Self(Arc::clone(pool))
    }

    pub(crate) fn is_at(&self, pool: &Arc<Pool>) -> bool {
        Arc::ptr_eq(&self.0, pool)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.0.door.beside.fetch_sub(1, Relaxed);
        self.0.fit();
    }
}

/// A connection to the primary that belongs to its holder; dropping it closes it.
pub struct DirectConnection {
    pg: PgConnection,
    counted: Beside,
}

impl DirectConnection {
    /// Says goodbye to the server; dropping leaves without a word.
    ///
    /// # Errors
    /// The server was gone already.
    pub async fn close(self) -> Result<(), Error> {
        self.pg.close().await.map_err(Error::Query)
    }
}

impl Deref for DirectConnection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.pg
    }
}

impl DerefMut for DirectConnection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.pg
    }
}

impl fmt::Debug for DirectConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectConnection").field("server", &self.counted.0.label).finish_non_exhaustive()
    }
}

/// The driver's listener on a connection of its own; dropping it closes it.
///
/// It logs in with the credentials of the moment at which it was opened: when it reports a lost connection
/// (`try_recv` → `None`), open another instead of waiting for it to reconnect, or a rotation in between locks it out.
pub struct Listener {
    listener: PgListener,
    _counted: Beside,
}

impl Deref for Listener {
    type Target = PgListener;

    fn deref(&self) -> &PgListener {
        &self.listener
    }
}

impl DerefMut for Listener {
    fn deref_mut(&mut self) -> &mut PgListener {
        &mut self.listener
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").finish_non_exhaustive()
    }
}

impl PostgresPoolManager {
    /// Opens a connection to the primary beside the pool: at [`Config::direct`](crate::Config::direct) where that is
    /// set, else at the primary's own address. No deadline is kept on what is done with it, and it is not closed when
    /// another server becomes the primary.
    ///
    /// Cancel safety: an attempt that is dropped leaves nothing behind.
    ///
    /// # Errors
    /// [`Error::Connect`], also for a former primary; [`Error::Timeout`] beyond `deadline`.
    pub async fn open_direct(&self, deadline: Deadline) -> Result<DirectConnection, Error> {
        let direct = Direct::new(self, None)?;
        let (pg, counted) = direct.open(deadline).await?;
        Ok(DirectConnection { pg, counted })
    }

    /// Opens a listener for LISTEN, as [`open_direct`](Self::open_direct) opens a connection. It does not reconnect by
    /// itself before it has told of a loss (`eager_reconnect(false)`): what was said in between is lost, and its holder
    /// has to know.
    ///
    /// Cancel safety: an attempt that is dropped leaves nothing behind.
    ///
    /// # Errors
    /// [`Error::Connect`], also for a former primary; [`Error::Timeout`] beyond `deadline`.
    pub async fn open_listener(&self, deadline: Deadline) -> Result<Listener, Error> {
        let (started, direct) = (Instant::now(), Direct::new(self, None)?);
        let counted = Beside::new(&self.router().primary());
        let connect = async |options| {
            // One connection: the driver's pool is only how it reconnects.
            let pool = PgPoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None);
            let pool = pool.connect_with(options).await?;
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.eager_reconnect(false);
            Ok(listener)
        };
        let entered = async {
            let mut listener = direct.door.enter(&direct.label, &direct.options, connect).await?;
            direct.check_history(&mut listener).await?;
            Ok::<_, Error>(listener)
        };
        let listener = deadline.run(entered).await.map_err(|_| late(started))??;
        Ok(Listener { listener, _counted: counted })
    }
}

/// Where direct connections go.
#[derive(Debug)]
pub(crate) struct Direct {
    pub(crate) door: Door,
    /// As in the settings, and with its address for messages.
    pub(crate) name: String,
    label: String,
    pub(crate) options: PgConnectOptions,
    primary: Arc<Pool>,
    /// The primary's history as far as it is known; 0: it is not.
    timeline: u32,
}

impl Direct {
    /// `url`: another address than the settings'.
    pub(crate) fn new(
        manager: &PostgresPoolManager,
        url: Option<&secrecy::SecretString>,
    ) -> Result<Self, Error> {
        let (config, primary) = (manager.config(), manager.router().primary());
        let (name, own) = match &config.direct {
            Some(Endpoint { name, url }) => (name, url),
            None => (&primary.name, &primary.door.url),
        };
        let other = url.is_some() || config.direct.is_some();
        let url = url.unwrap_or(own);
        let options = direct_options(url, config).map_err(Error::Query)?;
        let label = match options.get_socket() {
            Some(path) => format!("{name} ({}:{})", path.display(), options.get_port()),
            None => format!("{name} ({}:{})", options.get_host(), options.get_port()),
        };
        // One with a password of its own logs in as somebody else, of whom the provider knows nothing.
        let provider = config.credentials.clone().filter(|_| !(other && names_password(url)));
        let door = Door::new(url, provider, &primary.door.cluster);
        let timeline = manager.router().timeline.load(Relaxed);
        Ok(Self { door, name: name.clone(), label, options, primary, timeline })
    }

    /// One attempt; the server has to be the primary.
    pub(crate) async fn open(&self, deadline: Deadline) -> Result<(PgConnection, Beside), Error> {
        let (started, counted) = (Instant::now(), Beside::new(&self.primary));
        let work = async {
            let mut pg = attempt(&self.door, &self.label, &self.options).await?;
            identify(&mut pg, Role::Primary, &self.label, &self.door.cluster).await?;
            self.check_history(&mut pg).await?;
            Ok::<_, Error>(pg)
        };
        let pg = deadline.run(work).await.map_err(|_| late(started))??;
        Ok((pg, counted))
    }

    /// An address of its own does not follow a failover: there may be a former primary, which takes writes.
    async fn check_history(&self, pg: impl Executor<'_, Database = Postgres>) -> Result<(), Error> {
        if self.timeline == 0 {
            return Ok(());
        }
        let refused = |source| {
            let (host, failure) = (self.label.clone(), ConnectFailure::NotWritable);
            Error::Connect { host, failure, source: Some(source) }
        };
        let row = pg.fetch_one(TIMELINE).await.map_err(refused)?;
        let timeline = text(&row, "timeline").and_then(|hex| u32::from_str_radix(&hex, 16).ok());
        if timeline.is_some_and(|timeline| timeline < self.timeline) {
            let text = format!("timeline {timeline:?}, the primary's is {}", self.timeline);
            return Err(refused(std::io::Error::new(std::io::ErrorKind::InvalidData, text).into()));
        }
        Ok(())
    }
}

const TIMELINE: &str = "SELECT substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8) AS timeline";

/// Whether the address says who logs in, and with what: then a provider has no say.
pub(crate) fn names_password(url: &secrecy::SecretString) -> bool {
    url::Url::parse(url.expose_secret())
        .is_ok_and(|url| url.password().is_some() || url.query_pairs().any(|(name, _)| name == "password"))
}

fn late(started: Instant) -> Error {
    Error::Timeout { operation: "a direct connection", after: started.elapsed() }
}
