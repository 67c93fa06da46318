//! Locks inside one process, for a service of one process and for tests. Other processes know nothing of them.

use crate::{Attempt, BackendStatus, LockBackend, LockError, Request, Token, Wakes, backend::AcquisitionId};
use async_trait::async_trait;
use parking_lot::Mutex;
use resilience::{
    Deadline,
    clock::{LeaseClock, LeaseInstant},
};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Expired leases are swept out when this many locks are held.
const SWEEP_ABOVE: usize = 1024;

/// Keeps locks in memory. Tokens grow across restarts of the process unless its clock steps back.
#[derive(Debug)]
pub struct MemoryLockBackend {
    state: Mutex<State>,
    /// One for each manager over this backend.
    wakes: Mutex<Vec<Wakes>>,
}

#[derive(Debug)]
struct State {
    held: HashMap<Arc<str>, Held>,
    last: Token,
    sweep_above: usize,
}

#[derive(Debug)]
struct Held {
    id: AcquisitionId,
    token: Token,
    holder: Arc<str>,
    end: LeaseInstant,
}

impl Default for MemoryLockBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryLockBackend {
    /// A backend that holds no lock.
    #[must_use]
    pub fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Minutes as the epoch; 128 tokens for every millisecond of the minute so far.
        let minutes =
            u32::try_from(now.as_secs() / 60 - MINUTES_OF_2025.min(now.as_secs() / 60)).unwrap_or(u32::MAX);
        let counter = u32::try_from(now.as_millis() % 60_000).unwrap_or(0) * 128;
        let state =
            State { held: HashMap::new(), last: Token::new(minutes, counter), sweep_above: SWEEP_ABOVE };
        Self { state: Mutex::new(state), wakes: Mutex::default() }
    }

    fn wake(&self, name: &str) {
        for wakes in self.wakes.lock().iter() {
            wakes.wake(name);
        }
    }
}

/// Minutes from 1970 to 2025.
const MINUTES_OF_2025: u64 = 28_928_160;

#[async_trait]
impl LockBackend for MemoryLockBackend {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn scope(&self) -> &'static str {
        "process"
    }

    fn attach(&self, wakes: Wakes) {
        let mut all = self.wakes.lock();
        all.retain(|wakes| !wakes.is_gone());
        all.push(wakes);
    }

    async fn acquire(&self, request: &Request, _deadline: Deadline) -> Result<Attempt, LockError> {
        let now = LeaseClock::now();
        let mut state = self.state.lock();
        if let Some(held) = state.held.get_mut(&request.name) {
            if held.id == request.id {
                held.end = now + request.lease;
                return Ok(Attempt::Granted { token: held.token.as_u64() });
            }
            let remaining = held.end.saturating_since(now);
            if !remaining.is_zero() {
                return Ok(Attempt::Held { remaining, holder: held.holder.to_string() });
            }
        }
        if state.held.len() >= state.sweep_above {
            state.held.retain(|_, held| held.end > now);
            state.sweep_above = (state.held.len() * 2).max(SWEEP_ABOVE);
        }
        let token = state.last.next();
        state.last = token;
        let (id, holder, end) = (request.id, Arc::clone(&request.holder), now + request.lease);
        state.held.insert(Arc::clone(&request.name), Held { id, token, holder, end });
        Ok(Attempt::Granted { token: token.as_u64() })
    }

    async fn renew(&self, request: &Request, _deadline: Deadline) -> Result<bool, LockError> {
        let now = LeaseClock::now();
        let mut state = self.state.lock();
        let Some(held) = state.held.get_mut(&request.name) else { return Ok(false) };
        let mine = held.id == request.id && held.end > now;
        if mine {
            held.end = now + request.lease;
        }
        Ok(mine)
    }

    async fn release(&self, request: &Request, _deadline: Deadline) -> Result<bool, LockError> {
        let now = LeaseClock::now();
        let in_time = {
            let mut state = self.state.lock();
            if state.held.get(&request.name).is_none_or(|held| held.id != request.id) {
                return Ok(false);
            }
            state.held.remove(&request.name).is_some_and(|held| held.end > now)
        };
        self.wake(&request.name);
        Ok(in_time)
    }

    fn status(&self) -> BackendStatus {
        BackendStatus { connected: true, reason: None, warning: None }
    }

    async fn health_check(&self, _deadline: Deadline) -> Result<Duration, LockError> {
        Ok(Duration::ZERO)
    }
}
