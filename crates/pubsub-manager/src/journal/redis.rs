//! The journal in Redis: one stream, whose ids our script gives, and one counter beside it. Reading is plain XREAD on
//! a connection of its own.

use super::{JournalBackend, JournalId, JournalSource, RawEntry};
use crate::{Error, redis_error::translate};
use async_trait::async_trait;
use bytes::Bytes;
use redis_link::{Command, Dedicated, Key, RedisLink, Script, UnexpectedReply, Value};
use resilience::Deadline;
use serde::{Deserialize, Serialize};
use std::{
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Release},
    },
    time::Duration,
};

/// Continues the numbers of the epoch and appends. The counter is missing in a new epoch, and where somebody has deleted
/// it: then the stream's own last id tells. Where this process has seen a greater number of the same epoch, something is
/// lost that the epoch does not show: -1, and nothing is done.
const APPEND: &str = r"
local epoch, floor, maxlen, n = ARGV[1], tonumber(ARGV[2]), ARGV[3], 0
local e, s = string.match(redis.call('GET', KEYS[2]) or '', '^(%d+)-(%d+)$')
if e ~= epoch then
  local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
  if last then e, s = string.match(last[1], '^(%d+)-(%d+)$') end
end
if e == epoch then n = tonumber(s) end
if n < floor then return -1 end
for i = 4, #ARGV do
  n = n + 1
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', maxlen, epoch .. '-' .. string.format('%.0f', n), 'f', ARGV[i])
end
redis.call('SET', KEYS[2], epoch .. '-' .. string.format('%.0f', n))
return n";

/// Where in Redis a journal lives and how much of the past it keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisJournalConfig {
    /// Name of the journal within the namespace. Default `main`.
    pub shard: String,
    /// Entries kept, give or take a hundred: at least what is appended at peak within a minute, so that a reader may be
    /// away for that long without a gap. Default 100,000, some 10 MB.
    pub max_len: u32,
}

impl Default for RedisJournalConfig {
    fn default() -> Self {
        Self { shard: "main".into(), max_len: 100_000 }
    }
}

/// A journal in Redis, shared by all processes of a namespace.
#[derive(Debug)]
pub struct RedisJournal {
    link: RedisLink,
    stream: Key,
    counter: Key,
    max_len: u32,
    append: Script,
    /// The greatest id that an append of this process was given, packed.
    last: AtomicU64,
}

impl RedisJournal {
    /// A journal over `link`, which need not be connected yet.
    ///
    /// # Errors
    /// [`Error::Backend`] where the shard's name is empty or too long.
    pub fn new(link: RedisLink, config: &RedisJournalConfig) -> Result<Self, Error> {
        let name = |key: Result<Key, _>| key.map_err(|error| Error::backend("name the journal", error));
        let stream = name(link.keys().journal(&config.shard))?;
        let counter = name(link.keys().journal_part(&config.shard, "n"))?;
        let append = Script::fenced("journal append", APPEND);
        Ok(Self { link, stream, counter, max_len: config.max_len.max(1), append, last: AtomicU64::new(0) })
    }

    /// One attempt; `None`: start over with the next generation.
    async fn attempt(
        &self,
        generation: &redis_link::Generation,
        frames: &[Bytes],
        deadline: Deadline,
    ) -> Result<Option<JournalId>, Error> {
        let epoch = generation.epoch_of(&self.stream).map_err(|error| translate(OPERATION, error))?;
        let last = JournalId::from_packed(self.last.load(Acquire));
        let floor = if last.epoch == epoch { last.sequence } else { 0 };
        let mut args: Vec<Bytes> = Vec::with_capacity(3 + frames.len());
        args.extend([epoch.to_string(), floor.to_string(), self.max_len.to_string()].map(Bytes::from));
        args.extend(frames.iter().cloned());
        let keys = [self.stream.clone(), self.counter.clone()];
        let reply = match generation.eval(&self.append, &keys, args, deadline).await {
            Ok(reply) => reply,
            Err(redis_link::Error::Epoch { .. }) => return Ok(None),
            Err(error) => return Err(translate(OPERATION, error)),
        };
        let last = reply.as_int().map_err(|error| Error::backend(OPERATION, error))?;
        let Ok(sequence) = u64::try_from(last) else {
            // Without its epoch key the data counts as new: every process starts over under a greater epoch.
            tracing::warn!("the journal's counter went back; beginning a new epoch");
            let begun =
                generation.begin_epoch(&self.stream, "the journal's counter went back", deadline).await;
            begun.map_err(|error| translate(OPERATION, error))?;
            return Ok(None);
        };
        let id = JournalId::new(epoch, sequence);
        self.last.fetch_max(id.packed(), Release);
        Ok(Some(id))
    }
}

