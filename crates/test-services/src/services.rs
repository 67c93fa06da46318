//! `TestServices`: running services and a hand on everything below them. How the ground is made is `ground`'s part.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use database_services::resilience::Deadline;
use database_services::{DatabaseServices, Settings};
use local_stack::{Database, FaultProxy, Postgres, Redis, Row, Server};
use tokio::runtime::Handle;

use crate::ground::Ground;
use crate::network::Network;
use crate::{Builder, Error};

/// How long the services are given to drain: a test that ended has nothing under way that matters.
const GRACE: Duration = Duration::from_secs(2);

/// How long the first round of probes may take; unhealthy is an answer, too.
const PROBES: Duration = Duration::from_secs(2);

/// Running services on a database and a Redis namespace that are one test's own.
///
/// Dropped, the services are shut down and the database is dropped, both in the background: drop it at the end of the
/// test, or [`shutdown`](Self::shutdown) it to have both done. With its runtime, a panic or `kill -9` everything ends as
/// well.
#[must_use = "dropped, the services are shut down"]
pub struct TestServices {
    services: DatabaseServices,
    network: Option<Network>,
    ground: Arc<Ground>,
    runtime: Handle,
    ended: bool,
}

impl TestServices {
    /// Services on the servers that the tests of this process share.
    ///
    /// Cancel safety and errors: as [`Builder::start`].
    pub async fn start() -> Result<Self, Error> {
        Self::builder().start().await
    }

    /// Says what is to be otherwise.
    pub const fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) async fn on_new_ground(wanted: Builder) -> Result<Self, Error> {
        Self::on(Arc::new(Ground::make(wanted).await?)).await
    }

    /// Further services on the same database and in the same namespace, as another process of your service has them:
    /// with connections, L1 and journal reader of their own, and with proxies of their own if there are any. The
    /// database goes with the last of them.
    ///
    /// Cancel safety: dropped, what was started is ended.
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub async fn another(&self) -> Result<Self, Error> {
        Box::pin(Self::on(Arc::clone(&self.ground))).await
    }

    async fn on(ground: Arc<Ground>) -> Result<Self, Error> {
        let network = ground.network()?;
        let services = ground.services(network.as_ref())?;
        // From here on a drop ends what was started.
        let this = Self { services, network, ground, runtime: Handle::current(), ended: false };
        this.services.initialize().await?;
        this.services.health_manager().check_now(Deadline::after(PROBES)).await;
        Ok(this)
    }

    /// The services, initialized. Clone the handle for your own code.
    pub fn services(&self) -> &DatabaseServices {
        &self.services
    }

    /// The settings that they were started with.
    pub fn settings(&self) -> Settings {
        self.services.settings()
    }

    /// The same settings as variables for the environment of a process that you start: your service's binary, or
    /// `dbsvc`.
    pub fn environment(&self) -> Vec<(String, String)> {
        self.ground.environment(self.network.as_ref())
    }

    /// The database, past services and proxies.
    pub fn database(&self) -> &Database {
        &self.ground.database
    }

    /// Runs SQL in the database as superuser, past services and proxies; the rows as text.
    ///
    /// Cancel safety: dropped, it still runs to its end.
    ///
    /// # Errors
    /// [`Error::Servers`] with what the server said.
    pub async fn sql(&self, sql: &str) -> Result<Vec<Row>, Error> {
        Ok(self.ground.database.sql(sql).await?)
    }

    /// The network between these services and the Postgres primary, to be made bad.
    ///
    /// # Panics
    /// Without [`with_faults`](Builder::with_faults).
    #[track_caller]
    pub fn postgres(&self) -> &FaultProxy {
        &self.network().postgres
    }

    /// The same for each replica, in the order of [`Postgres::replicas`].
    ///
    /// # Panics
    /// Without [`with_faults`](Builder::with_faults).
    #[track_caller]
    pub fn postgres_replicas(&self) -> &[FaultProxy] {
        &self.network().postgres_replicas
    }

    /// The network between these services and the Redis master, to be made bad.
    ///
    /// # Panics
    /// Without [`with_faults`](Builder::with_faults), and [`without_redis`](Builder::without_redis).
    #[track_caller]
    pub fn redis(&self) -> &FaultProxy {
        match &self.network().redis {
            Some(proxy) => proxy,
            None => panic!("these services have no Redis"),
        }
    }

    /// The same for each replica, in the order of [`Redis::replicas`].
    ///
    /// # Panics
    /// Without [`with_faults`](Builder::with_faults).
    #[track_caller]
    pub fn redis_replicas(&self) -> &[FaultProxy] {
        &self.network().redis_replicas
    }

    /// The Postgres server that was started as primary, to be killed, paused, restarted.
    ///
    /// # Panics
    /// On shared servers: other tests use them.
    #[track_caller]
    pub fn postgres_server(&self) -> &Server {
        self.postgres_servers().primary()
    }

    /// All Postgres servers.
    ///
    /// # Panics
    /// On shared servers: other tests use them.
    #[track_caller]
    pub fn postgres_servers(&self) -> &Postgres {
        let shared = self.ground.postgres_is_shared;
        assert!(!shared, "other tests use this Postgres: ask for own_postgres(), or for with_faults()");
        self.ground.database.stack().postgres()
    }

    /// The Redis server that was started as master, to be killed, paused, restarted, emptied.
    ///
    /// # Panics
    /// On shared servers: other tests use them.
    #[track_caller]
    pub fn redis_server(&self) -> &Server {
        self.redis_servers().master()
    }

    /// All Redis servers, Sentinels included.
    ///
    /// # Panics
    /// On shared servers: other tests use them.
    #[track_caller]
    pub fn redis_servers(&self) -> &Redis {
        let shared = self.ground.redis_is_shared;
        assert!(!shared, "other tests use this Redis: ask for own_redis(), or for with_faults()");
        match &self.ground.redis {
            Some(stack) => stack.redis(),
            None => panic!("these services have no Redis"),
        }
    }

    /// Ends the services in order and, with the last services on it, drops the database. A test need not call it:
    /// it is for what is to be seen afterwards.
    ///
    /// Cancel safety: the rest is done in the background.
    pub async fn shutdown(mut self) {
        self.services.shutdown(GRACE).await;
        self.ended = true;
        let ground = Arc::clone(&self.ground);
        drop(self);
        if let Some(ground) = Arc::into_inner(ground) {
            ground.remove().await;
        }
    }

    #[track_caller]
    fn network(&self) -> &Network {
        match &self.network {
            Some(network) => network,
            None => panic!("nothing is in between: ask for TestServices::builder().with_faults()"),
        }
    }
}

impl Drop for TestServices {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let (services, network, ground) =
            (self.services.clone(), self.network.clone(), Arc::clone(&self.ground));
        // Most often the runtime ends right after the test. Then the services end with it, and the task is dropped where
        // it is, with the database.
        self.runtime.spawn(async move {
            services.shutdown(GRACE).await;
            drop((network, ground));
        });
    }
}

impl fmt::Debug for TestServices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestServices")
            .field("database", &self.ground.database)
            .field("state", &self.services.state())
            .field("faults", &self.network.is_some())
            .finish_non_exhaustive()
    }
}
