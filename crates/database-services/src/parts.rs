//! The running components: built in the order of what needs what, unwound when one fails, drained in reverse. It
//! decides nothing about when.

use std::sync::Arc;
use std::time::Duration;

use cache_manager::{CacheManager, ClearScope};
use distributed_lock_manager::{DistributedLockManager, LockBackend, LockError, RedisLockBackend};
use postgres_pool_manager::{MigrateOptions, MigrationReport, MigrationSet, PostgresPoolManager};
use pubsub_manager::{
    Bus, Journal, JournalConfig, PubSubManager, RedisBus, RedisJournal, RedisJournalConfig,
};
use redis_link::{CredentialProvider, RedisLink};
use tokio::time::Instant;

use crate::epochs::{self, PostgresEpochs};
use crate::settings::Settings;
use crate::{Error, ManagerMode, configs};

/// What runs under one set of settings. Carried-over parts are shared with the set before.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) settings: Settings,
    pub(crate) database: PostgresPoolManager,
    pub(crate) epochs: Arc<PostgresEpochs>,
    pub(crate) links: Option<Links>,
    pub(crate) bus: Messages,
    pub(crate) cache: CacheManager,
    pub(crate) locks: DistributedLockManager,
}

/// The connections to Redis.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    /// The cache's.
    pub(crate) cache: RedisLink,
    /// That of locks, journal and channels: the same unless `REDIS_COORDINATION_URL` names another server.
    pub(crate) coordination: RedisLink,
    pub(crate) separate: bool,
}

/// Channels and the journal, which live on the coordination link.
#[derive(Clone, Debug)]
pub(crate) struct Messages {
    pub(crate) pubsub: PubSubManager,
    pub(crate) journal: Option<Journal>,
}

/// Every migration that the parts need, in order.
pub(crate) fn migration_sets() -> Vec<MigrationSet> {
    vec![
        postgres_pool_manager::migrations(),
        epochs::migrations(),
        distributed_lock_manager::migrations(),
        cache_manager::migrations(),
    ]
}

/// What has been started so far; dropped before it is finished, everything is ended again in reverse order.
#[derive(Debug, Default)]
pub(crate) struct Started {
    pub(crate) database: Option<PostgresPoolManager>,
    pub(crate) links: Option<Links>,
    pub(crate) bus: Option<Messages>,
    pub(crate) cache: Option<CacheManager>,
    pub(crate) locks: Option<DistributedLockManager>,
}

impl Started {
    /// Ends what was started, newest first, by `end` altogether; what is in use elsewhere must have been taken out
    /// before.
    pub(crate) async fn unwind(self, end: Instant) {
        let locks = async {
            if let Some(locks) = self.locks {
                locks.shutdown(left(end)).await;
            }
        };
        let cache = async {
            if let Some(cache) = self.cache {
                cache.shutdown(left(end)).await;
                // Handles that are still around must not go on with what this cache no longer hears the end of.
                let _infallible = cache.clear(ClearScope::L1).await;
            }
        };
        // At once: a lock that nobody gives back takes all of the time.
        tokio::join!(locks, cache);
        if let Some(bus) = self.bus {
            bus.shutdown(end).await;
        }
        if let Some(links) = self.links {
            links.shutdown(end).await;
        }
        if let Some(database) = self.database {
            database.shutdown(left(end)).await;
        }
    }
}

impl Links {
    /// Opens the links. Unreachable is no error: the link keeps trying, the caller warns.
    pub(crate) async fn open(
        settings: &Settings,
        epochs: &Arc<PostgresEpochs>,
    ) -> Result<Option<Self>, Error> {
        let Some(config) = configs::redis(settings)? else { return Ok(None) };
        let cache = open_link(config, epochs, configs::credentials(settings)).await?;
        let Some(config) = configs::coordination(settings)? else {
            return Ok(Some(Self { coordination: cache.clone(), cache, separate: false }));
        };
        match open_link(config, epochs, None).await {
            Ok(coordination) => Ok(Some(Self { cache, coordination, separate: true })),
            Err(error) => {
                cache.shutdown(Duration::ZERO).await; // Nobody has used it.
                Err(error)
            }
        }
    }

    pub(crate) async fn shutdown(&self, end: Instant) {
        if self.separate {
            self.coordination.shutdown(left(end)).await;
        }
        self.cache.shutdown(left(end)).await;
    }

    /// Each link once, with its name.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, &RedisLink)> {
        let second = self.separate.then_some((configs::COORDINATION_LINK, &self.coordination));
        std::iter::once((configs::CACHE_LINK, &self.cache)).chain(second)
    }
}

async fn open_link(
    config: redis_link::Config,
    epochs: &Arc<PostgresEpochs>,
    credentials: Option<Arc<dyn CredentialProvider>>,
) -> Result<RedisLink, Error> {
    let endpoint = config.topology.to_string();
    let under_sentinels = matches!(config.topology, redis_link::Topology::Sentinel(_));
    let deps = redis_link::Deps { epochs: Arc::clone(epochs) as _, credentials };
    let link = config.connect(deps).await;
    link.map_err(|source| Error::Redis {
        mend: redis_mend(&source, under_sentinels),
        endpoint,
        source: Box::new(source),
    })
}

