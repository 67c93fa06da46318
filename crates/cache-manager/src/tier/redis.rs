//! L2 in Redis: a value key and, beside it in the same hash slot, a lease key.
//!
//! Who misses asks for the lease (one script); it is granted to one at a time and ends by itself, so a holder that died
//! stops nobody for long and a living one renews it. A fill is a script that stores the value only while the lease
//! still carries the token. An invalidation removes both keys in one script: from then on the old value cannot be
//! read, and whoever was loading it cannot store it. A tombstone would add nothing to that, so there is none: what
//! was loaded under an older lease is refused by the missing lease, and what is loaded under a newer one began after
//! the invalidation.
//!
//! `clear` replaces a random marker: one of the region, one of everything. Each value carries the two markers that stood
//! when its lease was given, each read brings the two that stand now in the same MGET, and only equality counts. So
//! a marker that was evicted is a miss for its entries, never a stale value, and keys may be evicted at will.
//!
//! `set` takes the lease, whoever has it, in the script that removes the value, and then fills: late, its second half is
//! refused like any other fill, and its first half is an invalidation.
//!
//! Each value carries the epoch of the server's data too; one of another epoch is a miss. The scripts that write are
//! fenced by it (`redis-link`).
//!
//! On a cluster a key and its lease share a slot and the markers lie elsewhere, so they are read, and made where they are
//! missing, before the lease is asked for: one that is replaced in between makes the value a miss. A marker counts together
//! with the epoch of its own master: one that a failover brought back is not the one that stood.
//!
//! Commands: MGET; in scripts TIME, GET, SET, DEL, PTTL, PEXPIRE, and INFO for the fence.
//!
//! Not yet: waiters in other processes ask again after about a load's time instead of being woken; on a cluster the
//! marker of everything lies with one master, whose failover is a cold start of all.

mod envelope;
mod scripts;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use redis_link::{Generation, Key, RedisLink, Value};
use resilience::Deadline;

use self::envelope::{Header, Markers};
use self::scripts::Scripts;
use super::{Claim, EVERYTHING, Fresh, Stored, Ticket, Tier, TierError, TierKey};
use crate::key::ESCAPED;

/// See the module's text.
#[derive(Debug)]
pub struct RedisTier {
    link: RedisLink,
    scripts: Scripts,
    lease: Duration,
    /// Id and epoch of the generation that was last seen.
    seen: Mutex<Option<(u64, u32)>>,
}

/// How the lease is asked for.
#[derive(Clone, Copy)]
enum Mode {
    /// Unless there is a fresh value or another holder.
    Ask,
    /// Unless there is another holder.
    Force,
    /// In any case; the value goes.
    Seize,
}

impl Mode {
    const fn text(self) -> &'static [u8] {
        match self {
            Self::Ask => b"0",
            Self::Force => b"1",
            Self::Seize => b"2",
        }
    }
}

/// What a lease holder knows.
struct Lease {
    generation: Arc<Generation>,
    token: Bytes,
    version: u64,
    markers: Markers,
}

impl RedisTier {
    /// L2 over `link`; a lease whose holder stopped renewing ends after `lease`. Call it inside a runtime.
    #[must_use]
    pub fn new(link: RedisLink, lease: Duration) -> Self {
        Self { link, scripts: Scripts::new(), lease, seen: Mutex::default() }
    }

    fn generation(&self) -> Result<Arc<Generation>, TierError> {
        self.link.current().map_err(|e| TierError::Unavailable(e.to_string()))
    }

    fn pair(&self, key: &TierKey) -> Result<(Key, Key), TierError> {
        let name = escaped(&key.key);
        let keys = self.link.keys();
        let value = keys.cache_value(&key.region, &name).map_err(unnamed)?;
        Ok((value, keys.cache_lease(&key.region, &name).map_err(unnamed)?))
    }

    fn marker(&self, region: &str) -> Result<Key, TierError> {
        marker(&self.link, region)
    }

    fn header(&self, epoch: u32, value: &Fresh) -> Header {
        Header::new(epoch, self.link.server_clock().now_unix_millis(), value)
    }

    /// The markers that stand, made where they are missing, each with the epoch of its master in it.
    async fn markers(
        &self,
        generation: &Generation,
        region: &str,
        deadline: Deadline,
    ) -> Result<Markers, TierError> {
        let one = async |name: &str| {
            let key = self.marker(name)?;
            let epoch = generation.epoch_of(&key).map_err(failed)?;
            let made = vec![random(8)];
            let reply =
                generation.eval(&self.scripts.marker, &[key], made, deadline).await.map_err(failed)?;
            let bytes = reply.into_bytes().map_err(odd)?.unwrap_or_default();
            envelope::of_epoch(&bytes, epoch).ok_or_else(|| TierError::Unavailable("odd marker".to_owned()))
        };
        let (region, everything) = futures_util::future::try_join(one(region), one(EVERYTHING)).await?;
        Markers::standing(&region, &everything).ok_or_else(|| TierError::Unavailable("odd marker".to_owned()))
    }

