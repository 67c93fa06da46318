//! A walk through a stack: find or install the servers, start them, clone a database, do harm, look at the result.
//!
//! `cargo run -p local-stack --example walkthrough [install | start]`: `install` only finds or installs the servers,
//! `start` does the rest without installing anything; both by default.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use local_stack::{Error, FaultProxy, PostgresOptions, RedisOptions, Stack, install_servers, wait_until};

#[tokio::main]
async fn main() -> ExitCode {
    match walk().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn walk() -> Result<(), Error> {
    let wanted = std::env::args().nth(1);
    if wanted.as_deref() != Some("start") {
        let servers = install_servers(|step| eprintln!("{step}"))?;
        eprintln!("found {servers}");
    }
    if wanted.as_deref() == Some("install") {
        return Ok(());
    }

    let stack = Stack::builder()
        .postgres(PostgresOptions::with_replicas(1))
        .redis(RedisOptions::with_replicas(1))
        .template_sql("create table goods (id int primary key, name text)")
        .start()
        .await?;
    eprintln!("four servers up in {:?}, their data in {:?}", stack.started_in(), stack.directory());

    let start = Instant::now();
    let database = stack.database().await?;
    eprintln!("a database of our own in {:?}: {}", start.elapsed(), database.name());
    database.sql("insert into goods values (1, 'kettle')").await?;
    stack.postgres().wait_replicas(Duration::from_secs(5)).await?;
    let rows = stack.postgres().replicas()[0].sql(database.name(), "select name from goods").await?;
    eprintln!("the replica has {rows:?}");

    let master = stack.redis().master();
    let proxy = FaultProxy::start(master.target()).await?;
    eprintln!("clients of {} go through {}", master.target(), proxy.url(&master.url()));
    proxy.delay(Duration::from_millis(50));
    proxy.heal();

    let start = Instant::now();
    master.kill()?;
    master.restart_empty().await?;
    wait_until("the replica is linked again", Duration::from_secs(10), async || {
        stack.redis().wait_replicas(Duration::ZERO).await.is_ok()
    })
    .await?;
    eprintln!("Redis was killed and is back empty after {:?}", start.elapsed());

    let start = Instant::now();
    stack.postgres().primary().kill()?;
    stack.postgres().promote(0).await?;
    eprintln!("the primary was killed and the replica promoted after {:?}", start.elapsed());
    Ok(())
}
