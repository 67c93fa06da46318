//! The migrator of the system's own tables: forward only, each migration in a transaction of its own, one
//! migrator at a time. It is not for a service's own tables.

use crate::{Error, PostgresPoolManager, Schema, direct::Direct};
use resilience::{Backoff, BackoffConfig, Deadline};
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// One step of a component's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Its place in the component's order; greater than the one before.
    pub version: i64,
    /// A few words for people.
    pub name: &'static str,
    /// SQL; each `{schema}` is replaced by the quoted schema name. No transaction statements, nothing that
    /// Postgres refuses inside a transaction.
    pub sql: &'static str,
}

impl Migration {
    /// SHA-256 of the SQL as written, in hexadecimal. Kept with the migration, so that a later change shows.
    #[must_use]
    pub fn checksum(&self) -> String {
        Sha256::digest(self.sql.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The migrations of one component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MigrationSet {
    /// The component's name, its crate's.
    pub component: &'static str,
    /// In ascending order of version.
    pub migrations: &'static [Migration],
}

/// How to migrate.
#[derive(Clone, Debug)]
pub struct MigrateOptions {
    /// List what would be done, and do nothing. Default `false`.
    pub dry_run: bool,
    /// For everything, the wait for another migrator included. Default 5 minutes from the options' making.
    pub deadline: Deadline,
    /// Another address to use. Default: [`Config::direct`](crate::Config::direct), else the primary's.
    pub url: Option<secrecy::SecretString>,
}

impl Default for MigrateOptions {
    fn default() -> Self {
        Self { dry_run: false, deadline: Deadline::after(Duration::from_secs(300)), url: None }
    }
}

/// What was done, or with `dry_run` would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct MigrationReport {
    /// Run now (dry run: to be run), in order.
    pub applied: Vec<Step>,
    /// Run earlier.
    pub already_applied: Vec<Step>,
    /// Whether nothing was done on purpose.
    pub dry_run: bool,
}

/// A migration in a [`MigrationReport`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Step {
    /// The component.
    pub component: String,
    /// The version.
    pub version: i64,
    /// The name.
    pub name: String,
}

/// Why the schema could not be migrated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrationError {
    /// Another migrator holds the lock.
    #[error("another migrator holds the lock on schema {schema}; waited {waited:?}")]
    Locked {
        /// The schema.
        schema: String,
        /// For how long was waited.
        waited: Duration,
    },
    /// The code's own list is faulty.
    #[error("the migrations of {component} are not in strictly ascending order at version {version}")]
    Disordered {
        /// The component.
        component: String,
        /// Where.
        version: i64,
    },
    /// A migration that was run differs from the code's.
    #[error(
        "migration {component} {version} was changed after it was run: at the server {server}, here {here}"
    )]
    Changed {
        /// The component.
        component: String,
        /// The version.
        version: i64,
        /// The checksum kept.
        server: String,
        /// The checksum of the code's text.
        here: String,
    },
    /// The schema was migrated by a later release.
    #[error("the schema is newer than this release: {component} is at version {server}, known up to {known}")]
    Newer {
        /// The component.
        component: String,
        /// The version at the server.
        server: i64,
        /// The last version known here; 0: none.
        known: i64,
    },
    /// A migration older than the latest that was run has not been run: two lines of development were mixed.
    #[error("migration {component} {version} was never run, though version {latest} was")]
    Skipped {
        /// The component.
        component: String,
        /// The version missing.
        version: i64,
        /// The latest run.
        latest: i64,
    },
    /// A migration's SQL failed; its transaction was rolled back, those before it stand.
    #[error("migration {component} {version} ({name}) failed and was rolled back")]
    Failed {
        /// The component.
        component: String,
        /// The version.
        version: i64,
        /// The name.
        name: String,
        /// The server's answer.
        #[source]
        source: sqlx::Error,
    },
    /// The migrator's own statements failed.
    #[error("cannot {phase}")]
    Store {
        /// What was being done.
        phase: &'static str,
        /// The server's answer.
        #[source]
        source: sqlx::Error,
    },
}

