//! Masters that are replaced while they are in use: how soon writes succeed again, that no write is done twice, and
//! that nobody waits for ever.

use crate::support::{PATIENCE, calm_cluster, config_cluster, config_sentinel, connected, own, soon, within};
use local_stack::{RedisOptions, Stack, wait_for};
use redis_link::{Command, Error, Key, RedisLink};
use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{task::JoinHandle, time::Instant};

const WRITERS: usize = 8;

/// What a writer has seen.
#[derive(Default)]
struct Seen {
    done: HashSet<String>,
    /// Certainly not done.
    refused: Vec<String>,
    /// What the refusals said.
    errors: Vec<String>,
    /// When each success came.
    successes: Vec<Instant>,
    longest: Duration,
}

/// Appends to a list of its own until it is told to stop: done twice, an element is there twice.
fn writer(link: RedisLink, key: Key, stop: Arc<AtomicBool>) -> JoinHandle<Seen> {
    tokio::spawn(async move {
        let mut seen = Seen::default();
        for number in 0_u64.. {
            if stop.load(Relaxed) {
                break;
            }
            let (id, began) = (number.to_string(), Instant::now());
            let outcome = match link.current() {
                Ok(generation) => {
                    let push = Command::new("RPUSH").arg(&key).arg(id.as_str());
                    generation.call(push, within(1000)).await
                }
                Err(error) => Err(error),
            };
            seen.longest = seen.longest.max(began.elapsed());
            match outcome {
                Ok(_) => {
                    seen.successes.push(Instant::now());
                    seen.done.insert(id);
                }
                Err(error) if error.outcome_unknown() => {}
                Err(Error::Shutdown) => panic!("nobody shut it down"),
                Err(error) => {
                    seen.refused.push(id);
                    seen.errors.push(error.to_string());
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
        seen
    })
}

struct Load {
    link: RedisLink,
    keys: Vec<Key>,
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Seen>>,
}

impl Load {
    async fn on(link: RedisLink) -> Self {
        let keys: Vec<_> =
            (0..WRITERS).map(|n| link.keys().lock(&format!("w{n}"), "log").expect("a good key")).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let start = |key: &Key| writer(link.clone(), key.clone(), Arc::clone(&stop));
        let writers = keys.iter().map(start).collect();
        let load = Self { link, keys, stop, writers };
        load.goes_on().await;
        load
    }

    /// Until every list grows.
    async fn goes_on(&self) {
        for key in &self.keys {
            let mut first = None;
            wait_for("writes", PATIENCE, async || {
                let Some(length) = self.length(key).await else { return false };
                length > *first.get_or_insert(length)
            })
            .await;
        }
    }

    async fn length(&self, key: &Key) -> Option<i64> {
        let generation = self.link.generation()?;
        generation.call(Command::new("LLEN").arg(key), within(1000)).await.ok()?.as_int().ok()
    }

    /// Answers how many of the writers succeeded at all times, and how long after `since` the last of the others did again.
    async fn judge(self, since: Instant) -> Duration {
        self.judge_all(since).await.0
    }

    /// The same, and what the refusals said.
    async fn judge_all(self, since: Instant) -> (Duration, Vec<String>) {
        self.goes_on().await;
        self.stop.store(true, Relaxed);
        let (mut worst, mut refused) = (Duration::ZERO, Vec::new());
        for (key, writer) in self.keys.iter().zip(self.writers) {
            let seen = writer.await.expect("no panic");
            let range = Command::new("LRANGE").arg(key).arg(0).arg(-1);
            let held = self.link.ready(soon()).await.expect("connected").call(range, soon()).await;
            let held = held.expect("read").into_array().expect("a list");
            let held: Vec<_> = held.iter().map(|id| id.as_str().expect("a number").to_owned()).collect();
            let different: HashSet<_> = held.iter().collect();
            assert_eq!(different.len(), held.len(), "something was done twice");
            assert!(seen.refused.iter().all(|id| !different.contains(id)), "something refused was done");
            assert!(seen.longest < Duration::from_secs(2), "somebody waited {:?}", seen.longest);
            // The longest silence of this writer that ends after the fault.
            let gaps = seen.successes.windows(2).filter(|pair| pair[1] > since);
            let silence = gaps.map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
            worst = worst.max(silence);
            refused.extend(seen.errors);
        }
        (worst, refused)
    }
}

async fn until_sentinels_name_another(stack: &Stack) -> Duration {
    let (since, old) = (Instant::now(), stack.redis().master().port());
    wait_for("another master", PATIENCE, async || {
        stack.redis().sentinel_master().await.is_ok_and(|now| now.port() != old)
    })
    .await;
    since.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_replace_a_killed_master_under_load() {
    let stack = own(RedisOptions::with_sentinels(2)).await;
    let load = Load::on(connected(config_sentinel(&stack)).await).await;
    let killed = Instant::now();
    stack.redis().master().kill().expect("killed");
    let detected = until_sentinels_name_another(&stack).await;
    let silence = load.judge(killed).await;
    eprintln!(
        "Sentinels named another master {detected:?} after the kill; writes succeeded again after {silence:?}"
    );
    assert!(silence < detected + Duration::from_secs(2), "{silence:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_replace_a_hung_master_under_load() {
    let stack = own(RedisOptions::with_sentinels(2)).await;
    let load = Load::on(connected(config_sentinel(&stack)).await).await;
    let stopped = Instant::now();
    stack.redis().master().pause().expect("paused");
    let detected = until_sentinels_name_another(&stack).await;
    load.goes_on().await;
    // It wakes up with what was sent to it, takes it for its own, and learns that it is a replica now.
    stack.redis().master().resume().expect("resumed");
    let silence = load.judge(stopped).await;
    eprintln!(
        "Sentinels named another master {detected:?} after the stop; writes succeeded again after {silence:?}"
    );
    assert!(silence < detected + Duration::from_secs(2), "{silence:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_failover_by_sentinels_under_load() {
    let stack = own(RedisOptions::with_sentinels(1)).await;
    let load = Load::on(connected(config_sentinel(&stack)).await).await;
    for round in 1..=3 {
        let asked = Instant::now();
        let next = stack.redis().failover().await.expect("failed over");
        wait_for("the link to follow", PATIENCE, async || load.link.status().master == next.target()).await;
        eprintln!("round {round}: followed {:?} after the request", asked.elapsed());
        stack.redis().wait_sentinels(PATIENCE).await.expect("settled");
    }
    load.judge(Instant::now()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_replaces_a_killed_master_and_the_others_go_on() {
    // Without it a cluster refuses everything as long as one slot is nobody's.
    let config = vec!["cluster-require-full-coverage no".to_owned()];
    let stack = own(RedisOptions { config, ..RedisOptions::cluster() }).await;
    let redis = stack.redis();
    let link = connected(config_cluster(&stack)).await;
    let load = Load::on(link.clone()).await;
    let owner = redis.slot_owner(load.keys[0].slot()).await.expect("it is served");
    let elsewhere = (0..).map(|n| link.keys().lock(&format!("other{n}"), "log").expect("a good key"));
    let mut others = Vec::new();
    for key in elsewhere.take(32) {
        if redis.slot_owner(key.slot()).await.expect("it is served").port() != owner.port() {
            others.push(key);
        }
    }
    let stop = Arc::new(AtomicBool::new(false));
    let undisturbed: Vec<_> =
        others.iter().take(4).map(|key| writer(link.clone(), key.clone(), Arc::clone(&stop))).collect();
    let killed = Instant::now();
    owner.kill().expect("killed");
    wait_for("a new owner", PATIENCE, async || {
        redis.slot_owner(load.keys[0].slot()).await.is_ok_and(|now| now.port() != owner.port())
    })
    .await;
    let detected = killed.elapsed();
    let silence = load.judge(killed).await;
    eprintln!("the cluster had another master after {detected:?}; writes succeeded again after {silence:?}");
    stop.store(true, Relaxed);
    for writer in undisturbed {
        let seen = writer.await.expect("no panic");
        assert_eq!(seen.refused, [""; 0], "the other masters were there all the time");
        assert!(seen.longest < Duration::from_millis(900), "{:?}", seen.longest);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_move_under_load_and_nothing_is_refused() {
    let stack = own(calm_cluster()).await;
    let redis = stack.redis();
    let load = Load::on(connected(config_cluster(&stack)).await).await;
    for key in &load.keys {
        let slot = key.slot();
        let from = redis.slot_owner(slot).await.expect("it is served");
        let to = redis.masters().iter().find(|master| master.port() != from.port()).expect("three masters");
        let moving = redis.begin_move_slot(slot, &from, to).await.expect("begun");
        load.goes_on().await;
        moving.migrate_keys().await.expect("moved");
        load.goes_on().await;
        moving.finish().await.expect("finished");
        load.goes_on().await;
    }
    let status = load.link.status();
    let (_, refused) = load.judge_all(Instant::now()).await;
    assert_eq!(refused, [""; 0], "what was refused where it was is done where it is now");
    assert_eq!((status.errors.unavailable, status.errors.unknown, status.errors.timeout), (0, 0, 0));
}
