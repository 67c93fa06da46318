//! Publishers that never stop and a subscriber that adds up, for tests that break something meanwhile.

use crate::support::{PATIENCE, connected, namespace, quick};
use local_stack::wait_for;
use pubsub_manager::{Channel, Deps, Event, PubSubManager, RedisBus, SubscribeOptions, Subscription};
use redis_link::Topology;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

/// Processes that publish.
const PUBLISHERS: usize = 3;

pub(crate) fn link_config(topology: &Topology, namespace: &str) -> redis_link::Config {
    redis_link::Config {
        topology: topology.clone(),
        probe_timeout: Duration::from_secs(1),
        ..crate::support::link_config(1, namespace)
    }
}

pub(crate) async fn manager(topology: &Topology, namespace: &str) -> PubSubManager {
    let bus = RedisBus::new(connected(link_config(topology, namespace)).await).expect("a runtime");
    quick().build(Deps::over(bus)).expect("good settings")
}

/// What one publisher knows of its messages.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    accepted: u64,
    unknown: u64,
    refused: u64,
}

/// What the subscriber of a channel has seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    pub(crate) received: u64,
    /// Sum of the counted gaps.
    pub(crate) missed: u64,
    /// Gaps without a count.
    pub(crate) uncounted: u64,
    pub(crate) reconnects: u64,
    last: Option<Instant>,
    /// When the first message after the last [`Event::Reconnected`] came.
    back: Option<Instant>,
    waiting: bool,
    longest_silence: Duration,
}

/// One channel under traffic.
pub(crate) struct Traffic {
    pub(crate) name: String,
    publishers: Vec<JoinHandle<Sent>>,
    heard: Arc<Mutex<Heard>>,
    stop: CancellationToken,
    _reader: tokio_util::task::AbortOnDropHandle<()>,
}

impl Traffic {
    /// Publishers with connections of their own each, and every one of them heard.
    pub(crate) async fn start(topology: &Topology, channels: &[(&str, bool)]) -> (PubSubManager, Vec<Self>) {
        let namespace = namespace();
        let subscriber = manager(topology, &namespace).await;
        let mut publishers = Vec::new();
        for _ in 0..PUBLISHERS {
            publishers.push(manager(topology, &namespace).await);
        }
        let mut all = Vec::new();
        for (name, sharded) in channels {
            let of = |manager: &PubSubManager| {
                let channel = if *sharded { manager.sharded_channel(name) } else { manager.channel(name) };
                channel.expect("a good name")
            };
            let options = SubscribeOptions { capacity: 1_000_000, ..SubscribeOptions::default() };
            let subscription = of(&subscriber).subscribe(options).await.expect("subscribed");
            let (heard, stop) = (Arc::<Mutex<Heard>>::default(), CancellationToken::new());
            let reader = tokio::spawn(read(subscription, Arc::clone(&heard)));
            let running = publishers.iter().map(|manager| tokio::spawn(publish(of(manager), stop.clone())));
            let traffic = Self {
                name: (*name).to_owned(),
                publishers: running.collect(),
                heard,
                stop,
                _reader: tokio_util::task::AbortOnDropHandle::new(reader),
            };
            wait_for("traffic from all of them", PATIENCE, async || traffic.heard().received > 100).await;
            all.push(traffic);
        }
        (subscriber, all)
    }

    pub(crate) fn heard(&self) -> Heard {
        self.heard.lock().expect("no panic").clone()
    }

    /// Waits until messages come again after a reconnect since `began`; how long that took.
    pub(crate) async fn back(&self, began: Instant) -> Duration {
        wait_for("messages again", PATIENCE, async || self.heard().back.is_some_and(|back| back > began))
            .await;
        self.heard().back.expect("it is back").duration_since(began)
    }

    /// Stops the publishers and adds up: what was received and what was told as missed is all that was published.
    pub(crate) async fn finish(self) -> Heard {
        self.stop.cancel();
        let mut sent = Sent::default();
        for publisher in self.publishers {
            let one = publisher.await.expect("no panic");
            sent.accepted += one.accepted;
            sent.unknown += one.unknown;
            sent.refused += one.refused;
        }
        let all = sent.accepted..=sent.accepted + sent.unknown;
        let sum = || {
            let heard = self.heard.lock().expect("no panic");
            heard.received + heard.missed
        };
        let began = Instant::now();
        wait_for("all to be accounted for", PATIENCE, async || all.contains(&sum())).await;
        let told = began.elapsed();
        // Nothing more comes of it.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let heard = self.heard.lock().expect("no panic").clone();
        eprintln!(
            "{}: {} accepted, {} unknown, {} refused; {} received, {} missed and counted, {} gaps without a count, {} \
             reconnects, longest silence {:?}, accounted for {told:?} after the last message",
            self.name,
            sent.accepted,
            sent.unknown,
            sent.refused,
            heard.received,
            heard.missed,
            heard.uncounted,
            heard.reconnects,
            heard.longest_silence
        );
        assert!(all.contains(&(heard.received + heard.missed)), "{}: {sent:?} {heard:?}", self.name);
        heard
    }
}

async fn publish(channel: Channel<u64>, stop: CancellationToken) -> Sent {
    let mut sent = Sent::default();
    for value in 0.. {
        if stop.is_cancelled() {
            break;
        }
        match channel.publish(&value).await {
            Ok(_) => sent.accepted += 1,
            Err(error) if error.may_have_happened() => sent.unknown += 1,
            Err(_) => sent.refused += 1,
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    sent
}

async fn read(mut subscription: Subscription<u64>, into: Arc<Mutex<Heard>>) {
    while let Some(event) = subscription.next().await {
        let mut heard = into.lock().expect("no panic");
        match event {
            Event::Message(_) => {
                heard.received += 1;
                let now = Instant::now();
                let silence = heard.last.map_or(Duration::ZERO, |last| now.duration_since(last));
                heard.longest_silence = heard.longest_silence.max(silence);
                heard.last = Some(now);
                if std::mem::take(&mut heard.waiting) {
                    heard.back = Some(now);
                }
            }
            Event::Gap { missed: Some(missed), .. } => heard.missed += missed,
            Event::Gap { missed: None, .. } => heard.uncounted += 1,
            Event::Reconnected => {
                heard.reconnects += 1;
                heard.waiting = true;
            }
            other => panic!("{other:?}"),
        }
    }
}
