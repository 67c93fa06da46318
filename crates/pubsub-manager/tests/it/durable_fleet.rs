//! The gates of durable channels: 100,000 messages through twenty cuts, and four processes that are killed and stopped at
//! random. Nothing is lost, nothing stays pending; the duplicates are counted.

use crate::{
    durable_support::{eager, group, manager_at},
    support::{PATIENCE, connected, link_config, namespace, own, proxied, shared},
};
use local_stack::{Server, wait_for};
use pubsub_manager::{ConsumerOptions, DurablePublish, PubSubManager};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use redis_link::Command as RedisCommand;
use resilience::Deadline;
use std::{
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use uuid::Uuid;

const MESSAGES: usize = 100_000;
const PUBLISHERS: usize = 200;
const CUTS: usize = 20;

/// Publishes until it is known to be published; the number of repeats.
async fn insist(manager: &PubSubManager, value: u64, unknown: &AtomicU64) {
    let channel = manager.durable_channel::<u64>("n").expect("a good name");
    let options = DurablePublish { id: Some(Uuid::now_v7()), ..DurablePublish::default() };
    let until = Instant::now() + PATIENCE * 4;
    while let Err(error) = channel.publish_with(&value, options).await {
        assert!(error.is_retryable() && Instant::now() < until, "{error}");
        unknown.fetch_add(u64::from(error.may_have_happened()), Relaxed);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_messages_through_twenty_cuts() {
    let (stack, namespace) = (shared().await, namespace());
    let proxy = proxied(&stack).await;
    let port = proxy.addr().port();
    let (publisher, consumer) = (manager_at(port, &namespace).await, manager_at(port, &namespace).await);
    let handled: Arc<Vec<AtomicU32>> = Arc::new((0..MESSAGES).map(|_| AtomicU32::new(0)).collect());
    let (seen, unknown) = (Arc::clone(&handled), Arc::new(AtomicU64::new(0)));
    let began = Instant::now();
    let options = ConsumerOptions { prefetch: 2_000, concurrency: 500, ..eager() };
    let inn = consumer.durable_channel::<u64>("n").expect("a good name");
    let handling = inn.handle("g", options, move |message| {
        seen[usize::try_from(message.value).expect("small")].fetch_add(1, Relaxed);
        async { Ok::<_, String>(()) }
    });
    let handler = handling.await.expect("handling");
    let publishing = (0..PUBLISHERS).map(|p| {
        let (publisher, unknown) = (publisher.clone(), Arc::clone(&unknown));
        tokio::spawn(async move {
            for value in (p..MESSAGES).step_by(PUBLISHERS) {
                insist(&publisher, value as u64, &unknown).await;
            }
        })
    });
    let publishing: Vec<_> = publishing.collect();
    let delivered = || consumer.durable_stats().delivered;
    let mut cut_at = Vec::new();
    for cut in 1..=CUTS {
        let at = (MESSAGES / (CUTS + 1) * cut) as u64;
        wait_for("progress", PATIENCE * 4, async || delivered() >= at).await;
        cut_at.push(delivered());
        if cut % 4 == 0 {
            proxy.cut_and_refuse();
            let since = Instant::now();
            wait_for("a longer interruption", PATIENCE, async || {
                since.elapsed() > Duration::from_millis(200)
            })
            .await;
            proxy.heal();
        } else {
            proxy.cut();
        }
    }
    for one in publishing {
        one.await.expect("no panic");
    }
    let missing = || handled.iter().filter(|count| count.load(Relaxed) == 0).count();
    wait_for("everything handled", PATIENCE * 4, async || missing() == 0).await;
    wait_for("everything acknowledged", PATIENCE * 2, async || {
        let group = group(&publisher, "n", "g").await;
        (group.pending, group.lag) == (0, 0)
    })
    .await;
    let took = began.elapsed();
    let times: u64 = handled.iter().map(|count| u64::from(count.load(Relaxed))).sum();
    let (group, stats) = (group(&publisher, "n", "g").await, consumer.durable_stats());
    eprintln!(
        "{MESSAGES} messages through {} cuts in {took:?}: 0 lost, {} duplicates; publishes of unknown outcome repeated: {}; \
         redelivered {}, dead letters {}, losses {}",
        cut_at.len(),
        times - MESSAGES as u64,
        unknown.load(Relaxed),
        group.redelivered,
        group.dead_letters,
        stats.losses
    );
    assert_eq!((missing(), group.dead_letters, stats.losses), (0, 0, 0));
    assert!(unknown.load(Relaxed) > 0, "not one cut hit a publish: they show nothing");
    handler.shutdown(PATIENCE).await;
}

const FLEET: usize = 4;
const FAULTS_FOR: Duration = Duration::from_secs(60);
const ACK_TIMEOUT: Duration = Duration::from_secs(2);

/// One process of the group.
struct Member {
    process: Child,
    name: String,
}

impl Member {
    fn start(port: u16, namespace: &str, name: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this binary"));
        command.args([
            "durable_fleet::four_processes_killed_and_stopped_at_random_handle_every_message",
            "--exact",
        ]);
        command
            .env("DURABLE_PORT", port.to_string())
            .env("DURABLE_NAMESPACE", namespace)
            .env("DURABLE_NAME", name);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { process: command.spawn().expect("started"), name: name.to_owned() }
    }

    fn signal(&self, signal: &str) {
        let line = format!("kill -{signal} {}", self.process.id());
        assert!(Command::new("sh").args(["-c", &line]).status().expect("a shell").success(), "{line}");
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a process of the group does: counts each message in Redis, after some work, and lives until its parent does not.
async fn member(port: u16, namespace: &str, name: String) {
    let link = connected(link_config(port, namespace)).await;
    let handled = link.keys().other("test", "n", "handled").expect("a good key");
    let manager = manager_at(port, namespace).await;
    let channel = manager.durable_channel::<u64>("n").expect("a good name");
    let options = ConsumerOptions {
        name: Some(name),
        prefetch: 20,
        concurrency: 10,
        ack_timeout: ACK_TIMEOUT,
        max_deliveries: 1_000,
        ..eager()
    };
    let handling = channel.handle("g", options, move |message| {
        let (link, handled) = (link.clone(), handled.clone());
        async move {
            tokio::time::sleep(Duration::from_millis(message.value % 40)).await;
            let deadline = Deadline::after(Duration::from_secs(5));
            let generation = link.ready(deadline).await?;
            let count = RedisCommand::new("HINCRBY").arg(&handled).arg(message.value).arg(1);
            generation.call(count, deadline).await.map(drop)
        }
    });
    let _handler = handling.await.expect("handling");
    // The parent's end is ours: its pipe closes.
    let parent = tokio::task::spawn_blocking(|| std::io::read_to_string(std::io::stdin()));
    parent.await.expect("no panic").expect("read");
}

async fn asked(server: &Server, command: &[&str]) -> Vec<String> {
    let reply = server.redis_command(command).await.expect("answered");
    match reply.as_int() {
        Some(number) => vec![number.to_string()],
        None => reply.items().iter().filter_map(|item| item.as_text().map(str::to_owned)).collect(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_processes_killed_and_stopped_at_random_handle_every_message() {
    if let (Ok(port), Ok(namespace), Ok(name)) =
        (std::env::var("DURABLE_PORT"), std::env::var("DURABLE_NAMESPACE"), std::env::var("DURABLE_NAME"))
    {
        return member(port.parse().expect("a port"), &namespace, name).await;
    }
    let (stack, namespace) = (own().await, namespace());
    let server = stack.redis().master();
    let publisher = manager_at(server.port(), &namespace).await;
    let start = |name: &str| Member::start(server.port(), &namespace, name);
    let mut fleet: Vec<_> = (0..FLEET).map(|n| start(&format!("member-{n}"))).collect();
    wait_for("the group", PATIENCE, async || {
        let groups = publisher.durable_channel::<u64>("n").expect("good").groups().await.expect("listed");
        groups.first().is_some_and(|group| group.consumers == FLEET as u64)
    })
    .await;
    let mut random = StdRng::seed_from_u64(4);
    let (began, unknown) = (Instant::now(), AtomicU64::new(0));
    let (mut kills, mut stops, mut published) = (0, 0, 0);
    let mut stopped: Vec<(usize, Instant)> = Vec::new();
    let mut next_fault = Instant::now() + Duration::from_secs(1);
    while began.elapsed() < FAULTS_FOR {
        for _ in 0..10 {
            insist(&publisher, published, &unknown).await;
            published += 1;
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
        for (index, _) in stopped.extract_if(.., |(_, until)| *until <= Instant::now()) {
            fleet[index].signal("CONT");
        }
        if Instant::now() < next_fault {
            continue;
        }
        next_fault = Instant::now() + Duration::from_millis(random.random_range(300..1_500));
        let running: Vec<_> = (0..FLEET).filter(|n| stopped.iter().all(|(one, _)| one != n)).collect();
        let Some(index) = running.choose(&mut random).copied() else { continue };
        if random.random_bool(0.5) {
            let name = fleet[index].name.clone();
            fleet[index].process.kill().expect("killed");
            fleet[index] = start(&name);
            kills += 1;
        } else {
            fleet[index].signal("STOP");
            let time = Duration::from_millis(random.random_range(200..5_000));
            stopped.push((index, Instant::now() + time));
            stops += 1;
        }
    }
    for (index, _) in stopped {
        fleet[index].signal("CONT");
    }
    let healed = Instant::now();
    wait_for("nothing pending", PATIENCE * 2, async || {
        let group = group(&publisher, "n", "g").await;
        (group.pending, group.lag) == (0, 0)
    })
    .await;
    let drained = healed.elapsed();
    let key = format!("{namespace}:test:{{n}}:handled");
    let counts = asked(server, &["HVALS", &key]).await;
    let times: u64 = counts.iter().map(|count| count.parse::<u64>().expect("a number")).sum();
    let group = group(&publisher, "n", "g").await;
    eprintln!(
        "{published} messages in {FAULTS_FOR:?} over {FLEET} processes with {kills} SIGKILLs and {stops} SIGSTOPs: {} handled, \
         {} duplicates, {} redelivered, {} dead letters, nothing pending {drained:?} after the last fault",
        counts.len(),
        times - counts.len() as u64,
        group.redelivered,
        group.dead_letters,
    );
    assert_eq!(counts.len() as u64, published, "every message at least once");
    assert_eq!((group.dead_letters, group.losses), (0, 0));
    assert!(kills >= 10 && stops >= 10, "{kills} and {stops}: too few to show anything");
}
