//! The epochs of Redis servers, kept in Postgres: one row a server group, advanced by compare-and-set. A cluster is one
//! group, and each of its masters has an epoch of its own.
//!
//! While Postgres is down a link may only come back to the very data it was on: the same replication id, an epoch
//! key that stands, and no lower an epoch than this process was given for it. Anything else is refused, and the
//! link stays without a generation until Postgres answers: then L1 (for `CACHE_DISCONNECTED_MAX_AGE`) and the loader
//! serve, L2 and locks do not. That is the price of never serving an entry whose invalidation a failover lost.
//!
//! Not yet: a process that is on an old master while another has advanced learns of it at its next reconnect only.

use std::collections::HashMap;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use parking_lot::Mutex;
use postgres_pool_manager::sqlx::{self, AssertSqlSafe};
use postgres_pool_manager::{Error, Migration, MigrationSet, PostgresPoolManager};
use redis_link::{EpochAuthority, EpochError, EpochRequest, MAX_EPOCH};
use resilience::Deadline;
use std::sync::Arc;

/// Time for Postgres to answer, within the link's own deadline: what is left decides without it.
const PATIENCE: Duration = Duration::from_secs(1);

/// The table of epochs.
pub(crate) const fn migrations() -> MigrationSet {
    MigrationSet {
        component: "database-services",
        migrations: &[Migration {
            version: 1,
            name: "redis epochs",
            sql: "CREATE TABLE {schema}.redis_epoch (
                name text PRIMARY KEY,
                epoch integer NOT NULL CHECK (epoch BETWEEN 1 AND 16777215),
                masters jsonb NOT NULL,
                updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
            )",
        }],
    }
}

/// One statement, so that concurrent callers are ordered by the row's lock: $1 name, $2 replication id,
/// $3 epoch stored in Redis (0: none), $4 whether Redis' data is not what it was, $5 the replication ids of the masters
/// there are, $6 whether these are all. `epoch` is the largest ever given, `masters` has those of the masters there are.
const ADVANCE: &str = "INSERT INTO {schema}.redis_epoch AS known (name, epoch, masters)
    VALUES ($1, $3 + 1, jsonb_build_object($2::text, $3 + 1))
    ON CONFLICT (name) DO UPDATE SET updated_at = clock_timestamp(),
        epoch = greatest(known.epoch, $3) + CASE WHEN $4 OR NOT known.masters ? $2 THEN 1 ELSE 0 END,
        masters = (SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM jsonb_each(known.masters) WHERE key = ANY($5) OR NOT $6)
            || jsonb_build_object($2::text, CASE WHEN $4 OR NOT known.masters ? $2 THEN greatest(known.epoch, $3) + 1
                ELSE greatest((known.masters ->> $2)::integer, $3) END)
    RETURNING (masters ->> $2)::integer";

/// What is asked; the link's request without what is not needed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) name: &'a str,
    pub(crate) replid: &'a str,
    pub(crate) masters: &'a [String],
    pub(crate) all: bool,
    pub(crate) stored: Option<u32>,
    pub(crate) fresh: bool,
    pub(crate) deadline: Deadline,
}

/// [`EpochAuthority`] over the table `redis_epoch`.
pub(crate) struct PostgresEpochs {
    pool: ArcSwap<PostgresPoolManager>,
    /// What this process was given, by name and replication id; one process has a handful of links.
    known: Mutex<HashMap<String, HashMap<String, u32>>>,
}

impl std::fmt::Debug for PostgresEpochs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresEpochs").field("known", &self.known.lock()).finish_non_exhaustive()
    }
}

impl PostgresEpochs {
    pub(crate) fn new(pool: PostgresPoolManager) -> Self {
        Self { pool: ArcSwap::from_pointee(pool), known: Mutex::default() }
    }

    /// From now on asks this pool: the old one is being drained.
    pub(crate) fn use_pool(&self, pool: PostgresPoolManager) {
        self.pool.store(Arc::new(pool));
    }

    pub(crate) async fn ask(&self, ask: Ask<'_>) -> Result<u32, EpochError> {
        let epoch = match self.asked_of_postgres(ask).await {
            Ok(epoch) => epoch,
            Err(error) if is_down(&error) => self.known_here(ask, &error)?,
            Err(error) => return Err(EpochError(format!("the table of epochs cannot be used: {error}"))),
        };
        let epoch = u32::try_from(epoch).ok().filter(|epoch| (1..=MAX_EPOCH).contains(epoch));
        let epoch = epoch.ok_or_else(|| EpochError(format!("the epochs of {} are used up", ask.name)))?;
        let mut known = self.known.lock();
        let known = known.entry(ask.name.to_owned()).or_default();
        known.retain(|replid, _| ask.masters.contains(replid) || !ask.all);
        known.insert(ask.replid.to_owned(), epoch);
        Ok(epoch)
    }

    async fn asked_of_postgres(&self, ask: Ask<'_>) -> Result<i32, Error> {
        let pool = self.pool.load_full();
        let deadline = ask.deadline.capped(PATIENCE);
        let mut session = pool.write().deadline(deadline).await?;
        let query = sqlx::query_scalar::<_, i32>(AssertSqlSafe(pool.schema().sql(ADVANCE)))
            .bind(ask.name)
            .bind(ask.replid)
            .bind(i32::try_from(ask.stored.unwrap_or(0)).unwrap_or(i32::MAX - 1))
            .bind(ask.fresh)
            .bind(ask.masters)
            .bind(ask.all)
            .fetch_one(&mut session);
        match deadline.run(query).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Error::Timeout { operation: "advance the Redis epoch", after: PATIENCE }),
        }
    }

    /// The data that this process knows, and it alone.
    fn known_here(&self, ask: Ask<'_>, error: &Error) -> Result<i32, EpochError> {
        let known = self.known.lock();
        let given = known.get(ask.name).and_then(|masters| masters.get(ask.replid)).copied();
        match ask.stored {
            Some(stored) if !ask.fresh && given.is_some_and(|given| stored >= given) => {
                tracing::warn!(name = ask.name, epoch = stored, %error, "Postgres cannot confirm the Redis epoch; its data is what it was");
                i32::try_from(stored).map_err(|_| EpochError("the stored epoch is out of range".to_owned()))
            }
            _ => Err(EpochError(format!(
                "Postgres does not answer ({error}), and without it Redis data that this process does not know cannot be trusted"
            ))),
        }
    }
}

/// Whether Postgres itself is out of reach, as opposed to answering with a refusal.
fn is_down(error: &Error) -> bool {
    match error {
        Error::Connect { .. }
        | Error::AcquireTimeout { .. }
        | Error::QueueFull { .. }
        | Error::Timeout { .. } => true,
        Error::Closed | Error::OutcomeUnknown { .. } => true,
        Error::Query(error) => {
            let code = error.as_database_error().and_then(|db| db.code());
            // 57P: shutting down, starting up. 25006, 08: no longer the primary, connection broken.
            code.map_or_else(
                || !matches!(error, sqlx::Error::RowNotFound | sqlx::Error::ColumnDecode { .. }),
                |code| code.starts_with("57P") || code.starts_with("08") || code == "25006",
            )
        }
        _ => false,
    }
}

#[async_trait]
impl EpochAuthority for PostgresEpochs {
    async fn advance(&self, request: &EpochRequest<'_>) -> Result<u32, EpochError> {
        self.ask(Ask {
            name: request.name,
            replid: request.replid,
            masters: request.masters,
            all: request.all,
            stored: request.stored,
            fresh: request.fresh,
            deadline: request.deadline,
        })
        .await
    }
}

#[cfg(test)]
mod tests;
