//! Locks in Redis: one key for each lock that is held, one counter for each of 64 shards, one wake channel. Fencing
//! against a lost or replaced server is the link's epoch; growing tokens is the counter's floor.

mod routing;

use crate::{Attempt, BackendStatus, LockBackend, LockError, Request, Token, Wakes, token::MAX_COUNTER};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use redis_link::{
    Channel, ConnectionState, Error as LinkError, Generation, Key, RedisLink, Script, SubscribeOptions,
    SubscriptionHandle, Value,
};
use resilience::Deadline;
use routing::{Confirmed, Routing};
use std::{
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Release},
        },
    },
    time::Duration,
};
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Counters, each shared by the locks of one shard: names come and go without end, and a counter must stay.
const SHARDS: u64 = 64;
/// Wakes waiting to be routed; beyond it everybody is woken.
const WAKES: usize = 10_000;

/// A held lock is its acquisition's 16 bytes, then 15 digits of counter, then the holder's label.
/// ARGV: id, label, lease in ms, the epoch's first number, the greatest number seen.
/// Answers {0, remaining ms, label}: held; {1, number}: granted; {2}: the counter went back or is used up.
const ACQUIRE: &str = r"
local held = redis.call('GET', KEYS[1])
if held then
  if string.sub(held, 1, 16) ~= ARGV[1] then return {0, redis.call('PTTL', KEYS[1]), string.sub(held, 32)} end
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return {1, tonumber(string.sub(held, 17, 31))}
end
local first, seen = tonumber(ARGV[4]), tonumber(ARGV[5])
local n = tonumber(redis.call('GET', KEYS[2]) or '0')
if n < seen then return {2} end
if n < first then n = first end
n = n + 1
if n > first + 16777215 then return {2} end
local digits = string.format('%015.0f', n)
redis.call('SET', KEYS[2], digits)
redis.call('SET', KEYS[1], ARGV[1] .. digits .. ARGV[2], 'PX', ARGV[3])
return {1, n}";

const RENEW: &str = r"
if string.sub(redis.call('GET', KEYS[1]) or '', 1, 16) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])";

const RELEASE: &str = r"
if string.sub(redis.call('GET', KEYS[1]) or '', 1, 16) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1";

/// What to do when Redis could evict locks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Eviction {
    /// Warn in the status. The default: on a server with memory to spare nothing is evicted.
    #[default]
    Warn,
    /// Refuse to acquire.
    Refuse,
}

/// Locks in Redis, shared by all processes of a namespace.
#[derive(Debug)]
pub struct RedisLockBackend {
    link: RedisLink,
    eviction: Eviction,
    scripts: Scripts,
    wake_channel: Channel,
    /// The greatest number seen of each shard: its epoch's 24 bits, then the counter's.
    seen: Vec<AtomicU64>,
    wakes: Arc<Mutex<Vec<Wakes>>>,
    wake_handle: SubscriptionHandle,
    wake_confirmed: Arc<Mutex<Confirmed>>,
    _stop: DropGuard,
}

#[derive(Debug)]
struct Scripts {
    acquire: Script,
    renew: Script,
    release: Script,
}

/// What the acquire script said.
enum Said {
    Attempt(Attempt),
    /// Nothing was done; ask the next generation.
    NewEpoch,
}

impl RedisLockBackend {
    /// Locks over `link`, which need not be connected yet. Subscribes to the wake channel, on the current runtime.
    ///
    /// # Errors
    /// [`LockError::Unavailable`] outside a tokio runtime; [`LockError::Shutdown`].
    pub fn new(link: RedisLink) -> Result<Self, LockError> {
        Self::with_eviction(link, Eviction::default())
    }

