//! Stores, managers and shorthand for the tests of durable channels. No assertions about what is tested.

use crate::support::{PATIENCE, link, namespace, quick, shared};
use pubsub_manager::{
    Consumer, ConsumerOptions, Delivery, Deps, DurableEvent, DurableGroup, DurableStore, Loss, MemoryDurable,
    PubSubManager, RedisDurable,
};
use resilience::BackoffConfig;
use serde::{Serialize, de::DeserializeOwned};
use std::{sync::Arc, time::Duration};

/// Runs each test over each store, as `redis::name` and `memory::name`. A third store is a third module.
macro_rules! over_every_store {
    ($($test:ident)*) => {
        mod redis {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test($crate::durable_support::Stores::redis().await).await;
                }
            )*
        }
        mod memory {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test($crate::durable_support::Stores::memory()).await;
                }
            )*
        }
    };
}
pub(crate) use over_every_store;

/// One and the same store, as two processes have it.
pub(crate) struct Stores(pub(crate) Arc<dyn DurableStore>, pub(crate) Arc<dyn DurableStore>);

impl Stores {
    pub(crate) async fn redis() -> Self {
        let (port, namespace) = (shared().await.redis().master().port(), namespace());
        let one = RedisDurable::new(link(port, &namespace).await);
        Self(Arc::new(one), Arc::new(RedisDurable::new(link(port, &namespace).await)))
    }

    pub(crate) fn memory() -> Self {
        let store = MemoryDurable::new();
        Self(Arc::new(store.clone()), Arc::new(store))
    }

    pub(crate) fn managers(&self) -> (PubSubManager, PubSubManager) {
        (over(Arc::clone(&self.0)), over(Arc::clone(&self.1)))
    }
}

pub(crate) fn over(store: Arc<dyn DurableStore>) -> PubSubManager {
    quick().build(Deps { durable: Some(store), ..Deps::default() }).expect("good settings")
}

pub(crate) async fn manager_at(port: u16, namespace: &str) -> PubSubManager {
    over(Arc::new(RedisDurable::new(link(port, namespace).await)))
}

/// Tries again at once.
pub(crate) fn eager() -> ConsumerOptions {
    let moment = Duration::from_millis(20);
    ConsumerOptions {
        ack_timeout: Duration::from_secs(20),
        backoff: BackoffConfig { base: moment, max: moment, ..BackoffConfig::default() },
        ..ConsumerOptions::default()
    }
}

pub(crate) fn named(name: &str) -> ConsumerOptions {
    ConsumerOptions { name: Some(name.to_owned()), ..eager() }
}

pub(crate) async fn event<T: DeserializeOwned>(consumer: &mut Consumer<T>) -> DurableEvent<T> {
    let event = tokio::time::timeout(PATIENCE, consumer.next()).await;
    event.expect("an event in time").expect("the consumer goes on")
}

pub(crate) async fn delivery<T: DeserializeOwned + std::fmt::Debug>(
    consumer: &mut Consumer<T>,
) -> Delivery<T> {
    match event(consumer).await {
        DurableEvent::Message(delivery) => delivery,
        other => panic!("{other:?} in place of a message"),
    }
}

pub(crate) async fn loss<T: DeserializeOwned + std::fmt::Debug>(consumer: &mut Consumer<T>) -> Loss {
    match event(consumer).await {
        DurableEvent::Lost(loss) => loss,
        other => panic!("{other:?} in place of a loss"),
    }
}

/// Nothing comes for half a second.
pub(crate) async fn nothing<T: DeserializeOwned + std::fmt::Debug>(consumer: &mut Consumer<T>) {
    let event = tokio::time::timeout(Duration::from_millis(500), consumer.next()).await;
    assert!(event.is_err(), "{event:?}");
}

pub(crate) async fn publish<T: Serialize + DeserializeOwned>(
    manager: &PubSubManager,
    channel: &str,
    values: impl IntoIterator<Item = T>,
) {
    let channel = manager.durable_channel::<T>(channel).expect("a good name");
    for value in values {
        channel.publish(&value).await.expect("published");
    }
}

pub(crate) async fn group(manager: &PubSubManager, channel: &str, group: &str) -> DurableGroup {
    let channel = manager.durable_channel::<u64>(channel).expect("a good name");
    let groups = channel.groups().await.expect("listed");
    groups.into_iter().find(|one| one.group == group).expect("the group is there")
}
