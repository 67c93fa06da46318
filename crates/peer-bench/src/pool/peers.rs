//! The pools beside ours, all with the same number of warm connections to the same database.

use std::time::Duration;

use anyhow::{Context as _, Result};
use bb8_postgres::PostgresConnectionManager;
use deadpool_postgres::{Manager, ManagerConfig, RecyclingMethod};
use postgres_pool_manager::PostgresPoolManager;
use sqlx::postgres::PgPoolOptions;
use tokio_postgres::{Client, NoTls, Statement};

use crate::keys;
use crate::servers::{self, POSTGRES_CONNECTIONS};

/// Rows of the table.
pub(crate) const ROWS: i32 = 10_000;
/// The statement of every point read.
pub(crate) const READ: &str = "SELECT payload FROM products WHERE id = $1";

/// bb8 with the statement prepared once a connection, which the others do by themselves.
pub(crate) struct Prepared(PostgresConnectionManager<NoTls>);

impl bb8::ManageConnection for Prepared {
    type Connection = (Client, Statement);
    type Error = tokio_postgres::Error;

    async fn connect(&self) -> Result<Self::Connection, Self::Error> {
        let client = self.0.connect().await?;
        let statement = client.prepare(READ).await?;
        Ok((client, statement))
    }

    async fn is_valid(&self, (client, _): &mut Self::Connection) -> Result<(), Self::Error> {
        self.0.is_valid(client).await
    }

    fn has_broken(&self, (client, _): &mut Self::Connection) -> bool {
        self.0.has_broken(client)
    }
}

/// Everybody's pool on one database.
pub(crate) struct Pools {
    pub(crate) ours: PostgresPoolManager,
    pub(crate) deadpool: deadpool_postgres::Pool,
    pub(crate) bb8: bb8::Pool<Prepared>,
    pub(crate) sqlx: sqlx::PgPool,
}

/// A database with the table in it.
pub(crate) async fn database(stack: &local_stack::Stack) -> Result<local_stack::Database> {
    let database = stack.database().await.context("cannot make a database")?;
    let width = keys::VALUE;
    let table = format!(
        "CREATE TABLE products (id int PRIMARY KEY, payload text NOT NULL); \
         INSERT INTO products SELECT i, lpad(i::text, {width}, '0') FROM generate_series(0, {ROWS} - 1) AS i; \
         VACUUM ANALYZE products"
    );
    for statement in table.split("; ") {
        database.sql(statement).await.context("cannot fill the table")?;
    }
    Ok(database)
}

impl Pools {
    /// Opens all of them.
    pub(crate) async fn open(url: &str) -> Result<Self> {
        let config: tokio_postgres::Config = url.parse().context("the address of Postgres")?;
        let recycling_method = RecyclingMethod::Fast;
        let manager = Manager::from_config(config.clone(), NoTls, ManagerConfig { recycling_method });
        let deadpool =
            deadpool_postgres::Pool::builder(manager).max_size(POSTGRES_CONNECTIONS as usize).build()?;
        let bb8 = bb8::Pool::builder()
            .max_size(POSTGRES_CONNECTIONS)
            .min_idle(POSTGRES_CONNECTIONS)
            .test_on_check_out(false)
            .build(Prepared(PostgresConnectionManager::new(config, NoTls)))
            .await
            .context("bb8")?;
        let sqlx = PgPoolOptions::new()
            .max_connections(POSTGRES_CONNECTIONS)
            .min_connections(POSTGRES_CONNECTIONS)
            .test_before_acquire(false)
            .connect(url)
            .await
            .context("sqlx")?;
        let pools = Self { ours: servers::pool(url).await?, deadpool, bb8, sqlx };
        pools.warm().await?;
        Ok(pools)
    }

    /// Opens every connection by holding all of them at once.
    async fn warm(&self) -> Result<()> {
        let (mut ours, mut deadpool) = (Vec::new(), Vec::new());
        for _ in 0..POSTGRES_CONNECTIONS {
            ours.push(self.ours.write().await.context("ours")?);
            deadpool.push(self.deadpool.get().await.context("deadpool")?);
        }
        for session in ours {
            drop(session);
        }
        let all_there = || async {
            self.bb8.state().connections >= POSTGRES_CONNECTIONS && self.sqlx.size() >= POSTGRES_CONNECTIONS
        };
        local_stack::wait_for("every pool is warm", Duration::from_secs(10), all_there).await;
        Ok(())
    }
}
