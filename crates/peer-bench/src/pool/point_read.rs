//! One row by its key: one at a time on one core, then 32 tasks over ten connections.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use sqlx::{Connection as _, PgConnection};
use tokio::sync::Mutex;

use super::peers::{self, Pools, READ, ROWS};
use crate::Bench;
use crate::measure::{self, Contender, Crew, Entrant};
use crate::report::{By, OURS};
use crate::servers::{self, POSTGRES_CONNECTIONS};

/// The row of this turn: far from the one before.
pub(crate) fn row(turn: usize) -> i32 {
    (turn.wrapping_mul(7919) % ROWS as usize) as i32
}

struct Ours(Arc<Pools>);

impl Contender for Ours {
    async fn op(&self, turn: usize) {
        let read = sqlx::query_scalar::<_, String>(READ).bind(row(turn));
        std::hint::black_box(read.fetch_one(&self.0.ours.primary()).await.expect("found"));
    }
}

/// One connection and nothing around it (but a lock that nobody else asks for).
struct Bare(Mutex<PgConnection>);

impl Contender for Bare {
    async fn op(&self, turn: usize) {
        let read = sqlx::query_scalar::<_, String>(READ).bind(row(turn));
        std::hint::black_box(read.fetch_one(&mut *self.0.lock().await).await.expect("found"));
    }
}

struct Deadpool(Arc<Pools>);

impl Contender for Deadpool {
    async fn op(&self, turn: usize) {
        let client = self.0.deadpool.get().await.expect("a connection");
        let statement = client.prepare_cached(READ).await.expect("prepared");
        let found = client.query_one(&statement, &[&row(turn)]).await.expect("found");
        std::hint::black_box(found.get::<_, String>(0));
    }
}

struct Bb8(Arc<Pools>);

impl Contender for Bb8 {
    async fn op(&self, turn: usize) {
        let connection = self.0.bb8.get().await.expect("a connection");
        let (client, statement) = &*connection;
        let found = client.query_one(statement, &[&row(turn)]).await.expect("found");
        std::hint::black_box(found.get::<_, String>(0));
    }
}

struct SqlxPool(Arc<Pools>);

impl Contender for SqlxPool {
    async fn op(&self, turn: usize) {
        let read = sqlx::query_scalar::<_, String>(READ).bind(row(turn));
        std::hint::black_box(read.fetch_one(&self.0.sqlx).await.expect("found"));
    }
}

fn entrants(pools: &Arc<Pools>) -> Vec<Entrant> {
    vec![
        Entrant::new(OURS, Ours(pools.clone())),
        Entrant::new("deadpool-postgres", Deadpool(pools.clone())),
        Entrant::new("bb8-postgres", Bb8(pools.clone())),
        Entrant::new("sqlx-pool", SqlxPool(pools.clone())),
    ]
}

/// One at a time. To be called on a pinned thread, with servers of its own.
pub(crate) async fn run_one(bench: &mut Bench) -> Result<()> {
    let stack = servers::start().await?;
    let database = peers::database(&stack).await?;
    let pools = Arc::new(Pools::open(&database.url()).await?);
    let mut entrants = entrants(&pools);
    let bare = PgConnection::connect(&database.url()).await.context("PgConnection")?;
    entrants.insert(1, Entrant::new("floor:PgConnection", Bare(Mutex::new(bare))));
    let progress = bench.progress("pool point_read, one core", 1, entrants.len());
    let shown = measure::measure(&entrants, bench.plan(Crew::One, 1), &progress).await?;
    bench.report.add("pool", "point_read", 1, By::Median, &shown);
    Ok(())
}

/// 32 tasks.
pub(crate) async fn run_many(bench: &mut Bench, pools: &Arc<Pools>) -> Result<()> {
    let entrants = entrants(pools);
    bench.report.note(format!(
        "pool point_read: one row of 256 bytes out of {ROWS} by primary key, statement prepared once a connection, \
         {POSTGRES_CONNECTIONS} connections for each; deadpool recycles fast, bb8 and sqlx do not test at checkout"
    ));
    let progress = bench.progress("pool point_read", 32, entrants.len());
    let shown = measure::measure(&entrants, bench.plan(Crew::Tasks(32), 1), &progress).await?;
    bench.report.add("pool", "point_read", 32, By::Rate, &shown);
    Ok(())
}
