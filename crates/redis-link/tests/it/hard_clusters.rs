//! Faults in several places at once in a cluster. Not single masters, which have `hard_cases`.

use crate::support::{PATIENCE, calm_cluster, config_cluster, connected, deps, endpoint, own, soon, within};
use async_trait::async_trait;
use local_stack::{Redis, RedisOptions, Server, wait_for};
use redis_link::{
    Command, Config, CredentialError, CredentialProvider, Credentials, Deps, EpochAuthority, EpochError,
    EpochRequest, Error, Key, LinkState, RedisLink, Script, SelfKeptEpochs, Topology,
};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// The first of three masters serves the first third of the slots.
const THIRD: u16 = 16_384 / 3;

/// One that the first master serves, and not in this slot.
fn key_of_the_first(link: &RedisLink, but: u16) -> Key {
    let mut keys = (0..).map(|n| link.keys().lock(&format!("k{n}"), "x").expect("a good key"));
    keys.find(|key| key.slot() < THIRD && key.slot() != but).expect("there are many")
}

/// In which slot the epoch key of a master lies.
async fn epoch_slot(master: &Server) -> u16 {
    let keys = master.redis_command(&["KEYS", "*:epoch:*"]).await.expect("told");
    Redis::slot(keys.items()[0].as_text().expect("one link has been here"))
}

/// Until the link has not changed its mind for a while.
async fn settled(link: &RedisLink) {
    wait_for("the link to settle", PATIENCE, async || {
        let mut states = link.watch();
        states.mark_unchanged();
        timeout(Duration::from_millis(700), states.changed()).await.is_err()
    })
    .await;
}

async fn moved_on(link: &RedisLink, from: u64) {
    wait_for("the link to know", PATIENCE, async || {
        link.generation().is_some_and(|generation| generation.id() > from)
    })
    .await;
    settled(link).await;
}

async fn until_it_misses(link: &RedisLink, gone: &Server) {
    wait_for("the link to miss a master", PATIENCE, async || {
        let masters = link.status().masters;
        masters.iter().any(|master| master.endpoint == gone.target() && !master.connected)
    })
    .await;
}

