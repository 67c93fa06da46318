//! Nothing is left behind: after the end of a scope, of a runtime, of a panic, and of a start that was given up.

use std::time::Duration;

use test_services::local_stack::{Server, Stack};
use test_services::{PostgresOptions, TestServices, wait_for};

use crate::SOON;

/// Whether the server still has this database.
fn has(server: &Server, database: &str) -> bool {
    let sql = format!("select 1 from pg_database where datname = '{database}'");
    !server.sql_blocking("postgres", &sql).unwrap().is_empty()
}

fn place(ground: &TestServices) -> (Server, String) {
    (ground.database().primary().clone(), ground.database().name().to_owned())
}

#[tokio::test]
async fn shut_down_the_database_is_gone_at_once() {
    let ground = TestServices::start().await.unwrap();
    let (server, name) = place(&ground);
    let services = ground.services().clone();
    assert!(has(&server, &name));
    ground.shutdown().await;
    assert!(!has(&server, &name));
    assert_eq!(services.state(), database_services::ServiceState::Stopped);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_the_services_stop_and_the_database_goes() {
    let ground = TestServices::start().await.unwrap();
    let (server, name) = place(&ground);
    let services = ground.services().clone();
    drop(ground);
    let stopped = async || services.state() == database_services::ServiceState::Stopped;
    wait_for("the services stop", SOON, stopped).await;
    wait_for("the database goes", SOON, async || !has(&server, &name)).await;
}

/// Runs `test` on a runtime of its own that ends with it, or with its panic, and waits for the database to go.
#[track_caller]
fn leaves_nothing(threads: usize, panics: bool) {
    let runtime = match threads {
        1 => tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
        n => tokio::runtime::Builder::new_multi_thread().worker_threads(n).enable_all().build().unwrap(),
    };
    let seen = std::sync::Mutex::new(None);
    let test = async {
        let ground = TestServices::builder().with_faults().start().await.unwrap();
        *seen.lock().unwrap() = Some(place(&ground));
        assert!(!panics, "as a test does that fails");
    };
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(test)));
    assert_eq!(ended.is_err(), panics);
    drop(runtime);
    let (server, name) = seen.into_inner().unwrap().unwrap();
    let wait = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    wait.block_on(wait_for("the database goes", SOON, async || !has(&server, &name)));
}

#[test]
fn the_runtime_ends_with_the_test() {
    leaves_nothing(1, false);
    leaves_nothing(2, false);
}

#[test]
fn the_test_panics() {
    leaves_nothing(1, true);
    leaves_nothing(2, true);
}

#[tokio::test]
async fn a_start_that_was_given_up_leaves_nothing() {
    let stack = Stack::builder().postgres(PostgresOptions::default()).start().await.unwrap();
    let one = TestServices::builder().on(&stack).start().await.unwrap();
    let mut given_up = 0;
    for milliseconds in (0..200).step_by(5) {
        let start = TestServices::builder().on(&stack).start();
        given_up +=
            u32::from(tokio::time::timeout(Duration::from_millis(milliseconds), start).await.is_err());
    }
    assert!(given_up > 10, "{given_up}");
    one.shutdown().await;
    let left = async || {
        let sql = "select (select count(*) from pg_database where datname like 'test%'), \
                   (select count(*) from pg_stat_activity where application_name like 'database-services%')";
        stack.postgres().primary().sql("postgres", sql).await.unwrap()
    };
    let nothing = [["0", "0"].map(|zero| Some(zero.to_owned()))];
    wait_for("no database and no connection is left", SOON, async || left().await == nothing).await;
}
