//! The running components: built in the order of what needs what, unwound when one fails, drained in reverse. It
//! decides nothing about when.

use std::sync::Arc;
use std::time::Duration;

use cache_manager::{CacheManager, ClearScope};
use distributed_lock_manager::{DistributedLockManager, LockBackend, LockError, RedisLockBackend};
use postgres_pool_manager::{MigrateOptions, MigrationReport, MigrationSet, PostgresPoolManager};
use pubsub_manager::{
    Journal, JournalConfig, Outbox, OutboxConfig, PostgresBus, PostgresBusConfig, PostgresListener,
    PubSubManager, RedisBus, RedisDurable, RedisJournal, RedisJournalConfig,
};
use tokio::time::Instant;

use crate::epochs::{self, PostgresEpochs};
use crate::links::{Links, left, warn_if_away};
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
    pub(crate) outbox: Outbox,
    pub(crate) cache: CacheManager,
    pub(crate) locks: DistributedLockManager,
}

/// Channels and the journal, which live on the coordination link; without Redis, channels alone, on the database.
#[derive(Clone, Debug)]
pub(crate) struct Messages {
    pub(crate) pubsub: PubSubManager,
    pub(crate) journal: Option<Journal>,
    /// Where the channels are in the database.
    listener: Option<PostgresListener>,
}

/// Every migration that the parts need, in order.
pub(crate) fn migration_sets() -> Vec<MigrationSet> {
    vec![
        postgres_pool_manager::migrations(),
        epochs::migrations(),
        distributed_lock_manager::migrations(),
        cache_manager::migrations(),
        pubsub_manager::migrations(),
    ]
}

/// What has been started so far; dropped before it is finished, everything is ended again in reverse order.
#[derive(Debug, Default)]
pub(crate) struct Started {
    pub(crate) database: Option<PostgresPoolManager>,
    pub(crate) links: Option<Links>,
    pub(crate) bus: Option<Messages>,
    pub(crate) outbox: Option<Outbox>,
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
        if let Some(outbox) = self.outbox {
            outbox.shutdown(left(end)).await;
        }
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

impl Messages {
    pub(crate) fn open(links: Option<&Links>, database: &PostgresPoolManager) -> Result<Self, Error> {
        let start = |component| move |source| Error::Start { component, source: Box::new(source) };
        let config = pubsub_manager::Config::default();
        let Some(links) = links else {
            let listener = PostgresListener::new(database.clone()).map_err(start("pubsub"))?;
            let bus = PostgresBus::new(listener.clone(), &PostgresBusConfig::default());
            let pubsub = config.build(pubsub_manager::Deps::over(bus)).map_err(start("pubsub"))?;
            return Ok(Self { pubsub, journal: None, listener: Some(listener) });
        };
        let link = &links.coordination;
        let bus = RedisBus::new(link.clone()).map_err(start("pubsub"))?;
        let deps = pubsub_manager::Deps::over(bus).durable(RedisDurable::new(link.clone()));
        let pubsub = config.build(deps).map_err(start("pubsub"))?;
        let backend =
            RedisJournal::new(link.clone(), &RedisJournalConfig::default()).map_err(start("journal"))?;
        let journal = Journal::new(Arc::new(backend), JournalConfig::default()).map_err(start("journal"))?;
        Ok(Self { pubsub, journal: Some(journal), listener: None })
    }

    pub(crate) async fn shutdown(&self, end: Instant) {
        self.pubsub.shutdown(left(end)).await;
        if let Some(journal) = &self.journal {
            journal.shutdown(left(end)).await;
        }
    }
}

/// Takes part in relaying the outbox of `database` to the channels of `bus`.
pub(crate) fn open_outbox(database: &PostgresPoolManager, bus: &Messages) -> Result<Outbox, Error> {
    let start = |source| Error::Start { component: "outbox", source: Box::new(source) };
    let listener = match &bus.listener {
        Some(listener) => listener.clone(),
        None => PostgresListener::new(database.clone()).map_err(start)?,
    };
    Outbox::start(listener, bus.pubsub.clone(), OutboxConfig::default()).map_err(start)
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
        let bus = Messages::open(links.as_ref(), &database)?;
        started.bus = Some(bus.clone());
        let outbox = open_outbox(&database, &bus)?;
        started.outbox = Some(outbox.clone());
        let cache = open_cache(mode, settings, &database, links.as_ref(), &bus)?;
        started.cache = Some(cache.clone());
        let locks = open_locks(settings, links.as_ref())?;
        started.locks = Some(locks.clone());
        if links.as_ref().is_some_and(|links| links.coordination.status().master_connected) {
            become_current(&cache).await;
        }
        Ok(Self { settings: settings.clone(), database, epochs, links, bus, outbox, cache, locks })
    }

    /// Drains in reverse order, by `end` altogether.
    pub(crate) async fn shutdown(&self, end: Instant) {
        let all = Started {
            database: Some(self.database.clone()),
            links: self.links.clone(),
            bus: Some(self.bus.clone()),
            outbox: Some(self.outbox.clone()),
            cache: Some(self.cache.clone()),
            locks: Some(self.locks.clone()),
        };
        all.unwind(end).await;
    }
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
