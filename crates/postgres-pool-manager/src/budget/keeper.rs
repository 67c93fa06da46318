//! Keeps this instance's lease in the table that the fleet shares, and its pools within the lease. The decision is
//! `budget`'s.
//!
//! A lease is written before connections are opened on it and given up after they have ended, so that what is open never
//! exceeds what is written. It ends by the server's clock unless it is renewed; after a restart of the server it holds
//! for its whole time once more, since nobody could renew it. An instance that cannot reach Postgres keeps what it has,
//! and opens nothing beyond that once its lease is over.
//!
//! What it cannot prevent: a process that is stopped as a whole for longer than its lease, and goes on later, still has
//! its connections at the server while others have taken its share. It gives back what is too much at its first look.

use super::{
    Claim, decide,
    grant::Local,
    handle::Budget,
    margin,
    table::{Leases, PREPARE, View},
};
use crate::{
    Error, Schema,
    conn::identify,
    connect::{attempt, describe},
    direct::Beside,
    error::sqlstate,
    events::PoolEvent,
    router::Router,
    stats::Role,
};
use sqlx::{Connection, Executor, PgConnection};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// How often the table is looked at, and how often while callers wait for connections that the lease forbids.
const LOOK: Duration = Duration::from_secs(1);
const HASTE: Duration = Duration::from_millis(200);
/// How often the pool is asked whether callers wait.
const TICK: Duration = Duration::from_millis(100);
/// One look, with connecting.
const LIMIT: Duration = Duration::from_secs(5);
/// What the pool may have while there is no table yet: enough to migrate and to say so.
const BEFORE_THE_TABLE: u32 = 4;

/// The task that keeps the lease.
pub(crate) struct Keeper {
    budget: Arc<Budget>,
    router: Arc<Router>,
    leases: Leases,
    connection: Option<(PgConnection, Beside)>,
    looked: Instant,
    /// When the lease was last renewed, by our clock and before the server's.
    renewed: Instant,
}

impl Keeper {
    pub(super) fn new(budget: Arc<Budget>, router: Arc<Router>, schema: Schema) -> Self {
        let leases = Leases {
            schema,
            instance: format!("{:032x}", rand::random::<u128>()),
            name: router.config.application_name.clone(),
            lease: router.config.fleet_lease,
        };
        let now = Instant::now();
        Self { budget, router, leases, connection: None, looked: now, renewed: now }
    }

    /// Until the pools are closed and empty.
    pub(crate) async fn keep(mut self) {
        loop {
            let woken = tokio::select! {
                () = tokio::time::sleep(TICK) => false,
                () = self.budget.look.notified() => true,
            };
            let local = Local::of(&self.router.pools());
            if self.router.primary().closing.is_cancelled() && local.open <= self.beside() {
                break;
            }
            let since = self.looked.elapsed();
            if woken || since >= LOOK || (local.held_back && since >= HASTE) {
                // What it found is in the status.
                let _ = self.look_in_time().await;
            }
        }
        let _ = tokio::time::timeout(LIMIT, self.leave()).await;
        self.budget.left.cancel();
    }

    pub(super) async fn look_in_time(&mut self) -> Result<(), Error> {
        self.looked = Instant::now();
        let looked = match tokio::time::timeout(LIMIT, self.look()).await {
            Ok(looked) => looked,
            Err(_) => Err(Error::Timeout { operation: "a look at the fleet's budget", after: LIMIT }),
        };
        let error = match &looked {
            Ok(()) => None,
            Err(e) => {
                self.failed(e);
                Some(describe(e))
            }
        };
        let mut status = self.budget.status.lock();
        if error.is_some() && status.error.is_none() {
            tracing::warn!(
                error,
                share = status.share,
                "the fleet's budget cannot be looked at; the share stays"
            );
        }
        status.error = error;
        looked
    }

    fn failed(&mut self, e: &Error) {
        let share = self.budget.status.lock().share;
        match e {
            // The table is not there yet.
            Error::Query(e) if sqlstate(e).as_deref() == Some("42P01") && share == 0 => {
                self.grant(BEFORE_THE_TABLE, 0);
            }
            Error::Query(e) if e.as_database_error().is_some() => {}
            _ => {
                self.connection = None;
                if self.renewed.elapsed() > self.leases.lease {
                    // Others may have what was ours: no more than is open, until we know.
                    let kept = share.min(Local::of(&self.router.pools()).open.max(self.beside() + 1));
                    if kept < share {
                        self.grant(kept, 0);
                    }
                }
            }
        }
    }

