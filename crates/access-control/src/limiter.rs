//! The rate limiter of one process: GCRA, one cell an agent and tier. It knows nothing of other processes.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter as Gcra};

use crate::{Error, Rates, SecurityContext, Tier};

/// After so many checks agents that are at rest are forgotten, so that names cannot fill the memory.
const FORGET_EVERY: u32 = 4_096;

/// Holds each agent to its tier's rate. Cheap to clone; clones share the state.
pub struct RateLimiter<C: Clock = DefaultClock>(Arc<Inner<C>>);

/// One number an agent.
type Cells<C> = Gcra<String, DefaultKeyedStateStore<String>, C, NoOpMiddleware<<C as Clock>::Instant>>;

struct Inner<C: Clock> {
    rates: Rates,
    clock: C,
    tiers: [Cells<C>; 3],
    checks: AtomicU32,
}

impl<C: Clock> Clone for RateLimiter<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C: Clock> fmt::Debug for RateLimiter<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiter").field("rates", &self.0.rates).finish_non_exhaustive()
    }
}

impl RateLimiter {
    /// A limiter with these rates; each agent may use one second's worth at once.
    pub fn new(rates: Rates) -> Self {
        Self::with_clock(rates, DefaultClock::default())
    }
}

impl<C: Clock + Clone> RateLimiter<C> {
    fn with_clock(rates: Rates, clock: C) -> Self {
        let cell = |tier| Gcra::dashmap_with_clock(Quota::per_second(rates.of(tier)), clock.clone());
        let tiers = Tier::ALL.map(cell);
        Self(Arc::new(Inner { rates, tiers, clock, checks: AtomicU32::new(0) }))
    }

    /// The rates.
    pub fn rates(&self) -> Rates {
        self.0.rates
    }

    /// Counts one request.
    ///
    /// # Errors
    /// [`Error::RateLimited`] with the time after which one passes; the refused request is not counted.
    pub fn check(&self, context: &SecurityContext) -> Result<(), Error> {
        let index = Tier::ALL.iter().position(|tier| *tier == context.tier()).unwrap_or_default();
        let Some(cells) = self.0.tiers.get(index) else { return Ok(()) };
        if self.0.checks.fetch_add(1, Ordering::Relaxed) % FORGET_EVERY == FORGET_EVERY - 1 {
            cells.retain_recent();
        }
        cells.check_key(&context.agent_id().to_owned()).map_err(|not_yet| Error::RateLimited {
            agent_id: context.agent_id().to_owned(),
            tier: context.tier(),
            rate: self.0.rates.of(context.tier()).get(),
            retry_after: not_yet.wait_time_from(self.0.clock.now()),
        })
    }
}

#[cfg(test)]
mod tests;
