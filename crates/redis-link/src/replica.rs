//! A light look at the replicas that are known, for the status only: a connection made for it, one INFO, gone again. Nothing is
//! read from replicas yet.

use crate::{Endpoint, link::Shared};
use futures_util::future::join_all;
use resilience::Deadline;
use std::sync::Arc;
use tokio::time::{MissedTickBehavior, interval};

/// Runs until the link closes.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let closing = shared.closing.clone();
    let _ = closing.run_until_cancelled(look_again_and_again(&shared)).await;
    shared.set_replicas_connected(0);
}

async fn look_again_and_again(shared: &Shared) {
    let mut ticks = interval(shared.opener.config.replica_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(layout) = shared.layout.load_full() else { continue };
        let replicas = &layout.replicas;
        let looks = join_all(replicas.iter().map(|replica| follows(shared, replica))).await;
        shared.set_replicas_connected(looks.into_iter().filter(|follows| *follows).count());
    }
}

/// Whether it answers, is a replica, and its link to its master is up.
async fn follows(shared: &Shared, replica: &Endpoint) -> bool {
    let look = async {
        let (wire, _driver) = shared.opener.open(replica).await?;
        wire.info(replica).await
    };
    let deadline = Deadline::after(shared.opener.config.connect_timeout);
    match deadline.run(Box::pin(look)).await {
        Ok(Ok(info)) => info.role == "slave" && info.master_link_up,
        Ok(Err(error)) => {
            tracing::debug!(%replica, %error, "the replica does not answer");
            false
        }
        Err(_) => false,
    }
}
