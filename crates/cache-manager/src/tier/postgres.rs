//! L3 in Postgres: a table of values and a list of tombstones, both unlogged.
//!
//! # Why it is never stale
//! A claim is one `SELECT` on the primary, made before the load: it brings the value, if there is one, and in any case
//! the *snapshot* that it ran under (which transactions it could see) and the table's *incarnation*. The load begins
//! later, on the same primary or with a token, so it sees at least that much. A fill stores the value with the
//! claim's snapshot. An invalidation inserts a tombstone that carries the id of its own transaction, within the
//! user's transaction for `tx.invalidate`: tombstone and change become visible at the same moment.
//!
//! A value counts only if **every tombstone of its key, region or everything is visible in the value's snapshot**; each
//! read checks that, in the statement that reads the value. Take any change X that a read can see as committed. Its
//! tombstone is visible to that read too. If the value's load did not see X, then X was not visible in the claim's
//! earlier snapshot either, so the tombstone voids the value. It does not matter when the fill came: before X, between
//! X's insert and its COMMIT, or long after.
//!
//! * *Order of ids is not order of commits*: snapshots are compared, not numbers; a transaction that ran for an hour voids
//!   exactly what was claimed before it committed, and holds nobody up meanwhile.
//! * *Nothing waits*: tombstones have no unique key, so a fill never waits for an open user transaction, two user
//!   transactions that invalidate the same keys never wait for each other, and the cache adds no deadlock. (A
//!   tombstone column in the value's row would do all three.)
//! * *Pruning*: a tombstone may go when no value can need it any more. The pruner keeps a snapshot of its own, waits
//!   for a retention, and removes, in one statement, the tombstones visible in *that* snapshot together with every value
//!   they void. A fill older than a third of that is refused, by this process's clock and by the server's.
//!   (The tombstone's own age would not do: its transaction may have committed a moment ago.)
//! * *Crash, promotion, restore*: Postgres empties both tables together. A fill that was claimed before would find its
//!   tombstone gone, so fills show the incarnation, a random row in a third unlogged table that vanishes with the others.
//! * *Without its tables* (migrations that were not run) it holds nothing: reads miss, invalidations have nothing to void
//!   and succeed, and `tx.invalidate` leaves it out of the user's COMMIT, which would fail. It says so once, and looks
//!   again every few seconds.
//! * *Replicas*: they have no unlogged tables, so all of this runs on the primary. A loader that reads a replica has to
//!   use [`LoadCtx::read_token`](crate::LoadCtx).
//!
//! A dump restored into another server brings ids that mean nothing there: exclude the data of unlogged tables
//! (`pg_dump --no-unlogged-table-data`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use postgres_pool_manager::sqlx::{self, AssertSqlSafe, Row};
use postgres_pool_manager::{Migration, MigrationSet, PostgresPoolManager, Schema};
use resilience::Deadline;

use super::gather::{Gather, Limits};
use super::{Claim, EVERYTHING, Fresh, Stored, Ticket, Tier, TierError, TierKey};

mod sql;

/// See the module's text.
#[derive(Debug)]
pub struct PostgresTier {
    pool: PostgresPoolManager,
    sql: Arc<sql::Sql>,
    claims: Gather<Seen>,
    /// A load older than this may not fill.
    longest_load: Duration,
    /// Tombstones stay at least so long after their commit; several times `longest_load`.
    retention: Duration,
    snapshots: Mutex<VecDeque<(Instant, String)>>,
    tables: AtomicU8,
}

/// Whether the tables are there, by the last answer; before the first one nobody knows.
const THERE: u8 = 1;
const MISSING: u8 = 2;

/// What a read saw of one key.
#[derive(Debug, Clone)]
struct Seen {
    snapshot: Arc<str>,
    incarnation: Option<Arc<str>>,
    /// Server time, µs.
    at: i64,
    stored: Option<Stored>,
}

