//! A tier behind its breaker and its time limits: when the store is slow or down, calls end at once instead of each
//! waiting out its time. Not here: what a failed call means for the request (the callers, for whom it is a miss).

use std::sync::Arc;
use std::time::Duration;

use resilience::{Breaker, BreakerConfig, BreakerStatus, Deadline};

use super::gather::{Gather, Limits};
use super::{Claim, Fresh, Stored, Ticket, Tier, TierError, TierKey};
use crate::counters::{Count, Counters};
use crate::region::Cost;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Guarded {
    guard: Arc<Guard>,
    reads: Gather<Option<Stored>>,
}

#[derive(Debug)]
struct Guard {
    tier: Arc<dyn Tier>,
    breaker: Breaker,
    limit: Duration,
    counters: Arc<Counters>,
    errors: Count,
    cost: Cost,
}

/// Two reads keep this end and the store busy at once; with fewer keys a fuller call saves more than it makes wait.
const LIMITS: Limits = Limits { under_way: 2, company: 32, most_keys: 512 };
/// Failures that one read of many keys counts for at most.
const MOST_FAILURES: usize = 64;

impl Guard {
    /// `limit`: reads and fills have the tier's; what must get through has its own and passes an open breaker.
    async fn call<T>(
        &self,
        deadline: Deadline,
        work: impl Future<Output = Result<T, TierError>>,
    ) -> Result<T, TierError> {
        let permit = self.breaker.try_acquire().map_err(|_| TierError::HeldBack)?;
        match deadline.run(work).await.unwrap_or(Err(TierError::TimedOut)) {
            Ok(value) => {
                permit.success();
                Ok(value)
            }
            Err(error) => {
                // To be told at once that there is no connection costs nothing, and must not hold calls back once
                // there is one again.
                if matches!(error, TierError::Unavailable(_) | TierError::Missing(_)) {
                    permit.ignored()
                } else {
                    permit.failure()
                }
                self.counters.count(self.errors);
                Err(error)
            }
        }
    }

    async fn timed<T>(&self, work: impl Future<Output = Result<T, TierError>>) -> Result<T, TierError> {
        let began = std::time::Instant::now();
        let result = work.await;
        if result.is_ok() {
            self.cost.observe(began.elapsed());
        }
        result
    }

    async fn read(&self, keys: &[TierKey], deadline: Deadline) -> Result<Vec<Option<Stored>>, TierError> {
        let result = self.timed(self.call(deadline, self.tier.read(keys, deadline))).await;
        if matches!(result, Err(TierError::TimedOut)) {
            // Each key is a call that failed: a store that hangs must not be asked a whole window of times.
            for _ in 1..keys.len().min(MOST_FAILURES) {
                if let Ok(permit) = self.breaker.try_acquire() {
                    permit.failure();
                }
            }
        }
        result
    }
}

impl Guarded {
    pub(crate) fn new(tier: Arc<dyn Tier>, limit: Duration, counters: Arc<Counters>, errors: Count) -> Self {
        // A call that used half of its time is slow: a store like that is worth no more than its miss.
        let config = BreakerConfig { slow_after: limit / 2, ..BreakerConfig::default() };
        let breaker = Breaker::new(config);
        let guard = Arc::new(Guard { tier, breaker, limit, counters, errors, cost: Cost::default() });
        let shared = Arc::clone(&guard);
        let ask = move |keys: Vec<TierKey>| {
            let guard = Arc::clone(&shared);
            Box::pin(async move { guard.read(&keys, Deadline::after(guard.limit)).await }) as _
        };
        Self { guard, reads: Gather::new(LIMITS, ask) }
    }

    pub(crate) fn breaker(&self) -> &Breaker {
        &self.guard.breaker
    }

    pub(crate) fn status(&self) -> BreakerStatus {
        self.guard.breaker.status()
    }

    pub(crate) fn cost(&self) -> &Cost {
        &self.guard.cost
    }

