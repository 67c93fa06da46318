//! A point read from a database that is 4 ms away: what every round trip too many costs where the network is not
//! loopback.

use std::time::Duration;

use anyhow::{Context as _, Result};
use local_stack::{Database, FaultProxy};
use postgres_pool_manager::PostgresPoolManager;

use super::peers::READ;
use super::point_read::row;
use crate::Bench;
use crate::measure::{self, Contender, Crew, Entrant};
use crate::report::{By, OURS};
use crate::servers;

/// Each way.
const AWAY: Duration = Duration::from_millis(2);

struct Ours(PostgresPoolManager);

impl Contender for Ours {
    async fn op(&self, turn: usize) {
        let read = sqlx::query_scalar::<_, String>(READ).bind(row(turn));
        std::hint::black_box(read.fetch_one(&self.0.primary()).await.expect("found"));
    }
}

struct SqlxPool(sqlx::PgPool);

impl Contender for SqlxPool {
    async fn op(&self, turn: usize) {
        let read = sqlx::query_scalar::<_, String>(READ).bind(row(turn));
        std::hint::black_box(read.fetch_one(&self.0).await.expect("found"));
    }
}

/// One task.
pub(crate) async fn run(bench: &mut Bench, database: &Database) -> Result<()> {
    let proxy = FaultProxy::start(database.primary().target()).await.context("the proxy")?;
    let url = database.url_via(proxy.addr());
    let ours = servers::pool(&url).await?;
    let sqlx = sqlx::PgPool::connect(&url).await.context("sqlx")?;
    bench.report.note(
        "pool point_read_4ms_rtt: 2 ms each way added by a proxy; sqlx's pool as it is by default, which asks the \
         connection whether it is alive before it hands it out",
    );
    let entrants = [Entrant::new(OURS, Ours(ours)), Entrant::new("sqlx-pool", SqlxPool(sqlx))];
    proxy.delay(AWAY);
    let progress = bench.progress("pool point_read, 4 ms away", 1, entrants.len());
    let shown = measure::measure(&entrants, bench.plan(Crew::One, 1), &progress).await?;
    bench.report.add("pool", "point_read_4ms_rtt", 1, By::Median, &shown);
    Ok(())
}