/// What a claim saw.
struct Claimed {
    snapshot: Arc<str>,
    incarnation: Arc<str>,
    at: i64,
    began: Instant,
}

/// A statement occupies a connection and a process of the server each, so several are faster than one.
const CLAIMS: Limits = Limits { under_way: 4, company: 1, most_keys: 256 };
const READ_LIMIT: Duration = Duration::from_secs(5);

impl PostgresTier {
    /// L3 over `pool`, whose schema has been migrated with [`migrations`]; `hard_timeout` is the longest that a load may
    /// take. Call it inside a runtime.
    #[must_use]
    pub fn new(pool: PostgresPoolManager, hard_timeout: Duration) -> Self {
        let longest_load = hard_timeout + Duration::from_secs(5);
        Self::with_retention(pool, longest_load, longest_load * 3)
    }

    /// For tests of pruning: a `retention` below three times `longest_load` breaks the promise above.
    #[doc(hidden)]
    #[must_use]
    pub fn with_retention(pool: PostgresPoolManager, longest_load: Duration, retention: Duration) -> Self {
        let sql = Arc::new(sql::Sql::new(pool.schema()));
        let (shared, text) = (pool.clone(), Arc::clone(&sql));
        let ask = move |keys: Vec<TierKey>| {
            let (pool, sql) = (shared.clone(), Arc::clone(&text));
            Box::pin(async move {
                let limit = Deadline::after(READ_LIMIT);
                limit.run(read(&pool, &sql, &keys)).await.unwrap_or(Err(TierError::TimedOut))
            }) as _
        };
        let claims = Gather::new(CLAIMS, ask);
        let (snapshots, tables) = (Mutex::default(), AtomicU8::default());
        Self { pool, sql, claims, longest_load, retention, snapshots, tables }
    }

    /// Whether a transaction of `pool` may carry a tombstone: it is to these tables, and they are there.
    pub(crate) fn rides_on(&self, pool: &PostgresPoolManager) -> bool {
        self.tables.load(Ordering::Relaxed) == THERE && self.pool.is_same(pool)
    }

    /// Whether it is known to have no tables.
    pub(crate) fn is_missing(&self) -> bool {
        self.tables.load(Ordering::Relaxed) == MISSING
    }

    fn noted<T>(&self, result: Result<T, TierError>) -> Result<T, TierError> {
        match &result {
            Ok(_) => self.tables.store(THERE, Ordering::Relaxed),
            Err(TierError::Missing(why)) => {
                if self.tables.swap(MISSING, Ordering::Relaxed) != MISSING {
                    tracing::error!(
                        why,
                        "L3 has no tables and is left out: run the migrations of cache-manager"
                    );
                }
            }
            Err(_) => {}
        }
        result
    }

    async fn run(&self, query: Query<'_>) -> Result<u64, TierError> {
        let done = query.execute(&self.pool.primary()).await;
        self.noted(done.map(|done| done.rows_affected()).map_err(failed))
    }