fn redis_mend(error: &redis_link::Error, under_sentinels: bool) -> &'static str {
    match error {
        redis_link::Error::Auth(_) if under_sentinels => {
            "check REDIS_USERNAME and REDIS_PASSWORD, and at the Sentinels REDIS_SENTINEL_USERNAME and REDIS_SENTINEL_PASSWORD"
        }
        redis_link::Error::Auth(_) => "check REDIS_USERNAME and REDIS_PASSWORD",
        redis_link::Error::Acl { .. } => "grant the Redis user the commands of the shipped ACL file",
        redis_link::Error::Tls { .. } => "check REDIS_USE_SSL and the REDIS_SSL_ paths",
        redis_link::Error::Certificate { .. } => {
            "renew the server's certificate, or check REDIS_SSL_CA_PATH and REDIS_SSL_VERIFY_MODE"
        }
        redis_link::Error::UnknownMaster { .. } => {
            "set REDIS_SENTINEL_MASTER to the name in the Sentinels' configuration"
        }
        redis_link::Error::NoSentinel { .. } => {
            "point REDIS_SENTINELS at Sentinels (port 26379), not at servers"
        }
        redis_link::Error::NoCluster { .. } => "set REDIS_HOST instead of REDIS_CLUSTER_NODES",
        redis_link::Error::SlotsUncovered { .. } => "assign the slots: redis-cli --cluster check",
        redis_link::Error::WrongRole { .. } => "point REDIS_HOST (or REDIS_URL) at the master",
        redis_link::Error::TooOld { .. } => "use Redis 6.2 or Valkey 7.2, or later",
        _ => "check the REDIS_ settings",
    }
}

impl Messages {
    pub(crate) fn open(links: Option<&Links>) -> Result<Self, Error> {
        let start = |component| move |source| Error::Start { component, source: Box::new(source) };
        let config = pubsub_manager::Config::default();
        let Some(links) = links else {
            let pubsub = config.build(None).map_err(start("pubsub"))?;
            return Ok(Self { pubsub, journal: None });
        };
        let link = &links.coordination;
        let bus: Arc<dyn Bus> = Arc::new(RedisBus::new(link.clone()).map_err(start("pubsub"))?);
        let pubsub = config.build(Some(bus)).map_err(start("pubsub"))?;
        let backend =
            RedisJournal::new(link.clone(), &RedisJournalConfig::default()).map_err(start("journal"))?;
        let journal = Journal::new(Arc::new(backend), JournalConfig::default()).map_err(start("journal"))?;
        Ok(Self { pubsub, journal: Some(journal) })
    }

    pub(crate) async fn shutdown(&self, end: Instant) {
        self.pubsub.shutdown(left(end)).await;
        if let Some(journal) = &self.journal {
            journal.shutdown(left(end)).await;
        }
    }
}

/// Connects the pool. Unreachable is an error here: without its truth a service has nothing to serve.
pub(crate) async fn open_database(
    mode: ManagerMode,
    settings: &Settings,
) -> Result<PostgresPoolManager, Error> {
    let config = configs::pool(mode, settings)?;
    config.connect().await.map_err(|source| Error::Postgres {
        host: configs::postgres_address(settings),
        mend: postgres_mend(&source),
        source: Box::new(source),
    })
}

fn postgres_mend(error: &postgres_pool_manager::Error) -> &'static str {
    use postgres_pool_manager::{ConnectFailure as F, Error as E};
    match error {
        E::Connect { failure: F::Credentials, .. } => "check DATABASE_USER and DATABASE_PASSWORD",
        E::Connect { failure: F::NoDatabase, .. } => "check DATABASE_NAME, or create the database",
        E::Connect { failure: F::NoCredentials, .. } => "check the file of DATABASE_PASSWORD_FILE",
        E::Connect { failure: F::Pooler, .. } => "set DATABASE_PGBOUNCER=true and DATABASE_DIRECT_URL",
        E::Connect { failure: F::OtherCluster, .. } => {
            "point DATABASE_URL, DATABASE_DIRECT_URL and the replicas at servers of one cluster"
        }
        E::Connect {
            failure:
                F::Tls
                | F::CertificateFiles
                | F::ServerCertificateExpired
                | F::ServerCertificateNotYetValid
                | F::ServerCertificateHost
                | F::ServerCertificateAuthority
                | F::ClientCertificateExpired
                | F::ClientCertificateRefused,
            ..
        } => "check DATABASE_SSL_MODE and the certificate paths",
        E::Connect { failure: F::NotWritable, .. } => "point DATABASE_HOST (or DATABASE_URL) at the primary",
        E::Connect { failure: F::TooManyConnections, .. } => {
            "lower DATABASE_POOL_SIZE or raise max_connections"
        }
        _ => "check DATABASE_URL (or DATABASE_HOST and DATABASE_PORT) and that the server runs",
    }
}

