//! Handlers of durable channels, load, and every bad input. Over every store.

use crate::{
    durable_support::{Stores, delivery, eager, group, named, over_every_store, publish},
    support::PATIENCE,
};
use local_stack::wait_for;
use parking_lot::Mutex;
use pubsub_manager::{
    Config, ConsumerOptions, DurableChannel, DurablePublish, Error, PubSubManager, StartFrom,
};
use resilience::Deadline;
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

over_every_store! {
    a_handler_acknowledges_retries_and_gives_up
    a_poison_message_ends_among_the_dead_letters_and_can_be_retried
    a_handler_that_is_shut_down_finishes_what_it_has_begun
    bad_input_is_refused_with_an_error_of_its_own
    publishes_under_load_travel_together_and_all_arrive
}

fn channel(manager: &PubSubManager) -> DurableChannel<u64> {
    manager.durable_channel("n").expect("a good name")
}

async fn a_handler_acknowledges_retries_and_gives_up(stores: Stores) {
    let (one, two) = stores.managers();
    let options = ConsumerOptions { max_deliveries: 3, concurrency: 4, ..eager() };
    let (attempts, most, now) =
        (AtomicU32::new(0), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (attempts, at_most) = (Arc::new(attempts), Arc::clone(&most));
    let tried = Arc::clone(&attempts);
    let inn = channel(&two);
    let handler = inn.handle("g", options, move |message| {
        tried.fetch_add(1, Relaxed);
        let (most, now) = (Arc::clone(&most), Arc::clone(&now));
        async move {
            most.fetch_max(now.fetch_add(1, Relaxed) + 1, Relaxed);
            tokio::time::sleep(Duration::from_millis(5)).await;
            now.fetch_sub(1, Relaxed);
            match message.value {
                1 => Err("no ones".to_owned()),
                2 => panic!("two is too much"),
                3 if message.deliveries < 2 => Err("not yet".to_owned()),
                _ => Ok(()),
            }
        }
    });
    let handler = handler.await.expect("handling");
    publish(&one, "n", 0..40_u64).await;
    wait_for("all settled", PATIENCE, async || {
        let group = group(&one, "n", "g").await;
        group.pending == 0 && group.lag == 0 && group.dead_letters == 2
    })
    .await;
    assert_eq!(attempts.load(Relaxed), 37 + 3 + 3 + 2);
    let mut letters = channel(&one).dead_letters("g", None, 10).await.expect("listed");
    letters.sort_by_key(|letter| letter.position);
    let reasons: Vec<_> = letters.iter().map(|letter| (letter.reason.as_str(), letter.deliveries)).collect();
    assert_eq!(reasons, [("no ones", 3), ("the handler panicked: two is too much", 3)]);
    wait_for("the counts", PATIENCE, async || {
        let stats = two.durable_stats();
        (stats.acknowledged, stats.dead_lettered, stats.retried) == (38, 2, 5)
    })
    .await;
    let most = at_most.load(Relaxed);
    assert!((2..=4).contains(&most), "{most} at once");
    handler.shutdown(PATIENCE).await;
    assert_eq!(two.durable_stats().consumers, 0);
}

async fn a_poison_message_ends_among_the_dead_letters_and_can_be_retried(stores: Stores) {
    let (one, two) = stores.managers();
    let mended = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (good, handled) = (Arc::clone(&mended), Arc::new(Mutex::new(Vec::new())));
    let seen = Arc::clone(&handled);
    let options = ConsumerOptions { max_deliveries: 4, ..eager() };
    let _handler = channel(&two)
        .handle("g", options, move |message| {
            let (good, seen) = (good.load(Relaxed), Arc::clone(&seen));
            async move {
                if message.value == 13 && !good {
                    return Err("thirteen cannot be handled");
                }
                seen.lock().push((message.value, message.id));
                Ok(())
            }
        })
        .await
        .expect("handling");
    let id = channel(&one).publish(&13).await.expect("published");
    publish(&one, "n", [1_u64, 2, 3]).await;
    wait_for("the dead letter", PATIENCE, async || group(&one, "n", "g").await.dead_letters == 1).await;
    wait_for("the others", PATIENCE, async || handled.lock().len() == 3).await;
    let letters = channel(&one).dead_letters("g", None, 10).await.expect("listed");
    assert_eq!((letters[0].reason.as_str(), letters[0].deliveries), ("thirteen cannot be handled", 4));
    assert_eq!(letters[0].record.as_ref().map(|record| record.id), Some(id));
    eprintln!("poison message: dead after {} deliveries: {}", letters[0].deliveries, letters[0].reason);
    mended.store(true, Relaxed);
    channel(&one).retry_dead_letter("g", letters[0].id).await.expect("retried");
    wait_for("thirteen", PATIENCE, async || handled.lock().contains(&(13, id))).await;
    wait_for("nothing left", PATIENCE, async || {
        let group = group(&one, "n", "g").await;
        (group.pending, group.lag, group.dead_letters) == (0, 0, 0)
    })
    .await;
    let again = channel(&one).drop_dead_letter("g", letters[0].id).await;
    assert!(matches!(again, Err(Error::UnknownDeadLetter { .. })), "{again:?}");
}

async fn a_handler_that_is_shut_down_finishes_what_it_has_begun(stores: Stores) {
    let (one, two) = stores.managers();
    let (begun, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (b, e) = (Arc::clone(&begun), Arc::clone(&ended));
    let _handler = channel(&two)
        .handle("g", ConsumerOptions { concurrency: 3, ..eager() }, move |_| {
            let (begun, ended) = (Arc::clone(&b), Arc::clone(&e));
            async move {
                begun.fetch_add(1, Relaxed);
                tokio::time::sleep(Duration::from_millis(300)).await;
                ended.fetch_add(1, Relaxed);
                Ok::<_, String>(())
            }
        })
        .await
        .expect("handling");
    publish(&one, "n", 0..50_u64).await;
    wait_for("three begun", PATIENCE, async || begun.load(Relaxed) >= 3).await;
    two.shutdown(PATIENCE).await;
    let done = ended.load(Relaxed);
    assert_eq!(begun.load(Relaxed), done);
    assert!((3..50).contains(&done), "{done}");
    let after = group(&one, "n", "g").await;
    assert_eq!((after.acknowledged as usize, after.pending - after.waiting), (done, 0), "{after:?}");
    // Nobody has to wait for what it had taken ahead, and it does not count as delivered.
    let mut next = channel(&one).consume("g", eager()).await.expect("consuming");
    for _ in done..50 {
        let delivery = delivery(&mut next).await;
        assert_eq!(delivery.message.deliveries, 1);
        delivery.ack().await.expect("acknowledged");
    }
    assert!(matches!(channel(&two).publish(&1).await, Err(Error::Shutdown { .. })));
    assert!(matches!(channel(&two).consume("g", eager()).await, Err(Error::Shutdown { .. })));
}

async fn bad_input_is_refused_with_an_error_of_its_own(stores: Stores) {
    let (one, _) = stores.managers();
    for bad in ["", "a b", "a..b", "a.*", "a.>", &"x".repeat(256)] {
        let made = one.durable_channel::<u64>(bad);
        assert!(matches!(made, Err(Error::InvalidSubject { .. })), "{bad}");
    }
    let n = channel(&one);
    for bad in ["", "a b", "a}", &"g".repeat(129)] {
        let refused = |result: Result<(), Error>| {
            assert!(matches!(result, Err(Error::InvalidName { what: "group", .. })), "{bad}: {result:?}");
        };
        refused(n.consume(bad, eager()).await.map(drop));
        refused(n.pause(bad).await);
        refused(n.replay(bad, StartFrom::Now).await);
        refused(n.dead_letters(bad, None, 1).await.map(drop));
    }
    for bad in ["", "~waiting", &"c".repeat(129)] {
        let refused = n.consume("g", named(bad)).await;
        assert!(matches!(refused, Err(Error::InvalidName { what: "consumer", .. })), "{bad}: {refused:?}");
    }
    let wrong = ConsumerOptions {
        prefetch: 0,
        concurrency: 0,
        max_deliveries: 0,
        ack_timeout: Duration::ZERO,
        ..eager()
    };
    match n.consume("g", wrong).await {
        Err(Error::Config { problems }) => assert_eq!(problems.len(), 4, "{problems:?}"),
        other => panic!("{other:?}"),
    }
    let unknown = |result: Result<(), Error>| {
        assert!(matches!(&result, Err(Error::UnknownGroup { group, .. }) if group == "nobody"), "{result:?}");
    };
    unknown(n.pause("nobody").await);
    unknown(n.resume("nobody").await);
    unknown(n.replay("nobody", StartFrom::Earliest).await);
    unknown(n.delete_group("nobody").await);
    unknown(n.dead_letters("nobody", None, 1).await.map(drop));
    let large = one.durable_channel::<Vec<u8>>("n").expect("a good name");
    let limit = Config::default().max_message_bytes;
    assert!(matches!(large.publish(&vec![1; limit + 1]).await, Err(Error::TooLarge { .. })));
    let late =
        DurablePublish { deadline: Some(Deadline::after(Duration::ZERO)), ..DurablePublish::default() };
    let late = n.publish_with(&1, late).await;
    assert!(late.is_err(), "{late:?}");
    assert_eq!(n.groups().await.expect("listed"), []);
    let none = Config::default().build(pubsub_manager::Deps::default()).expect("good settings");
    assert!(matches!(channel(&none).publish(&1).await, Err(Error::Unavailable { .. })));
}

async fn publishes_under_load_travel_together_and_all_arrive(stores: Stores) {
    let (one, two) = stores.managers();
    let began = std::time::Instant::now();
    let n = channel(&one);
    let publishers = (0..100_u64).map(|p| {
        let n = n.clone();
        tokio::spawn(async move {
            for i in 0..50 {
                n.publish(&(p * 50 + i)).await.expect("published");
            }
        })
    });
    let publishers: Vec<_> = publishers.collect();
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let all = Arc::clone(&seen);
    let inn = channel(&two);
    let handler = inn.handle("g", eager(), move |message| {
        all.lock().insert(message.value);
        async { Ok::<_, String>(()) }
    });
    let _handler = handler.await.expect("handling");
    for publisher in publishers {
        publisher.await.expect("no panic");
    }
    wait_for("all", PATIENCE, async || seen.lock().len() == 5_000).await;
    let latency = two.durable_stats().latency;
    eprintln!(
        "5,000 messages of 100 publishers in {:?}; publish to receive p50 ≤ {:?}, p99 ≤ {:?}",
        began.elapsed(),
        latency.at_most(0.5),
        latency.at_most(0.99)
    );
    wait_for("acknowledged", PATIENCE, async || group(&one, "n", "g").await.pending == 0).await;
    assert_eq!(one.durable_stats().published, 5_000);
}
