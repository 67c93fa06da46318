//! The service killed between COMMIT and publish, and its relays killed and stopped in the middle of theirs.

use crate::{
    postgres::{database, listener, manager, pool_of},
    support::{PATIENCE, next, quick, soon},
};
use local_stack::wait_for;
use postgres_pool_manager::{TransactionOptions, sqlx};
use pubsub_manager::{
    Deps, Event, Outbox, OutboxConfig, PostgresBus, PostgresBusConfig, SubscribeOptions, TxPublish,
};
use std::{
    io::Write as _,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::sleep,
};

const KILLS: usize = 200;
const SLOTS: usize = 4;
const KEYS: i32 = 6;
const LEASE: Duration = Duration::from_secs(1);
const COMMITTED: &str = "committed";

fn config() -> OutboxConfig {
    OutboxConfig { lease: LEASE, ..OutboxConfig::default() }
}

/// A process of the service: commits and commits until it is killed, and perhaps relays.
async fn serve(url: &str, relays: bool) -> ! {
    let pool = pool_of(url, 2).await;
    let mut deps = Deps::default();
    let listener = listener(url).await;
    if relays {
        deps = Deps::over(PostgresBus::new(listener.clone(), &PostgresBusConfig::default()));
    }
    let manager = quick().build(deps).expect("good settings");
    let _outbox = relays.then(|| Outbox::start(listener, manager.clone(), config()).expect("good settings"));
    loop {
        let key = rand::random_range(0..KEYS);
        let channel = manager.channel::<u64>(&format!("things.{key}")).expect("a good name");
        let mut tx = pool.begin(TransactionOptions::default()).await.expect("begun");
        let n: i64 = sqlx::query_scalar("UPDATE things SET n = n + 1 WHERE key = $1 RETURNING n")
            .bind(key)
            .fetch_one(&mut tx)
            .await
            .expect("counted");
        tx.publish(&channel, &n.unsigned_abs()).await.expect("stored");
        tx.commit().await.expect("committed");
        writeln!(std::io::stdout(), "{COMMITTED} {key} {n}").expect("somebody reads");
    }
}

fn start(url: &str, relays: bool) -> Child {
    let test = "outbox_kills::two_hundred_kills_between_commit_and_publish_lose_and_reorder_nothing";
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args([test, "--exact", "--nocapture"]).env("OUTBOX_URL", url);
    command.env("OUTBOX_RELAYS", if relays { "yes" } else { "no" });
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    command.spawn().expect("started")
}

async fn signal(child: &Child, signal: &str) {
    let pid = child.id().expect("it runs").to_string();
    let sent = Command::new("kill").args([signal, &pid]).status().await.expect("sent");
    assert!(sent.success());
}

/// What was done to the processes.
#[derive(Debug, Default)]
struct Done {
    right_after_commit: AtomicUsize,
    relaying: AtomicUsize,
    stopped: AtomicUsize,
}

/// One process, from its start to its end.
async fn life(url: &str, n: usize, done: &Done) {
    let relays = n.is_multiple_of(4);
    let mut child = start(url, relays);
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let commits = rand::random_range(1..30);
    let mut seen = 0;
    while seen < commits {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("in time");
        let line = line.expect("readable").expect("it goes on until it is killed");
        seen += u32::from(line.starts_with(COMMITTED));
    }
    if relays {
        // Its output has to be taken for as long as it is to go on.
        let taken = tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        sleep(Duration::from_millis(rand::random_range(0..1500))).await;
        if n.is_multiple_of(3) {
            signal(&child, "-STOP").await;
            sleep(LEASE * 3 / 2).await;
            signal(&child, "-CONT").await;
            sleep(Duration::from_millis(rand::random_range(0..300))).await;
            done.stopped.fetch_add(1, Relaxed);
        }
        child.kill().await.expect("killed");
        taken.await.expect("no panic");
        done.relaying.fetch_add(1, Relaxed);
    } else {
        child.kill().await.expect("killed");
        done.right_after_commit.fetch_add(1, Relaxed);
    }
}

#[tokio::test]
async fn two_hundred_kills_between_commit_and_publish_lose_and_reorder_nothing() {
    if let Ok(url) = std::env::var("OUTBOX_URL") {
        serve(&url, std::env::var("OUTBOX_RELAYS").is_ok_and(|relays| relays == "yes")).await;
    }
    let (database, started) = (database().await, Instant::now());
    database.sql("CREATE TABLE things (key int PRIMARY KEY, n bigint NOT NULL)").await.expect("created");
    database
        .sql(&format!("INSERT INTO things SELECT k, 0 FROM generate_series(0, {}) k", KEYS - 1))
        .await
        .expect("filled");
    let consumer = manager(&database.url()).await;
    let options = SubscribeOptions { capacity: 1_000_000, ..SubscribeOptions::default() };
    let mut subscription = consumer.subscribe_pattern::<u64>("things.*", options).await.expect("subscribed");

    let done = Arc::new(Done::default());
    let slots = (0..SLOTS).map(|slot| {
        let (url, done) = (database.url(), Arc::clone(&done));
        tokio::spawn(async move {
            for n in (slot..KILLS).step_by(SLOTS) {
                life(&url, n / SLOTS, &done).await;
            }
        })
    });
    for slot in slots.collect::<Vec<_>>() {
        slot.await.expect("no panic");
    }
    let killed = started.elapsed();

    // One that lives relays what the dead have left.
    let listener = listener(&database.url()).await;
    let bus = PostgresBus::new(listener.clone(), &PostgresBusConfig::default());
    let outbox = Outbox::start(listener, quick().build(Deps::over(bus)).expect("good settings"), config());
    let outbox = outbox.expect("good settings");
    let left = outbox.inspect(soon()).await.expect("figures").pending;
    wait_for("emptied", PATIENCE * 2, async || {
        outbox.inspect(soon()).await.is_ok_and(|figures| figures.pending == 0 && figures.dead == 0)
    })
    .await;

    let rows = database.sql("SELECT n FROM things ORDER BY key").await.expect("counted");
    let wanted: Vec<u64> =
        rows.iter().map(|row| row[0].as_deref().expect("a number").parse().expect("a number")).collect();
    let (mut greatest, mut repeated) = (vec![0; wanted.len()], 0_u64);
    while greatest != wanted {
        let Event::Message(message) = next(&mut subscription).await else { continue };
        let key: usize = message.subject["things.".len()..].parse().expect("a number");
        assert!(message.value <= greatest[key] + 1, "key {key}: {} after {}", message.value, greatest[key]);
        repeated += u64::from(message.value <= greatest[key]);
        greatest[key] = greatest[key].max(message.value);
    }
    let total: u64 = wanted.iter().sum();
    println!(
        "{KILLS} kills within {killed:?} ({done:?}): {total} committed, 0 lost, 0 out of order, {repeated} repeated; \
         {left} left for the last relay, all done after {:?}",
        started.elapsed()
    );
    assert_eq!(done.right_after_commit.load(Relaxed) + done.relaying.load(Relaxed), KILLS);
    outbox.shutdown(PATIENCE).await;
}
