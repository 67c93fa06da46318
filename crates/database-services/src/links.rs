//! The connections to Redis: one link, or two where locks, journal and channels have a server of their own; and what to mend
//! when one does not open.

use std::sync::Arc;
use std::time::Duration;

use redis_link::{CredentialProvider, RedisLink};
use tokio::time::Instant;

use crate::epochs::PostgresEpochs;
use crate::settings::Settings;
use crate::{Error, configs};

/// The connections to Redis.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    /// The cache's.
    pub(crate) cache: RedisLink,
    /// That of locks, journal and channels: the same unless `REDIS_COORDINATION_URL` names another server.
    pub(crate) coordination: RedisLink,
    pub(crate) separate: bool,
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

/// A service has to survive a restart while Redis is away; nobody is to overlook that it did.
pub(crate) fn warn_if_away(links: Option<&Links>) {
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

/// What is left until `end`.
pub(crate) fn left(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now())
}
