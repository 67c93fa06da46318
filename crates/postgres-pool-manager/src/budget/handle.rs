//! What the manager holds of its keeper: how it starts, what it found, when it has left.

use super::keeper::Keeper;
use crate::{
    Error, PostgresPoolManager, Schema,
    error::{ConnectFailure, sqlstate},
    router::Router,
};
use parking_lot::Mutex;
use resilience::Deadline;
use serde::Serialize;
use std::{io, sync::Arc};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// This instance's part in the fleet's budget.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BudgetStatus {
    /// The fleet's budget, as set here.
    pub budget: u32,
    /// Connections to each server that this instance may have, those beside its pools included.
    pub share: u32,
    /// Instances that hold a lease.
    pub instances: u32,
    /// Why the lease could not be looked at, if the latest look failed; the share stays as it was.
    pub error: Option<String>,
}

/// The keeper's handle.
#[derive(Debug)]
pub(crate) struct Budget {
    pub(super) fleet: u32,
    pub(super) status: Mutex<BudgetStatus>,
    /// Look at once: something has changed.
    pub(crate) look: Notify,
    pub(super) left: CancellationToken,
}

impl Budget {
    /// `None` without a budget. Otherwise the pools may open nothing before the first look.
    pub(crate) fn new(router: &Router) -> Option<Arc<Self>> {
        let fleet = router.config.fleet_budget?;
        for pool in router.pools() {
            pool.grant(0);
        }
        Some(Arc::new(Self {
            fleet,
            status: Mutex::new(BudgetStatus { budget: fleet, ..BudgetStatus::default() }),
            look: Notify::new(),
            left: CancellationToken::new(),
        }))
    }

    /// The first look, so that a server that cannot be used is an error of `connect`.
    pub(crate) async fn start(
        self: &Arc<Self>,
        router: &Arc<Router>,
        schema: &Schema,
    ) -> (Keeper, Result<(), Error>) {
        let mut keeper = Keeper::new(Arc::clone(self), Arc::clone(router), schema.clone());
        let looked = match keeper.look_in_time().await {
            Err(Error::Timeout { after, .. }) => {
                let source = io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {after:?}"));
                let (host, failure) = (router.primary().label.clone(), ConnectFailure::Unreachable);
                Err(Error::Connect { host, failure, source: Some(source.into()) })
            }
            // Not there yet, or busy: the next look will tell.
            Err(Error::Query(e)) if matches!(sqlstate(&e).as_deref(), Some("42P01" | "55P03" | "57014")) => {
                Ok(())
            }
            looked => looked,
        };
        (keeper, looked)
    }

    /// Waits until the lease has been given up after a shutdown.
    pub(crate) async fn left(&self, deadline: Deadline) {
        // Late, it ends by itself.
        let _ = deadline.run(self.left.cancelled()).await;
    }
}

impl PostgresPoolManager {
    /// This instance's part in the fleet's budget; `None` where none is set.
    #[must_use]
    pub fn fleet_budget(&self) -> Option<BudgetStatus> {
        self.budget().map(|budget| budget.status.lock().clone())
    }
}