/// This crate's own tables: the leases of [`Config::fleet_budget`](crate::Config::fleet_budget). The migrator makes the
/// schema and its own table by itself.
#[must_use]
pub const fn migrations() -> MigrationSet {
    MigrationSet { component: "postgres-pool-manager", migrations: crate::budget::MIGRATIONS }
}

impl PostgresPoolManager {
    /// Brings the schema up to the given sets, in their order. What was run already is left alone; two processes
    /// at once take turns.
    ///
    /// Cancel safety: the migration under way is rolled back by the server, those before it stand.
    ///
    /// # Errors
    /// [`Error::Migration`] with what is wrong; [`Error::Timeout`] when the deadline passed.
    pub async fn migrate(
        &self,
        sets: &[MigrationSet],
        options: MigrateOptions,
    ) -> Result<MigrationReport, Error> {
        check_order(sets)?;
        let started = Instant::now();
        let work = async {
            let direct = Direct::new(self, options.url.as_ref())?;
            let (mut pg, _counted) = direct.open(options.deadline).await?;
            let report = Migrator { pg: &mut pg, schema: self.schema() }.run(sets, &options).await?;
            // The lock goes with the connection, politely or not.
            let _ = pg.close().await;
            if let Some(budget) = self.budget() {
                budget.look.notify_one();
            }
            Ok(report)
        };
        let timed_out = |_| Error::Timeout { operation: "the migration", after: started.elapsed() };
        options.deadline.run(Box::pin(work)).await.map_err(timed_out)?
    }
}

fn check_order(sets: &[MigrationSet]) -> Result<(), MigrationError> {
    for set in sets {
        for pair in set.migrations.windows(2) {
            if pair[0].version >= pair[1].version {
                let (component, version) = (set.component.to_owned(), pair[1].version);
                return Err(MigrationError::Disordered { component, version });
            }
        }
    }
    Ok(())
}

/// What was run: version → checksum.
type Applied = BTreeMap<i64, String>;

struct Migrator<'a> {
    pg: &'a mut PgConnection,
    schema: &'a Schema,
}

