//! The epoch protocol: whatever becomes of the data, a write from a connection of an old generation does not reach what
//! came after. Ten thousand writes around each event, and afterwards a look at what the servers hold.

use crate::support::{
    PATIENCE, calm_cluster, config, config_cluster, config_sentinel, connected, own, soon, within,
};
use bytes::Bytes;
use local_stack::{RedisOptions, Server, Stack, wait_for};
use redis_link::{Config, Error, Generation, Key, RedisLink, Script};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

const LINKS: usize = 10;
/// Writers of a link; so many of its writes are under way at the same time.
const WRITERS: usize = 100;
const TRIES: usize = 10;
/// The event happens after so many of the ten thousand.
const BEFORE: usize = 2_000;

/// What became of one write.
#[derive(Debug)]
struct Try {
    id: String,
    began: Instant,
    outcome: Result<(), Error>,
}

/// Links that learn of nothing but by their own writes, and the generations that they began with.
struct Old {
    links: Vec<RedisLink>,
    generations: Vec<Arc<Generation>>,
    key: Key,
}

impl Old {
    async fn new(settings: Config) -> Self {
        let settings = Config { probe_interval: Duration::from_secs(3600), ..settings };
        let mut links = Vec::new();
        for _ in 0..LINKS {
            links.push(connected(settings.clone()).await);
        }
        let key = links[0].keys().lock("a", "log").expect("a good key");
        // Opening, one may begin an epoch that ends another's: all are taken when all may write.
        let mut generations: Vec<Arc<Generation>> = Vec::new();
        for link in &links {
            generations.push(link.ready(soon()).await.expect("connected"));
        }
        Self { links, generations, key }
    }

    /// Writes ten thousand times on the old generations, with `event` in the middle. Then waits for the links' next
    /// generations. Answers the writes, and when the last link had its next generation.
    async fn write_around(&self, event: impl AsyncFnOnce()) -> (Vec<Try>, Instant) {
        let script = Script::fenced("log", "return redis.call('SADD', KEYS[1], ARGV[1])");
        let done = Arc::new(AtomicUsize::new(0));
        let (go, gate) = tokio::sync::watch::channel(false);
        let mut writers = Vec::new();
        for (number, generation) in self.generations.iter().enumerate() {
            for writer in 0..WRITERS {
                let (generation, script, key) = (Arc::clone(generation), script.clone(), self.key.clone());
                let (done, mut gate) = (Arc::clone(&done), gate.clone());
                writers.push(tokio::spawn(async move {
                    let mut tries = Vec::with_capacity(TRIES);
                    for number_of in 0..TRIES {
                        if number_of == TRIES / 2 {
                            // Half of them begin after the event.
                            gate.wait_for(|open| *open).await.expect("it opens");
                        }
                        let id = format!("{number}-{writer}-{number_of}");
                        let began = Instant::now();
                        let args = vec![Bytes::from(id.clone())];
                        let keys = std::slice::from_ref(&key);
                        let outcome = generation.eval(&script, keys, args, soon()).await.map(drop);
                        tries.push(Try { id, began, outcome });
                        done.fetch_add(1, Relaxed);
                    }
                    tries
                }));
            }
        }
        wait_for("the writers are at it", PATIENCE, async || done.load(Relaxed) >= BEFORE).await;
        event().await;
        go.send_replace(true);
        let mut tries = Vec::new();
        for writer in writers {
            tries.extend(writer.await.expect("no panic"));
        }
        for (link, old) in self.links.iter().zip(&self.generations) {
            wait_for("the next generation", PATIENCE, async || {
                link.generation().is_some_and(|next| next.id() > old.id())
            })
            .await;
        }
        (tries, Instant::now())
    }

    /// What the server holds, read by a link's next generation.
    async fn held(&self) -> Vec<String> {
        let command = || redis_link::Command::new("SMEMBERS").arg(&self.key);
        let mut held = None;
        wait_for("an answer", PATIENCE, async || {
            let Ok(generation) = self.links[0].ready(soon()).await else { return false };
            held = generation.call(command(), within(5000)).await.ok();
            held.is_some()
        })
        .await;
        let members = held.and_then(|value| value.into_array().ok()).unwrap_or_default();
        members.iter().map(|member| member.as_str().expect("text").to_owned()).collect()
    }
}

/// What was refused was not done, and after `event_over` nothing was accepted.
fn judge(tries: &[Try], held: &[String], event_over: Instant) -> HashMap<&'static str, usize> {
    assert_eq!(tries.len(), LINKS * WRITERS * TRIES);
    let mut kinds = HashMap::new();
    for Try { id, began, outcome } in tries {
        let kind = match outcome {
            Ok(()) => "done",
            Err(error) if error.outcome_unknown() => "unknown",
            Err(Error::Epoch { .. }) => "refused by the server",
            Err(Error::Server { .. }) => "not its master any more",
            Err(Error::Unavailable { .. }) => "refused by the link",
            Err(other) => panic!("{id}: {other}"),
        };
        *kinds.entry(kind).or_insert(0) += 1;
        assert!(outcome.is_err() || *began < event_over, "{id} was accepted after the event");
        let refused = !matches!(kind, "done" | "unknown");
        assert!(!refused || !held.contains(id), "{id} was refused ({kind}) and is there");
    }
    eprintln!("{kinds:?}");
    kinds
}

