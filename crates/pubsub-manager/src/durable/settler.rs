//! Carries settlements to the store, many at a time, and again until there is an answer: settling twice does no harm.
//! It ends when nobody is left who could settle.

use super::{
    Settle, Settled,
    member::{Core, Request},
};
use crate::Error;
use resilience::{Backoff, BackoffConfig, Deadline};
use std::{sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::Instant};

/// Settlements of one call: some milliseconds of a server's time.
const MOST: usize = 128;
/// One attempt.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Until every sender is gone and all is settled.
pub(super) async fn run(core: Arc<Core>, mut requests: mpsc::Receiver<Request>) {
    let mut batch = Vec::with_capacity(MOST);
    while requests.recv_many(&mut batch, MOST).await > 0 {
        settle(&core, std::mem::take(&mut batch)).await;
    }
}

async fn settle(core: &Core, batch: Vec<Request>) {
    let settlements: Vec<_> = batch.iter().map(|request| request.settlement.clone()).collect();
    // Later others may have it in any case.
    let until = Instant::now() + core.options.ack_timeout.max(ATTEMPT);
    let mut backoff = Backoff::new(BackoffConfig::default());
    let mut sent_before = false;
    let result = loop {
        match core.store.settle(&core.key, &settlements, Deadline::after(ATTEMPT)).await {
            Err(error) if error.is_retryable() && Instant::now() < until => {
                sent_before |= error.may_have_happened();
                tracing::debug!(%error, "deliveries could not be settled yet");
                tokio::time::sleep(backoff.next_delay()).await;
            }
            result => break result,
        }
    };
    for (index, Request { settlement, reply }) in batch.into_iter().enumerate() {
        core.release(settlement.id, settlement.deliveries);
        let answer = match &result {
            Ok(settled) => {
                let settled = settled.get(index).copied().unwrap_or(Settled::NotPending);
                let ends = matches!(settlement.how, Settle::Ack | Settle::Dead { .. });
                // An attempt without an answer had been carried out.
                let settled = match settled {
                    Settled::NotPending if sent_before && ends => Settled::Done,
                    settled => settled,
                };
                core.count(&settlement.how, settled);
                match settled {
                    Settled::Done => Ok(()),
                    Settled::DeadLettersFull => Err(Error::Limit {
                        what: "dead letters of a group",
                        limit: usize::try_from(core.options.max_dead_letters).unwrap_or(usize::MAX),
                    }),
                    Settled::Superseded | Settled::NotPending => Err(core.superseded(settlement.id)),
                }
            }
            Err(error) => Err(error.clone()),
        };
        match reply {
            // Whoever went away wanted no answer.
            Some(reply) => drop(reply.send(answer)),
            None => {
                if let Err(error) = answer {
                    tracing::debug!(%error, message = %settlement.id, "a delivery was not settled");
                }
            }
        }
    }
}
