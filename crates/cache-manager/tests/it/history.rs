//! A register per key, written by several processes at random while others read through the cache. Checked at every read:
//! in the same process, nothing older than the last invalidation that had returned before the read began (a); in another,
//! nothing older than the last one that was applied more than a quarter of a second before (b); no reader sees a key's
//! version go back (c). A planted fault has to be found. While Redis is harmed, no read fails, (a) holds as it stands,
//! (b) with the time that a process may be cut off.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cache_manager::{Cache, Config, Loaded, RegionOptions};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::world::{Memory, World, brisk};

const KEYS: usize = 24;

/// What a run demands, and how long it lasts.
#[derive(Clone, Copy)]
struct Rules {
    /// When another process has to have followed.
    limit: Duration,
    /// Whether versions may go back: what the promise allows while Redis comes and goes.
    back: bool,
    /// Whether one invalidation in five is left out.
    planted: bool,
    /// At least so long, and until there are this many reads and writes.
    lasts: Duration,
    reads: u64,
    writes: u64,
}

const STRICT: Rules = Rules {
    limit: Duration::from_millis(250),
    back: false,
    planted: false,
    lasts: Duration::from_secs(5),
    reads: 2000,
    writes: 200,
};

/// What is true, and when it became known to whom.
struct Register {
    value: AtomicU64,
    /// (process, version, when its invalidation had returned, whether it was applied).
    acknowledged: parking_lot::Mutex<Vec<(usize, u64, Instant, bool)>>,
    writer: tokio::sync::Mutex<()>,
}

impl Register {
    fn new() -> Self {
        Self {
            value: AtomicU64::new(1),
            acknowledged: parking_lot::Mutex::default(),
            writer: tokio::sync::Mutex::new(()),
        }
    }

    /// The oldest version that a read may bring that begins now in `process`.
    fn oldest(&self, process: usize, limit: Duration) -> u64 {
        let acknowledged = self.acknowledged.lock();
        let due = |(by, _, at, applied): &&(usize, u64, Instant, bool)| {
            *by == process || (*applied && at.elapsed() > limit)
        };
        acknowledged.iter().filter(due).map(|(_, version, _, _)| *version).max().unwrap_or(0)
    }
}

struct Run {
    rules: Rules,
    registers: Vec<Register>,
    stop: AtomicBool,
    reads: AtomicU64,
    writes: AtomicU64,
    stale: parking_lot::Mutex<Vec<String>>,
}

impl Run {
    /// Until there are so many more reads.
    async fn reads_on(&self, more: u64) {
        let wanted = self.reads.load(Ordering::Relaxed) + more;
        let enough = async || self.reads.load(Ordering::Relaxed) >= wanted;
        local_stack::wait_for("reads go on", Duration::from_secs(30), enough).await;
    }
}

async fn load(run: Arc<Run>, key: usize, pause: u64) -> Result<Loaded<u64>, std::io::Error> {
    let value = run.registers[key].value.load(Ordering::SeqCst);
    if pause > 0 {
        tokio::time::sleep(Duration::from_micros(pause)).await;
    }
    Ok(Loaded::value(value))
}

async fn reader(run: Arc<Run>, cache: Cache<u64>, process: usize, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut seen = [0; KEYS];
    while !run.stop.load(Ordering::Relaxed) {
        let key = random.random_range(0..KEYS);
        let pause = if random.random_bool(0.3) { random.random_range(0..4000) } else { 0 };
        let oldest = run.registers[key].oldest(process, run.rules.limit);
        let shared = Arc::clone(&run);
        let read = cache.get_or_load(&key.to_string(), move |_| load(shared, key, pause)).await;
        run.reads.fetch_add(1, Ordering::Relaxed);
        match read {
            Ok(hit) => {
                let got = *hit.value.as_deref().unwrap();
                let floor = if run.rules.back { oldest } else { oldest.max(seen[key]) };
                if got < floor {
                    let text = format!(
                        "key {key} in {process}: {got}, allowed {oldest}, seen {} ({hit:?})",
                        seen[key]
                    );
                    run.stale.lock().push(text);
                }
                seen[key] = got;
            }
            Err(error) => run.stale.lock().push(format!("failed: {error:?}")),
        }
        tokio::task::yield_now().await;
    }
}

async fn writer(run: Arc<Run>, cache: Cache<u64>, process: usize, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    while !run.stop.load(Ordering::Relaxed) {
        let key = random.random_range(0..KEYS);
        let register = &run.registers[key];
        let one = register.writer.lock().await;
        let version = register.value.load(Ordering::SeqCst) + 1;
        register.value.store(version, Ordering::SeqCst);
        let forgotten = run.rules.planted && random.random_bool(0.2);
        let done = match random.random_range(0..10) {
            _ if forgotten => true,
            0 => cache.set(&key.to_string(), version).await.is_ok(),
            1 => cache.invalidate_many(&[&key.to_string(), "other"]).await.is_ok(),
            _ => cache.invalidate(&key.to_string()).await.is_ok(),
        };
        register.acknowledged.lock().push((process, version, Instant::now(), done));
        drop(one);
        run.writes.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_micros(random.random_range(0..8000))).await;
    }
}

