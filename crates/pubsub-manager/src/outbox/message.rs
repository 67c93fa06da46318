//! What a transaction stores for the relay, and how the relay is woken. It delivers nothing.

use crate::{Channel, Codec, DurableChannel, Error, Lane, Subject, TraceContext, manager::Inner};
use postgres_pool_manager::{
    PostgresPoolManager, Schema, Tx,
    sqlx::{self, AssertSqlSafe},
};
use resilience::Deadline;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{AcqRel, Release},
        },
    },
    time::Duration,
};
use uuid::Uuid;

/// Longest ordering key in bytes.
const MAX_KEY: usize = 1024;
/// The topic of the notifications that something was stored.
pub(super) const TOPIC: &str = "outbox";

/// How to store a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutboxOptions {
    /// Messages of one key are delivered in order, and one that cannot be delivered holds up those of its key alone. At
    /// most 1,024 bytes. Default: the channel's name.
    pub key: Option<String>,
    /// The trace that subscribers are to continue. Default: the one at hand, as
    /// [`Deps::traceparent`](crate::Deps::traceparent) tells.
    pub trace: Option<TraceContext>,
}

/// A channel that a transaction can publish on. Implemented by this crate's channels; nobody else can.
pub trait OutboxChannel: Sync {
    /// What is published on it.
    type Value: Sync;

    #[doc(hidden)]
    fn prepare(&self, value: &Self::Value) -> Result<OutboxMessage, Error>;
}

/// A message ready to be stored. It can be made by channels only.
#[doc(hidden)]
pub struct OutboxMessage {
    pub(crate) target: Target,
    pub(crate) subject: Subject,
    pub(crate) codec: Codec,
    pub(crate) payload: Vec<u8>,
    pub(crate) manager: Arc<Inner>,
}

impl fmt::Debug for OutboxMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, subject, payload, .. } = self;
        f.debug_struct("OutboxMessage")
            .field("target", target)
            .field("subject", subject)
            .field("bytes", &payload.len())
            .finish_non_exhaustive()
    }
}

impl<T: Serialize + DeserializeOwned + Sync> OutboxChannel for Channel<T> {
    type Value = T;

    fn prepare(&self, value: &T) -> Result<OutboxMessage, Error> {
        Ok(OutboxMessage {
            target: Target::Channel(self.lane()),
            subject: self.subject().clone(),
            codec: self.codec(),
            payload: self.encode(value)?,
            manager: Arc::clone(self.manager()),
        })
    }
}

impl<T: Serialize + DeserializeOwned + Sync> OutboxChannel for DurableChannel<T> {
    type Value = T;

    fn prepare(&self, value: &T) -> Result<OutboxMessage, Error> {
        // Here, as the relay would wait for a store for ever.
        self.manager().check_durable("publish through the outbox")?;
        Ok(OutboxMessage {
            target: Target::Durable,
            subject: self.subject().clone(),
            codec: self.codec(),
            payload: self.encode(value)?,
            manager: Arc::clone(self.manager()),
        })
    }
}

/// Where a message is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Channel(Lane),
    Durable,
}

impl Target {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Channel(Lane::Plain) => "plain",
            Self::Channel(Lane::Sharded) => "sharded",
            Self::Channel(Lane::Raw) => "raw",
            Self::Durable => "durable",
        }
    }

    pub(super) fn of(name: &str) -> Option<Self> {
        [Self::Channel(Lane::Plain), Self::Channel(Lane::Sharded), Self::Channel(Lane::Raw), Self::Durable]
            .into_iter()
            .find(|target| target.name() == name)
    }
}

/// Stores `message` in `tx`; the message's id.
pub(crate) async fn store(
    tx: &mut Tx,
    message: OutboxMessage,
    options: OutboxOptions,
) -> Result<Uuid, Error> {
    const OPERATION: &str = "store in the outbox";
    let OutboxMessage { target, subject, codec, payload, manager } = message;
    let key = options.key.unwrap_or_else(|| subject.as_str().to_owned());
    if key.len() > MAX_KEY {
        let reason = format!("an ordering key has at most {MAX_KEY} bytes, this one {}", key.len());
        return Err(Error::Unsupported { operation: OPERATION, reason });
    }
    let record = Uuid::now_v7();
    let stored = sqlx::query(AssertSqlSafe(insert(tx.schema())))
        .bind(record.to_string())
        .bind(key)
        .bind(target.name())
        .bind(subject.as_str())
        .bind(i16::from(codec.wire()))
        .bind(options.trace.or_else(|| manager.trace()).map(pack_trace))
        .bind(payload)
        .execute(&mut *tx)
        .await;
    // Whatever the error says of the statement, the transaction has not committed.
    stored.map_err(|error| Error::Backend { operation: OPERATION, source: Arc::new(error) })?;
    let pool = tx.manager().clone();
    // Also where the outcome is unknown: a call for nothing costs nothing.
    tx.on_commit(move |_outcome| Box::pin(async move { call(&manager, pool) }));
    Ok(record)
}

fn insert(schema: &Schema) -> String {
    schema.sql(
        "INSERT INTO {schema}.outbox (record, key, target, subject, codec, trace, payload) \
         VALUES ($1::text::uuid, $2, $3, $4, $5, $6, $7)",
    )
}

/// Whether the relay is about to be called.
#[derive(Debug, Default)]
pub(crate) struct Call(AtomicBool);

/// Has the relay called after a COMMIT, in the background: whatever commits before that call is sent shares it.
///
/// Not as part of the transaction: Postgres lets transactions that notify commit one at a time, each with its wait for the
/// disk, and every user of the database would pay for that.
fn call(manager: &Arc<Inner>, pool: PostgresPoolManager) {
    if manager.outbox_call.0.swap(true, AcqRel) {
        return;
    }
    let inner = Arc::clone(manager);
    manager.spawn(async move {
        let deadline = Deadline::after(Duration::from_secs(2));
        let session = pool.write().deadline(deadline).await;
        // What commits from here on asks for the next call.
        inner.outbox_call.0.store(false, Release);
        let called = match session {
            Ok(mut session) => {
                let call = sqlx::query("SELECT pg_notify($1, $2)").bind(pool.schema().name()).bind(TOPIC);
                deadline.run(call.execute(&mut session)).await.map_or(Ok(()), |called| called.map(drop))
            }
            Err(error) => Err(error.into()),
        };
        if let Err(error) = called {
            tracing::debug!(%error, "the outbox's relay was not called and will look by itself");
        }
    });
}

pub(super) fn pack_trace(trace: TraceContext) -> Vec<u8> {
    let mut packed = Vec::with_capacity(25);
    packed.extend(trace.trace_id);
    packed.extend(trace.span_id);
    packed.push(u8::from(trace.sampled));
    packed
}

pub(super) fn unpack_trace(packed: &[u8]) -> Option<TraceContext> {
    let trace_id = packed.get(..16)?.try_into().ok()?;
    let span_id = packed.get(16..24)?.try_into().ok()?;
    Some(TraceContext { trace_id, span_id, sampled: *packed.get(24)? != 0 })
}
