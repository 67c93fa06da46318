//! A stack: its servers, its directory, its watchdog. Not here: what is done inside the servers (`database`).

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::account::Account;
use crate::authority::Authority;
use crate::database::Databases;
use crate::directory::{self, Directory};
use crate::error::Error;
use crate::launcher::Launcher;
use crate::options::{ExternalUrls, PostgresOptions, Provider, RedisOptions, START_TIMEOUT};
use crate::pgbouncer;
use crate::postgres::{self, Postgres, joined};
use crate::provider;
use crate::redis::{self, Redis};
use crate::watchdog::Watchdog;

/// Running servers. A cheap handle; with the last one (and the last [`Database`](crate::Database)) the servers and
/// their data go away, as they do when this process ends in whatever way.
#[derive(Clone)]
pub struct Stack {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) postgres: Option<Postgres>,
    pub(crate) redis: Option<Redis>,
    pub(crate) databases: Databases,
    started_in: Duration,
    native: Option<Native>,
}

/// What there is only of servers of our own. The watchdog ends them when this is dropped.
#[derive(Debug)]
struct Native {
    watchdog: Watchdog,
    directory: Directory,
    authority: Option<Authority>,
}

/// What a stack is to consist of; nothing by default.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    postgres: Option<PostgresOptions>,
    redis: Option<RedisOptions>,
    provider: Provider,
    within: Option<Duration>,
    template_sql: Option<String>,
    keep_logs: bool,
}

impl Builder {
    /// With Postgres.
    #[must_use]
    pub fn postgres(mut self, options: PostgresOptions) -> Self {
        self.postgres = Some(options);
        self
    }

    /// With Redis.
    #[must_use]
    pub fn redis(mut self, options: RedisOptions) -> Self {
        self.redis = Some(options);
        self
    }

    /// Where the servers come from; default [`Provider::Auto`].
    #[must_use]
    pub fn provider(mut self, provider: Provider) -> Self {
        self.provider = provider;
        self
    }

    /// How long the start may take; default [`START_TIMEOUT`].
    #[must_use]
    pub fn within(mut self, within: Duration) -> Self {
        self.within = Some(within);
        self
    }

    /// SQL that [`Stack::database`]'s template is prepared with, once per stack.
    #[must_use]
    pub fn template_sql(mut self, sql: impl Into<String>) -> Self {
        self.template_sql = Some(sql.into());
        self
    }

    /// Keep the servers' logs when the stack ends (also: `LOCAL_STACK_KEEP_LOGS` set). They are kept anyhow when a
    /// start fails or a panic drops the stack.
    #[must_use]
    pub fn keep_logs(mut self, keep: bool) -> Self {
        self.keep_logs = keep;
        self
    }

    /// Starts the servers and waits until they answer. Blocks: for async code there is [`start`](Self::start).
    ///
    /// Errors name what is missing, and after a server's failure where its log is kept; nothing is left running.
    pub fn start_blocking(self) -> Result<Stack, Error> {
        let start = Instant::now();
        let provider = self.provider.resolved()?;
        if let Provider::External(urls) = provider {
            return self.connected(&urls, start);
        }
        if !cfg!(target_os = "linux") {
            let reason =
                "servers of our own need Linux; set LOCAL_STACK_POSTGRES_URL and LOCAL_STACK_REDIS_URL";
            return Err(Error::Setting { name: "provider".into(), reason: reason.into() });
        }
        let launcher = match provider {
            Provider::Containers(images) => Launcher::containers(&images)?,
            _ => Launcher::native(),
        };
        let postgres = self.postgres.as_ref().map(|options| Ok((launcher.find_postgres()?, options)));
        let redis = self.redis.as_ref().map(|options| Ok((launcher.find_redis()?, options)));
        let (postgres, redis) = (postgres.transpose()?, redis.transpose()?);
        let bouncer =
            self.postgres.as_ref().filter(|options| options.pgbouncer).map(|_| launcher.find_pgbouncer());
        let bouncer = bouncer.transpose()?;
        let durable = self.postgres.as_ref().is_some_and(|options| options.durable);
        let tls = self.postgres.as_ref().is_some_and(|options| options.tls.is_some())
            || self.redis.as_ref().is_some_and(|options| options.tls.is_some());
        let native = Native::prepare(durable, tls, launcher)?;
        if self.keep_logs || std::env::var_os("LOCAL_STACK_KEEP_LOGS").is_some() {
            native.directory.keep_logs();
        }
        let until = start + self.within.unwrap_or(START_TIMEOUT);
        let (directory, authority) = (&native.directory, native.authority.as_ref());
        let (postgres, redis) = std::thread::scope(|scope| {
            let postgres = postgres.map(|(binaries, options)| {
                let bouncer = bouncer.as_ref();
                scope.spawn(move || {
                    let postgres = postgres::start(directory, &binaries, options, authority, until)?;
                    let Some(bouncer) = bouncer else { return Ok(postgres) };
                    let primary = postgres.primary();
                    let bouncer = pgbouncer::start(directory, bouncer, options, authority, primary, until)?;
                    Ok(postgres.behind(bouncer))
                })
            });
            let redis =
                redis.map(|(binary, options)| redis::start(directory, &binary, options, authority, until));
            (postgres.map(joined), redis)
        });
        let (postgres, redis) = (postgres.transpose()?, redis.transpose()?);
        Ok(self.assembled(postgres, redis, Some(native), start))
    }