/// With one master lost the others go on.
fn in_part() -> RedisOptions {
    RedisOptions { config: vec!["cluster-require-full-coverage no".to_owned()], ..RedisOptions::cluster() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_over_several_masters_of_which_one_is_gone_tells_what_was_done() {
    // Nobody takes the place of the one that is lost.
    let stack = own(RedisOptions { cluster_node_timeout: Duration::from_secs(60), ..in_part() }).await;
    let link = connected(config_cluster(&stack)).await;
    let keys: Vec<_> =
        (0..32).map(|n| link.keys().lock(&format!("k{n}"), "x").expect("a good key")).collect();
    let gone = &stack.redis().masters()[0];
    gone.kill().expect("killed");
    until_it_misses(&link, gone).await;
    let generation = link.ready(soon()).await.expect("connected in part");
    let commands = keys.iter().map(|key| Command::new("INCR").arg(key)).collect();
    let results = generation.pipeline(commands, soon()).await.expect("each has its own result");
    assert_eq!(results.len(), keys.len());
    let mut done = 0;
    for (key, result) in keys.iter().zip(results) {
        if key.slot() <= THIRD {
            let error = result.expect_err("nobody there");
            assert!(matches!(error, Error::Unavailable { .. }) && !error.outcome_unknown(), "{error:?}");
        } else {
            assert_eq!(result.expect("done").as_int().expect("a number"), 1);
            let held = generation.get(key, soon()).await.expect("served");
            assert_eq!(held.as_deref(), Some(&b"1"[..]), "it says that it was done");
            done += 1;
        }
    }
    assert!((1..keys.len()).contains(&done), "{done}");
}

/// An authority that takes its time.
#[derive(Debug, Default)]
struct Slow(SelfKeptEpochs);

#[async_trait]
impl EpochAuthority for Slow {
    async fn advance(&self, request: &EpochRequest<'_>) -> Result<u32, EpochError> {
        tokio::time::sleep(Duration::from_millis(400)).await;
        self.0.advance(request).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_always_move_and_a_slow_authority_do_not_keep_a_link_from_connecting() {
    let stack = own(calm_cluster()).await;
    let (stop, moved) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mover = tokio::spawn({
        let (redis, stop, moved) = (stack.redis().clone(), Arc::clone(&stop), Arc::clone(&moved));
        async move {
            for slot in (0..THIRD).take_while(|_| !stop.load(Relaxed)) {
                redis.move_slot(slot, &redis.masters()[0], &redis.masters()[1]).await.expect("moved");
                moved.fetch_add(1, Relaxed);
            }
        }
    });
    wait_for("slots that move", PATIENCE, async || moved.load(Relaxed) >= 3).await;
    let (before, began) = (moved.load(Relaxed), Instant::now());
    let link = config_cluster(&stack).connect(Deps::new(Arc::new(Slow::default()))).await.expect("begun");
    link.ready(within(20_000)).await.expect("connected meanwhile");
    let (took, meanwhile) = (began.elapsed(), moved.load(Relaxed) - before);
    stop.store(true, Relaxed);
    mover.await.expect("no panic");
    eprintln!("connected after {took:?}, in which {meanwhile} slots moved");
    assert!(meanwhile > 0, "nothing was in the way");
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_is_served_while_the_slot_of_its_epoch_key_is_half_moved() {
    let stack = own(calm_cluster()).await;
    let redis = stack.redis();
    let link = connected(config_cluster(&stack)).await;
    let (from, to) = (&redis.masters()[0], &redis.masters()[1]);
    let slot = epoch_slot(from).await;
    let key = key_of_the_first(&link, slot);
    let moving = redis.begin_move_slot(slot, from, to).await.expect("begun");
    assert_eq!(moving.migrate_keys().await.expect("moved"), 1, "the epoch key");
    let script = Script::fenced("write", "return redis.call('INCR', KEYS[1])");
    let served = wait_for("its master to be served again", Duration::from_secs(5), async || {
        let Ok(generation) = link.ready(within(500)).await else { return false };
        generation.eval(&script, std::slice::from_ref(&key), Vec::new(), within(1000)).await.is_ok()
    })
    .await;
    eprintln!("served again after {served:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generations_know_that_they_are_dead_once_every_node_is() {
    let stack = own(RedisOptions { cluster_node_timeout: Duration::from_secs(60), ..in_part() }).await;
    let link = connected(config_cluster(&stack)).await;
    // The first, one with fewer masters, and whatever else there is on the way down.
    let seen = Arc::new(Mutex::new(vec![link.ready(soon()).await.expect("connected")]));
    let watcher = tokio::spawn({
        let (mut states, seen) = (link.watch(), Arc::clone(&seen));
        async move {
            while states.changed().await.is_ok() {
                if let LinkState::Connected(generation) = &*states.borrow_and_update() {
                    seen.lock().expect("no panic").push(Arc::clone(generation));
                }
            }
        }
    });
    let lost = &stack.redis().masters()[0];
    lost.kill().expect("killed");
    wait_for("a generation without it", PATIENCE, async || {
        let Some(generation) = link.generation() else { return false };
        let fewer = generation.id() > 1 && generation.masters().len() == 2;
        if fewer {
            // The watcher sees the newest state alone; under load it may come too late for this one.
            seen.lock().expect("no panic").push(generation);
        }
        fewer
    })
    .await;
    for node in stack.redis().servers().filter(|node| node.port() != lost.port()) {
        node.kill().expect("killed");
    }
    wait_for("none to be left", PATIENCE, async || link.generation().is_none()).await;
    watcher.abort();
    let seen = std::mem::take(&mut *seen.lock().expect("no panic"));
    eprintln!("{} generations were seen", seen.len());
    assert!(seen.len() > 1, "also one with fewer masters");
    for generation in seen {
        timeout(Duration::from_secs(3), generation.died()).await.expect("it says so");
        assert!(!generation.is_alive() && generation.masters().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_reaches_some_masters_only_changes_no_epoch_of_another() {
    let stack = own(in_part()).await;
    let redis = stack.redis();
    let epochs = Arc::new(SelfKeptEpochs::new());
    let settings = Config { probe_timeout: Duration::from_secs(20), ..config_cluster(&stack) };
    let link = settings.clone().connect(Deps::new(Arc::clone(&epochs) as _)).await.expect("begun");
    let first = link.ready(soon()).await.expect("connected");
    let key = key_of_the_first(&link, THIRD);
    let before = first.epoch_of(&key).expect("connected");
    // The second process has no user at one of them.
    for node in redis.servers().filter(|node| node.port() != redis.masters()[0].port()) {
        let user = ["ACL", "SETUSER", "partial", "on", ">partial", "~*", "&*", "+@all"];
        node.redis_command(&user).await.expect("set");
    }
    let partial = Config {
        username: Some("partial".into()),
        password: Some("partial".into()),
        topology: Topology::cluster(redis.masters()[1..].iter().map(endpoint).collect()),
        ..settings.clone()
    };
    let refused = partial.connect(Deps::new(Arc::clone(&epochs) as _)).await.expect_err("not at all of them");
    assert!(matches!(refused, Error::Auth(_)), "{refused:?}");
    timeout(Duration::from_millis(500), first.died()).await.expect_err("nobody disturbs it");
    let third = settings.connect(Deps::new(epochs)).await.expect("begun");
    let third = third.ready(soon()).await.expect("connected");
    assert_eq!(third.epoch_of(&key).expect("connected"), before, "nothing was lost at this master");
    assert_eq!(first.epoch_of(&key).expect("still connected"), before);
}

/// Counts how often it is asked.
#[derive(Debug, Default)]
struct Counting(AtomicU64);

#[async_trait]
impl CredentialProvider for Counting {
    async fn credentials(&self) -> Result<Credentials, CredentialError> {
        self.0.fetch_add(1, Relaxed);
        Ok(Credentials::default())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_generation_that_is_held_does_not_keep_the_link_busy() {
    let stack = own(calm_cluster()).await;
    let redis = stack.redis();
    let vault = Arc::new(Counting::default());
    let mut deps = deps();
    deps.credentials = Some(Arc::clone(&vault) as _);
    let link = config_cluster(&stack).connect(deps).await.expect("begun");
    let old = link.ready(soon()).await.expect("connected");
    let key = key_of_the_first(&link, THIRD);
    redis.move_slot(key.slot(), &redis.masters()[0], &redis.masters()[1]).await.expect("moved");
    moved_on(&link, old.id()).await;
    let (asked, id) = (vault.0.load(Relaxed), link.ready(soon()).await.expect("connected").id());
    let (mut ticks, mut calls, mut served) = (interval(Duration::from_millis(2)), 0, 0);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timeout(Duration::from_secs(2), async {
        loop {
            ticks.tick().await;
            // It sends them where the slot was, is told where it is now, and tells the link to look.
            served += u32::from(old.get(&key, within(1000)).await.is_ok());
            calls += 1;
        }
    })
    .await
    .expect_err("it goes on until the window closes");
    let asked = vault.0.load(Relaxed) - asked;
    let generations = link.ready(soon()).await.expect("connected").id() - id;
    eprintln!(
        "{calls} calls by the old one ({served} served): {generations} generations, the vault was asked {asked} times"
    );
    assert!(calls > 10 && asked <= 2 && generations <= 1, "{calls} {asked} {generations}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_probe_notices_flushall_after_the_slot_of_the_epoch_key_moved() {
    let stack = own(calm_cluster()).await;
    let redis = stack.redis();
    let link = connected(config_cluster(&stack)).await;
    let first = link.ready(soon()).await.expect("connected").id();
    let (from, to) = (&redis.masters()[0], &redis.masters()[1]);
    let slot = epoch_slot(from).await;
    let key = key_of_the_first(&link, slot);
    redis.move_slot(slot, from, to).await.expect("moved");
    moved_on(&link, first).await;
    let epoch = async || link.ready(soon()).await.expect("connected").epoch_of(&key);
    let before = epoch().await.expect("connected");
    from.redis_command(&["FLUSHALL"]).await.expect("flushed");
    wait_for("the next epoch", PATIENCE, async || epoch().await.is_ok_and(|now| now > before)).await;
}
