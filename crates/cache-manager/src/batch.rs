//! Many keys at once: one look into L1, one read of L2, one of L3, one call of the loader for what is missing. Each key
//! counts, fails and is invalidated as if it had come alone.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use resilience::Deadline;
use tokio::sync::oneshot;

use crate::answer::{BoxError, CacheValue, Hit, Invalidated, Level, LoadCtx, Loaded};
use crate::cache::{Cache, is};
use crate::core::tier_key;
use crate::counters::Count;
use crate::error::CacheError;
use crate::key::Key;
use crate::ledger::Begun;
use crate::tier::{Guarded, TierKey};

/// Most keys of one call; more are taken in pieces.
const MOST: usize = 512;
/// Values of one [`Cache::set_many`] on their way at a time.
const PUTS: usize = 64;

impl<V: CacheValue> Cache<V> {
    /// The values of `keys`, in order; see [`get`](Self::get).
    ///
    /// Cancel safety: safe.
    ///
    /// # Errors
    /// [`CacheError::Key`] for the first key outside the limits.
    pub async fn get_many(&self, keys: &[&str]) -> Result<Vec<Option<Arc<V>>>, CacheError> {
        let mut found = vec![None; keys.len()];
        let mut missing = self.local_many(keys, &mut found)?;
        for piece in missing.chunks_mut(MOST) {
            let rest = Box::pin(self.shared_many(piece, false, &mut found)).await;
            self.core.counters.mine().add(Count::Nothing, rest as u64);
        }
        Ok(found.into_iter().map(|hit| hit.and_then(|hit| hit.value)).collect())
    }

    /// The values of `keys`, in order, or what `loader` brings: it is called once, with the keys that no level has and
    /// nobody else is loading, and answers with what it found; a key that it leaves out is absent. See
    /// [`get_or_load`](Self::get_or_load); a key that another process is loading is loaded here too.
    ///
    /// Cancel safety: safe; the load goes on for others and for the cache.
    ///
    /// # Errors
    /// The outer one is [`CacheError::Key`]; each key has its own.
    pub async fn get_or_load_many<F, Fut, E>(
        &self,
        keys: &[&str],
        loader: F,
    ) -> Result<Vec<Result<Hit<V>, CacheError>>, CacheError>
    where
        F: FnOnce(Vec<String>, Deadline) -> Fut + Send + 'static,
        Fut: Future<Output = Result<HashMap<String, V>, E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        let mut found: Vec<Option<Hit<V>>> = vec![None; keys.len()];
        let mut missing = self.local_many(keys, &mut found)?;
        for piece in missing.chunks_mut(MOST) {
            Box::pin(self.shared_many(piece, true, &mut found)).await;
        }
        let open: Vec<usize> = (0..keys.len()).filter(|at| found[*at].is_none()).collect();
        // Each open key flies by itself; those that get as far as their loader meet in one call.
        if open.is_empty() {
            return Ok(found.into_iter().flatten().map(Ok).collect());
        }
        let (meeting, shares) = Meeting::new(open.len());
        let flights = open.iter().zip(shares).map(|(at, share)| {
            let key = keys[*at].to_owned();
            let asked = key.clone();
            async move {
                let loader = move |ctx: LoadCtx<V>| share.load(asked, ctx.deadline);
                // Two processes that each hold one key and wait for the other's would wait for ever.
                (*at, Box::pin(self.load(&key, false, loader)).await)
            }
        });
        self.core.tasks.spawn_on(meeting.run(loader), &self.core.runtime);
        let loaded = futures_util::future::join_all(flights).await;
        let mut results: Vec<Option<Result<Hit<V>, CacheError>>> =
            found.into_iter().map(|hit| hit.map(Ok)).collect();
        for (at, result) in loaded {
            results[at] = Some(result);
        }
        Ok(results.into_iter().map(|result| result.unwrap_or(Err(CacheError::Shutdown))).collect())
    }

    /// Stores several values; see [`set`](Self::set).
    ///
    /// # Errors
    /// The first error; the others are stored nevertheless.
    pub async fn set_many(&self, values: Vec<(String, V)>) -> Result<Invalidated, CacheError> {
        let ttl = self.region.options.ttl;
        let puts =
            values.into_iter().map(|(key, value)| async move { self.put(&key, Some(value), ttl).await });
        let results: Vec<_> = stream::iter(puts).buffered(PUTS).collect().await;
        results.into_iter().try_fold(Invalidated::Applied, |_, one| one)
    }

    /// Invalidates several keys in one go; see [`invalidate`](Self::invalidate).
    ///
    /// # Errors
    /// As [`invalidate`](Self::invalidate); then all of them are repeated in the background.
    pub async fn invalidate_many(&self, keys: &[&str]) -> Result<Invalidated, CacheError> {
        let keys = keys.iter().map(|key| Key::new(self.region.id, key)).collect::<Result<Vec<_>, _>>()?;
        Box::pin(self.core.invalidate(&self.region, &keys, true)).await
    }

    /// Fills in what L1 has; the rest, with the places it belongs to.
    fn local_many(
        &self,
        keys: &[&str],
        found: &mut [Option<Hit<V>>],
    ) -> Result<Vec<(usize, Key)>, CacheError> {
        let now = self.core.watch.now();
        let mut missing = Vec::new();
        for (at, text) in keys.iter().enumerate() {
            if let Some(slot) = self.slot(text, now).filter(is::<V>) {
                self.core.counters.count(Count::L1Hit);
                found[at] = Some(self.hit(slot, Level::L1, false));
            } else {
                missing.push((at, self.key(text)?));
            }
        }
        Ok(missing)
    }

    /// Fills in what L2 and L3 have; how many are left. `loads`: whether there is a loader for the rest.
    async fn shared_many(
        &self,
        missing: &mut [(usize, Key)],
        loads: bool,
        found: &mut [Option<Hit<V>>],
    ) -> usize {
        let begun: Vec<Begun> =
            missing.iter().map(|(_, key)| self.core.ledger.begin(key, &self.region)).collect();
        let l2 = self.core.l2_of(&self.region).map(|tier| (tier, Level::L2));
        let l3 = self.core.l3_worth(&self.region).map(|tier| (tier, Level::L3));
        for (tier, level) in [l2, l3].into_iter().flatten() {
            self.tier_many(tier, level, missing, &begun, loads, found).await;
        }
        missing.iter().filter(|(at, _)| found[*at].is_none()).count()
    }

    async fn tier_many(
        &self,
        tier: &Guarded,
        level: Level,
        missing: &[(usize, Key)],
        begun: &[Begun],
        loads: bool,
        found: &mut [Option<Hit<V>>],
    ) {
        let open: Vec<usize> =
            (0..missing.len()).filter(|n| found[missing[*n].0].is_none() && !begun[*n].bypass).collect();
        if open.is_empty() {
            return;
        }
        let keys: Vec<TierKey> = open.iter().map(|n| tier_key(&self.region, &missing[*n].1)).collect();
        let deadline = Deadline::after(self.region.options.hard_timeout);
        let Ok(answers) = tier.read(&keys, deadline).await else { return };
        for (n, stored) in open.into_iter().zip(answers) {
            let (at, key) = &missing[n];
            let Some(stored) = stored.filter(|stored| !stored.fresh_for.is_zero()) else { continue };
            let Some(slot) = self.decode(&stored, begun[n].start, begun[n].at) else { continue };
            let outdated = self.core.beside.outdates(key, slot.loaded_at);
            if outdated && loads {
                continue;
            }
            self.core.counters.count(crate::load::counted(level));
            if !outdated {
                self.core.ledger.fill(key, &self.region, &self.core.l1, begun[n].at, slot.clone());
            }
            found[*at] = Some(self.hit(slot, level, false));
        }
    }
}

