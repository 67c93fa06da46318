//! The outbox: what commits is published, in order, whatever the target and the relay do meanwhile.

use crate::{
    postgres::{database, listener, pool_of},
    recorder::{Recorder, Trouble},
    support::{PATIENCE, link, namespace, quick, shared, soon},
};
use local_stack::{Database, FaultProxy, wait_for};
use postgres_pool_manager::{PostgresPoolManager, TransactionOptions, sqlx};
use pubsub_manager::{
    Config, ConsumerOptions, Deps, DurableEvent, DurableLimits, Error, Event, MemoryBus, MemoryDurable,
    Outbox, OutboxConfig, OutboxOptions, PubSubManager, RedisDurable, StartFrom, SubscribeOptions, TxPublish,
    Which,
};
use std::time::{Duration, Instant};

/// A relay that publishes to `recorder`.
async fn outbox(url: &str, recorder: &Recorder) -> (Outbox, PubSubManager) {
    outbox_of(url, recorder, Duration::from_secs(1)).await
}

async fn outbox_of(url: &str, recorder: &Recorder, lease: Duration) -> (Outbox, PubSubManager) {
    let manager = quick().build(Deps::over(recorder.clone())).expect("good settings");
    let config = OutboxConfig { lease, ..OutboxConfig::default() };
    (Outbox::start(listener(url).await, manager.clone(), config).expect("good settings"), manager)
}

async fn publish(pool: &PostgresPoolManager, manager: &PubSubManager, key: &str, subject: &str, value: u64) {
    let channel = manager.channel::<u64>(subject).expect("a good name");
    let options = OutboxOptions { key: Some(key.to_owned()), ..OutboxOptions::default() };
    let stored = pool.transaction(TransactionOptions::default(), |tx| {
        let (channel, options) = (channel.clone(), options.clone());
        Box::pin(async move { tx.publish_with(&channel, &value, options).await })
    });
    stored.await.expect("committed");
}

async fn emptied(outbox: &Outbox) -> Duration {
    wait_for("emptied", PATIENCE, async || outbox.inspect(soon()).await.is_ok_and(|known| known.pending == 0))
        .await
}

async fn database_and_pool() -> (Database, PostgresPoolManager) {
    let database = database().await;
    let pool = pool_of(&database.url(), 10).await;
    (database, pool)
}

