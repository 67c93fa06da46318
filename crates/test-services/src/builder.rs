//! What a test asks for. Values only: what becomes of them is `ground`'s and `template`'s part.

use database_services::ManagerMode;
use database_services::cache_manager::BoxError;
use local_stack::{PostgresOptions, RedisOptions, Stack};

use crate::ground::Choice;
use crate::template::{Step, Template};
use crate::{Error, TestServices};

/// Services for one test; without more they are what [`TestServices::start`] gives.
#[derive(Debug, Clone)]
#[must_use = "nothing happens before start()"]
pub struct Builder {
    pub(crate) postgres: Choice<PostgresOptions>,
    pub(crate) redis: Option<Choice<RedisOptions>>,
    pub(crate) steps: Vec<Step>,
    pub(crate) over: Vec<(String, String)>,
    pub(crate) mode: Option<ManagerMode>,
    pub(crate) faults: bool,
}

impl Builder {
    pub(crate) const fn new() -> Self {
        let (postgres, redis) = (Choice::Shared, Some(Choice::Shared));
        Self { postgres, redis, steps: Vec::new(), over: Vec::new(), mode: None, faults: false }
    }

    /// SQL that the database begins with: your tables, your rows. It is run once per process, in a template which every
    /// test that names the same steps clones.
    pub fn template_sql(mut self, sql: impl Into<String>) -> Self {
        self.steps.push(Step::Sql(sql.into()));
        self
    }

    /// The same by code: your migrator, or functions of your service. It is run once per process and name: two tests
    /// that say the same name (and the same other steps) share what the first one's closure made. Steps are run in the
    /// order of the calls, after the migrations of `database-services`; no Redis is there.
    pub fn template<F, Fut, E>(mut self, name: impl Into<String>, prepare: F) -> Self
    where
        F: Fn(Template) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.steps.push(Step::code(name.into(), prepare));
        self
    }

    /// Settings by name, over those of tests and over the addresses of the servers; a later one wins.
    pub fn settings<K: Into<String>, V: Into<String>>(
        mut self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.over.extend(pairs.into_iter().map(|(name, value)| (name.into(), value.into())));
        self
    }

    /// The mode; default that of the settings, which is [`ManagerMode::AsyncModern`] unless they say otherwise.
    pub fn mode(mut self, mode: ManagerMode) -> Self {
        self.mode = Some(mode);
        self
    }

    /// A [`FaultProxy`](local_stack::FaultProxy) between these services and each server: faults of the network that no
    /// other test notices, on shared servers too. Default: none, for they cost a copy of every byte.
    pub fn with_faults(mut self) -> Self {
        self.faults = true;
        self
    }

    /// Postgres servers of this test's own, to kill, pause, promote. One takes some 200 ms to start.
    pub fn own_postgres(mut self, options: PostgresOptions) -> Self {
        self.postgres = Choice::Own(options);
        self
    }

    /// Redis servers of this test's own, to kill, empty, promote, or with replicas, Sentinels, a cluster, TLS. A single
    /// one takes some 30 ms to start.
    pub fn own_redis(mut self, options: RedisOptions) -> Self {
        self.redis = Some(Choice::Own(options));
        self
    }

    /// Servers that you have started: Postgres and Redis of this stack, each if it has one. They count as this test's
    /// own, so what harm may be done to them is for you to know.
    pub fn on(mut self, stack: &Stack) -> Self {
        if stack.try_postgres().is_ok() {
            self.postgres = Choice::Given(stack.clone());
        }
        if stack.try_redis().is_ok() {
            self.redis = Some(Choice::Given(stack.clone()));
        }
        self
    }

    /// No Redis: L1 and L3, while locks and channels answer `Unavailable`.
    pub fn without_redis(mut self) -> Self {
        self.redis = None;
        self
    }

    /// Starts the servers that do not run yet, makes the database and starts the services on it; every probe has
    /// answered once when this returns.
    ///
    /// Cancel safety: dropped, what was made is removed.
    ///
    /// # Errors
    /// A missing server with the line that installs it, settings with all their problems, a failed step of the template.
    pub async fn start(self) -> Result<TestServices, Error> {
        Box::pin(TestServices::on_new_ground(self)).await
    }
}
