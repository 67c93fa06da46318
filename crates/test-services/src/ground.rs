//! What a test stands on: servers, a database, a namespace, and the settings that lead there. Several sets of services may
//! stand on one ground, as the processes of one service do.

use database_services::settings::explain;
use database_services::{DatabaseServices, ManagerMode, Settings, create_database_services};
use local_stack::{Database, PostgresOptions, RedisOptions, SharedStack, Stack};

use crate::network::{self, Network, Pair};
use crate::template;
use crate::{Builder, Error};

/// Connections of the shared Postgres: fifty tests at once with all that their pools may open.
const CONNECTIONS: u32 = 400;

/// The servers of all tests of a process that ask for none of their own.
static SHARED: SharedStack = SharedStack::new(|| {
    let postgres = PostgresOptions { max_connections: CONNECTIONS, ..PostgresOptions::default() };
    Stack::builder().postgres(postgres).redis(RedisOptions::default())
});

/// What a test wants otherwise than production has it: small pools, because many tests share the servers; frequent probes
/// and an early end of waiting for a Postgres that is away, because a test waits for both.
const FOR_TESTS: [(&str, &str); 5] = [
    ("DATABASE_POOL_SIZE", "4"),
    ("DATABASE_MAX_OVERFLOW", "4"),
    ("DATABASE_ACQUIRE_TIMEOUT", "5s"),
    ("REDIS_POOL_MIN_SIZE", "1"),
    ("HEALTH_INTERVAL", "500ms"),
];

/// Which server a test uses.
#[derive(Debug, Clone)]
pub(crate) enum Choice<T> {
    Shared,
    Own(T),
    Given(Stack),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) database: Database,
    pub(crate) redis: Option<Stack>,
    pub(crate) postgres_is_shared: bool,
    pub(crate) redis_is_shared: bool,
    namespace: String,
    over: Vec<(String, String)>,
    mode: Option<ManagerMode>,
    faults: bool,
}

impl Ground {
    pub(crate) async fn make(wanted: Builder) -> Result<Self, Error> {
        let Builder { postgres, redis, steps, over, mode, faults } = wanted;
        let postgres_is_shared = matches!(postgres, Choice::Shared);
        let redis_is_shared = matches!(redis, Some(Choice::Shared));
        let over: Vec<_> = over.into_iter().map(|(name, value)| (canonical(name), value)).collect();
        let (postgres, redis) = tokio::try_join!(postgres_of(postgres), redis_of(redis))?;
        let database = template::cloned(&postgres, &steps, &over).await?;
        let namespace = postgres.redis_namespace();
        Ok(Self { database, redis, postgres_is_shared, redis_is_shared, namespace, over, mode, faults })
    }

    /// The proxies of one set of services, if the test asked for them.
    pub(crate) fn network(&self) -> Result<Option<Network>, Error> {
        let postgres = self.database.stack().postgres();
        let redis = self.redis.as_ref().map(Stack::redis);
        self.faults.then(|| Network::start(postgres, redis)).transpose()
    }

    fn pairs(&self, network: Option<&Network>) -> Vec<Pair> {
        let mut pairs: Vec<Pair> =
            FOR_TESTS.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        pairs.extend(network::postgres(&self.database, network));
        if let Some(stack) = &self.redis {
            pairs.extend(network::redis(stack, &self.namespace, network));
        }
        pairs
    }

    pub(crate) fn settings(&self, network: Option<&Network>) -> Result<Settings, Error> {
        Ok(Settings::load(&network::load_options(&self.pairs(network), &self.over))?)
    }

    /// The same as variables of the environment.
    pub(crate) fn environment(&self, network: Option<&Network>) -> Vec<(String, String)> {
        let mut variables: Vec<(String, String)> =
            self.pairs(network).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        variables.retain(|(name, _)| self.over.iter().all(|(over, _)| over != name));
        variables.extend(self.over.iter().cloned());
        variables
    }

    /// Services that are not started.
    pub(crate) fn services(&self, network: Option<&Network>) -> Result<DatabaseServices, Error> {
        let settings = self.settings(network)?;
        services_of(self.mode.unwrap_or_else(|| settings.manager_mode()), settings)
    }

    /// Drops the database at once. A server that a test has killed has none to drop.
    pub(crate) async fn remove(self) {
        let sql = format!("drop database if exists {} with (force)", self.database.name());
        let _killed = self.database.primary().sql("postgres", &sql).await;
    }
}

async fn postgres_of(choice: Choice<PostgresOptions>) -> Result<Stack, local_stack::Error> {
    match choice {
        Choice::Shared => SHARED.get().await,
        Choice::Own(options) => Stack::builder().postgres(options).start().await,
        Choice::Given(stack) => Ok(stack),
    }
}

async fn redis_of(choice: Option<Choice<RedisOptions>>) -> Result<Option<Stack>, local_stack::Error> {
    match choice {
        None => Ok(None),
        Some(Choice::Shared) => SHARED.get().await.map(Some),
        Some(Choice::Own(options)) => Stack::builder().redis(options).start().await.map(Some),
        Some(Choice::Given(stack)) => Ok(Some(stack)),
    }
}

/// Services for who the settings say that they act as.
pub(crate) fn services_of(mode: ManagerMode, settings: Settings) -> Result<DatabaseServices, Error> {
    let context = settings.security_context()?;
    Ok(create_database_services(mode, settings, context)?)
}

/// A setting's first name, so that one that is given under another of its names takes the place of ours.
fn canonical(name: String) -> String {
    match explain(&name) {
        Ok(known) if !name.to_ascii_uppercase().ends_with("_FILE") => known.name.to_owned(),
        _ => name,
    }
}