    /// Looks, and writes if there is something to write.
    async fn look(&mut self) -> Result<(), Error> {
        let own = Local::of(&self.router.pools()).claim();
        let pool = self.router.primary();
        // A former primary may go on answering; the others do not look there any more.
        self.connection.take_if(|(_, counted)| !counted.is_at(&pool));
        if self.connection.is_none() {
            let counted = Beside::new(&pool);
            let mut pg = attempt(&pool.door, &pool.label, &pool.options).await?;
            identify(&mut pg, Role::Primary, &pool.label, &pool.door.cluster).await?;
            pg.execute(PREPARE).await.map_err(Error::Query)?;
            self.connection = Some((pg, counted));
        }
        let Some((pg, _)) = &mut self.connection else { return Err(Error::Closed) };
        let View { claims, me, written } = self.leases.read(pg, own).await?;
        let (now, target) = (claims[me], decide(self.usable(), me, &claims));
        let lacking = |claim: Claim| claim.wants > claim.share;
        let half = self.leases.lease.as_secs_f64() / 2.0;
        match written {
            Some((written, left))
                if left > half && target == now.share && lacking(written) == lacking(now) =>
            {
                // Written for more than this a while ago, perhaps, when more was still open.
                self.grant(target, claims.len());
                Ok(())
            }
            _ => self.write().await,
        }
    }

    /// Decides again under the lock that all writers take, and writes.
    async fn write(&mut self) -> Result<(), Error> {
        let (renewed, before) = (Instant::now(), self.budget.status.lock().share);
        // Not put back after an error: who knows what its transaction is up to.
        let Some((mut pg, counted)) = self.connection.take() else { return Err(Error::Closed) };
        let done = async {
            let mut tx = pg.begin().await?;
            self.leases.lock(&mut tx).await?;
            let View { claims, me, .. } =
                self.leases.read(&mut tx, Local::of(&self.router.pools()).claim()).await?;
            let target = decide(self.usable(), me, &claims);
            if target < before {
                // First the limit, then the count of what is still open beyond it.
                self.grant(target, claims.len());
            }
            let share = target.max(Local::of(&self.router.pools()).open);
            self.leases.write(&mut tx, Claim { share, ..claims[me] }).await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>((target, claims.len()))
        };
        let (target, instances) = done.await.map_err(Error::Query)?;
        self.connection = Some((pg, counted));
        self.renewed = renewed;
        self.grant(target, instances);
        if target <= self.beside() {
            let fleet = self.budget.fleet;
            let why = format!("the fleet's budget of {fleet} has no connection left for this instance yet");
            self.router.primary().failed(why);
        }
        Ok(())
    }

    async fn leave(&mut self) -> Result<(), sqlx::Error> {
        let Some((mut pg, _counted)) = self.connection.take() else { return Ok(()) };
        self.leases.leave(&mut pg).await?;
        pg.close().await
    }

    /// The pools' limits follow.
    fn grant(&self, share: u32, instances: usize) {
        let before = self.budget.status.lock().share;
        // Each time: what is beside a pool may have changed at the same moment.
        for pool in self.router.pools() {
            pool.grant(share);
        }
        if share != before {
            self.router.events.emit(PoolEvent::BudgetShare { share, budget: self.budget.fleet });
        }
        self.known(share, instances);
    }

    fn known(&self, share: u32, instances: usize) {
        let mut status = self.budget.status.lock();
        status.share = share;
        if instances > 0 {
            status.instances = u32::try_from(instances).unwrap_or(u32::MAX);
        }
    }

    fn usable(&self) -> u32 {
        self.budget.fleet.saturating_sub(margin(self.budget.fleet))
    }

    fn beside(&self) -> u32 {
        self.router.pools().iter().map(|pool| pool.beside()).max().unwrap_or(0)
    }
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("budget", &self.budget).finish_non_exhaustive()
    }
}