    /// [`new`](Self::new) with what to do about a `maxmemory_policy` under which Redis could evict locks.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_eviction(link: RedisLink, eviction: Eviction) -> Result<Self, LockError> {
        let runtime =
            Handle::try_current().map_err(|error| LockError::Unavailable { reason: error.to_string() })?;
        let translate = |error: LinkError| translate("prepare", "", error);
        let wake_channel = link.keys().channel_in("w", "locks").map_err(|error| translate(error.into()))?;
        let options = SubscribeOptions { capacity: WAKES, ..SubscribeOptions::default() };
        let subscription = link.subscription(&[], options).map_err(translate)?;
        let (wakes, stop) = (Arc::<Mutex<Vec<Wakes>>>::default(), CancellationToken::new());
        let wake_handle = subscription.handle();
        let wake_confirmed = Arc::new(Mutex::new(Err(None)));
        let routing = Routing { wakes: Arc::clone(&wakes), confirmed: Arc::clone(&wake_confirmed) };
        runtime.spawn(routing.run(subscription, wake_channel.clone(), stop.clone()));
        let scripts = Scripts {
            acquire: Script::fenced("lock acquire", ACQUIRE),
            renew: Script::new("lock renew", RENEW),
            release: Script::new("lock release", RELEASE),
        };
        let seen = (0..SHARDS).map(|_| AtomicU64::new(0)).collect();
        let _stop = stop.drop_guard();
        Ok(Self { link, eviction, scripts, wake_channel, seen, wakes, wake_handle, wake_confirmed, _stop })
    }

    /// The lock's key and its shard's counter, in one slot, and the shard.
    fn keys(&self, name: &str) -> Result<([Key; 2], usize), LockError> {
        // FNV-1a: the same in every process and version.
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        let shard = name.bytes().fold(0xcbf2_9ce4_8422_2325, mix) % SHARDS;
        let (keys, tag) = (self.link.keys(), format!("s{shard}"));
        let invalid = |error: redis_link::InvalidName| LockError::Invalid {
            what: "lock name",
            reason: error.to_string(),
        };
        let of = |part: &str| keys.lock(&tag, part).map_err(invalid);
        // A closing brace would end the hash tag elsewhere.
        let escaped = name.replace('%', "%25").replace('}', "%7D");
        Ok(([of(&format!("l:{escaped}"))?, of("n")?], usize::try_from(shard).unwrap_or(0)))
    }

    async fn ask(
        &self,
        generation: &Generation,
        request: &Request,
        deadline: Deadline,
    ) -> Result<Said, LockError> {
        let name = &*request.name;
        let (keys, shard) = self.keys(name)?;
        let epoch = generation.epoch_of(&keys[0]).map_err(|error| translate("acquire", name, error))?;
        let first = u64::from(epoch) << 24;
        let seen = self.seen[shard].load(Acquire);
        let args = vec![
            Bytes::copy_from_slice(&request.id.0),
            Bytes::copy_from_slice(request.holder.as_bytes()),
            millis(request.lease),
            Bytes::from(first.to_string()),
            // Numbers of earlier epochs are below the first of this one anyway.
            Bytes::from(if seen >= first { seen } else { 0 }.to_string()),
        ];
        let reply = match generation.eval(&self.scripts.acquire, &keys, args, deadline).await {
            Ok(reply) => reply,
            Err(LinkError::Epoch { .. }) => return Ok(Said::NewEpoch),
            Err(error) => return Err(translate("acquire", name, error)),
        };
        let answer = read_answer(&reply).map_err(|error| translate("acquire", name, error))?;
        match answer {
            Answer::Held { remaining, holder } => Ok(Said::Attempt(Attempt::Held { remaining, holder })),
            Answer::Granted(number) => {
                self.seen[shard].fetch_max(number, Release);
                let part = |number: u64| u32::try_from(number & u64::from(MAX_COUNTER)).unwrap_or(0);
                Ok(Said::Attempt(Attempt::Granted {
                    token: Token::new(part(number >> 24), part(number)).as_u64(),
                }))
            }
            Answer::CounterGone => {
                tracing::warn!(name, "a lock counter went back or is used up; beginning a new epoch");
                // Without its epoch key the data counts as new: every process starts over under a greater epoch.
                let cause = "a lock counter went back or is used up";
                let begun = generation.begin_epoch(&keys[0], cause, deadline).await;
                begun.map_err(|error| translate("acquire", name, error))?;
                Ok(Said::NewEpoch)
            }
        }
    }

    /// Why waiters are not woken.
    fn deaf(&self) -> Option<String> {
        let cause = match &*self.wake_confirmed.lock() {
            Ok(()) => self.wake_handle.trouble(),
            Err(cause) => cause.clone(),
        };
        cause.map(|cause| format!("waiters are not woken and ask once a second: {cause}"))
    }

    fn evictable(&self) -> Option<String> {
        let generation = self.link.generation()?;
        let policy = &generation.capabilities().maxmemory_policy;
        let safe = policy.is_empty() || policy == "noeviction";
        (!safe).then(|| {
            format!(
                "maxmemory_policy is {policy}: Redis may evict locks that are held; locks need noeviction"
            )
        })
    }
}

