//! The gates of channels that are not durable: what was lost is told exactly, and in time.

use crate::support::{PATIENCE, connected, link_config, namespace, own, proxied};
use pubsub_manager::{Config, Deps, Event, GapCause, PubSubManager, RedisBus, SubscribeOptions};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

const MESSAGES: u64 = 100_000;
const CUTS: u64 = 20;
/// The gate: so long after healing everything lost is told.
const TOLD_WITHIN: Duration = Duration::from_secs(2);

/// With the settings that everybody has.
async fn manager(port: u16, namespace: &str) -> PubSubManager {
    let config = redis_link::Config {
        probe_interval: redis_link::Config::default().probe_interval,
        ..link_config(port, namespace)
    };
    let bus = RedisBus::new(connected(config).await).expect("a runtime");
    let config = Config { publish_timeout: PATIENCE, ..Config::default() };
    config.build(Deps::over(bus)).expect("good settings")
}

#[derive(Debug, Default)]
struct Tally {
    received: AtomicU64,
    missed: AtomicU64,
    gaps: AtomicU64,
}

impl Tally {
    fn accounted(&self) -> u64 {
        self.received.load(SeqCst) + self.missed.load(SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_messages_through_twenty_cuts_are_received_or_told_as_missed() {
    let (stack, namespace) = (own().await, namespace());
    let proxy = proxied(&stack).await;
    let publisher = manager(stack.redis().master().port(), &namespace).await;
    let subscriber = manager(proxy.addr().port(), &namespace).await;
    let channel = subscriber.channel::<u64>("n").expect("a good name");
    let options = SubscribeOptions { capacity: 200_000, ..SubscribeOptions::default() };
    let mut subscription = channel.subscribe(options).await.expect("subscribed");
    let tally = Arc::new(Tally::default());
    let reading = tokio::spawn({
        let tally = Arc::clone(&tally);
        async move {
            let mut last = 0;
            loop {
                match subscription.next().await.expect("it goes on") {
                    Event::Message(message) => {
                        assert!(message.sequence > last, "in order, and each once");
                        last = message.sequence;
                        tally.received.fetch_add(1, SeqCst);
                    }
                    Event::Gap { missed: Some(missed), cause } => {
                        assert!(matches!(cause, GapCause::Reconnect | GapCause::BusOverflow), "{cause:?}");
                        tally.gaps.fetch_add(1, SeqCst);
                        tally.missed.fetch_add(missed, SeqCst);
                    }
                    Event::Reconnected => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    });
    let started = Instant::now();
    let mut told = Vec::new();
    for round in 1..=CUTS {
        let (share, workers) = (MESSAGES / CUTS, 50);
        let load: Vec<_> = (0..workers)
            .map(|_| {
                let out = publisher.channel::<u64>("n").expect("a good name");
                tokio::spawn(async move {
                    for value in 0..share / workers {
                        out.publish(&value).await.expect("published");
                    }
                })
            })
            .collect();
        // In the middle of it.
        let before = tally.accounted();
        local_stack::wait_for("under way", PATIENCE, async || {
            tally.accounted() > before + rand::random_range(0..share / 2)
        })
        .await;
        proxy.cut_and_refuse();
        for one in load {
            one.await.expect("published");
        }
        proxy.heal();
        let healed = Instant::now();
        local_stack::wait_for("all received or told", PATIENCE, async || tally.accounted() == round * share)
            .await;
        told.push(healed.elapsed());
    }
    let (received, missed) = (tally.received.load(SeqCst), tally.missed.load(SeqCst));
    told.sort_unstable();
    println!(
        "{MESSAGES} messages through {CUTS} cuts in {:.1?}: {received} received, {missed} told as missed in {} gaps; all told \
         {:.2?} after healing in the median, {:.2?} at most",
        started.elapsed(),
        tally.gaps.load(SeqCst),
        told[told.len() / 2],
        told[told.len() - 1],
    );
    assert_eq!(received + missed, MESSAGES);
    assert!(missed > 0, "nothing was lost: no test");
    assert!(told[told.len() * 9 / 10 - 1] <= TOLD_WITHIN, "{told:?}");
    assert!(!reading.is_finished());
    reading.abort();
}