    /// Without tables there is nothing to void.
    async fn void(&self, query: Query<'_>) -> Result<(), TierError> {
        match self.run(query).await {
            Ok(_) | Err(TierError::Missing(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn store(
        &self,
        sql: &str,
        key: &TierKey,
        ticket: &Ticket,
        value: &Fresh,
    ) -> Result<bool, TierError> {
        let claimed = ticket.held.downcast_ref::<Claimed>();
        let Some(claimed) = claimed.filter(|claimed| claimed.began.elapsed() <= self.longest_load) else {
            return Err(TierError::Unavailable("the claim is too old, or not of this tier".to_owned()));
        };
        let until = claimed.at.saturating_add(micros(self.longest_load));
        let query = sqlx::query(AssertSqlSafe(sql.to_owned()))
            .bind(id(key))
            .bind(key.region.as_bytes().to_vec())
            .bind(value.body.as_ref().map(|body| body.to_vec()))
            .bind(&*claimed.snapshot)
            .bind(&*claimed.incarnation)
            .bind(until)
            .bind(claimed.at)
            .bind(micros(value.fresh_for))
            .bind(micros(value.keep_for));
        Ok(self.run(query).await? == 1)
    }

    async fn bury(&self, ids: Vec<Vec<u8>>) -> Result<(), TierError> {
        self.void(sqlx::query(AssertSqlSafe(self.sql.bury.clone())).bind(ids)).await
    }
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

#[async_trait]
impl Tier for PostgresTier {
    async fn read(&self, keys: &[TierKey], _: Deadline) -> Result<Vec<Option<Stored>>, TierError> {
        let seen = self.noted(read(&self.pool, &self.sql, keys).await)?;
        Ok(seen.into_iter().map(|seen| seen.stored).collect())
    }

    async fn claim(&self, key: &TierKey, force: bool, _: Deadline) -> Result<Claim, TierError> {
        let began = Instant::now();
        let mut seen = self.noted(self.claims.ask(key.clone()).await)?;
        if seen.incarnation.is_none() {
            // The first claim since the table was made or emptied.
            self.run(sqlx::query(AssertSqlSafe(self.sql.incarnate.clone()))).await?;
            seen = self.claims.ask(key.clone()).await?;
        }
        if let Some(stored) = seen.stored.clone().filter(|stored| !force && !stored.fresh_for.is_zero()) {
            return Ok(Claim::Found(stored));
        }
        let incarnation =
            seen.incarnation.ok_or_else(|| TierError::Unavailable("emptied again".to_owned()))?;
        let held = Claimed { snapshot: seen.snapshot, incarnation, at: seen.at, began };
        let ticket = Ticket { held: Box::new(held), version: 0, renew_every: None };
        Ok(Claim::Granted { ticket, stale: seen.stored })
    }

    async fn renew(&self, _: &TierKey, _: &Ticket, _: Deadline) -> Result<bool, TierError> {
        Ok(true)
    }

    async fn fill(
        &self,
        key: &TierKey,
        ticket: Ticket,
        value: Fresh,
        _: Deadline,
    ) -> Result<bool, TierError> {
        self.store(&self.sql.fill, key, &ticket, &value).await
    }

    async fn release(&self, _: &TierKey, _: Ticket, _: Deadline) {}

    async fn seize(&self, key: &TierKey, deadline: Deadline) -> Result<Ticket, TierError> {
        // Claims exclude nobody: they only say what has been seen.
        match self.claim(key, true, deadline).await? {
            Claim::Granted { ticket, .. } => Ok(ticket),
            _ => Err(TierError::Unavailable("forced, but not given".to_owned())),
        }
    }

    async fn put(&self, key: &TierKey, ticket: Ticket, value: Fresh, _: Deadline) -> Result<bool, TierError> {
        self.store(&self.sql.put, key, &ticket, &value).await
    }

    async fn invalidate(&self, keys: &[TierKey], _: Deadline) -> Result<(), TierError> {
        self.bury(keys.iter().map(id).collect()).await
    }

    async fn clear(&self, region: &str, _: Deadline) -> Result<(), TierError> {
        self.bury(vec![region.as_bytes().to_vec()]).await
    }

    async fn tend(&self, _: Deadline) {
        if let Err(error) = self.noted(self.prune().await) {
            tracing::debug!(%error, "pruning of L3 failed and will be repeated");
        }
    }

    async fn ping(&self, _: Deadline) -> Result<(), TierError> {
        self.run(sqlx::query(AssertSqlSafe(self.sql.ping.clone()))).await.map(drop)
    }
}

impl PostgresTier {
    /// Removes what expired, and tombstones that nothing needs any more; in small batches.
    async fn prune(&self) -> Result<(), TierError> {
        let now = sqlx::query("SELECT pg_current_snapshot()::text")
            .fetch_one(&self.pool.primary())
            .await
            .map_err(failed)?;
        let now: String = now.try_get(0).map_err(failed)?;
        let old = {
            let mut kept = self.snapshots.lock();
            kept.push_back((Instant::now(), now));
            // The newest that is old enough; the older ones have served.
            let mut found = None;
            while kept.front().is_some_and(|(taken, _)| taken.elapsed() >= self.retention) {
                found = kept.pop_front().map(|(_, snapshot)| snapshot);
            }
            found
        };
        for _ in 0..ROUNDS {
            let gone = self.run(sqlx::query(AssertSqlSafe(self.sql.expire.clone()))).await?;
            if gone < sql::BATCH {
                break;
            }
        }
        let Some(old) = old else { return Ok(()) };
        for _ in 0..ROUNDS {
            let gone = self.run(sqlx::query(AssertSqlSafe(self.sql.prune.clone())).bind(&old)).await?;
            if gone < sql::BATCH {
                break;
            }
        }
        Ok(())
    }
}

/// Batches of one round of pruning, so that it ends even when it cannot keep up.
const ROUNDS: usize = 20;

async fn read(pool: &PostgresPoolManager, sql: &sql::Sql, keys: &[TierKey]) -> Result<Vec<Seen>, TierError> {
    let ids: Vec<Vec<u8>> = keys.iter().map(id).collect();
    let rows = sqlx::query(AssertSqlSafe(sql.read.clone()))
        .bind(ids)
        .fetch_all(&pool.primary())
        .await
        .map_err(failed)?;
    let first = rows.first().ok_or(TierError::TimedOut)?;
    let snapshot: Arc<str> = first.try_get::<String, _>("snapshot").map_err(failed)?.into();
    let incarnation: Option<Arc<str>> =
        first.try_get::<Option<String>, _>("incarnation").map_err(failed)?.map(Into::into);
    let at = first.try_get("at").map_err(failed)?;
    let blank = Seen { snapshot, incarnation, at, stored: None };
    let mut seen = vec![blank; keys.len()];
    for row in &rows {
        let Some(n) = row.try_get::<Option<i64>, _>("n").map_err(failed)? else { continue };
        let body: Option<Vec<u8>> = row.try_get("body").map_err(failed)?;
        let fresh: i64 = row.try_get("fresh").map_err(failed)?;
        let age: i64 = row.try_get("age").map_err(failed)?;
        let time = |micros: i64| Duration::from_micros(micros.max(0).unsigned_abs());
        let stored =
            Stored { body: body.map(Bytes::from), fresh_for: time(fresh), age: time(age), version: 0 };
        if let Some(seen) = usize::try_from(n - 1).ok().and_then(|n| seen.get_mut(n)) {
            seen.stored = Some(stored);
        }
    }
    Ok(seen)
}

/// Statement that buries keys as part of a transaction's COMMIT message. The ids are hexadecimal: nothing in a key can
/// end the literal.
pub(crate) fn bury_text(schema: &Schema, keys: &[TierKey]) -> String {
    let rows: Vec<String> = keys.iter().map(|key| format!("('\\x{}'::bytea)", hex(&id(key)))).collect();
    format!("INSERT INTO {} (id) VALUES {}", schema.table(sql::TOMBSTONES), rows.join(","))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn id(key: &TierKey) -> Vec<u8> {
    debug_assert_ne!(&*key.region, EVERYTHING, "a region's name");
    [key.region.as_bytes(), b":", key.key.as_bytes()].concat()
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

#[expect(clippy::needless_pass_by_value, reason = "the error ends here")]
fn failed(error: sqlx::Error) -> TierError {
    // Undefined table, undefined schema.
    let code = error.as_database_error().and_then(|e| e.code());
    if matches!(code.as_deref(), Some("42P01" | "3F000")) {
        return TierError::Missing(error.to_string());
    }
    TierError::Unavailable(error.to_string())
}

/// The tables of L3.
#[must_use]
pub const fn migrations() -> MigrationSet {
    MigrationSet {
        component: "cache-manager",
        migrations: &[Migration { version: 1, name: "tables of L3", sql: sql::TABLES }],
    }
}
