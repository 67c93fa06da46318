//! Orders: a small service that keeps its truth in Postgres and its speed in Redis. What is here is what a service on
//! `database-services` consists of: cached reads, writes that invalidate and publish as they commit, and a job that
//! one process at a time does. Not here: an HTTP face (`main.rs` is the process) and a migrator for [`SCHEMA`].

mod error;

use database_services::DatabaseServices;
use database_services::cache_manager::{Cache, CacheError, Loaded, RegionOptions, TxInvalidate as _};
use database_services::distributed_lock_manager::{LockGuard, LockOptions};
use database_services::postgres_pool_manager::{TransactionOptions, Tx};
use database_services::pubsub_manager::{
    Channel, OutboxOptions, SubscribeOptions, Subscription, TxPublish as _,
};
use database_services::sqlx::{self, Row as _, postgres::PgRow};
use serde::{Deserialize, Serialize};

pub use error::Error;

/// The tables, for an empty database.
pub const SCHEMA: &str = include_str!("schema.sql");

/// The lock of the daily job.
pub const ARCHIVE: &str = "orders.archive";

/// An order as everybody sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its number.
    pub id: i64,
    /// Who ordered.
    pub customer: String,
    /// What it costs.
    pub cents: i64,
    /// `placed`, `paid` or `archived`.
    pub state: String,
}

/// The service. Cheap to clone; parts are taken from the handle at each use, so that new settings reach them.
///
/// Errors are one enum for all, [`Error`]. Cancel safety: a write whose COMMIT was not sent is rolled back; one whose
/// COMMIT was sent is finished in the background, invalidation and message included; a read leaves nothing behind.
#[derive(Clone, Debug)]
pub struct Orders {
    services: DatabaseServices,
}

impl Orders {
    /// On services that are initialized.
    pub const fn new(services: DatabaseServices) -> Self {
        Self { services }
    }

    /// The order, from memory, Redis or Postgres.
    pub async fn get(&self, id: i64) -> Result<Option<Order>, Error> {
        let database = self.services.database();
        let load = move |_| async move {
            let order = sqlx::query_as("SELECT * FROM orders WHERE id = $1").bind(id);
            order.fetch_optional(&database.primary()).await.map(Loaded::<Order>::from)
        };
        let hit = self.cache()?.get_or_load(&id.to_string(), load).await?;
        Ok(hit.value.map(|order| (*order).clone()))
    }

    /// Places an order, and tells it.
    pub async fn place(&self, customer: &str, cents: i64) -> Result<Order, Error> {
        let mut tx = self.services.database().begin(TransactionOptions::default()).await?;
        let placed = sqlx::query_as("INSERT INTO orders (customer, cents) VALUES ($1, $2) RETURNING *");
        let order = placed.bind(customer).bind(cents).fetch_one(&mut tx).await?;
        self.changed(&mut tx, &order).await?;
        tx.commit().await?;
        Ok(order)
    }

    /// Marks an order as paid, and tells it; `None`: there is no such order that waits for payment.
    pub async fn pay(&self, id: i64) -> Result<Option<Order>, Error> {
        let mut tx = self.services.database().begin(TransactionOptions::default()).await?;
        let paid = "UPDATE orders SET state = 'paid' WHERE id = $1 AND state = 'placed' RETURNING *";
        let Some(order) = sqlx::query_as(paid).bind(id).fetch_optional(&mut tx).await? else {
            return Ok(None);
        };
        self.changed(&mut tx, &order).await?;
        tx.commit().await?;
        Ok(Some(order))
    }

    /// Orders as they are placed and paid, from now on, in whatever process.
    pub async fn changes(&self) -> Result<Subscription<Order>, Error> {
        Ok(self.channel()?.subscribe(SubscribeOptions::default()).await?)
    }

    /// The daily job: archives what is paid, in one process at a time. How many orders that were.
    pub async fn archive(&self) -> Result<u64, Error> {
        let locks = self.services.lock_manager();
        locks.with_lock(ARCHIVE, LockOptions::default(), async |lock| self.archive_under(lock).await).await?
    }

    /// Archives under the lock [`ARCHIVE`]. Who has lost it, even without knowing, commits nothing.
    pub async fn archive_under(&self, lock: &LockGuard) -> Result<u64, Error> {
        let (database, cache) = (self.services.database(), self.cache()?);
        let options = TransactionOptions::default();
        Ok(lock.transaction(&database, options, |tx| Box::pin(archive_paid(tx, cache))).await?)
    }

    /// What every change of an order entails once it has committed, and only then. The message waits in the database until it
    /// is told, also if this process dies or Redis is away; those of one order are told in their order.
    async fn changed(&self, tx: &mut Tx, order: &Order) -> Result<(), Error> {
        let id = order.id.to_string();
        tx.invalidate(&self.cache()?, &id)?;
        let of_one_order = OutboxOptions { key: Some(id), ..OutboxOptions::default() };
        tx.publish_with(&self.channel()?, order, of_one_order).await?;
        Ok(())
    }

    fn cache(&self) -> Result<Cache<Order>, CacheError> {
        self.services.cache().region("orders", RegionOptions::default())
    }

    fn channel(&self) -> Result<Channel<Order>, Error> {
        Ok(self.services.pubsub().channel("orders.changed")?)
    }
}

async fn archive_paid(tx: &mut Tx, cache: Cache<Order>) -> Result<u64, Error> {
    let archived = "UPDATE orders SET state = 'archived' WHERE state = 'paid' RETURNING id";
    let ids: Vec<i64> = sqlx::query_scalar(archived).fetch_all(&mut *tx).await?;
    for id in &ids {
        tx.invalidate(&cache, &id.to_string())?;
    }
    Ok(ids.len() as u64)
}

// By hand, for the derive says `::sqlx`, which takes a line for sqlx in one's own manifest.
impl sqlx::FromRow<'_, PgRow> for Order {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            customer: row.try_get("customer")?,
            cents: row.try_get("cents")?,
            state: row.try_get("state")?,
        })
    }
}
