//! The Postgres bus under transactions that commit in any order, and while the database is away.

use crate::{
    postgres::{database, database_of, listener, manager, own_stack, pool_of},
    support::{PATIENCE, next, quick, soon},
};
use local_stack::{FaultProxy, PostgresOptions, Stack, wait_for};
use postgres_pool_manager::{Config, PostgresPoolManager, ReplicaEndpoint, TransactionOptions, Tx, sqlx};
use pubsub_manager::{
    Bus, BusEvent, Deps, Event, Filter, GapCause, PostgresBus, PostgresBusConfig, PostgresListener,
    PubSubManager, SubscribeOptions, Subscription,
};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

const PAIRS: u64 = 10_000;
const WORKERS: u64 = 8;
/// How long the other writer keeps its transaction open.
const OPEN: Duration = Duration::from_secs(30);

async fn begin(pool: &PostgresPoolManager) -> Tx {
    pool.begin(TransactionOptions::default()).await.expect("begun")
}

/// A frame as the bus itself stores it, but in a transaction of the test's.
async fn insert(tx: &mut Tx, subject: &str) {
    let inserted = sqlx::query(
        "WITH sent AS (INSERT INTO database_services.bus_frames (lane, subject, frame) VALUES (0, $1, 'x')) \
         SELECT pg_notify('database_services', 'bus')",
    );
    inserted.bind(subject).execute(&mut *tx).await.expect("inserted");
}

