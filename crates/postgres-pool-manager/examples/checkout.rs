//! What a checkout, a point read and a COMMIT cost, beside the driver's bare connection. A quick look, not the
//! project's bench: `cargo run --release -p postgres-pool-manager --example checkout`.

use local_stack::{PostgresOptions, Stack};
use postgres_pool_manager::{Config, PostgresPoolManager, sqlx};
use sqlx::{Connection, PgConnection};
use std::{
    error::Error,
    io::Write,
    time::{Duration, Instant},
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const READ: &str = "SELECT v FROM t WHERE id = $1";

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let stack = Stack::builder().postgres(PostgresOptions::default()).start().await?;
    let db = stack.database().await?;
    db.sql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'value' || i FROM generate_series(1, 10000) i")
        .await?;
    let pool = Config { size: 10, max_overflow: 0, min_idle: 10, ..Config::new(db.url()) }.connect().await?;
    let mut raw = PgConnection::connect(&db.url()).await?;
    let mut out = std::io::stdout().lock();

    for tasks in [1, 32] {
        let ns = checkout(&pool, tasks).await?;
        writeln!(out, "checkout + return, {tasks:>2} tasks   {ns:>8.0} ns each")?;
    }
    for _ in 0..3 {
        let bare = point_reads(async |id| read_bare(&mut raw, id).await).await?;
        let ours = point_reads(async |id| read_ours(&pool, id).await).await?;
        writeln!(
            out,
            "point read, 1 task   bare {bare:>6.1} µs   ours {ours:>6.1} µs   ratio {:.3}",
            bare / ours
        )?;
    }
    for _ in 0..3 {
        writeln!(out, "point read, 32 tasks, 10 connections   {:>8.0} /s", rate(&pool).await?)?;
    }
    for _ in 0..3 {
        let bare = commits(async |id| write_bare(&mut raw, id).await).await?;
        let ours = commits(async |id| write_ours(&pool, id).await).await?;
        writeln!(out, "begin, update, commit   bare {bare:>6.1} µs   ours with token {ours:>6.1} µs")?;
    }
    Ok(())
}

/// For a second, on warm connections.
async fn checkout(pool: &PostgresPoolManager, tasks: u32) -> Result<f64> {
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(pool.write().await?);
    }
    drop(held);
    let (started, lasting, mut set) = (Instant::now(), Duration::from_secs(1), tokio::task::JoinSet::new());
    for _ in 0..tasks {
        let pool = pool.clone();
        set.spawn(async move {
            let mut done = 0_u32;
            while started.elapsed() < lasting {
                for _ in 0..100 {
                    drop(pool.write().await?);
                }
                done += 100;
                tokio::task::yield_now().await;
            }
            Ok::<_, postgres_pool_manager::Error>(done)
        });
    }
    let mut total = 0;
    while let Some(done) = set.join_next().await {
        total += done??;
    }
    Ok(started.elapsed().as_nanos() as f64 / f64::from(total))
}

async fn read_bare(connection: &mut PgConnection, id: i32) -> Result<()> {
    let _: String = sqlx::query_scalar(READ).bind(id).fetch_one(connection).await?;
    Ok(())
}

async fn read_ours(pool: &PostgresPoolManager, id: i32) -> Result<()> {
    let mut session = pool.write().await?;
    let _: String = sqlx::query_scalar(READ).bind(id).fetch_one(&mut session).await?;
    Ok(())
}

async fn write_bare(connection: &mut PgConnection, id: i32) -> Result<()> {
    let mut tx = connection.begin().await?;
    sqlx::query("UPDATE t SET v = v WHERE id = $1").bind(id).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

async fn write_ours(pool: &PostgresPoolManager, id: i32) -> Result<()> {
    let mut tx = pool.begin(Default::default()).await?;
    sqlx::query("UPDATE t SET v = v WHERE id = $1").bind(id).execute(&mut tx).await?;
    tx.commit().await?;
    Ok(())
}

/// Median of 5,000, in microseconds.
async fn point_reads(mut read: impl AsyncFnMut(i32) -> Result<()>) -> Result<f64> {
    median(5000, &mut read).await
}

async fn commits(mut write: impl AsyncFnMut(i32) -> Result<()>) -> Result<f64> {
    median(1500, &mut write).await
}

async fn median(rounds: i32, work: &mut impl AsyncFnMut(i32) -> Result<()>) -> Result<f64> {
    let mut times = Vec::new();
    for n in 0..rounds {
        let started = Instant::now();
        work(1 + n.wrapping_mul(7919).rem_euclid(10_000)).await?;
        times.push(started.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2].as_nanos() as f64 / 1000.0)
}

async fn rate(pool: &PostgresPoolManager) -> Result<f64> {
    let (lasting, mut set) = (Duration::from_secs(2), tokio::task::JoinSet::new());
    let started = Instant::now();
    for task in 0..32 {
        let pool = pool.clone();
        set.spawn(async move {
            let mut done = 0_u32;
            while started.elapsed() < lasting {
                read_ours(&pool, 1 + (task * 311 + done as i32 * 17).rem_euclid(10_000)).await?;
                done += 1;
            }
            Result::Ok(done)
        });
    }
    let mut total = 0;
    while let Some(done) = set.join_next().await {
        total += done??;
    }
    Ok(f64::from(total) / started.elapsed().as_secs_f64())
}
