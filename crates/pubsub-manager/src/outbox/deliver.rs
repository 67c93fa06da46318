//! One page of the outbox on its way to its channels: keys beside one another, each in order. It changes no table.

use super::{
    insight::Counts,
    lease::Lease,
    message::{Target, unpack_trace},
};
use crate::{Channel, Codec, DurableRecord, Error, PubSubManager, PublishOptions, Subject, envelope::Kind};
use bytes::Bytes;
use postgres_pool_manager::sqlx::{self, Row as _, postgres::PgRow};
use resilience::Deadline;
use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Keys that are worked on at the same time.
const KEYS_AT_ONCE: usize = 16;
/// Records of one durable channel that travel together.
const RECORDS_AT_ONCE: usize = 64;

/// A row as read.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) id: i64,
    pub(super) settled: bool,
    pub(super) key: String,
    record: String,
    target: String,
    subject: String,
    codec: i16,
    trace: Option<Vec<u8>>,
    payload: Bytes,
    published_at: SystemTime,
}

impl Message {
    /// `None`: a row without a message.
    pub(super) fn of(row: &PgRow) -> Result<Option<Self>, sqlx::Error> {
        let Some(id) = row.try_get::<Option<i64>, _>("id")? else { return Ok(None) };
        let micros: i64 = row.try_get("published_at")?;
        let published_at = UNIX_EPOCH.checked_add(Duration::from_micros(micros.unsigned_abs()));
        Ok(Some(Self {
            id,
            settled: row.try_get("settled")?,
            key: row.try_get("key")?,
            record: row.try_get("record")?,
            target: row.try_get("target")?,
            subject: row.try_get("subject")?,
            codec: row.try_get("codec")?,
            trace: row.try_get("trace")?,
            payload: row.try_get::<Vec<u8>, _>("payload")?.into(),
            published_at: published_at.unwrap_or(UNIX_EPOCH),
        }))
    }

    /// Of what this version can read.
    fn read(&self) -> Result<(Target, Subject, DurableRecord), Error> {
        let unknown = |what: &str| Error::Unsupported {
            operation: "relay from the outbox",
            reason: format!("this version does not know the {what}"),
        };
        let target = Target::of(&self.target).ok_or_else(|| unknown(&format!("target {}", self.target)))?;
        let codec = u8::try_from(self.codec).ok().and_then(Codec::from_wire);
        let record = DurableRecord {
            id: Uuid::parse_str(&self.record).map_err(|_| unknown("message's id"))?,
            codec: codec.ok_or_else(|| unknown(&format!("codec {}", self.codec)))?,
            published_at: self.published_at,
            trace: self.trace.as_deref().and_then(unpack_trace),
            payload: self.payload.clone(),
        };
        Ok((target, Subject::new(&self.subject)?, record))
    }
}

/// What became of one key's messages.
#[derive(Debug)]
pub(super) struct Delivered {
    pub(super) key: String,
    pub(super) ids: Vec<i64>,
    /// The message at which it came to a halt. Those behind it wait.
    pub(super) failed: Option<(i64, Error)>,
}

/// What delivering needs.
#[derive(Clone, Debug)]
pub(super) struct Deliverer {
    pub(super) manager: PubSubManager,
    pub(super) timeout: Duration,
    pub(super) lease: Arc<Lease>,
    pub(super) counts: Arc<Counts>,
    pub(super) stop: CancellationToken,
}

impl Deliverer {
    /// Ends early, with what has been done, when the lease is over or the relay is to stop.
    pub(super) async fn page(&self, messages: Vec<Message>) -> Vec<Delivered> {
        let mut keys: HashMap<String, Vec<Message>> = HashMap::new();
        for message in messages {
            keys.entry(message.key.clone()).or_default().push(message);
        }
        let room = Arc::new(Semaphore::new(KEYS_AT_ONCE));
        let mut tasks = JoinSet::new();
        for (key, messages) in keys {
            let (deliverer, room) = (self.clone(), Arc::clone(&room));
            tasks.spawn(async move {
                let _permit = room.acquire().await;
                deliverer.key(key, messages).await
            });
        }
        let mut delivered = Vec::with_capacity(tasks.len());
        while let Some(one) = tasks.join_next().await {
            // A panic is the bus's; its messages stay.
            delivered.extend(one.ok());
        }
        delivered
    }

    async fn key(&self, key: String, messages: Vec<Message>) -> Delivered {
        let mut done = Delivered { key, ids: Vec::with_capacity(messages.len()), failed: None };
        let mut rest = &messages[..];
        while let Some(first) = rest.first() {
            if !self.lease.holds() || self.stop.is_cancelled() {
                break;
            }
            let mut together = self.together(rest);
            let mut sent = self.send(&rest[..together]).await;
            let singly = |error: &Error| !error.is_retryable() || matches!(error, Error::Full { .. });
            if together > 1 && sent.as_ref().is_err_and(singly) {
                // One of them is at fault, or there is room for fewer: up to that one they go singly.
                together = 1;
                sent = self.send(&rest[..1]).await;
            }
            match sent {
                Ok(()) => {
                    done.ids.extend(rest[..together].iter().map(|message| message.id));
                    self.counts.delivered.fetch_add(together as u64, Relaxed);
                    rest = &rest[together..];
                }
                Err(error) => {
                    done.failed = Some((first.id, error));
                    break;
                }
            }
        }
        done
    }

    /// How many of the next can go in one call: records of one durable channel.
    fn together(&self, rest: &[Message]) -> usize {
        let first = &rest[0];
        if first.target != Target::Durable.name() {
            return 1;
        }
        let same = |message: &&Message| message.target == first.target && message.subject == first.subject;
        rest.iter().take(RECORDS_AT_ONCE).take_while(same).count()
    }

    async fn send(&self, messages: &[Message]) -> Result<(), Error> {
        let read = messages.iter().map(Message::read).collect::<Result<Vec<_>, _>>()?;
        let Some((target, subject, first)) = read.first().cloned() else { return Ok(()) };
        let deadline = Deadline::after(self.timeout);
        match target {
            Target::Durable => {
                let records: Vec<_> = read.into_iter().map(|(_, _, record)| record).collect();
                self.manager.durable_append(&subject, &records, deadline).await
            }
            Target::Channel(lane) => {
                let channel = Channel::<()>::new(Arc::clone(&self.manager.0), lane, subject);
                let options = PublishOptions { deadline: Some(deadline), trace: first.trace };
                let channel = channel.with_codec(first.codec);
                channel.publish_encoded(Kind::Message, first.payload.to_vec(), options).await.map(drop)
            }
        }
    }
}
