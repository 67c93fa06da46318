//! Servers, links and managers for the tests. No assertions about what is tested.

use local_stack::{FaultProxy, RedisOptions, SharedStack, Stack};
use pubsub_manager::{
    Config, Event, Journal, JournalConfig, JournalEvent, JournalReader, PubSubManager, RedisBus,
    RedisJournal, RedisJournalConfig, Subscription,
};
use redis_link::{Deps, Endpoint, RedisLink, SelfKeptEpochs, Topology};
use resilience::Deadline;
use serde::de::DeserializeOwned;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// For tests that do no harm to the server.
static HARMLESS: SharedStack = SharedStack::new(|| Stack::builder().redis(RedisOptions::default()));

pub(crate) async fn shared() -> Stack {
    HARMLESS.get().await.expect("Redis starts")
}

/// For tests that do.
pub(crate) async fn own() -> Stack {
    Stack::builder().redis(RedisOptions::default()).start().await.expect("Redis starts")
}

pub(crate) fn soon() -> Deadline {
    Deadline::after(PATIENCE)
}

pub(crate) fn namespace() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed))
}

pub(crate) fn link_config(port: u16, namespace: &str) -> redis_link::Config {
    redis_link::Config {
        topology: Topology::standalone(Endpoint::new("127.0.0.1", port)),
        namespace: namespace.to_owned(),
        probe_interval: Duration::from_millis(100),
        // A machine that is busy with other things is no fault.
        probe_timeout: Duration::from_secs(10),
        ..redis_link::Config::default()
    }
}

pub(crate) async fn connected(config: redis_link::Config) -> RedisLink {
    let link = config.connect(Deps::new(Arc::new(SelfKeptEpochs::new()))).await.expect("good settings");
    link.ready(soon()).await.expect("connected");
    link
}

/// A link of its own, as another process would have.
pub(crate) async fn link(port: u16, namespace: &str) -> RedisLink {
    connected(link_config(port, namespace)).await
}

pub(crate) async fn journal(port: u16, namespace: &str) -> Journal {
    journal_of(link(port, namespace).await, 100_000)
}

pub(crate) fn journal_of(link: RedisLink, max_len: u32) -> Journal {
    let backend = RedisJournal::new(link, &RedisJournalConfig { max_len, ..RedisJournalConfig::default() });
    let config = JournalConfig { append_timeout: Duration::from_secs(10), ..JournalConfig::default() };
    Journal::new(Arc::new(backend.expect("good names")), config).expect("a runtime")
}

pub(crate) async fn proxied(stack: &Stack) -> FaultProxy {
    FaultProxy::start(stack.redis().master().target()).await.expect("a proxy")
}

pub(crate) async fn manager(port: u16, namespace: &str) -> PubSubManager {
    let bus = RedisBus::new(link(port, namespace).await).expect("a runtime");
    quick().build(pubsub_manager::Deps::over(bus)).expect("good settings")
}

/// Announcements five times as often, so that tests need not wait for them.
pub(crate) fn quick() -> Config {
    let publish_timeout = Duration::from_secs(10);
    Config { announce_every: Duration::from_millis(200), publish_timeout, ..Config::default() }
}

/// The next event, within reason.
pub(crate) async fn next<T: DeserializeOwned>(subscription: &mut Subscription<T>) -> Event<T> {
    let event = tokio::time::timeout(PATIENCE, subscription.next()).await;
    event.expect("an event in time").expect("the subscription goes on")
}

/// The next journal event that is no heartbeat.
pub(crate) async fn event(reader: &mut JournalReader) -> JournalEvent {
    loop {
        let event = tokio::time::timeout(PATIENCE, reader.next()).await.expect("an event in time");
        match event.expect("the journal goes on") {
            JournalEvent::Heartbeat { .. } => {}
            event => return event,
        }
    }
}

/// The next entry's payload; a gap is a failure.
pub(crate) async fn payload(reader: &mut JournalReader) -> String {
    match event(reader).await {
        JournalEvent::Entry(entry) => String::from_utf8_lossy(&entry.payload).into_owned(),
        other => panic!("{other:?} in place of an entry"),
    }
}

/// Reads up to and with the opening.
pub(crate) async fn opened(journal: &Journal) -> JournalReader {
    let mut reader = journal.reader(None);
    let first = event(&mut reader).await;
    assert!(
        matches!(first, JournalEvent::Gap { cause: pubsub_manager::JournalGap::Opened, .. }),
        "{first:?}"
    );
    reader
}
