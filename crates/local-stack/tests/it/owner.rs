//! However the owner of a stack ends, within five seconds nothing of it is left: no process, no directory.
//!
//! The owner is this test binary started once more, with [`as_owner`] as its only test.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use local_stack::{PostgresOptions, RedisOptions, Stack, wait_for};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

const MODE: &str = "LOCAL_STACK_TEST_OWNER";
const LIMIT: Duration = Duration::from_secs(5);

/// Not a test by itself: what the owner's process runs.
#[test]
fn as_owner() {
    let Ok(mode) = std::env::var(MODE) else { return };
    if mode == "spawning" {
        // To be killed at any moment of a start; the directory is told by its absence from the list of before.
        println!("owner: spawning");
        loop {
            drop(started());
        }
    }
    let stack = if mode == "watched" {
        Stack::builder().redis(RedisOptions::with_sentinels(4)).start_blocking().expect("all start")
    } else {
        started()
    };
    if mode == "paused" {
        stack.postgres().primary().pause().expect("paused");
        stack.redis().replicas()[0].pause().expect("paused");
    }
    println!("owner: {}", stack.directory().expect("a directory").display());
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("told what to do");
    match mode.as_str() {
        "panic" => panic!("as asked"),
        "drop" => {
            drop(stack);
            // Goes on living: the servers must go without its end.
            std::io::stdin().read_line(&mut line).expect("told to end");
        }
        _ => panic!("killed before this"),
    }
}

fn started() -> Stack {
    Stack::builder()
        .postgres(PostgresOptions::with_replicas(1))
        .redis(RedisOptions::with_replicas(1))
        .start_blocking()
        .expect("all start")
}

struct Owner {
    process: Child,
    directory: PathBuf,
    processes: BTreeSet<u32>,
}

impl Owner {
    fn start(mode: &str) -> Self {
        let mut process = spawn(mode);
        let directory = PathBuf::from(told(&mut process));
        let processes = inside(&directory);
        // The two postmasters, two Redis servers, and Postgres' own helpers; or five servers and three Sentinels.
        assert!(processes.len() >= 8, "{processes:?}");
        Self { process, directory, processes }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    async fn nothing_is_left(mut self, but_logs: bool) {
        let left = || {
            let running: Vec<_> = self.processes.iter().filter(|pid| runs(**pid)).collect();
            (running.len(), inside(&self.directory).len())
        };
        let took = wait_for("no process is left", LIMIT, async || left() == (0, 0)).await;
        eprintln!("no process left {took:?} after the owner's end");
        let directory = &self.directory;
        if but_logs {
            wait_for("no data are left", LIMIT, async || !directory.join("postgres-0").exists()).await;
            assert!(directory.join("logs/postgres-0.log").exists(), "the logs are kept after a failure");
            wait_for("the watchdog is done", LIMIT, async || std::fs::remove_dir_all(directory).is_ok())
                .await;
        } else {
            wait_for("no directory is left", LIMIT, async || !directory.exists()).await;
        }
        self.process.kill().expect("killed");
        self.process.wait().expect("reaped");
    }
}

fn spawn(mode: &str) -> Child {
    Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "owner::as_owner", "--nocapture", "--test-threads=1"])
        .env(MODE, mode)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the owner starts")
}

fn told(process: &mut Child) -> String {
    let lines = BufReader::new(process.stdout.take().expect("its words")).lines();
    // libtest begins the line itself: "test owner::as_owner ... owner: /tmp/…".
    let mut told =
        lines.map_while(Result::ok).filter_map(|line| Some(line.split_once("owner: ")?.1.to_owned()));
    told.next().expect("the owner says where its stack is")
}

/// The processes that work below a directory, by their working directory. (Zombies have none.)
fn inside(directory: &std::path::Path) -> BTreeSet<u32> {
    std::fs::read_dir("/proc")
        .expect("listed")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(directory))
        })
        .collect()
}

fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

#[tokio::test]
async fn kill_9_leaves_nothing() {
    let owner = Owner::start("waits");
    kill_process(owner.pid(), Signal::KILL).expect("killed");
    owner.nothing_is_left(false).await;
}

#[tokio::test]
async fn kill_9_of_the_process_group_leaves_nothing() {
    let owner = Owner::start("waits");
    kill_process_group(owner.pid(), Signal::KILL).expect("killed");
    owner.nothing_is_left(false).await;
}

#[tokio::test]
async fn ctrl_c_leaves_nothing() {
    let owner = Owner::start("waits");
    kill_process_group(owner.pid(), Signal::INT).expect("interrupted");
    owner.nothing_is_left(false).await;
}

#[tokio::test]
async fn paused_servers_are_ended_too() {
    let owner = Owner::start("paused");
    kill_process(owner.pid(), Signal::KILL).expect("killed");
    owner.nothing_is_left(false).await;
}

#[tokio::test]
async fn sentinels_are_ended_too() {
    let owner = Owner::start("watched");
    kill_process(owner.pid(), Signal::KILL).expect("killed");
    owner.nothing_is_left(false).await;
}

#[tokio::test]
async fn a_panic_leaves_nothing_but_logs() {
    let mut owner = Owner::start("panic");
    drop(owner.process.stdin.take());
    owner.nothing_is_left(true).await;
}

#[tokio::test]
async fn a_drop_leaves_nothing_while_the_owner_lives_on() {
    use std::io::Write as _;
    let mut owner = Owner::start("drop");
    let stdin = owner.process.stdin.as_mut().expect("its ear");
    stdin.write_all(b"\n").expect("told");
    owner.nothing_is_left(false).await;
}

/// The window between the spawn of a server and anything that the owner could note about it.
#[tokio::test]
async fn kill_9_in_the_middle_of_a_start_leaves_nothing() {
    for round in 0..16_u64 {
        let scratch = tempfile::Builder::new().prefix("ls-").tempdir().expect("a directory");
        let everybodys = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
        std::fs::set_permissions(scratch.path(), everybodys).expect("like /tmp");
        // Every other start has an empty cache and so begins with `initdb`.
        let (uncached, cache) = (round % 2 == 0, tempfile::tempdir().expect("a directory"));
        let mut owner = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "owner::as_owner", "--nocapture", "--test-threads=1"])
            .envs([(MODE, "spawning".as_ref()), ("LOCAL_STACK_DIR", scratch.path().as_os_str())])
            .envs(uncached.then(|| ("LOCAL_STACK_CACHE_DIR", cache.path())))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the owner starts");
        told(&mut owner);
        // Not a wait for anything: moments spread over the length of a start.
        tokio::time::sleep(Duration::from_millis(if uncached { 71 } else { 19 } * round)).await;
        owner.kill().expect("killed");
        owner.wait().expect("reaped");
        wait_for("no process is left", LIMIT, async || inside(scratch.path()).is_empty()).await;
        let empty = || std::fs::read_dir(scratch.path()).expect("listed").next().is_none();
        wait_for("no directory is left", LIMIT, async || empty()).await;
        // An engine that had its order already may start a container in what is no longer there; that ends by itself.
        if std::env::var("LOCAL_STACK_PROVIDER").is_ok_and(|provider| provider == "containers") {
            wait_for("no late process stays", LIMIT, async || inside(scratch.path()).is_empty()).await;
        }
        assert!(inside(scratch.path()).is_empty(), "round {round}: a process came later");
    }
}
