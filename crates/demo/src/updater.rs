//! What runs beside the readers in the mixed phase: updates at a fixed rate that invalidate on commit and tell the
//! subscribers, and a job that only one process at a time may run.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use database_services::cache_manager::TxInvalidate;
use database_services::distributed_lock_manager::{FencedError, LockError, LockOptions};
use database_services::postgres_pool_manager::TransactionOptions;
use database_services::sqlx;
use serde::{Deserialize, Serialize};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::catalogue;
use crate::protocol::Event;
use crate::service::Service;

/// Updates under way at a time.
const UNDER_WAY: usize = 16;
/// Pause between two runs of the guarded job in one process.
const JOB_PAUSE: Duration = Duration::from_millis(100);
/// How long a run waits for its turn, and how long it may take.
const JOB_WAIT: Duration = Duration::from_secs(2);
const JOB_LEASE: Duration = Duration::from_secs(5);

/// What subscribers hear of an update.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Updated {
    pub(crate) key: u32,
    pub(crate) version: u32,
}

/// Updates rows at `per_second` until cancelled, then waits for those under way. A late update is made up for, and
/// several may be under way, so that the rate holds however long one takes.
pub(crate) async fn update(service: Arc<Service>, per_second: f64, over: CancellationToken) {
    let mut walk = service.workload.walk(1, 3);
    let mut timer = tokio::time::interval(Duration::from_secs_f64(1.0 / per_second));
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let mut under_way = JoinSet::new();
    while over.run_until_cancelled(timer.tick()).await.is_some() {
        if under_way.len() == UNDER_WAY {
            ended(&service, under_way.join_next().await);
        }
        under_way.spawn(update_and_tell(service.clone(), walk.next()));
    }
    while let Some(end) = under_way.join_next().await {
        ended(&service, Some(end));
    }
}

/// An update that panicked must not look like one that was not due.
fn ended(service: &Service, end: Option<Result<(), JoinError>>) {
    if let Some(Err(panic)) = end {
        service.counts.failed_updates.fetch_add(1, Relaxed);
        service.failed(format!("an update: {panic}"));
    }
}

async fn update_and_tell(service: Arc<Service>, key: u32) {
    match update_one(&service, key).await {
        Ok(version) => {
            let floor = service.floors.raise(key, version);
            service.counts.updates.fetch_add(1, Relaxed);
            service.say(&Event::Floor(floor));
            tell(&service, Updated { key, version }).await;
        }
        Err(error) => {
            service.counts.failed_updates.fetch_add(1, Relaxed);
            service.failed(format!("update of {key}: {error:#}"));
        }
    }
}

/// One row's next version; when it returns, the invalidation has too.
async fn update_one(service: &Arc<Service>, key: u32) -> anyhow::Result<u32> {
    let region = service.region.clone();
    let name = service.keys[key as usize].clone();
    let id = i32::try_from(key)?;
    let price = i64::from(key % 500) * 100 + 99;
    let version: i32 = service
        .services
        .database()
        .transaction(TransactionOptions::default(), move |tx| {
            let (region, name) = (region.clone(), name.clone());
            Box::pin(async move {
                let update = sqlx::query_scalar(catalogue::UPDATE).bind(id).bind(price);
                let version: i32 = update.fetch_one(&mut *tx).await?;
                tx.invalidate(&region, &name)?;
                anyhow::Ok(version)
            })
        })
        .await?;
    Ok(u32::try_from(version)?)
}

async fn tell(service: &Service, updated: Updated) {
    let told = match service.channel.publish(&updated).await {
        Ok(_) => &service.counts.published,
        // Redis is away: the publisher knows, the row and the cache are right without the message.
        Err(_) => &service.counts.refused,
    };
    told.fetch_add(1, Relaxed);
}

/// Runs a job under the distributed lock until cancelled.
pub(crate) async fn guarded_job(service: Arc<Service>, over: CancellationToken) {
    while !over.is_cancelled() {
        let counts = &service.counts;
        match run_job(&service).await {
            Ok(Job::Done) => &counts.locks_acquired,
            Ok(Job::TokenDidNotGrow) => &counts.lock_violations,
            Err(LockError::Busy { .. } | LockError::Timeout { .. }) => &counts.locks_busy,
            Err(error) => {
                tracing::debug!(%error, "no lock for the job");
                &counts.locks_unavailable
            }
        }
        .fetch_add(1, Relaxed);
        let _ = over.run_until_cancelled(tokio::time::sleep(JOB_PAUSE)).await;
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Job {
    Done,
    TokenDidNotGrow,
}

/// One run: under the lock, in a fenced transaction, which a holder that lost the lock cannot commit.
async fn run_job(service: &Service) -> Result<Job, LockError> {
    let options = LockOptions { wait: Some(JOB_WAIT), lease: Some(JOB_LEASE), ..LockOptions::default() };
    let guard = service.services.lock_manager().acquire("restock", options).await?;
    // Postgres has no unsigned integers; the order of the tokens is the same.
    let token = guard.token().cast_signed();
    let sql = "UPDATE demo.jobs SET runs = runs + 1, token = $1 WHERE name = 'restock' AND token < $1";
    let db = service.services.database();
    let done = guard.transaction(&db, TransactionOptions::default(), |tx| {
        let work = sqlx::query(sql).bind(token);
        Box::pin(async move { Ok::<_, sqlx::Error>(work.execute(&mut *tx).await?.rows_affected()) })
    });
    let done = done.await;
    let released = guard.release().await;
    match done {
        Ok(1) => released.map(|()| Job::Done),
        Ok(_) => Ok(Job::TokenDidNotGrow),
        Err(FencedError::Lock(error)) => Err(error),
        Err(error) => Err(LockError::Unavailable { reason: error.to_string() }),
    }
}