    async fn claim_as(
        &self,
        key: &TierKey,
        mode: Mode,
        lasts: Duration,
        deadline: Deadline,
    ) -> Result<Claim, TierError> {
        let generation = self.generation()?;
        let (value, lease) = self.pair(key)?;
        let epoch = generation.epoch_of(&value).map_err(failed)?;
        let token = random(16);
        let mut args = vec![token.clone(), Bytes::from_static(mode.text()), random(8), random(8)];
        args.extend([Bytes::copy_from_slice(&epoch.to_be_bytes()), decimal(lasts)]);
        let reply = if generation.is_cluster() {
            let markers = self.markers(&generation, &key.region, deadline).await?;
            (args[2], args[3]) = markers.bytes();
            generation.eval(&self.scripts.claim_only, &[value, lease], args, deadline).await
        } else {
            let keys = [value, lease, self.marker(&key.region)?, self.marker(EVERYTHING)?];
            generation.eval(&self.scripts.claim, &keys, args, deadline).await
        };
        let reply = reply.map_err(failed)?;
        let mut reply = reply.into_array().map_err(odd)?.into_iter();
        let mut next = || reply.next().unwrap_or(Value::Nil);
        let now = self.link.server_clock().now_unix_millis();
        let stored = |blob: &Bytes| envelope::unchecked(blob, now);
        let bytes = |value: Value| value.into_bytes().ok().flatten().unwrap_or_default();
        match next().as_int().map_err(odd)? {
            1 => {
                // Of another format, though epoch and markers stand: handed out as it is, so that whoever fails to
                // decode it counts it and claims again with force.
                let blob = bytes(next());
                let (body, fresh_for) = (Some(blob.clone()), Duration::ZERO);
                let odd = Stored { body, fresh_for, age: Duration::ZERO, version: 0 };
                Ok(Claim::Found(stored(&blob).unwrap_or(odd)))
            }
            2 => {
                let left = next().as_int().map_err(odd)?;
                Ok(Claim::Busy { ends_within: Duration::from_millis(left.max(1).unsigned_abs()) })
            }
            _ => {
                let version = envelope::number(&next().into_bytes().map_err(odd)?.unwrap_or_default());
                let markers = Markers::of(next(), next())
                    .ok_or_else(|| TierError::Unavailable("odd marker".to_owned()))?;
                let stale = stored(&bytes(next()));
                let held = Lease { generation, token, version, markers };
                let renew_every = Some(self.lease / 3);
                Ok(Claim::Granted { ticket: Ticket { held: Box::new(held), version, renew_every }, stale })
            }
        }
    }
}

#[async_trait]
impl Tier for RedisTier {
    async fn read(&self, keys: &[TierKey], deadline: Deadline) -> Result<Vec<Option<Stored>>, TierError> {
        read(&self.link, keys, deadline).await
    }

    async fn claim(&self, key: &TierKey, force: bool, deadline: Deadline) -> Result<Claim, TierError> {
        let mode = if force { Mode::Force } else { Mode::Ask };
        self.claim_as(key, mode, self.lease, deadline).await
    }

    async fn renew(&self, key: &TierKey, ticket: &Ticket, deadline: Deadline) -> Result<bool, TierError> {
        let held = lease(ticket)?;
        let (_, lease) = self.pair(key)?;
        let args = vec![held.token.clone(), decimal(self.lease)];
        let reply =
            held.generation.eval(&self.scripts.renew, &[lease], args, deadline).await.map_err(failed)?;
        Ok(reply.as_int().map_err(odd)? == 1)
    }

    async fn fill(
        &self,
        key: &TierKey,
        ticket: Ticket,
        value: Fresh,
        deadline: Deadline,
    ) -> Result<bool, TierError> {
        // On the generation that gave the lease: on another one it is void.
        let held = lease(&ticket)?;
        let (value_key, lease) = self.pair(key)?;
        let epoch = held.generation.epoch_of(&value_key).map_err(failed)?;
        let blob = self.header(epoch, &value).blob(held.version, &held.markers, &value);
        let args = vec![held.token.clone(), decimal(value.keep_for), blob];
        let keys = [value_key, lease];
        let reply = held.generation.eval(&self.scripts.fill, &keys, args, deadline).await.map_err(failed)?;
        Ok(reply.as_int().map_err(odd)? == 1)
    }

    async fn release(&self, key: &TierKey, ticket: Ticket, deadline: Deadline) {
        if let (Ok(held), Ok((_, lease))) = (lease(&ticket), self.pair(key)) {
            // If it fails the lease ends by itself.
            let _ = held
                .generation
                .eval(&self.scripts.release, &[lease], vec![held.token.clone()], deadline)
                .await;
        }
    }

    async fn seize(&self, key: &TierKey, deadline: Deadline) -> Result<Ticket, TierError> {
        // As long as the caller may take: nobody is to load meanwhile and be told that he was first.
        let lasts = self.lease.max(deadline.remaining().min(self.lease * 10));
        match self.claim_as(key, Mode::Seize, lasts, deadline).await? {
            Claim::Granted { ticket, .. } => Ok(ticket),
            _ => Err(TierError::Unavailable("seized, but not given".to_owned())),
        }
    }

