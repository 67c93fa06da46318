//! The table of the leases: its statements, and nothing of what is decided from it.

use super::Claim;
use crate::{Migration, Schema};
use sqlx::{AssertSqlSafe, PgConnection, Row};
use std::time::Duration;

/// Logged: leases survive a crash of the server, and are the next primary's after a failover. It is written when a share
/// changes and twice in the time of a lease.
pub(crate) const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "leases of the fleet's connections",
    sql: "CREATE TABLE {schema}.connection_leases (\
        instance text PRIMARY KEY, name text NOT NULL, share int NOT NULL, wants int NOT NULL, most int NOT NULL, \
        expires_at timestamptz NOT NULL)",
}];

/// Nobody waits for a lock or inside a transaction for long: the others wait as well.
pub(super) const PREPARE: &str =
    "SET statement_timeout = 3000; SET lock_timeout = 2000; SET idle_in_transaction_session_timeout = 3000";

/// After a restart of the server a lease holds for its whole time once more.
const IN_FORCE: &str =
    "greatest(expires_at, pg_postmaster_start_time() + make_interval(secs => $1)) > clock_timestamp()";

const READ: &str = "SELECT instance, share, wants, most, \
    extract(epoch FROM expires_at - clock_timestamp())::float8 AS left_seconds FROM {schema}.connection_leases WHERE ";

const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))";

const FORGET: &str = "DELETE FROM {schema}.connection_leases WHERE NOT ";

const WRITE: &str = "INSERT INTO {schema}.connection_leases AS lease \
    (instance, name, share, wants, most, expires_at) \
    VALUES ($1, $2, $3, $4, $5, clock_timestamp() + make_interval(secs => $6)) \
    ON CONFLICT (instance) DO UPDATE SET share = excluded.share, wants = excluded.wants, most = excluded.most, \
    expires_at = excluded.expires_at";

const LEAVE: &str = "DELETE FROM {schema}.connection_leases WHERE instance = $1";

/// The table as one instance uses it.
#[derive(Clone, Debug)]
pub(super) struct Leases {
    pub(super) schema: Schema,
    pub(super) instance: String,
    /// The program's, for people who look at the table.
    pub(super) name: String,
    pub(super) lease: Duration,
}

/// The leases in force, in an order that is the same for everybody.
#[derive(Debug)]
pub(super) struct View {
    /// Ours among them, as it is now and not as it is written.
    pub(super) claims: Vec<Claim>,
    /// Which of them is ours.
    pub(super) me: usize,
    /// What is written of ours, with the seconds that it still has.
    pub(super) written: Option<(Claim, f64)>,
}

impl Leases {
    /// `own`: what this instance wants now, and the most that it may.
    pub(super) async fn read(&self, pg: &mut PgConnection, own: Claim) -> Result<View, sqlx::Error> {
        let sql = self.schema.sql(READ) + IN_FORCE + " ORDER BY instance";
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(self.lease.as_secs_f64()).fetch_all(pg).await?;
        let mut view = View { claims: Vec::with_capacity(rows.len() + 1), me: rows.len(), written: None };
        for (at, row) in rows.iter().enumerate() {
            let number = |column: &str| row.try_get::<i32, _>(column).map(i32::cast_unsigned);
            let claim = Claim { share: number("share")?, wants: number("wants")?, most: number("most")? };
            if row.try_get::<&str, _>("instance")? == self.instance {
                view.me = at;
                view.written = Some((claim, row.try_get("left_seconds")?));
            }
            view.claims.push(claim);
        }
        let share = view.written.map_or(0, |(claim, _)| claim.share);
        let own = Claim { share, ..own };
        match view.claims.get_mut(view.me) {
            Some(claim) => *claim = own,
            None => view.claims.push(own),
        }
        Ok(view)
    }

    /// One writer at a time, until the end of the transaction; leases that are over are gone afterwards.
    pub(super) async fn lock(&self, tx: &mut PgConnection) -> Result<(), sqlx::Error> {
        let name = format!("budget {}", self.schema.name());
        sqlx::query(LOCK).bind(name).execute(&mut *tx).await?;
        let sql = self.schema.sql(FORGET) + "(" + IN_FORCE + ")";
        sqlx::query(AssertSqlSafe(sql)).bind(self.lease.as_secs_f64()).execute(tx).await.map(drop)
    }

    pub(super) async fn write(&self, tx: &mut PgConnection, claim: Claim) -> Result<(), sqlx::Error> {
        let sql = self.schema.sql(WRITE);
        let query = sqlx::query(AssertSqlSafe(sql)).bind(&self.instance).bind(&self.name);
        let query = query.bind(claim.share.cast_signed()).bind(claim.wants.cast_signed());
        let query = query.bind(claim.most.cast_signed()).bind(self.lease.as_secs_f64());
        query.execute(tx).await.map(drop)
    }

    pub(super) async fn leave(&self, pg: &mut PgConnection) -> Result<(), sqlx::Error> {
        let sql = self.schema.sql(LEAVE);
        sqlx::query(AssertSqlSafe(sql)).bind(&self.instance).execute(pg).await.map(drop)
    }
}