const OPERATION: &str = "append to the journal";

#[async_trait]
impl JournalBackend for RedisJournal {
    fn kept(&self) -> Option<u64> {
        Some(self.max_len.into())
    }

    async fn append(&self, frames: &[Bytes], deadline: Deadline) -> Result<JournalId, Error> {
        let mut generation = self.link.current().map_err(|error| translate(OPERATION, error))?;
        loop {
            if let Some(id) = self.attempt(&generation, frames, deadline).await? {
                return Ok(id);
            }
            // Nothing was done, and the next generation is being opened.
            generation = self.link.ready(deadline).await.map_err(|error| translate(OPERATION, error))?;
        }
    }

    async fn open(&self, deadline: Deadline) -> Result<Box<dyn JournalSource>, Error> {
        let opened = self.link.dedicated(&self.stream, deadline).await;
        let connection = opened.map_err(|error| translate("open the journal", error))?;
        Ok(Box::new(RedisSource { connection, stream: self.stream.clone() }))
    }
}

struct RedisSource {
    connection: Dedicated,
    stream: Key,
}

#[async_trait]
impl JournalSource for RedisSource {
    fn epoch(&self) -> u32 {
        self.connection.epoch()
    }

    async fn tail(&mut self) -> Result<Option<JournalId>, Error> {
        const TAIL: &str = "read the journal's end";
        let command = Command::new("XINFO STREAM").arg(&self.stream);
        let info = match self.connection.call(command, Deadline::never()).await {
            Ok(info) => info,
            Err(redis_link::Error::Server { message, .. }) if message.contains("no such key") => {
                return Ok(None);
            }
            Err(error) => return Err(translate(TAIL, error)),
        };
        let last = |info: Value| -> Result<Option<JournalId>, UnexpectedReply> {
            for (field, value) in info.into_pairs()? {
                if field.as_str()? == "last-generated-id" {
                    return parse_id(&value).map(Some);
                }
            }
            Ok(None)
        };
        last(info).map_err(|error| Error::backend(TAIL, error))
    }

    async fn read(&mut self, after: JournalId, max: usize, wait: Duration) -> Result<Vec<RawEntry>, Error> {
        const READ: &str = "read the journal";
        let block = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
        let command = Command::new("XREAD").arg("COUNT").arg(max).arg("BLOCK").arg(block).arg("STREAMS");
        let command = command.arg(&self.stream).arg(after.to_string());
        let reply = self.connection.call_blocking(command, wait, Deadline::never()).await;
        let reply = reply.map_err(|error| translate(READ, error))?;
        parse_entries(reply).map_err(|error| Error::backend(READ, error))
    }
}

/// `[[stream, [[id, [field, value]]]]]`, or the same as a map, or nil.
fn parse_entries(reply: Value) -> Result<Vec<RawEntry>, UnexpectedReply> {
    let streams = match reply {
        Value::Nil => return Ok(Vec::new()),
        Value::Map(pairs) => pairs.into_iter().map(|(_, entries)| entries).collect(),
        Value::Array(streams) => {
            let second = |stream: Value| Ok(stream.into_array()?.into_iter().nth(1).unwrap_or(Value::Nil));
            streams.into_iter().map(second).collect::<Result<Vec<_>, UnexpectedReply>>()?
        }
        other => return Err(other.unexpected("a list of streams")),
    };
    let mut entries = Vec::new();
    for stream in streams {
        for entry in stream.into_array()? {
            let mut parts = entry.into_array()?.into_iter();
            let id = parse_id(&parts.next().unwrap_or(Value::Nil))?;
            let fields = parts.next().unwrap_or(Value::Nil).into_pairs()?;
            let frame = fields.into_iter().next().map(|(_, value)| value.into_bytes()).transpose()?.flatten();
            // An entry without a frame is not ours; as an empty frame it is reported as unreadable.
            entries.push(RawEntry { id, frame: frame.unwrap_or_default() });
        }
    }
    Ok(entries)
}

fn parse_id(value: &Value) -> Result<JournalId, UnexpectedReply> {
    let parts = value.as_str()?.split_once('-');
    let id =
        parts.and_then(|(epoch, sequence)| Some(JournalId::new(epoch.parse().ok()?, sequence.parse().ok()?)));
    id.ok_or_else(|| value.unexpected("a journal id"))
}
