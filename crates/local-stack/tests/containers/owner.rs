//! When the owner of a stack is killed, within five seconds nothing of it is left: no process, no directory, no
//! container. The owner is this test binary started once more, with [`as_owner`] as its only test.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use local_stack::{PostgresOptions, RedisOptions, wait_for};

use crate::{containers_of, in_containers, ready};

const OWNER: &str = "LOCAL_STACK_TEST_OWNER";
const LIMIT: Duration = Duration::from_secs(5);

/// Not a test by itself: what the owner's process runs.
#[test]
fn as_owner() {
    if std::env::var_os(OWNER).is_none() {
        return;
    }
    let stack = in_containers()
        .postgres(PostgresOptions::with_replicas(1))
        .redis(RedisOptions::with_replicas(1))
        .start_blocking()
        .expect("all start");
    // Stopped processes must be ended as well.
    stack.postgres().replicas()[0].pause().expect("paused");
    stack.redis().replicas()[0].pause().expect("paused");
    println!("owner: {}", stack.directory().expect("a directory").display());
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("killed before this");
}

#[tokio::test]
async fn kill_9_leaves_no_process_no_directory_and_no_container() {
    if ready().await.is_none() {
        return;
    }
    let mut owner = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "owner::as_owner", "--nocapture", "--test-threads=1"])
        .env(OWNER, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the owner starts");
    let lines = BufReader::new(owner.stdout.take().expect("its words")).lines();
    // libtest begins the line itself: "test owner::as_owner ... owner: /tmp/…".
    let mut told =
        lines.map_while(Result::ok).filter_map(|line| Some(line.split_once("owner: ")?.1.to_owned()));
    let directory = PathBuf::from(told.next().expect("the owner says where its stack is"));
    let processes = inside(&directory);
    assert!(processes.len() > 8, "two postmasters with their helpers and two Redis servers: {processes:?}");
    assert_eq!(containers_of(&directory).await, 4);

    owner.kill().expect("killed");
    owner.wait().expect("reaped");
    let runs = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
    };
    let took = wait_for("nothing is left", LIMIT, async || {
        let none_runs = !processes.iter().any(runs) && inside(&directory).is_empty();
        none_runs && !directory.exists() && containers_of(&directory).await == 0
    })
    .await;
    println!("nothing left {took:?} after the owner's end");
}

/// The processes that work below a directory, by their working directory. (Zombies have none.)
fn inside(directory: &Path) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("listed").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let works = |pid: &u32| {
        std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(directory))
    };
    pids.filter(works).collect()
}