    fn connected(self, urls: &ExternalUrls, start: Instant) -> Result<Stack, Error> {
        let postgres = self.postgres.as_ref().map(|options| provider::postgres(urls, options));
        let redis = self.redis.as_ref().map(|options| provider::redis(urls, options));
        let (postgres, redis) = (postgres.transpose()?, redis.transpose()?);
        let within = self.within.unwrap_or(START_TIMEOUT);
        for server in postgres.iter().flat_map(Postgres::servers).chain(redis.iter().flat_map(Redis::servers))
        {
            server.wait_ready_blocking(within)?;
        }
        Ok(self.assembled(postgres, redis, None, start))
    }

    fn assembled(
        self,
        postgres: Option<Postgres>,
        redis: Option<Redis>,
        native: Option<Native>,
        start: Instant,
    ) -> Stack {
        let databases = Databases::new(self.template_sql);
        let started_in = start.elapsed();
        Stack { inner: Arc::new(Inner { postgres, redis, databases, started_in, native }) }
    }
}

#[cfg(feature = "async")]
impl Builder {
    /// [`start_blocking`](Self::start_blocking) off the runtime's threads. Dropped, it still runs to its end, and then
    /// ends the servers. The stack is not tied to the runtime.
    pub async fn start(self) -> Result<Stack, Error> {
        crate::unblock("start", move || self.start_blocking()).await
    }
}

impl Native {
    fn prepare(durable: bool, tls: bool, launcher: Launcher) -> Result<Self, Error> {
        let account = Account::choose()?;
        let path = directory::name(account, durable)?;
        let watchdog = Watchdog::start(&path, account)?;
        let directory = Directory::adopt(path, account, launcher)?;
        directory::sweep(&directory);
        let authority = if tls { Some(Authority::make(&directory)?) } else { None };
        Ok(Self { watchdog, directory, authority })
    }
}

impl Stack {
    /// Says what it is to consist of.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Postgres.
    ///
    /// # Panics
    /// If the stack was built without it.
    #[track_caller]
    pub fn postgres(&self) -> &Postgres {
        match self.try_postgres() {
            Ok(postgres) => postgres,
            Err(error) => panic!("{error}"),
        }
    }

    /// Redis.
    ///
    /// # Panics
    /// If the stack was built without it.
    #[track_caller]
    pub fn redis(&self) -> &Redis {
        match self.try_redis() {
            Ok(redis) => redis,
            Err(error) => panic!("{error}"),
        }
    }

    /// Postgres, or [`Error::NoSuchPart`].
    pub fn try_postgres(&self) -> Result<&Postgres, Error> {
        self.inner.postgres.as_ref().ok_or_else(|| Error::NoSuchPart { part: "Postgres".into() })
    }

    /// Redis, or [`Error::NoSuchPart`].
    pub fn try_redis(&self) -> Result<&Redis, Error> {
        self.inner.redis.as_ref().ok_or_else(|| Error::NoSuchPart { part: "Redis".into() })
    }

    /// The authority of the servers' certificates.
    ///
    /// # Panics
    /// If no server of the stack speaks TLS.
    #[track_caller]
    pub fn authority(&self) -> &Authority {
        match self.try_authority() {
            Ok(authority) => authority,
            Err(error) => panic!("{error}"),
        }
    }

    /// The authority of the servers' certificates, or [`Error::NoSuchPart`].
    pub fn try_authority(&self) -> Result<&Authority, Error> {
        let authority = self.inner.native.as_ref().and_then(|native| native.authority.as_ref());
        authority.ok_or_else(|| Error::NoSuchPart { part: "TLS".into() })
    }

    /// The URL of the Redis master.
    ///
    /// # Panics
    /// If the stack was built without Redis.
    #[track_caller]
    pub fn redis_url(&self) -> String {
        self.redis().master().url()
    }

    /// The URL of the Postgres primary, database `postgres`. Tests are better off with [`database`](Self::database).
    ///
    /// # Panics
    /// If the stack was built without Postgres.
    #[track_caller]
    pub fn postgres_url(&self) -> String {
        self.postgres().primary().url()
    }

    /// How long the start took.
    pub fn started_in(&self) -> Duration {
        self.inner.started_in
    }

    /// The directory of data, sockets and logs, of a stack of our own servers.
    pub fn directory(&self) -> Option<&Path> {
        Some(self.inner.native.as_ref()?.directory.path())
    }

    /// The directory of the logs, which from now on stays when the stack ends.
    pub fn keep_logs(&self) -> Option<std::path::PathBuf> {
        Some(self.inner.native.as_ref()?.directory.keep_logs())
    }

    /// Ends the servers, removes their data and waits until nothing is left, at most five seconds; false if that was
    /// not enough. Other handles of the stack are of no use afterwards. External servers are left alone. Blocks.
    pub fn stop_blocking(&self) -> bool {
        self.inner.native.as_ref().is_none_or(|native| native.watchdog.end())
    }

    /// [`stop_blocking`](Self::stop_blocking) off the runtime's threads. Dropped, it still runs to its end.
    #[cfg(feature = "async")]
    pub async fn stop(&self) -> bool {
        let stack = self.clone();
        crate::unblock("stop", move || Ok(stack.stop_blocking())).await.unwrap_or(false)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The watchdog does the rest when the field is dropped: nothing here waits.
        if let (true, Some(native)) = (std::thread::panicking(), &self.native) {
            let logs = native.directory.keep_logs();
            eprintln!("local-stack: the servers' logs are kept in {}", logs.display());
        }
    }
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack")
            .field("postgres", &self.inner.postgres)
            .field("redis", &self.inner.redis)
            .finish()
    }
}
