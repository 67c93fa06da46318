//! The demo's servers: Postgres primary and replica, Redis master and replica, and the catalogue in them. The
//! coordinator speaks to them by `local-stack` alone; the service processes go through database-services.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use local_stack::{ExternalUrls, Images, PostgresOptions, Provider, RedisOptions};
use serde::Serialize;

use crate::args::Servers;
use crate::catalogue;

/// Rows in one INSERT of the catalogue.
const LOAD_BATCH: u32 = 500;
/// How often the end of the servers is waited for.
const STOP_TRIES: u32 = 4;
/// How long replicas may take to catch up with the loaded catalogue.
const CATCH_UP: Duration = Duration::from_secs(30);

/// Servers are missing or unreachable; `main` turns it into exit code 69.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct Unavailable(pub(crate) local_stack::Error);

#[derive(Debug)]
pub(crate) struct Stack {
    stack: local_stack::Stack,
    namespace: String,
}

/// A server's address for `up --json`.
#[derive(Debug, Serialize)]
pub(crate) struct Address {
    role: &'static str,
    url: String,
    pid: Option<u32>,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pid = self.pid.map_or_else(|| "not ours".to_owned(), |pid| pid.to_string());
        // Without the password: this goes to the screen.
        let (scheme, rest) = self.url.split_once("://").unwrap_or(("", &self.url));
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        write!(f, "{:8} {scheme}://{host} (pid {pid})", self.role)
    }
}

impl Stack {
    pub(crate) async fn start(servers: Servers, install: bool) -> anyhow::Result<Self> {
        // Of external servers whatever replicas are given are used.
        let (provider, replicas) = match servers {
            Servers::Native => {
                if install {
                    // On a thread of its own, so that Ctrl-C is heard meanwhile.
                    let installing = || local_stack::install_servers(|line| eprintln!("{line}"));
                    tokio::task::spawn_blocking(installing).await?.map_err(Unavailable)?;
                }
                (Provider::Native, 1)
            }
            Servers::Containers => (Provider::Containers(Images::from_env()), 1),
            Servers::External => (Provider::External(ExternalUrls::from_env()), 0),
        };
        let stack = local_stack::Stack::builder()
            .postgres(PostgresOptions::with_replicas(replicas))
            // The cache's master is not persistent: what it loses at a kill is what the demo wants to survive.
            .redis(RedisOptions { replicas, persistent: false, ..RedisOptions::default() })
            .provider(provider)
            .start()
            .await
            .map_err(Unavailable)?;
        Ok(Self { stack, namespace: format!("demo-{}", std::process::id()) })
    }

    /// The folder of our own servers, which the watchdog removes.
    pub(crate) fn directory(&self) -> anyhow::Result<&Path> {
        self.stack.directory().context("external servers have no folder of ours")
    }

    pub(crate) fn summary(&self) -> String {
        format!("Postgres and Redis are up after {:.2} s", self.stack.started_in().as_secs_f64())
    }

    /// Creates and fills the demo's tables, and waits until the replica has them.
    pub(crate) async fn load_catalogue(
        &self,
        rows: u32,
        mut progress: impl FnMut(u32),
    ) -> anyhow::Result<()> {
        let primary = self.stack.postgres().primary();
        let database = &self.database();
        primary.sql(database, catalogue::SCHEMA).await.context("cannot create the demo's tables")?;
        for first in (0..rows).step_by(LOAD_BATCH as usize) {
            let batch = catalogue::insert(first..(first + LOAD_BATCH).min(rows))?;
            primary.sql(database, &batch).await.context("cannot load the catalogue")?;
            progress(first);
        }
        primary
            .sql(database, "VACUUM ANALYZE demo.products")
            .await
            .context("cannot analyze the catalogue")?;
        self.stack.postgres().wait_replicas(CATCH_UP).await.context("the replica does not catch up")?;
        Ok(())
    }

    /// The database that the primary's URL names, which is the services', too.
    fn database(&self) -> String {
        let url = self.stack.postgres().primary().url();
        // Behind the scheme and, where there are any, user and password.
        let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
        let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
        let path = rest.split_once('/').map_or("", |(_, path)| path);
        let name = path.split('?').next().unwrap_or_default();
        if name.is_empty() { "postgres".to_owned() } else { name.to_owned() }
    }

    /// The settings of a service process, by their environment names.
    pub(crate) fn settings(&self) -> BTreeMap<String, String> {
        let (postgres, redis) = (self.stack.postgres(), self.stack.redis());
        let address = |server: &local_stack::Server| format!("{}:{}", server.host(), server.port());
        let list =
            |servers: &[local_stack::Server]| servers.iter().map(address).collect::<Vec<_>>().join(",");
        let mut settings = BTreeMap::new();
        let mut set = |name: &str, value: String| {
            if !value.is_empty() {
                settings.insert(name.to_owned(), value);
            }
        };
        set("DATABASE_URL", postgres.primary().url());
        set("DATABASE_REPLICAS", list(postgres.replicas()));
        set("REDIS_URL", redis.master().url());
        set("REDIS_REPLICA_HOST", list(redis.replicas()));
        set("REDIS_NAMESPACE", self.namespace.clone());
        set("DATABASE_SCHEMA", catalogue::SERVICES_SCHEMA.to_owned());
        settings
    }

    pub(crate) fn postgres(&self) -> &local_stack::Postgres {
        self.stack.postgres()
    }

    pub(crate) fn redis(&self) -> &local_stack::Redis {
        self.stack.redis()
    }

    pub(crate) fn addresses(&self) -> (Vec<Address>, Vec<Address>) {
        let address = |role| move |s: &local_stack::Server| Address { role, url: s.url(), pid: s.pid() };
        let (postgres, redis) = (self.stack.postgres(), self.stack.redis());
        let mut one = vec![address("primary")(postgres.primary())];
        one.extend(postgres.replicas().iter().map(address("replica")));
        let mut two = vec![address("master")(redis.master())];
        two.extend(redis.replicas().iter().map(address("replica")));
        (one, two)
    }

    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        // Each try waits for up to five seconds, within which only an overloaded machine does not finish.
        for _ in 0..STOP_TRIES {
            if self.stack.stop().await {
                return Ok(());
            }
        }
        anyhow::bail!("a server or its data is still there; the watchdog goes on ending them")
    }
}