enum Answer {
    Held { remaining: Duration, holder: String },
    Granted(u64),
    CounterGone,
}

fn read_answer(reply: &Value) -> Result<Answer, LinkError> {
    let parts = reply.as_array()?;
    let number = |index: usize| -> Result<u64, LinkError> {
        let value = parts.get(index).unwrap_or(&Value::Nil).as_int()?;
        // A key that is just expiring has no time left.
        Ok(u64::try_from(value).unwrap_or(0))
    };
    Ok(match number(0)? {
        0 => {
            let holder = parts.get(2).unwrap_or(&Value::Nil).as_bytes()?;
            let holder = String::from_utf8_lossy(holder).into_owned();
            Answer::Held { remaining: Duration::from_millis(number(1)?), holder }
        }
        1 => Answer::Granted(number(1)?),
        _ => Answer::CounterGone,
    })
}

#[async_trait]
impl LockBackend for RedisLockBackend {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn scope(&self) -> &str {
        self.link.keys().namespace()
    }

    fn attach(&self, wakes: Wakes) {
        let mut all = self.wakes.lock();
        all.retain(|wakes| !wakes.is_gone());
        all.push(wakes);
    }

    fn hears_releases(&self) -> bool {
        self.wake_confirmed.lock().is_ok() && self.wake_handle.is_connected()
    }

    async fn acquire(&self, request: &Request, deadline: Deadline) -> Result<Attempt, LockError> {
        if self.eviction == Eviction::Refuse
            && let Some(reason) = self.evictable()
        {
            return Err(LockError::Unavailable { reason });
        }
        let translate = |error| translate("acquire", &request.name, error);
        let mut generation = self.link.current().map_err(translate)?;
        loop {
            match self.ask(&generation, request, deadline).await? {
                Said::Attempt(attempt) => return Ok(attempt),
                Said::NewEpoch => generation = self.link.ready(deadline).await.map_err(translate)?,
            }
        }
    }

    async fn renew(&self, request: &Request, deadline: Deadline) -> Result<bool, LockError> {
        let translate = |error| translate("renew", &request.name, error);
        let ([key, _], _) = self.keys(&request.name)?;
        let generation = self.link.current().map_err(translate)?;
        let args = vec![Bytes::copy_from_slice(&request.id.0), millis(request.lease)];
        let reply = generation.eval(&self.scripts.renew, &[key], args, deadline).await.map_err(translate)?;
        reply.as_int().map(|renewed| renewed == 1).map_err(|error| translate(error.into()))
    }

    async fn release(&self, request: &Request, deadline: Deadline) -> Result<bool, LockError> {
        let translate = |error| translate("release", &request.name, error);
        let ([key, _], _) = self.keys(&request.name)?;
        let generation = self.link.ready(deadline).await.map_err(translate)?;
        let args = vec![
            Bytes::copy_from_slice(&request.id.0),
            self.wake_channel.as_bytes().clone(),
            Bytes::copy_from_slice(request.name.as_bytes()),
        ];
        let reply =
            generation.eval(&self.scripts.release, &[key], args, deadline).await.map_err(translate)?;
        reply.as_int().map(|released| released == 1).map_err(|error| translate(error.into()))
    }

    fn status(&self) -> BackendStatus {
        let status = self.link.status();
        let connected = status.state == ConnectionState::Connected;
        let reason = if connected { None } else { status.last_error.map(|error| error.to_string()) };
        let warnings: Vec<_> = [self.evictable(), self.deaf()].into_iter().flatten().collect();
        let warning = (!warnings.is_empty()).then(|| warnings.join("; "));
        BackendStatus { connected, reason, warning }
    }

    async fn health_check(&self, deadline: Deadline) -> Result<Duration, LockError> {
        self.link.health_check(deadline).await.map_err(|error| translate("check", "", error))
    }
}

fn millis(lease: Duration) -> Bytes {
    Bytes::from(lease.as_millis().to_string())
}

/// The link's errors in this crate's words: what counts is whether it may have happened.
fn translate(operation: &'static str, name: &str, error: LinkError) -> LockError {
    match error {
        error if error.outcome_unknown() => LockError::Unknown { operation, name: name.to_owned() },
        LinkError::Shutdown => LockError::Shutdown,
        // Also what a loading, busy or full server refuses for now.
        error if error.is_retryable() => LockError::Unavailable { reason: error.to_string() },
        error => LockError::Backend { operation, name: name.to_owned(), source: Arc::new(error) },
    }
}