async fn replication_id(server: &Server) -> String {
    let info = server.redis_command(&["INFO", "replication"]).await.expect("told").to_string();
    let line = info.lines().find_map(|line| line.strip_prefix("master_replid:"));
    line.expect("an id").trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushall() {
    let stack = own(RedisOptions::default()).await;
    let master = stack.redis().master();
    let old = Old::new(config(master)).await;
    let mut over = None;
    let (tries, _) = old
        .write_around(async || {
            master.redis_command(&["FLUSHALL"]).await.expect("flushed");
            over = Some(Instant::now());
        })
        .await;
    let held = old.held().await;
    let kinds = judge(&tries, &held, over.expect("it happened"));
    assert!(kinds.get("refused by the server").is_some_and(|count| *count >= LINKS), "{kinds:?}");
    assert_eq!(held, [""; 0], "what was written before is gone, and nothing was written after");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_without_the_data() {
    let stack = own(RedisOptions::default()).await;
    let master = stack.redis().master();
    let old = Old::new(config(master)).await;
    let mut over = None;
    let (tries, _) = old
        .write_around(async || {
            master.restart_empty().await.expect("restarted");
            over = Some(Instant::now());
        })
        .await;
    let held = old.held().await;
    judge(&tries, &held, over.expect("it happened"));
    assert_eq!(held, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_old_rdb() {
    let stack = own(RedisOptions { persistent: false, ..RedisOptions::default() }).await;
    let master = stack.redis().master();
    let old = Old::new(config(master)).await;
    let epoch = old.generations[0].epoch();
    // The file of then has the epoch key of then, under the replication id of then.
    master.redis_command(&["SAVE"]).await.expect("saved");
    let mut over = None;
    let (tries, _) = old
        .write_around(async || {
            master.kill().expect("killed");
            master.restart().await.expect("restarted with the old file");
            over = Some(Instant::now());
        })
        .await;
    let held = old.held().await;
    judge(&tries, &held, over.expect("it happened"));
    assert_eq!(held, [""; 0], "the file is older than all of them");
    assert!(old.links[0].ready(soon()).await.expect("connected").epoch() > epoch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_replica_attaches() {
    let stack = own(RedisOptions::default()).await;
    let other = own(RedisOptions::default()).await;
    let master = stack.redis().master();
    let old = Old::new(config(master)).await;
    let id = replication_id(master).await;
    let mut over = None;
    let (tries, _) = old
        .write_around(async || {
            other.redis().master().follow(master).await.expect("it follows");
            wait_for("another replication id", PATIENCE, async || replication_id(master).await != id).await;
            over = Some(Instant::now());
        })
        .await;
    let held = old.held().await;
    judge(&tries, &held, over.expect("it happened"));
    for Try { id, outcome, .. } in &tries {
        assert!(outcome.is_err() || held.contains(id), "{id} was done, and no data was lost");
    }
}

/// Stops what copies the master, and lets the master write more than the sockets between them hold.
async fn cut_off(stack: &Stack) {
    for replica in stack.redis().replicas() {
        replica.pause().expect("paused");
    }
    let filler = "x".repeat(4 << 20);
    for number in 0..8 {
        let key = format!("filler{number}");
        stack.redis().master().redis_command(&["SET", &key, &filler]).await.expect("set");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_failover_with_a_lost_tail() {
    let stack = own(RedisOptions::with_sentinels(2)).await;
    let old = Old::new(config_sentinel(&stack)).await;
    let epoch = old.generations[0].epoch();
    let master = stack.redis().master();
    let mut copied = Vec::new();
    let (tries, over) = old
        .write_around(async || {
            let key = String::from_utf8_lossy(old.key.as_bytes()).into_owned();
            copied.push(master.redis_command(&["SCARD", &key]).await.expect("told").as_int());
            cut_off(&stack).await;
            // Some of these are acknowledged, and lost with the master.
            wait_for("a tail", PATIENCE, async || {
                let now = master.redis_command(&["SCARD", &key]).await.expect("told").as_int();
                now > copied[0]
            })
            .await;
            master.kill().expect("killed");
            stack.redis().replicas().iter().for_each(|replica| replica.resume().expect("resumed"));
            wait_for("another master", PATIENCE, async || {
                stack.redis().sentinel_master().await.is_ok_and(|now| now.port() != master.port())
            })
            .await;
        })
        .await;
    let held = old.held().await;
    judge(&tries, &held, over);
    let lost = tries.iter().filter(|t| t.outcome.is_ok() && !held.contains(&t.id)).count();
    eprintln!("{lost} acknowledged writes were lost with the old master");
    for link in &old.links {
        let next = link.ready(soon()).await.expect("connected");
        assert!(next.epoch() > epoch, "what the lost tail invalidated is of another epoch");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_failover() {
    let stack = own(calm_cluster()).await;
    let redis = stack.redis();
    let old = Old::new(config_cluster(&stack)).await;
    let owner = redis.slot_owner(old.key.slot()).await.expect("it is served");
    let replica = redis.replica_of(&owner).expect("one each");
    let other = old.links[0].keys().cache_value("r", "other").expect("a good key");
    let elsewhere = (0..).map(|n| old.links[0].keys().cache_value("r", &n.to_string()).expect("a good key"));
    let mut elsewhere = elsewhere.take(64).chain([other]);
    let mut over = None;
    let epochs = |key: &Key| old.generations[0].epoch_of(key).expect("connected");
    let before = epochs(&old.key);
    let another = elsewhere.find(|key| epochs(key) != before).expect("three masters, three epochs");
    let kept = epochs(&another);
    let (tries, _) = old
        .write_around(async || {
            redis.failover_to(replica).await.expect("failed over");
            over = Some(Instant::now());
        })
        .await;
    let held = old.held().await;
    judge(&tries, &held, over.expect("it happened"));
    for link in &old.links {
        let next = link.ready(soon()).await.expect("connected");
        assert!(next.epoch_of(&old.key).expect("connected") > before);
        assert_eq!(next.epoch_of(&another).expect("connected"), kept, "the others' data are what they were");
    }
}