/// Two transactions; the one with the greater number commits first. The moments at which each had committed.
async fn pair(pool: &PostgresPoolManager, n: u64) -> [(u64, Instant); 2] {
    let mut first = begin(pool).await;
    insert(&mut first, &format!("n.{}", 2 * n)).await;
    let mut second = begin(pool).await;
    insert(&mut second, &format!("n.{}", 2 * n + 1)).await;
    second.commit().await.expect("committed");
    let second = Instant::now();
    first.commit().await.expect("committed");
    [(2 * n + 1, second), (2 * n, Instant::now())]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_in_reverse_order_beside_a_long_writer_are_neither_skipped_nor_delayed() {
    let database = database().await;
    let bus = PostgresBus::new(listener(&database.url()).await, &PostgresBusConfig::default());
    let mut stream =
        bus.subscribe(&Filter::new("n.*").expect("a pattern"), soon()).await.expect("subscribed");
    let pool = pool_of(&database.url(), 20).await;
    let mut long = begin(&pool).await;
    insert(&mut long, "n.long").await;
    let opened = Instant::now();
    let reading = tokio::spawn(async move {
        let mut arrived = HashMap::new();
        while arrived.len() < 2 * usize::try_from(PAIRS).expect("small") + 1 {
            match tokio::time::timeout(PATIENCE, stream.next()).await.expect("in time") {
                Some(BusEvent::Frame { subject, .. }) => {
                    let copy = arrived.insert(subject[2..].to_owned(), Instant::now());
                    assert!(copy.is_none(), "{subject} came twice");
                }
                other => panic!("{other:?}"),
            }
        }
        arrived
    });
    let work = (0..WORKERS).map(|worker| {
        let pool = pool.clone();
        tokio::spawn(async move {
            let mut committed = Vec::new();
            for n in (worker..PAIRS).step_by(usize::try_from(WORKERS).expect("small")) {
                committed.extend(pair(&pool, n).await);
            }
            committed
        })
    });
    let mut committed = Vec::new();
    for worker in work.collect::<Vec<_>>() {
        committed.extend(worker.await.expect("no panic"));
    }
    let worked = opened.elapsed();
    tokio::time::sleep_until((opened + OPEN).into()).await;
    long.commit().await.expect("committed");
    let ended = Instant::now();
    let arrived = reading.await.expect("no panic");
    let mut delays: Vec<Duration> =
        committed.iter().map(|(n, at)| arrived[&n.to_string()].saturating_duration_since(*at)).collect();
    delays.sort();
    let (p50, p99, max) =
        (delays[delays.len() / 2], delays[delays.len() * 99 / 100], delays[delays.len() - 1]);
    println!(
        "{PAIRS} pairs in reverse order within {worked:?}, a writer open for {:?}: 0 of {} skipped, 0 twice; \
         commit to receive p50 {p50:?}, p99 {p99:?}, max {max:?}; the writer's own {:?}",
        ended - opened,
        arrived.len(),
        arrived["long"].saturating_duration_since(ended),
    );
    // Far from what a wait for the long writer would be.
    assert!(max < OPEN / 3, "{max:?}");
}

async fn over(url: &str, config: &PostgresBusConfig) -> PubSubManager {
    let bus = PostgresBus::new(listener(url).await, config);
    quick().build(Deps::over(bus)).expect("good settings")
}

async fn publish(manager: &PubSubManager, values: std::ops::RangeInclusive<u64>) {
    let channel = manager.channel::<u64>("n").expect("a good name");
    for value in values {
        channel.publish(&value).await.expect("published");
    }
}

/// Reads until the message `until`: the messages, the sum of the counted gaps, and whether it was told of a reconnect.
/// With announcements as often as here, a publisher may be missed before the outage is.
async fn read_until(subscription: &mut Subscription<u64>, until: u64) -> (Vec<u64>, u64, bool) {
    let (mut got, mut missed, mut reconnected) = (Vec::new(), 0, false);
    loop {
        match next(subscription).await {
            Event::Message(message) => {
                got.push(message.value);
                if message.value == until {
                    return (got, missed, reconnected);
                }
            }
            Event::Gap { missed: Some(count), .. } => missed += count,
            Event::Gap { missed: None, cause: GapCause::PublisherSilent } => {}
            Event::Reconnected => reconnected = true,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_cut_shorter_than_the_retention_loses_nothing() {
    let database = database().await;
    let proxy = FaultProxy::start(database.primary().target()).await.expect("a proxy");
    let publisher = manager(&database.url()).await;
    let subscriber = manager(&database.url_via(proxy.addr())).await;
    let channel = subscriber.channel::<u64>("n").expect("a good name");
    let mut subscription = channel.subscribe(SubscribeOptions::default()).await.expect("subscribed");
    for round in 0..5 {
        let first = round * 100;
        publish(&publisher, first..=first + 9).await;
        let (got, missed, _) = read_until(&mut subscription, first + 9).await;
        assert_eq!((got.len(), missed), (10, 0), "round {round}");
        proxy.refuse(true);
        proxy.cut();
        publish(&publisher, first + 10..=first + 59).await;
        wait_for("seen", PATIENCE, async || !subscriber.status().connected).await;
        proxy.heal();
        let (got, missed, reconnected) = read_until(&mut subscription, first + 59).await;
        assert_eq!((got, missed), ((first + 10..=first + 59).collect(), 0), "round {round}");
        assert!(reconnected);
    }
}

#[tokio::test]
async fn a_cut_longer_than_the_retention_is_counted_exactly() {
    let database = database().await;
    let proxy = FaultProxy::start(database.primary().target()).await.expect("a proxy");
    let config = PostgresBusConfig { retention: Duration::from_secs(1), ..PostgresBusConfig::default() };
    let publisher = over(&database.url(), &config).await;
    let subscriber = over(&database.url_via(proxy.addr()), &config).await;
    let channel = subscriber.channel::<u64>("n").expect("a good name");
    let mut subscription = channel.subscribe(SubscribeOptions::default()).await.expect("subscribed");
    publish(&publisher, 1..=1).await;
    read_until(&mut subscription, 1).await;
    proxy.refuse(true);
    proxy.cut();
    publish(&publisher, 2..=51).await;
    let count = "SELECT count(*) FROM database_services.bus_frames WHERE octet_length(frame) > 64";
    wait_for("deleted", PATIENCE, async || {
        database.sql(count).await.expect("counted")[0][0].as_deref() == Some("0")
    })
    .await;
    proxy.heal();
    publish(&publisher, 52..=52).await;
    let (got, missed, reconnected) = read_until(&mut subscription, 52).await;
    assert_eq!((got, missed, reconnected), (vec![52], 50, true));
}

#[tokio::test]
async fn a_black_hole_is_noticed_and_loses_nothing() {
    let database = database().await;
    let proxy = FaultProxy::start(database.primary().target()).await.expect("a proxy");
    let publisher = manager(&database.url()).await;
    let subscriber = manager(&database.url_via(proxy.addr())).await;
    let channel = subscriber.channel::<u64>("n").expect("a good name");
    let mut subscription = channel.subscribe(SubscribeOptions::default()).await.expect("subscribed");
    publish(&publisher, 1..=1).await;
    read_until(&mut subscription, 1).await;
    proxy.black_hole(true);
    publish(&publisher, 2..=20).await;
    let waited = wait_for("noticed", PATIENCE, async || !subscriber.status().connected).await;
    proxy.heal();
    proxy.cut();
    let (got, missed, reconnected) = read_until(&mut subscription, 20).await;
    assert_eq!((got, missed, reconnected), ((2..=20).collect(), 0, true));
    println!("a black hole was noticed after {waited:?}");
}

#[tokio::test]
async fn a_restarted_database_goes_on_and_every_loss_is_told() {
    let stack = own_stack().await;
    let database = database_of(&stack).await;
    let publisher = manager(&database.url()).await;
    let subscriber = manager(&database.url()).await;
    let channel = subscriber.channel::<u64>("n").expect("a good name");
    let out = publisher.channel::<u64>("n").expect("a good name");
    let mut subscription = channel.subscribe(SubscribeOptions::default()).await.expect("subscribed");
    publish(&publisher, 1..=1).await;
    read_until(&mut subscription, 1).await;
    let (mut accepted, mut unknown, mut received, mut missed) = (0_u64, 0_u64, 0_u64, 0_u64);
    for round in 0..3_u64 {
        let reconnects = subscriber.stats().reconnects;
        for _ in 0..200 {
            out.publish(&1).await.expect("published");
            accepted += 1;
        }
        database.primary().kill().expect("killed");
        let failed = out.publish(&1).await.expect_err("there is no server");
        unknown += u64::from(failed.may_have_happened());
        database.primary().restart().await.expect("restarted");
        // As soon as the publisher is back, perhaps before the subscriber is.
        wait_for("both are back", PATIENCE, async || {
            match out.publish(&1).await {
                Ok(_) => accepted += 1,
                Err(error) => unknown += u64::from(error.may_have_happened()),
            }
            subscriber.stats().reconnects > reconnects
        })
        .await;
        out.publish(&(round + 100)).await.expect("published");
        accepted += 1;
        let (got, lost, reconnected) = read_until(&mut subscription, round + 100).await;
        assert!(reconnected);
        (received, missed) = (received + got.len() as u64, missed + lost);
    }
    println!(
        "three kills: {accepted} accepted, {unknown} unknown: {received} received, {missed} told as missed"
    );
    assert!((accepted..=accepted + unknown).contains(&(received + missed)));
}

/// Not a bar, a figure: how long after its publish another process has a message, and how many go through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn latency_and_throughput_are_measured() {
    const MANY: u64 = 20_000;
    let database = database().await;
    let (publisher, subscriber) = (manager(&database.url()).await, manager(&database.url()).await);
    let channel = subscriber.channel::<u64>("n").expect("a good name");
    let options = SubscribeOptions { capacity: 1_000_000, ..SubscribeOptions::default() };
    let mut subscription = channel.subscribe(options).await.expect("subscribed");
    let out = publisher.channel::<u64>("n").expect("a good name");
    let mut times = Vec::new();
    for n in 0..500 {
        let sent = Instant::now();
        let (published, received) = tokio::join!(out.publish(&n), read_until(&mut subscription, n));
        published.expect("published");
        assert_eq!(received, (vec![n], 0, false));
        times.push(sent.elapsed());
    }
    times.sort();
    let started = Instant::now();
    let tasks = (0..64).map(|task| {
        let out = out.clone();
        tokio::spawn(async move {
            for n in (task..MANY).step_by(64) {
                out.publish(&(1000 + n)).await.expect("published");
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("no panic");
    }
    out.publish(&1).await.expect("published");
    let (got, missed, _) = read_until(&mut subscription, 1).await;
    assert_eq!((got.len() as u64, missed), (MANY + 1, 0));
    let rate = MANY as f64 / started.elapsed().as_secs_f64();
    println!(
        "publish to receive p50 {:?}, p99 {:?}; 64 tasks on one channel {rate:.0} a second",
        times[250], times[495]
    );
    assert!(times[250] < Duration::from_millis(50), "{:?}", times[250]);
}

#[tokio::test]
async fn a_promoted_replica_is_followed() {
    let stack = Stack::builder().postgres(PostgresOptions::with_replicas(1)).start().await;
    let stack = stack.expect("Postgres starts");
    let database = database_of(&stack).await;
    let manager_over = async || {
        let replica = ReplicaEndpoint::new("replica", database.replica_url(0).expect("a replica"), 1);
        let config = Config { replicas: vec![replica], ..Config::new(database.url()) };
        let listener = PostgresListener::new(config.connect().await.expect("connected"));
        let bus = PostgresBus::new(listener.expect("a runtime"), &PostgresBusConfig::default());
        quick().build(Deps::over(bus)).expect("good settings")
    };
    let (publisher, subscriber) = (manager_over().await, manager_over().await);
    let channel = subscriber.channel::<u64>("n").expect("a good name");
    let mut subscription = channel.subscribe(SubscribeOptions::default()).await.expect("subscribed");
    publish(&publisher, 1..=10).await;
    read_until(&mut subscription, 10).await;
    // Two servers at once, of which the former one answers as if nothing had happened.
    let promoted = &stack.postgres().replicas()[0];
    promoted.promote().await.expect("promoted");
    let out = publisher.channel::<u64>("n").expect("a good name");
    let count = async || {
        let sql = "SELECT count(*) FROM database_services.bus_frames WHERE octet_length(frame) > 64";
        promoted.sql(database.name(), sql).await.expect("counted")[0][0].clone()
    };
    let (before, mut accepted) = (count().await, 0);
    let waited = wait_for("both follow", PATIENCE, async || {
        accepted += u64::from(out.publish(&1).await.is_ok());
        subscriber.stats().reconnects > 0 && count().await != before
    });
    let waited = waited.await;
    out.publish(&100).await.expect("published");
    let (got, missed, reconnected) = read_until(&mut subscription, 100).await;
    println!(
        "a promoted replica was followed after {waited:?}: {accepted} accepted, {} received, {missed} told as missed",
        got.len() - 1
    );
    assert!(reconnected);
    assert!(got.len() as u64 - 1 + missed >= accepted, "what the former primary took is told");
}

#[tokio::test]
async fn without_its_tables_it_says_so_and_works_once_they_are_there() {
    let stack = crate::postgres::shared_stack().await;
    let database = stack.database().await.expect("a database");
    let one = manager(&database.url()).await;
    let channel = one.channel::<u64>("n").expect("a good name");
    let failed = channel.publish(&1).await.expect_err("there is no table");
    assert!(format!("{:?}", failed).contains("bus_frames"), "{failed:?}");
    let options = SubscribeOptions {
        deadline: Some(resilience::Deadline::after(Duration::from_millis(500))),
        ..Default::default()
    };
    channel.subscribe(options).await.expect_err("there is no table");
    assert!(!one.status().connected);
    let pool = pool_of(&database.url(), 2).await;
    pool.migrate(&[pubsub_manager::migrations()], Default::default()).await.expect("migrated");
    let mut subscription = channel
        .subscribe(SubscribeOptions { deadline: Some(soon()), ..SubscribeOptions::default() })
        .await
        .expect("subscribed");
    channel.publish(&2).await.expect("published");
    let (got, ..) = read_until(&mut subscription, 2).await;
    assert_eq!(got, [2]);
}
