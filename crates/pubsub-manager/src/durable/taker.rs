//! The tasks behind one consumer: one takes and queues, one tells that what is held is being worked on. Neither skips a
//! loss: what the store has recorded is handed out until somebody was told.

use super::{
    DurableSource, Settle, Settled, Settlement, Take, Taken,
    member::{Core, Item, Member},
};
use crate::Error;
use resilience::{Backoff, BackoffConfig, Deadline};
use std::{sync::Arc, time::Duration};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// A pause is noticed within it.
const WAIT: Duration = Duration::from_millis(500);
/// With less room than a quarter, what becomes free meanwhile is taken together.
const GATHER: Duration = Duration::from_millis(20);
/// Bytes taken at once.
const MAX_BYTES: usize = 1024 * 1024;
/// For one attempt to open, extend or tend.
const ATTEMPT: Duration = Duration::from_secs(5);
/// How long what is being taken is waited for at the end, so that nobody has to wait for it to be due.
const LAST: Duration = Duration::from_secs(1);

/// Takes until `stop`; gives back what is left in the queue.
pub(super) async fn take(member: Arc<Member>, source: Box<dyn DurableSource>, stop: CancellationToken) {
    let core = Arc::clone(&member.core);
    let mut taker = Taker { core, known: source.incarnation(), told: 0, stop: stop.clone() };
    let mut source = Some(source);
    let mut backoff = Backoff::new(BackoffConfig::default());
    while !stop.is_cancelled() {
        match taker.round(&mut source).await {
            Ok(()) => backoff.reset(),
            Err(Error::Shutdown { .. }) => stop.cancel(),
            Err(error) => {
                if !error.is_retryable() && !matches!(error, Error::UnknownGroup { .. }) {
                    // A right that is missing, a key of another type: nothing is delivered until somebody mends it.
                    tracing::warn!(%error, cause = ?std::error::Error::source(&error), group = %taker.core.key.group, "nothing can be taken");
                }
                tracing::debug!(%error, group = %taker.core.key.group, "taking was interrupted");
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(backoff.next_delay()) => {}
                }
            }
        }
    }
    member.give_back();
}

struct Taker {
    core: Arc<Core>,
    /// The group as this consumer knows it.
    known: u64,
    /// The latest loss that was queued.
    told: u64,
    stop: CancellationToken,
}

impl Taker {
    /// One take; the source is kept only where it succeeded.
    async fn round(&mut self, source: &mut Option<Box<dyn DurableSource>>) -> Result<(), Error> {
        let Some(room) = self.room().await else { return Ok(()) };
        let Core { store, key, options, .. } = &*self.core;
        let mut current = match source.take() {
            Some(source) => source,
            None => store.open(key, options.start, Some(self.known), Deadline::after(ATTEMPT)).await?,
        };
        if self.known != current.incarnation() {
            (self.known, self.told) = (current.incarnation(), 0);
        }
        let holding: Vec<_> = self.core.holding().into_iter().map(|(id, _)| id).collect();
        let take = Take {
            max: room,
            max_bytes: MAX_BYTES,
            holding: &holding,
            ack_timeout: options.ack_timeout,
            max_deliveries: options.max_deliveries,
            max_dead_letters: options.max_dead_letters,
            wait: WAIT,
        };
        let taken = {
            let mut taking = current.take(&take);
            tokio::select! {
                taken = &mut taking => taken?,
                () = self.stop.cancelled() => match tokio::time::timeout(LAST, taking).await {
                    Ok(taken) => taken?,
                    Err(_) => return Ok(()),
                },
            }
        };
        self.queue(taken);
        *source = Some(current);
        Ok(())
    }

    fn queue(&mut self, taken: Taken) {
        use std::sync::atomic::Ordering::Relaxed;
        if let Some(loss) = taken.loss.filter(|loss| loss.number != self.told) {
            self.told = loss.number;
            self.core.push(Item::Lost(loss));
        }
        self.core.counts.dead_lettered.fetch_add(taken.dead, Relaxed);
        for message in taken.messages {
            let age = taken.now.saturating_sub(message.id.millis);
            self.core.counts.delivered(message.deliveries, age);
            self.core.push(Item::Message(message));
        }
    }

    /// How many there is room for; `None` at the end.
    async fn room(&self) -> Option<usize> {
        let enough = (self.core.options.prefetch / 4).max(1);
        loop {
            let room = self.core.room();
            if room >= enough {
                return Some(room);
            }
            let gathering = tokio::time::sleep(GATHER);
            tokio::select! {
                () = self.stop.cancelled() => return None,
                () = self.core.freed.notified() => {}
                () = gathering, if room > 0 => return Some(room),
            }
        }
    }
}

/// Extends what is held, and tends the group, until nobody can settle any more, or `stop` and nothing is held.
pub(super) async fn keep(core: Arc<Core>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(core.options.ack_timeout / 3);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Not all consumers of a group at once.
    let every = Duration::from_secs(5).mul_f64(rand::random_range(0.8..1.2));
    let mut tend_tick = tokio::time::interval(every);
    tend_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = core.gone.cancelled() => return,
            () = stop.cancelled() => break,
            _ = tick.tick() => extend(&core).await,
            _ = tend_tick.tick() => tend(&core).await,
        }
    }
    while core.room() < core.options.prefetch {
        tokio::select! {
            () = core.gone.cancelled() => return,
            () = core.freed.notified() => {}
            _ = tick.tick() => extend(&core).await,
        }
    }
}

async fn extend(core: &Core) {
    let by = core.options.ack_timeout;
    let settlements: Vec<_> = core
        .holding()
        .into_iter()
        .map(|(id, deliveries)| Settlement { id, deliveries, how: Settle::Extend(by) })
        .collect();
    for some in settlements.chunks(256) {
        match core.store.settle(&core.key, some, Deadline::after(ATTEMPT.min(by))).await {
            Ok(settled) => {
                for (one, settled) in some.iter().zip(settled) {
                    if settled != Settled::Done {
                        core.release(one.id, one.deliveries);
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "what is held could not be extended"),
        }
    }
}

async fn tend(core: &Core) {
    if let Err(error) = core.store.tend(&core.key, core.options.forget_after, Deadline::after(ATTEMPT)).await
    {
        tracing::debug!(%error, group = %core.key.group, "the group could not be tended");
    }
}
