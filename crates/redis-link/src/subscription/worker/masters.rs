//! What the link's news mean for a connection of a subscription. It finds no master by itself.

use crate::{
    Endpoint,
    link::{LinkState, Shared},
};
use tokio::sync::watch;

/// Resolves when the link has new connections.
pub(super) async fn connected_anew(states: &mut watch::Receiver<LinkState>) {
    loop {
        if states.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        if matches!(&*states.borrow_and_update(), LinkState::Connected(generation) if generation.is_alive()) {
            return;
        }
    }
}

/// Resolves when the link knows of other masters: one that hangs is not waited for.
pub(super) async fn no_master_any_more(shared: &Shared, endpoint: &Endpoint) {
    let mut states = shared.state.subscribe();
    let known = || shared.layout.load_full().is_none_or(|layout| layout.masters.contains(endpoint));
    let replaced = |state: &LinkState| matches!(state, LinkState::Connected(_)) && !known();
    if states.wait_for(replaced).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Resolves when the link is connected to other server processes than this connection.
pub(super) async fn another_server(shared: &Shared, run_id: &str) {
    let mut states = shared.state.subscribe();
    let moved = |state: &LinkState| match state {
        LinkState::Connected(generation) => {
            generation.is_alive() && generation.nodes().all(|node| node.info().run_id != run_id)
        }
        _ => false,
    };
    if states.wait_for(moved).await.is_err() {
        std::future::pending::<()>().await;
    }
}
