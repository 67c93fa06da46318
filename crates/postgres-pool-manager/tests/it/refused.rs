//! Every reason for which a connection cannot be opened has a name of its own; certificates are in `tls`.

use crate::support::*;
use local_stack::{PostgresOptions, Stack, wait_for};
use postgres_pool_manager::{Config, ConnectFailure, Error, HostState, PoolState, ReplicaEndpoint};
use resilience::Deadline;

async fn failure(config: Config) -> (ConnectFailure, String) {
    match config.connect().await.unwrap_err() {
        Error::Connect { failure, host, source } => {
            (failure, Error::Connect { failure, host, source }.to_string())
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_socket_serves_and_a_missing_one_is_said() {
    let db = database().await;
    let directory = db.primary().socket().unwrap().parent().unwrap().to_str().unwrap();
    let at = |directory: &str| {
        let directory = directory.replace('/', "%2F");
        format!("postgres://postgres@{directory}:{}/{}", db.primary().port(), db.name())
    };
    let pool = config(at(directory), 1).connect().await.unwrap();
    backend(&mut pool.write().await.unwrap()).await;
    assert!(pool.load_balancer()[0].host.starts_with('/'));
    let (kind, text) = failure(config(at("/no/such/directory"), 1)).await;
    assert_eq!(kind, ConnectFailure::NoSocket);
    assert!(text.contains("/no/such/directory") && text.contains("no such socket"), "{text}");
}

#[tokio::test]
async fn a_host_that_has_no_address_is_said() {
    let (kind, text) = failure(config("postgres://postgres@no-such-host.invalid/x".into(), 1)).await;
    assert_eq!(kind, ConnectFailure::NoSuchHost, "{text}");
    assert!(text.contains("no-such-host.invalid") && text.contains("cannot be resolved"), "{text}");
}

#[tokio::test]
async fn a_server_that_goes_down_says_so_and_is_waited_for() {
    let stack = Stack::builder().postgres(PostgresOptions::default()).start().await.unwrap();
    let db = stack.database().await.unwrap();
    let (held, waits) =
        (config(db.url(), 1).connect().await.unwrap(), config(db.url(), 1).connect().await.unwrap());
    let session = held.write().await.unwrap();
    let pid = stack.postgres().primary().pid().unwrap();
    // A smart shutdown: who is connected may finish, nobody new comes in (57P03).
    assert!(std::process::Command::new("kill").args(["-TERM", &pid.to_string()]).status().unwrap().success());
    wait_for("the server to take nobody", SOON, async || {
        let error = config(db.url(), 1).connect().await.err();
        matches!(error, Some(Error::Connect { failure: ConnectFailure::StartingUp, .. }))
    })
    .await;
    let (kind, text) = failure(config(db.url(), 1)).await;
    assert_eq!(kind, ConnectFailure::StartingUp);
    assert!(kind.is_transient() && text.contains("starting up or shutting down"), "{text}");
    drop((session, held));
    waits.shutdown(millis(100)).await;
    let primary = stack.postgres().primary();
    wait_for("it has ended", SOON, async || !primary.is_running()).await;
    let pool = Config { lazy_connect: true, ..config(db.url(), 1) }.connect().await.unwrap();
    assert_eq!(pool.status().state, PoolState::Disconnected);
    primary.restart().await.unwrap();
    pool.health_check(Deadline::after(SOON)).await.unwrap();
}

#[tokio::test]
async fn a_server_of_another_cluster_is_refused() {
    let own = || PostgresOptions { own_identity: true, ..PostgresOptions::with_replicas(1) };
    let (ours, theirs) = tokio::join!(
        Stack::builder().postgres(PostgresOptions::with_replicas(1)).start(),
        Stack::builder().postgres(own()).start()
    );
    let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
    let (ours, theirs) = (ours.database().await.unwrap(), theirs.database().await.unwrap());
    let mine = ReplicaEndpoint::new("mine", ours.replica_url(0).unwrap(), 1);
    // The same database's name there, so that nothing but the identity differs.
    theirs.primary().sql("postgres", &format!("CREATE DATABASE {}", ours.name())).await.unwrap();
    theirs.stack().postgres().wait_replicas(SOON).await.unwrap();
    let stranger = theirs.stack().postgres().replicas()[0].url_for(ours.name());
    let replica = ReplicaEndpoint::new("stranger", stranger, 1);
    let pool = Config { replicas: vec![mine], ..config(ours.url(), 1) }.connect().await.unwrap();
    pool.add_replica(&replica).unwrap();
    wait_for("the stranger is seen through, and the other one serves", SOON, async || {
        let hosts = pool.load_balancer();
        let state = |name: &str| hosts.iter().find(|host| host.name == name).unwrap().state;
        state("stranger") == HostState::OtherCluster && state("mine") == HostState::Up
    })
    .await;
    for _ in 0..10 {
        assert_eq!(pool.read().await.unwrap().host(), "mine");
    }
    // Known from the start, it is an error of the settings, whoever answers first.
    let settings = Config { replicas: vec![replica], ..config(ours.url(), 1) };
    match settings.connect().await {
        Err(Error::Connect { failure: ConnectFailure::OtherCluster, host, source }) => {
            let text = Error::Connect { failure: ConnectFailure::OtherCluster, host, source }.to_string();
            assert!(text.contains("stranger") && text.contains("system identifier differs"), "{text}");
        }
        // The replica answered before the primary had said who it is: it is found out by its first look.
        Ok(pool) => {
            wait_for("the stranger is seen through", SOON, async || {
                pool.load_balancer()[1].state == HostState::OtherCluster
            })
            .await;
            assert!(!pool.read().await.unwrap().is_replica());
        }
        Err(other) => panic!("{other}"),
    }
    let direct = postgres_pool_manager::MigrateOptions {
        url: Some(theirs.primary().url_for(ours.name()).into()),
        ..Default::default()
    };
    let error = pool.migrate(&[], direct).await.unwrap_err();
    assert!(matches!(error, Error::Connect { failure: ConnectFailure::OtherCluster, .. }), "{error}");
}