/// Where the loads of one batch meet: each brings its key, the last to come or to go away lets the loader run.
struct Meeting<V> {
    arrivals: tokio::sync::mpsc::Receiver<Arrival<V>>,
}

struct Share<V>(tokio::sync::mpsc::Sender<Arrival<V>>);

struct Arrival<V> {
    key: String,
    deadline: Deadline,
    reply: oneshot::Sender<Result<Loaded<V>, SharedError>>,
}

/// The loader's one error, for each of its keys.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
struct SharedError(Arc<dyn std::error::Error + Send + Sync>);

impl<V: CacheValue> Meeting<V> {
    fn new(places: usize) -> (Self, Vec<Share<V>>) {
        let (send, arrivals) = tokio::sync::mpsc::channel(places.max(1));
        (Self { arrivals }, (0..places).map(|_| Share(send.clone())).collect())
    }

    async fn run<F, Fut, E>(mut self, loader: F)
    where
        F: FnOnce(Vec<String>, Deadline) -> Fut + Send + 'static,
        Fut: Future<Output = Result<HashMap<String, V>, E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        let mut present: Vec<Arrival<V>> = Vec::new();
        // Ends when every share has been used or dropped.
        while let Some(arrival) = self.arrivals.recv().await {
            present.push(arrival);
        }
        let Some(first) = present.first() else { return };
        let deadline = present.iter().fold(first.deadline, |all, one| all.earlier(one.deadline));
        let keys = present.iter().map(|arrival| arrival.key.clone()).collect();
        let values = deadline.run(async move { loader(keys, deadline).await }).await;
        let mut values = match values {
            Ok(result) => result.map_err(|error| SharedError(Arc::from(error.into()))),
            Err(late) => Err(SharedError(Arc::new(late))),
        };
        for Arrival { key, reply, .. } in present {
            let _ = reply.send(match &mut values {
                Ok(values) => Ok(values.remove(&key).into()),
                Err(error) => Err(error.clone()),
            });
        }
    }
}

impl<V: CacheValue> Share<V> {
    async fn load(self, key: String, deadline: Deadline) -> Result<Loaded<V>, SharedError> {
        let (reply, answer) = oneshot::channel();
        let arrived = self.0.send(Arrival { key, deadline, reply }).await;
        drop(self.0);
        let gone = || SharedError(Arc::from(BoxError::from("the batch's loader went away")));
        arrived.map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }
}
