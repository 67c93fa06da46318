//! The masters of a cluster by the word of its nodes. Several are asked, as one that was cut off from the others tells an
//! old story: the story of the largest cluster epoch counts.

use super::answers;
use crate::{
    Endpoint, Error,
    generation::Node,
    layout::Layout,
    opener::Opener,
    wire::{Failure, Wire, arguments, unavailable},
};
use bytes::Bytes;
use futures_util::future::join;
use rand::seq::IndexedRandom;
use std::sync::Arc;

/// Connected masters that are asked; a view of a small cluster is complete, of a large one a sample.
const ASKED: usize = 5;

/// The epoch of the cluster as a node sees it, and the layout.
type Story = (u64, Layout);

/// `believed` is the largest cluster epoch that was believed: an older story is of no interest while masters are connected.
pub(super) async fn find(
    opener: &Opener,
    seeds: &[Endpoint],
    living: &[Arc<Node>],
    believed: &mut u64,
) -> Result<Layout, Error> {
    let limit = opener.config.probe_timeout.min(opener.config.connect_timeout);
    let asked: Vec<_> = living.choose_multiple(&mut rand::rng(), ASKED).collect();
    let told = asked.iter().map(|node| ask(node.first_wire(), node.endpoint()));
    let told = newest(answers(told, limit, Result::is_ok).await);
    if let Ok((epoch, layout)) = told {
        if epoch < *believed {
            return Err(unavailable("the nodes that answer tell an old story"));
        }
        *believed = epoch;
        return Ok(layout);
    }
    // Nobody is connected, or those who are say nothing of use: begin as if for the first time.
    let told = seeds.iter().map(async |seed| {
        let (wire, _driver) = Box::pin(opener.open(seed)).await?;
        ask(&wire, seed).await
    });
    let (epoch, layout) = newest(answers(told, limit, Result::is_ok).await)?;
    *believed = epoch;
    Ok(layout)
}

/// The epoch of the cluster as this node sees it, and the layout.
async fn ask(wire: &Wire, endpoint: &Endpoint) -> Result<Story, Error> {
    let question = |what: &'static [u8]| wire.exchange("CLUSTER", arguments([Bytes::from_static(what)]));
    let both = join(question(b"INFO"), question(b"SLOTS"));
    let (info, slots) = both.await;
    let refused = |failure| match failure {
        Failure::Reply(message) if message.contains("cluster support disabled") => {
            Error::NoCluster { endpoint: endpoint.to_string() }
        }
        failure => failure.into_error("CLUSTER"),
    };
    let (info, slots) = (info.map_err(refused)?, slots.map_err(refused)?);
    let epoch = info.as_str()?.lines().find_map(|line| line.strip_prefix("cluster_current_epoch:"));
    let epoch = epoch.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    Ok((epoch, Layout::of_cluster(&slots, endpoint)?))
}

fn newest(told: Vec<(usize, Result<Story, Error>)>) -> Result<Story, Error> {
    let mut worst = None;
    let mut best: Option<Story> = None;
    for (_, told) in told {
        match told {
            // Of the same epoch, the one that knows of more: slots are not assigned everywhere at the same time.
            Ok((epoch, layout)) => {
                let rank = |epoch: u64, layout: &Layout| {
                    (epoch, std::cmp::Reverse(layout.uncovered().map_or(0, |(count, _)| count)))
                };
                if best.as_ref().is_none_or(|(e, best)| rank(epoch, &layout) > rank(*e, best)) {
                    best = Some((epoch, layout));
                }
            }
            Err(error) if worst.as_ref().is_none_or(|worst: &Error| !worst.is_permanent()) => {
                worst = Some(error);
            }
            Err(_) => {}
        }
    }
    match best {
        Some(best) => Ok(best),
        None => Err(worst.unwrap_or_else(|| unavailable("no node of the cluster answers"))),
    }
}
