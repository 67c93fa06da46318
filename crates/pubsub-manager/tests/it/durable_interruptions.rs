//! Consumers that are cut off, late, or outlive what they ran on; a Redis that is away for a while.

use crate::{
    durable_support::{delivery, eager, event, group, manager_at, publish},
    support::{PATIENCE, namespace, own, proxied, shared},
};
use local_stack::wait_for;
use pubsub_manager::{
    Consumer, ConsumerOptions, DurableChannel, DurableEvent, DurablePublish, Error, MemoryDurable,
    PubSubManager,
};
use resilience::Deadline;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

fn channel(manager: &PubSubManager) -> DurableChannel<u64> {
    manager.durable_channel("n").expect("a good name")
}

async fn message(consumer: &mut Consumer<u64>) -> (u64, u32) {
    loop {
        if let DurableEvent::Message(delivery) = event(consumer).await {
            // What a loss has made void is delivered again.
            if delivery.ack().await.is_ok() {
                return (delivery.message.value, delivery.message.deliveries);
            }
        }
    }
}

#[tokio::test]
async fn a_late_acknowledgement_is_told_and_harmless() {
    let (stack, namespace) = (shared().await, namespace());
    let proxy = proxied(&stack).await;
    let slow = manager_at(proxy.addr().port(), &namespace).await;
    let other = manager_at(stack.redis().master().port(), &namespace).await;
    let options = || ConsumerOptions { ack_timeout: Duration::from_secs(1), ..eager() };
    let mut cut_off = channel(&slow).consume("g", options()).await.expect("consuming");
    publish(&other, "n", [1_u64]).await;
    let late = delivery(&mut cut_off).await;
    // It cannot tell that it lives.
    proxy.cut_and_refuse();
    let mut quick = channel(&other).consume("g", options()).await.expect("consuming");
    let second = delivery(&mut quick).await;
    assert_eq!((second.message.value, second.message.deliveries), (1, 2));
    proxy.heal();
    wait_for("it knows", PATIENCE, async || !late.is_held()).await;
    let told = late.ack().await;
    assert!(matches!(&told, Err(Error::Superseded { group, .. }) if group == "g"), "{told:?}");
    assert!(second.is_held());
    second.ack().await.expect("it is the second one's");
    assert!(slow.durable_stats().superseded >= 1);
    let after = group(&other, "n", "g").await;
    assert_eq!((after.pending, after.acknowledged), (0, 1), "{after:?}");
}

#[tokio::test]
async fn an_acknowledgement_through_a_cut_arrives() {
    let (stack, namespace) = (shared().await, namespace());
    let proxy = proxied(&stack).await;
    let one = manager_at(proxy.addr().port(), &namespace).await;
    let mut consumer = channel(&one).consume("g", eager()).await.expect("consuming");
    for round in 0..10_u64 {
        let options =
            DurablePublish { deadline: Some(Deadline::after(PATIENCE)), ..DurablePublish::default() };
        wait_for("a publish", PATIENCE, async || channel(&one).publish_with(&round, options).await.is_ok())
            .await;
        let delivery = delivery(&mut consumer).await;
        if round % 2 == 0 {
            // The request arrives, its answer does not.
            proxy.reset_answers_after(0);
            let (settled, ()) = tokio::join!(delivery.ack(), async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                proxy.heal();
            });
            settled.expect("acknowledged, by whichever attempt");
        } else {
            proxy.cut();
            delivery.ack().await.expect("acknowledged");
        }
        // A publish of unknown outcome that was repeated comes twice.
        while group(&one, "n", "g").await.lag > 0 {
            let DurableEvent::Message(again) = event(&mut consumer).await else { panic!("no message") };
            again.ack().await.expect("acknowledged");
        }
    }
    wait_for("nothing pending", PATIENCE, async || group(&one, "n", "g").await.pending == 0).await;
    assert_eq!(one.durable_stats().superseded, 0);
}

#[tokio::test]
async fn while_redis_is_away_nothing_hangs_and_later_all_goes_on() {
    let (stack, namespace) = (own().await, namespace());
    let master = stack.redis().master();
    let one = manager_at(master.port(), &namespace).await;
    let mut consumer = channel(&one).consume("g", eager()).await.expect("consuming");
    publish(&one, "n", [1_u64]).await;
    let held = delivery(&mut consumer).await;
    master.kill().expect("killed");
    let began = Instant::now();
    let soon = || DurablePublish {
        deadline: Some(Deadline::after(Duration::from_millis(300))),
        ..DurablePublish::default()
    };
    wait_for("it is known", PATIENCE, async || {
        let failed = channel(&one).publish_with(&2, soon()).await.expect_err("nobody is there");
        assert!(failed.is_retryable(), "{failed:?}");
        !failed.may_have_happened()
    })
    .await;
    let refused = channel(&one).consume("h", eager()).await;
    assert!(refused.as_ref().is_err_and(Error::is_retryable), "{refused:?}");
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    master.restart().await.expect("restarted");
    wait_for("a publish", PATIENCE, async || channel(&one).publish(&3).await.is_ok()).await;
    while message(&mut consumer).await.0 != 3 {}
    // Whether the server kept it or not, this ends.
    let _either = tokio::time::timeout(PATIENCE, held.ack()).await.expect("an answer");
}

#[test]
fn deliveries_and_consumers_may_outlive_their_runtime() {
    let build = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = build().expect("a runtime");
    let (held, consumer, handler) = runtime.block_on(async {
        let one = crate::durable_support::over(Arc::new(MemoryDurable::new()));
        publish(&one, "n", [1_u64, 2, 3]).await;
        let mut consumer = channel(&one).consume("g", eager()).await.expect("consuming");
        let handler = channel(&one).handle("h", eager(), |_| async { Ok::<_, String>(()) }).await;
        (delivery(&mut consumer).await, consumer, handler.expect("handling"))
    });
    drop(runtime);
    drop(consumer);
    drop(handler);
    let other = build().expect("a runtime");
    // Nobody is there any more who would carry it.
    let settled = other.block_on(async { tokio::time::timeout(PATIENCE, held.ack()).await });
    assert!(matches!(settled, Ok(Err(Error::Shutdown { .. }))), "{settled:?}");
    drop(held);
}
