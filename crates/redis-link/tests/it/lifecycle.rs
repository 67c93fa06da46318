//! Beginning and end of a link: shutdown, dropped handles, runtimes that are gone.

use crate::support::{PATIENCE, config, connected, deps, everywhere, own, shared, soon};
use local_stack::{RedisOptions, Server, wait_for};
use redis_link::{Command, ConnectionState, Error, LinkState};
use std::{sync::Arc, time::Duration};

/// Connections that the server has from a link's clients.
async fn clients(server: &Server) -> usize {
    let reply = server.redis_command(&["CLIENT", "LIST"]).await.expect("listed").to_string();
    // One is ours.
    reply.matches(" addr=").count().saturating_sub(1)
}

#[tokio::test]
async fn shutdown_waits_for_calls_and_closes_everything() {
    let stack = own(RedisOptions::default()).await;
    let master = stack.redis().master();
    let link = connected(config(master)).await;
    let generation = link.ready(soon()).await.expect("connected");
    let list = link.keys().lock("a", "list").expect("a good key");
    let pop = {
        let (generation, list) = (Arc::clone(&generation), list.clone());
        tokio::spawn(async move { generation.call(Command::new("BLPOP").arg(&list).arg(10), soon()).await })
    };
    wait_for("it is in flight", PATIENCE, async || generation.in_flight() == 1).await;
    let mut subscription = link.subscription(&[], Default::default()).expect("started");
    let push = async {
        master
            .redis_command(&["RPUSH", std::str::from_utf8(list.as_bytes()).expect("text"), "x"])
            .await
            .expect("pushed");
    };
    tokio::join!(link.shutdown(PATIENCE), push);
    pop.await.expect("no panic").expect("the call under way was waited for");
    assert!(!generation.is_alive());
    assert!(matches!(link.current(), Err(Error::Shutdown)));
    assert!(matches!(link.ready(soon()).await, Err(Error::Shutdown)));
    assert!(matches!(link.subscription(&[], Default::default()), Err(Error::Shutdown)));
    assert!(matches!(&*link.watch().borrow(), LinkState::Shutdown));
    assert_eq!(link.status().state, ConnectionState::Shutdown);
    while subscription.next().await.is_some() {}
    wait_for("no connection is left", PATIENCE, async || clients(master).await == 0).await;
    link.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn shutdown_does_not_wait_longer_than_its_grace() {
    for ground in everywhere().await {
        let link = connected(ground.config()).await;
        let generation = link.ready(soon()).await.expect("connected");
        let list = link.keys().lock("a", "list").expect("a good key");
        let pop = {
            let generation = Arc::clone(&generation);
            tokio::spawn(
                async move { generation.call(Command::new("BLPOP").arg(&list).arg(0), soon()).await },
            )
        };
        wait_for("it is in flight", PATIENCE, async || generation.in_flight() == 1).await;
        link.shutdown(Duration::from_millis(50)).await;
        assert!(matches!(pop.await.expect("no panic"), Err(Error::Unknown { .. })));
    }
}

#[tokio::test]
async fn the_last_handle_takes_all_connections_with_it() {
    let stack = own(RedisOptions::default()).await;
    let master = stack.redis().master();
    let link = connected(config(master)).await;
    let generation = link.ready(soon()).await.expect("connected");
    let dedicated =
        link.dedicated(&link.keys().lock("d", "d").expect("a good key"), soon()).await.expect("opened");
    let subscription = link.subscription(&[], Default::default()).expect("started");
    wait_for("all of them", PATIENCE, async || clients(master).await == 4).await;
    drop(link.clone());
    assert!(generation.is_alive());
    drop(link);
    generation.died().await;
    drop((dedicated, subscription));
    wait_for("no connection is left", PATIENCE, async || clients(master).await == 0).await;
}

#[tokio::test]
async fn connecting_that_is_given_up_leaves_nothing() {
    let stack = own(RedisOptions::default()).await;
    let master = stack.redis().master();
    for micros in (0..4000).step_by(100) {
        let connecting = config(master).connect(deps());
        let _ = tokio::time::timeout(Duration::from_micros(micros), connecting).await;
    }
    wait_for("no connection is left", PATIENCE, async || clients(master).await == 0).await;
}

#[test]
fn everything_can_be_dropped_without_its_runtime() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (link, generation, dedicated, subscription) = runtime.block_on(async {
        let stack = shared().await;
        let link = connected(config(stack.redis().master())).await;
        let generation = link.ready(soon()).await.expect("connected");
        let dedicated =
            link.dedicated(&link.keys().lock("d", "d").expect("a good key"), soon()).await.expect("opened");
        let subscription = link.subscription(&[], Default::default()).expect("started");
        (link, generation, dedicated, subscription)
    });
    drop(runtime);
    assert!(link.status().generation >= 1);
    drop((subscription, dedicated, generation, link));
}

#[test]
fn everything_can_be_dropped_outside_of_its_living_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (link, generation, subscription) = runtime.block_on(async {
        let stack = shared().await;
        let link = connected(config(stack.redis().master())).await;
        let generation = link.ready(soon()).await.expect("connected");
        let subscription = link.subscription(&[], Default::default()).expect("started");
        (link, generation, subscription)
    });
    drop((subscription, generation, link));
    drop(runtime);
}