    /// The value of one key, read together with what others ask for.
    pub(crate) async fn read_one(
        &self,
        key: TierKey,
        deadline: Deadline,
    ) -> Result<Option<Stored>, TierError> {
        let read = self.reads.ask(key);
        // It may wait for one read before it takes its own time; only who has less than that needs a timer.
        if deadline.remaining() < self.guard.limit * 2 {
            return deadline.run(read).await.unwrap_or(Err(TierError::TimedOut));
        }
        read.await
    }

    pub(crate) async fn read(
        &self,
        keys: &[TierKey],
        deadline: Deadline,
    ) -> Result<Vec<Option<Stored>>, TierError> {
        self.guard.read(keys, deadline.capped(self.guard.limit)).await
    }

    pub(crate) async fn claim(
        &self,
        key: &TierKey,
        force: bool,
        deadline: Deadline,
    ) -> Result<Claim, TierError> {
        let guard = &self.guard;
        let deadline = deadline.capped(guard.limit);
        guard.timed(guard.call(deadline, guard.tier.claim(key, force, deadline))).await
    }

    pub(crate) async fn renew(&self, key: &TierKey, ticket: &Ticket) -> Result<bool, TierError> {
        let deadline = Deadline::after(self.guard.limit);
        self.guard.call(deadline, self.guard.tier.renew(key, ticket, deadline)).await
    }

    pub(crate) async fn fill(&self, key: &TierKey, ticket: Ticket, value: Fresh) -> Result<bool, TierError> {
        let deadline = Deadline::after(self.guard.limit);
        self.guard.call(deadline, self.guard.tier.fill(key, ticket, value, deadline)).await
    }

    pub(crate) async fn release(&self, key: &TierKey, ticket: Ticket) {
        let deadline = Deadline::after(self.guard.limit);
        let work = async {
            self.guard.tier.release(key, ticket, deadline).await;
            Ok(())
        };
        let _ = self.guard.call(deadline, work).await;
    }

    /// Writes that must get through do not ask the breaker: their number is small, and waiting out an open breaker
    /// would delay what other processes have to learn.
    pub(crate) async fn seize(&self, key: &TierKey, deadline: Deadline) -> Result<Ticket, TierError> {
        deadline.run(self.guard.tier.seize(key, deadline)).await.unwrap_or(Err(TierError::TimedOut))
    }

    /// As [`seize`](Self::seize).
    pub(crate) async fn put(
        &self,
        key: &TierKey,
        ticket: Ticket,
        value: Fresh,
        deadline: Deadline,
    ) -> Result<bool, TierError> {
        let put = self.guard.tier.put(key, ticket, value, deadline);
        deadline.run(put).await.unwrap_or(Err(TierError::TimedOut))
    }

    pub(crate) async fn invalidate(&self, keys: &[TierKey], deadline: Deadline) -> Result<(), TierError> {
        deadline.run(self.guard.tier.invalidate(keys, deadline)).await.unwrap_or(Err(TierError::TimedOut))
    }

    pub(crate) async fn clear(&self, region: &str, deadline: Deadline) -> Result<(), TierError> {
        deadline.run(self.guard.tier.clear(region, deadline)).await.unwrap_or(Err(TierError::TimedOut))
    }

    /// Waits for the next new connection; `true` when it may lead to other data.
    pub(crate) async fn renewed(&self) -> bool {
        let other = self.guard.tier.renewed().await;
        self.guard.breaker.reset();
        other
    }

    pub(crate) async fn tend(&self) {
        let deadline = Deadline::after(Duration::from_secs(5));
        let _ = deadline.run(self.guard.tier.tend(deadline)).await;
    }

    pub(crate) async fn ping(&self, deadline: Deadline) -> Result<(), TierError> {
        deadline.run(self.guard.tier.ping(deadline)).await.unwrap_or(Err(TierError::TimedOut))
    }
}
