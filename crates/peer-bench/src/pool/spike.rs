//! HikariCP's spike test: five connections that answer in 2 ms, 150 ms to open another one, and fifty callers at once.
//! A pool that opens one for every caller has fifty before the first of them is of use.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bb8_postgres::PostgresConnectionManager;
use local_stack::{Database, Existing, FaultProxy};
use tokio::task::JoinSet;
use tokio_postgres::NoTls;

use crate::Bench;

const CALLERS: u32 = 50;
const READY: u32 = 5;
/// Each way, for each message of a handshake: together some 150 ms.
const AWAY: Duration = Duration::from_millis(15);
const WORK: &str = "SELECT pg_sleep(0.002)";

/// Two ways to one server: what is open goes the short one, what is opened from now on the long one.
struct Ways {
    front: FaultProxy,
    slow: FaultProxy,
}

impl Ways {
    async fn to(database: &Database) -> Result<Self> {
        let front = FaultProxy::start(database.primary().target()).await.context("the proxy")?;
        let slow = FaultProxy::start(database.primary().target()).await.context("the proxy")?;
        slow.delay(AWAY);
        Ok(Self { front, slow })
    }

    /// Fifty callers at once; how many connections were opened for them, and how long it took.
    async fn spike<F>(&self, name: &str, call: impl Fn() -> F) -> Result<String>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.front.retarget(self.slow.addr().to_string(), Existing::Keep);
        self.slow.reset_counts();
        let (began, mut callers) = (Instant::now(), JoinSet::new());
        for _ in 0..CALLERS {
            callers.spawn(call());
        }
        while let Some(done) = callers.join_next().await {
            done?.with_context(|| name.to_owned())?;
        }
        let (took, opened) = (began.elapsed(), self.slow.connections());
        Ok(format!("{name} {} connections, all served after {took:.1?}", u64::from(READY) + opened))
    }
}

/// Says how it ended for each; nobody is timed against anybody.
pub(crate) async fn run(bench: &mut Bench, database: &Database) -> Result<()> {
    let ends =
        [ours(database).await?, deadpool(database).await?, bb8(database).await?, sqlx_pool(database).await?];
    bench.report.note(format!(
        "pool spike ({CALLERS} callers at once, {READY} connections ready, 150 ms to open one, 2 ms of work): {}",
        ends.join("; ")
    ));
    Ok(())
}

async fn ours(database: &Database) -> Result<String> {
    let ways = Ways::to(database).await?;
    let config = postgres_pool_manager::Config {
        size: CALLERS,
        max_overflow: 0,
        min_idle: READY,
        ..postgres_pool_manager::Config::new(database.url_via(ways.front.addr()))
    };
    let pool = config.connect().await.context("our pool")?;
    let ready = || async { pool.pool_stats().idle >= READY && pool.pool_stats().connecting == 0 };
    local_stack::wait_for("our pool is ready", Duration::from_secs(10), ready).await;
    let call = || {
        let pool = pool.clone();
        async move { Ok(sqlx::query(WORK).execute(&pool.primary()).await.map(drop)?) }
    };
    ways.spike("ours", call).await
}

async fn deadpool(database: &Database) -> Result<String> {
    let ways = Ways::to(database).await?;
    let config: tokio_postgres::Config = database.url_via(ways.front.addr()).parse()?;
    let manager = deadpool_postgres::Manager::new(config, NoTls);
    let pool = deadpool_postgres::Pool::builder(manager).max_size(CALLERS as usize).build()?;
    let mut ready = Vec::new();
    for _ in 0..READY {
        ready.push(pool.get().await?);
    }
    drop(ready);
    let call = || {
        let pool = pool.clone();
        async move { Ok(pool.get().await?.batch_execute(WORK).await?) }
    };
    ways.spike("deadpool-postgres", call).await
}

async fn bb8(database: &Database) -> Result<String> {
    let ways = Ways::to(database).await?;
    let config: tokio_postgres::Config = database.url_via(ways.front.addr()).parse()?;
    let manager = PostgresConnectionManager::new(config, NoTls);
    let builder = bb8::Pool::builder().max_size(CALLERS).min_idle(READY);
    let pool = builder.build(manager).await.context("bb8")?;
    let call = || {
        let pool = pool.clone();
        async move { Ok(pool.get().await?.batch_execute(WORK).await?) }
    };
    ways.spike("bb8-postgres", call).await
}

async fn sqlx_pool(database: &Database) -> Result<String> {
    let ways = Ways::to(database).await?;
    let options = sqlx::postgres::PgPoolOptions::new().max_connections(CALLERS).min_connections(READY);
    let pool = options.connect(&database.url_via(ways.front.addr())).await.context("sqlx")?;
    let ready = || async { pool.size() >= READY && pool.num_idle() >= READY as usize };
    local_stack::wait_for("sqlx is ready", Duration::from_secs(10), ready).await;
    let call = || {
        let pool = pool.clone();
        async move { Ok(sqlx::query(WORK).execute(&pool).await.map(drop)?) }
    };
    ways.spike("sqlx-pool", call).await
}
