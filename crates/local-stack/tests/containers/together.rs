//! Servers in containers among themselves and with the rest: replication, clones, the fault proxy, runtimes.

use std::time::Duration;

use local_stack::{FaultProxy, RedisOptions, wait_for};

use crate::{PATIENCE, containers_of, first, in_containers, ready, shared};

#[test]
fn replicas_have_what_was_written() {
    let Some(stack) = shared() else { return };
    println!("four containers up in {:?}", stack.started_in());
    let (primary, replica) = (stack.postgres().primary(), &stack.postgres().replicas()[0]);
    primary.sql_blocking("postgres", "create table t (x int); insert into t values (7)").expect("written");
    stack.postgres().wait_replicas_blocking(PATIENCE).expect("replicated");
    assert_eq!(first(&replica.sql_blocking("postgres", "select x from t").expect("read")), Some("7"));
    let (master, replica) = (stack.redis().master(), &stack.redis().replicas()[0]);
    master.redis_command_blocking(&["SET", "k", "v"]).expect("set");
    stack.redis().wait_replicas_blocking(PATIENCE).expect("replicated");
    assert_eq!(replica.redis_command_blocking(&["GET", "k"]).expect("got").as_text(), Some("v"));
}

#[test]
fn each_is_in_a_container_of_its_own_and_writes_its_log_where_native_servers_do() {
    let Some(stack) = shared() else { return };
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).expect("a namespace");
    let mut namespaces = std::collections::BTreeSet::from([namespace("self")]);
    for server in stack.postgres().servers().chain(stack.redis().servers()) {
        let pid = server.pid().expect("it runs").to_string();
        assert!(namespaces.insert(namespace(&pid)), "{} is in nobody else's container", server.name());
        assert!(!server.log().is_empty(), "{} writes a log", server.name());
        assert!(server.socket().expect("a socket").exists());
    }
}

#[tokio::test]
async fn a_database_is_cloned_and_dropped() {
    let Some(stack) = ready().await else { return };
    let (one, two) = (stack.database().await.expect("one"), stack.database().await.expect("two"));
    one.sql("create table t (x int)").await.expect("created");
    assert!(two.sql("select * from t").await.is_err(), "they are two");
    let name = one.name().to_owned();
    drop(one);
    let left = format!("select count(*) from pg_database where datname = '{name}'");
    let primary = stack.postgres().primary();
    wait_for("it is dropped", PATIENCE, async || {
        first(&primary.sql("postgres", &left).await.expect("counted")) == Some("0")
    })
    .await;
}

#[tokio::test]
async fn the_fault_proxy_stands_before_them() {
    let Some(stack) = ready().await else { return };
    let proxy = FaultProxy::start(stack.redis().master().target()).await.expect("it starts");
    let ping = async || {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut connection = tokio::net::TcpStream::connect(proxy.addr()).await?;
        connection.write_all(b"PING\r\n").await?;
        let mut answer = [0; 7];
        connection.read_exact(&mut answer).await.map(|_| answer)
    };
    assert_eq!(&ping().await.expect("an answer"), b"+PONG\r\n");
    proxy.refuse(true);
    assert!(ping().await.is_err());
    proxy.heal();
    assert_eq!(&ping().await.expect("an answer again"), b"+PONG\r\n");
}

/// The engine is spoken to by a runtime of its own, which must be in nobody's way.
#[test]
fn a_stack_starts_stops_and_is_dropped_on_any_thread() {
    if shared().is_none() {
        return;
    }
    let redis = || in_containers().redis(RedisOptions::default());
    let stack = redis().start_blocking().expect("it starts without a runtime");
    let directory = stack.directory().expect("a directory").to_owned();
    let flavours =
        [tokio::runtime::Builder::new_current_thread(), tokio::runtime::Builder::new_multi_thread()];
    for mut flavour in flavours {
        let runtime = flavour.enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let other = redis().start().await.expect("it starts on a runtime");
            other.redis().master().restart().await.expect("it restarts on a runtime");
            drop(other);
            // On the runtime's own thread, where blocking is bad manners and a nested runtime a panic.
            stack.redis().master().restart_blocking().expect("it restarts");
        });
    }
    assert!(stack.stop_blocking());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(wait_for("no container is left", Duration::from_secs(5), async || {
        containers_of(&directory).await == 0
    }));
}