/// Runs until the rules are met and `faults` has ended.
async fn play(caches: Vec<Cache<u64>>, rules: Rules, faults: impl AsyncFnOnce(&Run)) -> Arc<Run> {
    let run = Arc::new(Run {
        rules,
        registers: (0..KEYS).map(|_| Register::new()).collect(),
        stop: AtomicBool::new(false),
        reads: AtomicU64::new(0),
        writes: AtomicU64::new(0),
        stale: parking_lot::Mutex::default(),
    });
    let mut tasks = Vec::new();
    for (process, cache) in caches.into_iter().enumerate() {
        for n in 0..4_u64 {
            let seed = 1000 * n + process as u64;
            tasks.push(tokio::spawn(reader(Arc::clone(&run), cache.clone(), process, seed)));
        }
        tasks.push(tokio::spawn(writer(Arc::clone(&run), cache, process, 77 + process as u64)));
    }
    let began = Instant::now();
    faults(&run).await;
    local_stack::wait_for("enough reads and writes", Duration::from_secs(90), async || {
        let enough = |count: &AtomicU64, wanted| count.load(Ordering::Relaxed) >= wanted;
        began.elapsed() >= rules.lasts && enough(&run.reads, rules.reads) && enough(&run.writes, rules.writes)
    })
    .await;
    run.stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    println!("{} reads, {} writes", run.reads.load(Ordering::Relaxed), run.writes.load(Ordering::Relaxed));
    run
}

fn nothing_stale(run: &Run) {
    let stale = run.stale.lock();
    assert!(stale.is_empty(), "{} stale: {:#?}", stale.len(), &stale[..stale.len().min(5)]);
}

fn small() -> Config {
    // Smaller than the number of keys, so that the tiers are asked all the time.
    Config { l1_entries: 16, l3_admission: 0.0, l3_writes_per_s: 100_000, ..brisk() }
}

fn region(manager: &cache_manager::CacheManager) -> Cache<u64> {
    manager.region("registers", RegionOptions::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_random_history_over_memory_tiers() {
    let memory = Memory::new();
    let nodes = [memory.manager(small()).await, memory.manager(small()).await, memory.manager(small()).await];
    nothing_stale(&*play(nodes.iter().map(region).collect(), STRICT, async |_| {}).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_random_history_over_real_servers() {
    let world = World::shared().await;
    let nodes = [world.node(small()).await, world.node(small()).await];
    let rules = Rules { lasts: Duration::from_secs(10), ..STRICT };
    nothing_stale(&*play(nodes.iter().map(|node| region(&node.cache)).collect(), rules, async |_| {}).await);
    // Whether anything is read from L3 within ten seconds is chance; that it is written is not.
    let levels = nodes[0].cache.stats();
    assert!(
        levels.l1_hits > 0 && levels.l2_hits > 0 && levels.l3_fills > 0 && levels.loaded > 0,
        "{levels:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_random_history_while_redis_is_paused_flushed_and_killed() {
    let world = World::own().await;
    let nodes = [world.node(small()).await, world.node(small()).await];
    let limit = small().disconnected_max_age + Duration::from_secs(1);
    let rules = Rules { limit, back: true, lasts: Duration::from_secs(10), ..STRICT };
    let redis = world.stack.redis().master().clone();
    let both = async |current: bool| {
        let same = async || nodes.iter().all(|node| node.cache.coherence().is_current() == current);
        let what = if current { "both are current again" } else { "both know that they are cut off" };
        local_stack::wait_for(what, Duration::from_secs(30), same).await;
    };
    let faults = async |run: &Run| {
        for _ in 0..2 {
            // Once so briefly that nobody may notice, once until everybody has.
            redis.pause().unwrap();
            run.reads_on(300).await;
            redis.resume().unwrap();
            both(true).await;
            redis.pause().unwrap();
            both(false).await;
            run.reads_on(300).await;
            redis.resume().unwrap();
            both(true).await;
            redis.redis_command(&["FLUSHALL"]).await.unwrap();
            run.reads_on(300).await;
            both(true).await;
            redis.kill().unwrap();
            both(false).await;
            run.reads_on(300).await;
            redis.restart_empty().await.unwrap();
            both(true).await;
            run.reads_on(300).await;
        }
    };
    nothing_stale(&*play(nodes.iter().map(|node| region(&node.cache)).collect(), rules, faults).await);
    let delivered = async || nodes.iter().all(|node| node.cache.status().pending_invalidations == 0);
    local_stack::wait_for("all is delivered", Duration::from_secs(30), delivered).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planted_fault_is_found() {
    let memory = Memory::new();
    let nodes = [memory.manager(small()).await, memory.manager(small()).await];
    let rules = Rules { planted: true, lasts: Duration::from_secs(2), ..STRICT };
    let run = play(nodes.iter().map(region).collect(), rules, async |_| {}).await;
    assert!(!run.stale.lock().is_empty(), "invalidations were left out and nobody noticed");
}
