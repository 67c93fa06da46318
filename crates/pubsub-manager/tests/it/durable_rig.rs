//! A store, a channel and a group, for the tests that ask a store itself. No assertions about what is tested.

use crate::{
    durable_support::Stores,
    support::{PATIENCE, soon},
};
use bytes::Bytes;
use pubsub_manager::{
    Codec, ConsumerKey, DeadLetter, DurableGroup, DurableLimits, DurableRecord, DurableSource, DurableStore,
    Error, GroupChange, GroupName, Settle, Settled, Settlement, StartFrom, Subject, Take, Taken,
    TakenMessage,
};
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use uuid::Uuid;

pub(crate) struct Rig {
    pub(crate) store: Arc<dyn DurableStore>,
    pub(crate) channel: Subject,
    pub(crate) group: GroupName,
}

pub(crate) fn rig(stores: Stores) -> Rig {
    let (channel, group) = (Subject::new("orders.paid"), GroupName::new("billing"));
    Rig { store: stores.0, channel: channel.expect("a good name"), group: group.expect("a good name") }
}

pub(crate) fn record(payload: &str) -> DurableRecord {
    DurableRecord {
        id: Uuid::now_v7(),
        codec: Codec::Json,
        published_at: SystemTime::UNIX_EPOCH + Duration::from_micros(1_234_567),
        trace: None,
        payload: Bytes::copy_from_slice(payload.as_bytes()),
    }
}

/// What a take asks for when nothing about it matters.
pub(crate) fn some() -> Take<'static> {
    Take {
        max: 100,
        max_bytes: 1 << 20,
        holding: &[],
        ack_timeout: PATIENCE,
        max_deliveries: 10,
        max_dead_letters: 100,
        wait: Duration::ZERO,
    }
}

pub(crate) fn waiting() -> Take<'static> {
    Take { wait: PATIENCE, ..some() }
}

pub(crate) fn payloads(taken: &Taken) -> Vec<String> {
    let payload = |message: &TakenMessage| message.record.as_ref().map(|record| record.payload.clone());
    let text = |payload: Option<Bytes>| String::from_utf8_lossy(&payload.expect("readable")).into_owned();
    taken.messages.iter().map(payload).map(text).collect()
}

impl Rig {
    pub(crate) fn key(&self, name: &str) -> ConsumerKey {
        ConsumerKey { channel: self.channel.clone(), group: self.group.clone(), name: name.into() }
    }

    pub(crate) async fn append(&self, payloads: &[&str]) {
        self.append_within(payloads, &DurableLimits::default()).await.expect("appended");
    }

    pub(crate) async fn append_within(&self, payloads: &[&str], limits: &DurableLimits) -> Result<(), Error> {
        let records: Vec<_> = payloads.iter().map(|payload| record(payload)).collect();
        self.store.append(&self.channel, &records, limits, soon()).await
    }

    pub(crate) async fn open(&self, name: &str) -> Box<dyn DurableSource> {
        self.open_at(name, StartFrom::Earliest).await
    }

    pub(crate) async fn open_at(&self, name: &str, start: StartFrom) -> Box<dyn DurableSource> {
        self.store.open(&self.key(name), start, None, soon()).await.expect("opened")
    }

    pub(crate) async fn settle(&self, name: &str, message: &TakenMessage, how: Settle) -> Settled {
        let settlement = Settlement { id: message.id, deliveries: message.deliveries, how };
        let settled = self.store.settle(&self.key(name), &[settlement], soon()).await.expect("answered");
        settled[0]
    }

    pub(crate) async fn change(&self, change: GroupChange) {
        self.store.change(&self.channel, &self.group, change, soon()).await.expect("changed");
    }

    pub(crate) async fn letters(&self) -> Vec<DeadLetter> {
        self.store.dead_letters(&self.channel, &self.group, None, 100, soon()).await.expect("listed")
    }

    pub(crate) async fn info(&self) -> DurableGroup {
        let groups = self.store.groups(&self.channel, soon()).await.expect("listed");
        groups.into_iter().find(|group| group.group == "billing").expect("there")
    }

    /// As somebody who comes later.
    pub(crate) fn of_group(&self, group: &str) -> Rig {
        let group = GroupName::new(group).expect("a good name");
        Rig { store: Arc::clone(&self.store), channel: self.channel.clone(), group }
    }
}

pub(crate) async fn take(source: &mut Box<dyn DurableSource>, take: Take<'_>) -> Taken {
    tokio::time::timeout(PATIENCE * 2, source.take(&take)).await.expect("in time").expect("taken")
}