impl Migrator<'_> {
    async fn run(
        &mut self,
        sets: &[MigrationSet],
        options: &MigrateOptions,
    ) -> Result<MigrationReport, MigrationError> {
        // A migration may take its time; the deadline is the limit.
        self.store("prepare the session", "SET statement_timeout = 0").await?;
        self.lock(options.deadline).await?;
        let exists = self.table_exists().await?;
        if !options.dry_run && !exists {
            self.create_table().await?;
        }
        let mut report = MigrationReport { dry_run: options.dry_run, ..MigrationReport::default() };
        for set in sets {
            let applied =
                if exists || !options.dry_run { self.applied(set.component).await? } else { Applied::new() };
            check_history(set, &applied)?;
            for migration in set.migrations {
                let step = Step {
                    component: set.component.to_owned(),
                    version: migration.version,
                    name: migration.name.to_owned(),
                };
                if applied.contains_key(&migration.version) {
                    report.already_applied.push(step);
                    continue;
                }
                if !options.dry_run {
                    self.apply(set.component, migration).await?;
                }
                report.applied.push(step);
            }
        }
        Ok(report)
    }

    /// Asked for again and again rather than waited for at the server, where nothing would end the wait.
    async fn lock(&mut self, deadline: Deadline) -> Result<(), MigrationError> {
        let started = Instant::now();
        let mut backoff =
            Backoff::new(BackoffConfig { max: Duration::from_millis(250), ..BackoffConfig::default() });
        loop {
            let asked = sqlx::query_scalar::<_, bool>("SELECT pg_try_advisory_lock(hashtextextended($1, 0))")
                .bind(format!("migrate {}", self.schema.name()))
                .fetch_one(&mut *self.pg)
                .await;
            if asked
                .map_err(|source| MigrationError::Store { phase: "ask for the migration lock", source })?
            {
                return Ok(());
            }
            let pause = backoff.next_delay();
            if deadline.remaining() <= pause {
                let (schema, waited) = (self.schema.name().to_owned(), started.elapsed());
                return Err(MigrationError::Locked { schema, waited });
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn table_exists(&mut self) -> Result<bool, MigrationError> {
        let asked = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
            .bind(self.schema.table("migrations"))
            .fetch_one(&mut *self.pg)
            .await;
        asked.map_err(|source| MigrationError::Store { phase: "look for the migrations table", source })
    }

    async fn create_table(&mut self) -> Result<(), MigrationError> {
        // Looked for first: CREATE SCHEMA wants its right even where there is nothing to do.
        let present: bool = sqlx::query_scalar("SELECT to_regnamespace($1) IS NOT NULL")
            .bind(self.schema.quoted())
            .fetch_one(&mut *self.pg)
            .await
            .map_err(|source| MigrationError::Store { phase: "look for the schema", source })?;
        if !present {
            let sql = self.schema.sql("CREATE SCHEMA IF NOT EXISTS {schema}");
            self.store("create the schema", &sql).await?;
        }
        let sql = self.schema.sql(
            "CREATE TABLE IF NOT EXISTS {schema}.migrations (\
                component text NOT NULL, version bigint NOT NULL, name text NOT NULL, checksum text NOT NULL, \
                applied_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (component, version))",
        );
        self.store("create the migrations table", &sql).await
    }

    async fn applied(&mut self, component: &str) -> Result<Applied, MigrationError> {
        let sql = self.schema.sql("SELECT version, checksum FROM {schema}.migrations WHERE component = $1");
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(component).fetch_all(&mut *self.pg).await;
        rows.and_then(|rows| rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect())
            .map_err(|source| MigrationError::Store { phase: "read the migrations table", source })
    }

    async fn apply(&mut self, component: &str, migration: &Migration) -> Result<(), MigrationError> {
        let work = async {
            let mut tx = self.pg.begin().await?;
            (&mut *tx).execute(AssertSqlSafe(self.schema.sql(migration.sql))).await?;
            let sql = "INSERT INTO {schema}.migrations (component, version, name, checksum) VALUES ($1, $2, $3, $4)";
            sqlx::query(AssertSqlSafe(self.schema.sql(sql)))
                .bind(component)
                .bind(migration.version)
                .bind(migration.name)
                .bind(migration.checksum())
                .execute(&mut *tx)
                .await?;
            tx.commit().await
        };
        work.await.map_err(|source| MigrationError::Failed {
            component: component.to_owned(),
            version: migration.version,
            name: migration.name.to_owned(),
            source,
        })?;
        tracing::info!(component, version = migration.version, name = migration.name, "migrated");
        Ok(())
    }

    async fn store(&mut self, phase: &'static str, sql: &str) -> Result<(), MigrationError> {
        let done = self.pg.execute(AssertSqlSafe(sql.to_owned())).await;
        done.map(drop).map_err(|source| MigrationError::Store { phase, source })
    }
}

fn check_history(set: &MigrationSet, applied: &Applied) -> Result<(), MigrationError> {
    let component = || set.component.to_owned();
    let known = set.migrations.last().map_or(0, |migration| migration.version);
    let Some((&latest, _)) = applied.last_key_value() else { return Ok(()) };
    if latest > known {
        return Err(MigrationError::Newer { component: component(), server: latest, known });
    }
    for migration in set.migrations.iter().filter(|migration| migration.version <= latest) {
        let (version, here) = (migration.version, migration.checksum());
        match applied.get(&version) {
            None => return Err(MigrationError::Skipped { component: component(), version, latest }),
            Some(server) if *server != here => {
                let server = server.clone();
                return Err(MigrationError::Changed { component: component(), version, server, here });
            }
            Some(_) => {}
        }
    }
    Ok(())
}