#[tokio::test]
async fn published_after_commit_and_never_after_a_rollback() {
    let ((database, pool), recorder) = (database_and_pool().await, Recorder::default());
    let (outbox, manager) = outbox(&database.url(), &recorder).await;
    let channel = manager.channel::<u64>("n").expect("a good name");
    let mut rolled_back = pool.begin(TransactionOptions::default()).await.expect("begun");
    rolled_back.publish(&channel, &1).await.expect("stored");
    rolled_back.rollback().await.expect("rolled back");
    let mut tx = pool.begin(TransactionOptions::default()).await.expect("begun");
    tx.publish(&channel, &2).await.expect("stored");
    tx.publish(&channel, &3).await.expect("stored");
    assert_eq!(outbox.inspect(soon()).await.expect("figures").pending, 0, "nothing before COMMIT");
    tx.commit().await.expect("committed");
    let committed = Instant::now();
    wait_for("published", PATIENCE, async || recorder.of("n").len() == 2).await;
    println!("commit to publish: {:?}", committed.elapsed());
    emptied(&outbox).await;
    assert_eq!(recorder.of("n"), [2, 3]);
    let status = outbox.status();
    assert!(status.leader && status.delivered == 2 && status.error.is_none(), "{status:?}");
    outbox.shutdown(PATIENCE).await;
    assert!(!outbox.status().leader);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_a_locked_row_are_published_in_their_order() {
    const KEYS: usize = 5;
    let ((database, pool), recorder) = (database_and_pool().await, Recorder::default());
    let (outbox, manager) = outbox(&database.url(), &recorder).await;
    database.sql("CREATE TABLE things (key int PRIMARY KEY, n bigint NOT NULL)").await.expect("created");
    database.sql("INSERT INTO things SELECT k, 0 FROM generate_series(0, 4) k").await.expect("filled");
    let started = Instant::now();
    let tasks = (0..8).map(|task| {
        let (pool, manager) = (pool.clone(), manager.clone());
        tokio::spawn(async move {
            for round in 0..100 {
                let key = (task + round) % KEYS;
                let mut tx = pool.begin(TransactionOptions::default()).await.expect("begun");
                // Writes before it has the row, so that numbers of transactions are not in the order of the row's locks.
                sqlx::query("SELECT pg_current_xact_id()::text").execute(&mut tx).await.expect("numbered");
                let n: i64 = sqlx::query_scalar("UPDATE things SET n = n + 1 WHERE key = $1 RETURNING n")
                    .bind(i32::try_from(key).expect("small"))
                    .fetch_one(&mut tx)
                    .await
                    .expect("counted");
                let channel = manager.channel::<u64>(&format!("k{key}")).expect("a good name");
                tx.publish(&channel, &n.unsigned_abs()).await.expect("stored");
                tx.commit().await.expect("committed");
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("no panic");
    }
    emptied(&outbox).await;
    for key in 0..KEYS {
        assert_eq!(recorder.of(&format!("k{key}")), (1..=160).collect::<Vec<_>>(), "key {key}");
    }
    println!("800 messages of 800 transactions relayed within {:?}", started.elapsed());
}

#[tokio::test]
async fn an_open_transaction_holds_the_relay_up_and_is_named() {
    let ((database, pool), recorder) = (database_and_pool().await, Recorder::default());
    let (outbox, manager) = outbox(&database.url(), &recorder).await;
    let channel = manager.channel::<u64>("n").expect("a good name");
    let mut long = pool.begin(TransactionOptions::default()).await.expect("begun");
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut long).await.expect("a pid");
    long.publish(&channel, &1).await.expect("stored");
    publish(&pool, &manager, "n", "n", 2).await;
    let mut told = None;
    wait_for("named", PATIENCE, async || {
        told = outbox.status().figures;
        told.as_ref().is_some_and(|figures| figures.blocked_by.is_some())
    })
    .await;
    let figures = told.expect("figures");
    assert_eq!((figures.blocked_by.expect("a blocker").pid, figures.pending), (Some(pid), 1));
    assert!(figures.lag.is_some());
    assert_eq!(recorder.of("n"), [0; 0], "the later one does not overtake");
    long.commit().await.expect("committed");
    emptied(&outbox).await;
    assert_eq!(recorder.of("n"), [1, 2]);
    wait_for("nobody is named any more", PATIENCE, async || {
        outbox.status().figures.is_some_and(|figures| figures.blocked_by.is_none() && figures.lag.is_none())
    })
    .await;
}

#[tokio::test]
async fn a_refused_message_is_put_aside_and_its_key_goes_on() {
    let ((database, pool), recorder) = (database_and_pool().await, Recorder::default());
    let (outbox, manager) = outbox(&database.url(), &recorder).await;
    recorder.set("bad", Trouble::Refuses);
    for (subject, value) in [("good", 1), ("bad", 2), ("good", 3)] {
        publish(&pool, &manager, "one", subject, value).await;
    }
    publish(&pool, &manager, "other", "free", 4).await;
    wait_for("another key is not held up", PATIENCE, async || recorder.of("free") == [4]).await;
    emptied(&outbox).await;
    assert_eq!((recorder.of("good"), recorder.of("bad")), (vec![1, 3], vec![]));
    let dead = outbox.dead(0, 10).await.expect("listed");
    assert_eq!(dead.len(), 1);
    assert_eq!((&*dead[0].subject, &*dead[0].key, dead[0].attempts), ("bad", "one", 5));
    assert!(dead[0].reason.contains("over the limit"), "{}", dead[0].reason);
    assert_eq!(outbox.status().buried, 1);
    // Mended, it is delivered after all.
    recorder.clear("bad");
    assert_eq!(outbox.retry(Which::Ids(&[dead[0].id])).await.expect("retried"), 1);
    wait_for("delivered", PATIENCE, async || recorder.of("bad") == [2]).await;
    assert_eq!(outbox.dead(0, 10).await.expect("listed"), []);
    recorder.set("bad", Trouble::Refuses);
    publish(&pool, &manager, "one", "bad", 5).await;
    wait_for("dead", PATIENCE, async || outbox.inspect(soon()).await.is_ok_and(|known| known.dead == 1))
        .await;
    assert_eq!(outbox.drop_dead(Which::All).await.expect("dropped"), 1);
    assert_eq!(outbox.inspect(soon()).await.expect("figures").dead, 0);
}

#[tokio::test]
async fn an_outage_of_the_target_loses_and_buries_nothing() {
    let ((database, pool), recorder) = (database_and_pool().await, Recorder::default());
    // Long enough that it does not let another try meanwhile.
    let (outbox, manager) = outbox_of(&database.url(), &recorder, PATIENCE).await;
    recorder.set("n", Trouble::Away);
    for value in 1..=50 {
        publish(&pool, &manager, "n", "n", value).await;
    }
    wait_for("retried", PATIENCE, async || outbox.status().retried >= 6).await;
    let status = outbox.status();
    assert_eq!((status.held_keys, status.delivered, status.buried), (1, 0, 0));
    publish(&pool, &manager, "other", "other", 1).await;
    wait_for("other keys go on", PATIENCE, async || recorder.of("other") == [1]).await;
    recorder.clear("n");
    emptied(&outbox).await;
    assert_eq!(recorder.of("n"), (1..=50).collect::<Vec<_>>());
    assert_eq!(outbox.status().held_keys, 0);
}

#[tokio::test]
async fn the_relay_is_handed_over_at_once_and_taken_over_within_its_lease() {
    let ((database, pool), recorder) = (database_and_pool().await, Recorder::default());
    let proxy = FaultProxy::start(database.primary().target()).await.expect("a proxy");
    let (first, manager) = outbox(&database.url(), &recorder).await;
    wait_for("the first relays", PATIENCE, async || first.status().leader).await;
    let (second, _second_manager) = outbox(&database.url_via(proxy.addr()), &recorder).await;
    let (third, _third_manager) = outbox(&database.url(), &recorder).await;
    third.shutdown(PATIENCE).await;
    let ended = Instant::now();
    first.shutdown(PATIENCE).await;
    wait_for("handed over", PATIENCE, async || second.status().leader).await;
    let handed_over = ended.elapsed();
    let (fourth, _fourth_manager) = outbox(&database.url(), &recorder).await;
    publish(&pool, &manager, "n", "n", 1).await;
    emptied(&fourth).await;
    assert_eq!((recorder.of("n"), second.status().leader, fourth.status().leader), (vec![1], true, false));
    proxy.black_hole(true);
    let cut_off = Instant::now();
    publish(&pool, &manager, "n", "n", 2).await;
    wait_for("relayed by the other", PATIENCE, async || recorder.of("n") == [1, 2]).await;
    println!(
        "handed over after {handed_over:?}, taken over after {:?} with a lease of 1 s",
        cut_off.elapsed()
    );
    wait_for("the former knows", PATIENCE, async || !second.status().leader).await;
}

#[tokio::test]
async fn a_relay_that_lost_its_lease_in_the_middle_only_repeats() {
    let ((database, pool), recorder) = (database_and_pool().await, Recorder::default());
    let proxy = FaultProxy::start(database.primary().target()).await.expect("a proxy");
    let (stale, manager) = outbox(&database.url_via(proxy.addr()), &recorder).await;
    wait_for("it relays", PATIENCE, async || stale.status().leader).await;
    // So that it is cut off with messages in its hands.
    recorder.set("n", Trouble::Slow);
    let (mut repetitions, started) = (0, Instant::now());
    for round in 0..3 {
        let first = round * 400;
        let (waiting, _manager) = outbox(&database.url(), &recorder).await;
        let before = recorder.of("n").len();
        for value in first + 1..=first + 400 {
            publish(&pool, &manager, "n", "n", value).await;
            if value == first + 200 {
                // Cut off from its lease and its rows, not from its target.
                proxy.black_hole(true);
            }
        }
        wait_for("the other has taken over", PATIENCE, async || waiting.status().leader).await;
        emptied(&waiting).await;
        proxy.heal();
        proxy.cut();
        wait_for("the former one is over it", PATIENCE, async || !stale.status().leader).await;
        let now = recorder.of("n");
        repetitions += now.len() - before - 400;
        waiting.shutdown(PATIENCE).await;
        wait_for("and relays again", PATIENCE, async || stale.status().leader).await;
    }
    let mut greatest = 0;
    for value in recorder.of("n") {
        assert!(value <= greatest + 1, "{value} came before {}", greatest + 1);
        greatest = greatest.max(value);
    }
    assert_eq!(greatest, 1200);
    println!(
        "three relays cut off in the middle: 1200 in order, {repetitions} repetitions, {:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn a_relay_that_reaches_no_target_lets_another_try() {
    let ((database, pool), alone, well) =
        (database_and_pool().await, Recorder::default(), Recorder::default());
    let (first, manager) = outbox(&database.url(), &alone).await;
    wait_for("it relays", PATIENCE, async || first.status().leader).await;
    let (second, _second_manager) = outbox(&database.url(), &well).await;
    alone.set("n", Trouble::Away);
    for value in 1..=5 {
        publish(&pool, &manager, "n", "n", value).await;
    }
    let waited = emptied(&second).await;
    assert_eq!((alone.of("n"), well.of("n")), (vec![], vec![1, 2, 3, 4, 5]));
    assert!(second.status().leader && !first.status().leader);
    println!("given to another after {waited:?} with a lease of 1 s");
}

#[tokio::test]
async fn bad_input_is_refused_before_the_transaction_is_hurt() {
    let ((_database, pool), recorder) = (database_and_pool().await, Recorder::default());
    let config = pubsub_manager::Config { max_message_bytes: 10, ..quick() };
    let manager = config.build(Deps::over(recorder.clone())).expect("good settings");
    let channel = manager.channel::<String>("n").expect("a good name");
    let mut tx = pool.begin(TransactionOptions::default()).await.expect("begun");
    let large = tx.publish(&channel, &"x".repeat(100)).await;
    assert!(matches!(large, Err(Error::TooLarge { limit: 10, .. })), "{large:?}");
    let options = OutboxOptions { key: Some("k".repeat(2000)), ..OutboxOptions::default() };
    let key = tx.publish_with(&channel, &"x".to_owned(), options).await;
    assert!(matches!(key, Err(Error::Unsupported { .. })), "{key:?}");
    tx.publish(&channel, &"x".to_owned()).await.expect("the transaction is as good as before");
    tx.commit().await.expect("committed");
    let wrong = OutboxConfig {
        lease: Duration::ZERO,
        poll: Duration::from_secs(9),
        max_attempts: 0,
        ..OutboxConfig::default()
    };
    assert_eq!(wrong.validate().expect_err("three problems").len(), 3);
}

#[tokio::test]
async fn durable_messages_keep_their_ids_and_their_order() {
    let (database, pool) = database_and_pool().await;
    let link = link(shared().await.redis().master().port(), &namespace()).await;
    let deps = Deps::default().durable(RedisDurable::new(link));
    let manager = quick().build(deps).expect("good settings");
    let channel = manager.durable_channel::<u64>("d").expect("a good name");
    let options = ConsumerOptions { start: StartFrom::Earliest, ..ConsumerOptions::default() };
    let mut consumer = channel.consume("readers", options).await.expect("opened");
    let mut stored = Vec::new();
    for value in 0..100 {
        let mut tx = pool.begin(TransactionOptions::default()).await.expect("begun");
        stored.push((tx.publish(&channel, &value).await.expect("stored"), value));
        tx.commit().await.expect("committed");
    }
    let outbox = Outbox::start(listener(&database.url()).await, manager, OutboxConfig::default())
        .expect("good settings");
    emptied(&outbox).await;
    let mut handled = Vec::new();
    while handled.len() < stored.len() {
        let event = tokio::time::timeout(PATIENCE, consumer.next()).await.expect("in time");
        let Some(DurableEvent::Message(delivery)) = event else { panic!("{event:?} is no message") };
        handled.push((delivery.message.id, delivery.message.value));
        delivery.ack().await.expect("acknowledged");
    }
    assert_eq!(handled, stored);
}

#[tokio::test]
async fn what_this_version_cannot_read_is_put_aside() {
    let ((database, pool), recorder) = (database_and_pool().await, Recorder::default());
    let (outbox, manager) = outbox(&database.url(), &recorder).await;
    database
        .sql(
            "INSERT INTO database_services.outbox (record, key, target, subject, codec, payload) \
             VALUES (gen_random_uuid(), 'n', 'telepathy', 'n', 1, 'x')",
        )
        .await
        .expect("inserted");
    publish(&pool, &manager, "n", "n", 1).await;
    wait_for("the next goes on", PATIENCE, async || recorder.of("n") == [1]).await;
    let dead = outbox.dead(0, 10).await.expect("listed");
    assert!(dead.len() == 1 && dead[0].reason.contains("telepathy"), "{dead:?}");
}

#[tokio::test]
async fn the_trace_at_hand_goes_along() {
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let (database, pool) = database_and_pool().await;
    let bus = MemoryBus::new();
    let relaying = quick().build(Deps::over(bus.clone())).expect("good settings");
    let traceparent: pubsub_manager::Traceparent = || Some(TRACE.to_owned());
    let deps = Deps { traceparent: Some(traceparent), ..Deps::over(bus) };
    let publishing = quick().build(deps).expect("good settings");
    let channel = relaying.channel::<u64>("n").expect("a good name");
    let mut subscription = channel.subscribe(SubscribeOptions::default()).await.expect("subscribed");
    let _outbox = Outbox::start(listener(&database.url()).await, relaying, OutboxConfig::default())
        .expect("good settings");
    publish(&pool, &publishing, "k", "n", 1).await;
    let event = tokio::time::timeout(PATIENCE, subscription.next()).await.expect("in time");
    let Some(Event::Message(message)) = event else { panic!("{event:?}") };
    assert_eq!(message.trace.map(|trace| trace.traceparent()).as_deref(), Some(TRACE));
}

#[tokio::test]
async fn a_durable_channel_with_room_for_few_takes_them_little_by_little() {
    let (database, pool) = database_and_pool().await;
    let limits = DurableLimits { max_len: 10, ..DurableLimits::default() };
    let config = Config { durable: limits, ..quick() };
    let manager = config.build(Deps::default().durable(MemoryDurable::new())).expect("good settings");
    let channel = manager.durable_channel::<u64>("n").expect("a good name");
    let mut consumer = channel.consume("g", ConsumerOptions::default()).await.expect("consuming");
    let stored = pool.transaction(TransactionOptions::default(), |tx| {
        let channel = channel.clone();
        Box::pin(async move {
            for value in 0..40_u64 {
                tx.publish(&channel, &value).await?;
            }
            Ok::<_, Error>(())
        })
    });
    stored.await.expect("committed");
    let _outbox = Outbox::start(listener(&database.url()).await, manager, OutboxConfig::default())
        .expect("good settings");
    for value in 0..40 {
        let event = tokio::time::timeout(PATIENCE, consumer.next()).await.expect("in time");
        let Some(DurableEvent::Message(delivery)) = event else { panic!("{event:?}") };
        assert_eq!(delivery.message.value, value);
        delivery.ack().await.expect("acknowledged");
    }
}