    async fn invalidate(&self, keys: &[TierKey], deadline: Deadline) -> Result<(), TierError> {
        let generation = self.generation()?;
        // Of a cluster only a key and its lease are sure to be with one master; the calls share its connections.
        let together = if generation.is_cluster() { 1 } else { 64 };
        for some in keys.chunks(64) {
            let calls = some.chunks(together).map(async |some| {
                let mut pairs = Vec::with_capacity(some.len() * 2);
                for key in some {
                    let (value, lease) = self.pair(key)?;
                    pairs.extend([value, lease]);
                }
                let call = generation.eval(&self.scripts.invalidate, &pairs, Vec::new(), deadline);
                call.await.map(drop).map_err(failed)
            });
            futures_util::future::try_join_all(calls).await?;
        }
        Ok(())
    }

    async fn clear(&self, region: &str, deadline: Deadline) -> Result<(), TierError> {
        let generation = self.generation()?;
        let keys = [self.marker(region)?];
        generation.eval(&self.scripts.clear, &keys, vec![random(8)], deadline).await.map_err(failed)?;
        Ok(())
    }

    async fn renewed(&self) -> bool {
        let mut states = self.link.watch();
        loop {
            if let Some(now) = self.link.generation().map(|generation| (generation.id(), generation.epoch()))
            {
                // What was seen outlives this call, so a change between two calls is not missed.
                match self.seen.lock().replace(now) {
                    Some(before) if before.0 != now.0 => return before.1 != now.1,
                    _ => {}
                }
            }
            let _ = tokio::time::timeout(Duration::from_secs(1), states.changed()).await;
        }
    }

    async fn ping(&self, deadline: Deadline) -> Result<(), TierError> {
        self.link.health_check(deadline).await.map(drop).map_err(failed)
    }
}

/// One MGET: the values, the marker of everything, the marker of each region among the keys.
async fn read(
    link: &RedisLink,
    keys: &[TierKey],
    deadline: Deadline,
) -> Result<Vec<Option<Stored>>, TierError> {
    let generation = link.current().map_err(|e| TierError::Unavailable(e.to_string()))?;
    let mut names = Vec::with_capacity(keys.len() + 2);
    for key in keys {
        names.push(link.keys().cache_value(&key.region, &escaped(&key.key)).map_err(unnamed)?);
    }
    names.push(marker(link, EVERYTHING)?);
    let mut regions: Vec<&str> = Vec::new();
    for key in keys {
        if !regions.contains(&&*key.region) {
            regions.push(&key.region);
            names.push(marker(link, &key.region)?);
        }
    }
    let mut values = generation.mget(&names, deadline).await.map_err(failed)?;
    if generation.is_cluster() {
        for (name, marker) in names.iter().zip(&mut values).skip(keys.len()) {
            let epoch = generation.epoch_of(name).map_err(failed)?;
            *marker = marker.take().and_then(|marker| envelope::of_epoch(&marker, epoch));
        }
    }
    let now = link.server_clock().now_unix_millis();
    let (values, markers) = values.split_at_checked(keys.len()).ok_or(TierError::TimedOut)?;
    let (everything, markers) = markers.split_first().ok_or(TierError::TimedOut)?;
    let accept = |((key, name), value): ((&TierKey, &Key), &Option<Bytes>)| {
        let at = regions.iter().position(|region| **region == *key.region)?;
        let markers = Markers::standing(markers.get(at)?.as_ref()?, everything.as_ref()?)?;
        envelope::accept(value.as_ref()?, &markers, generation.epoch_of(name).ok()?, now)
    };
    Ok(keys.iter().zip(&names).zip(values).map(accept).collect())
}

fn marker(link: &RedisLink, region: &str) -> Result<Key, TierError> {
    link.keys().cache_marker("r", region).map_err(unnamed)
}

/// The escape makes no two keys one.
fn escaped(key: &str) -> std::borrow::Cow<'_, str> {
    if key.starts_with(ESCAPED) { format!("%{key}").into() } else { key.into() }
}

fn lease(ticket: &Ticket) -> Result<&Lease, TierError> {
    ticket.held.downcast_ref().ok_or_else(|| TierError::Unavailable("a ticket of another tier".to_owned()))
}

fn decimal(time: Duration) -> Bytes {
    Bytes::from(time.as_millis().max(1).to_string())
}

fn random(bytes: usize) -> Bytes {
    let random: [u8; 16] = rand::random();
    Bytes::copy_from_slice(&random[..bytes.min(16)])
}

fn failed(error: redis_link::Error) -> TierError {
    match error {
        redis_link::Error::Timeout { .. } | redis_link::Error::Unknown { .. } => TierError::TimedOut,
        other => TierError::Unavailable(other.to_string()),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the error ends here")]
fn odd(error: redis_link::UnexpectedReply) -> TierError {
    TierError::Unavailable(error.to_string())
}

#[expect(clippy::needless_pass_by_value, reason = "the error ends here")]
fn unnamed(error: redis_link::InvalidName) -> TierError {
    TierError::Unavailable(error.to_string())
}