/// Migrates, or where that is off makes sure that nothing is missing.
pub(crate) async fn prepare_schema(database: &PostgresPoolManager, settings: &Settings) -> Result<(), Error> {
    if settings.auto_migrate() {
        let report = migrate(database, MigrateOptions::default()).await?;
        if !report.applied.is_empty() {
            tracing::info!(schema = %database.schema(), migrations = report.applied.len(), "schema migrated");
        }
        return Ok(());
    }
    let look = MigrateOptions { dry_run: true, ..MigrateOptions::default() };
    let missing = migrate(database, look).await?.applied.len();
    if missing > 0 {
        return Err(Error::SchemaMissing { schema: database.schema().name().to_owned(), missing });
    }
    Ok(())
}

pub(crate) async fn migrate(
    database: &PostgresPoolManager,
    options: MigrateOptions,
) -> Result<MigrationReport, Error> {
    let migrated = database.migrate(&migration_sets(), options).await;
    migrated.map_err(|source| Error::Migrate {
        schema: database.schema().name().to_owned(),
        source: Box::new(source),
    })
}

pub(crate) fn open_cache(
    mode: ManagerMode,
    settings: &Settings,
    database: &PostgresPoolManager,
    links: Option<&Links>,
    bus: &Messages,
) -> Result<CacheManager, Error> {
    let deps = cache_manager::Deps {
        redis: links.map(|links| links.cache.clone()),
        postgres: Some(database.clone()),
        journal: bus.journal.clone(),
        ..cache_manager::Deps::default()
    };
    let cache = configs::cache(mode, settings).build(deps);
    cache.map_err(|error| Error::Component { component: "the cache", message: error.to_string() })
}

pub(crate) fn open_locks(
    settings: &Settings,
    links: Option<&Links>,
) -> Result<DistributedLockManager, Error> {
    let config = configs::locks(settings);
    let refused =
        |error: LockError| Error::Component { component: "the lock manager", message: error.to_string() };
    let backend = match links {
        Some(links) => {
            let backend = RedisLockBackend::new(links.coordination.clone()).map_err(refused)?;
            Some(Arc::new(backend) as Arc<dyn LockBackend>)
        }
        None => None,
    };
    config.build(backend).map_err(refused)
}

impl Parts {
    /// Starts everything in order; what was started is ended again if a later step fails.
    pub(crate) async fn start(mode: ManagerMode, settings: &Settings) -> Result<Self, Error> {
        let mut started = Started::default();
        match Self::start_into(mode, settings, &mut started).await {
            Ok(parts) => Ok(parts),
            Err(error) => {
                started.unwind(soon()).await;
                Err(error)
            }
        }
    }

    async fn start_into(
        mode: ManagerMode,
        settings: &Settings,
        started: &mut Started,
    ) -> Result<Self, Error> {
        let database = open_database(mode, settings).await?;
        started.database = Some(database.clone());
        prepare_schema(&database, settings).await?;
        let epochs = Arc::new(PostgresEpochs::new(database.clone()));
        let links = Links::open(settings, &epochs).await?;
        started.links.clone_from(&links);
        warn_if_away(links.as_ref());
        let bus = Messages::open(links.as_ref())?;
        started.bus = Some(bus.clone());
        let cache = open_cache(mode, settings, &database, links.as_ref(), &bus)?;
        started.cache = Some(cache.clone());
        let locks = open_locks(settings, links.as_ref())?;
        started.locks = Some(locks.clone());
        if links.as_ref().is_some_and(|links| links.coordination.status().master_connected) {
            become_current(&cache).await;
        }
        Ok(Self { settings: settings.clone(), database, epochs, links, bus, cache, locks })
    }

    /// Drains in reverse order, by `end` altogether.
    pub(crate) async fn shutdown(&self, end: Instant) {
        let all = Started {
            database: Some(self.database.clone()),
            links: self.links.clone(),
            bus: Some(self.bus.clone()),
            cache: Some(self.cache.clone()),
            locks: Some(self.locks.clone()),
        };
        all.unwind(end).await;
    }
}

fn left(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now())
}

/// Waits a moment for the cache to hear the journal, so that the first requests find L1 in service. Nothing depends
/// on it: until then they are answered by the levels below.
pub(crate) async fn become_current(cache: &CacheManager) {
    let heard = async {
        while !cache.coherence().is_current() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let _not_yet = tokio::time::timeout(Duration::from_secs(1), heard).await;
}

/// What a part gets that never served anybody.
pub(crate) const UNWIND: Duration = Duration::from_millis(500);

pub(crate) fn soon() -> Instant {
    Instant::now() + UNWIND
}

/// A service has to survive a restart while Redis is away; nobody is to overlook that it did.
fn warn_if_away(links: Option<&Links>) {
    for (name, link) in links.into_iter().flat_map(Links::all) {
        let status = link.status();
        if !status.master_connected {
            tracing::error!(
                link = name,
                master = status.master,
                error = status.last_error,
                "Redis cannot be reached: starting degraded (no L2, no locks, no messages) and trying on"
            );
        }
    }
}
