//! One stack for all tests of a binary: started by the first that asks, ended with the process by the watchdog (a
//! static is never dropped). Usable from any number of runtimes, for the servers are tied to none.

use std::sync::{Mutex, PoisonError};

use crate::error::Error;
use crate::options::{PostgresOptions, RedisOptions};
use crate::stack::{Builder, Stack};

/// A stack that is started when it is first asked for. To be put into a `static`.
#[derive(Debug)]
pub struct SharedStack {
    build: fn() -> Builder,
    stack: Mutex<Option<Stack>>,
}

static SHARED: SharedStack =
    SharedStack::new(|| Stack::builder().postgres(PostgresOptions::default()).redis(RedisOptions::default()));

impl SharedStack {
    /// One that is to be built like this.
    pub const fn new(build: fn() -> Builder) -> Self {
        Self { build, stack: Mutex::new(None) }
    }

    /// The stack, started if it is not yet. A failed start is tried again by the next call. Blocks.
    pub fn get_blocking(&self) -> Result<Stack, Error> {
        // Starting under the lock is the point: the others wait for it instead of starting their own.
        let mut stack = self.stack.lock().unwrap_or_else(PoisonError::into_inner);
        match &*stack {
            Some(stack) => Ok(stack.clone()),
            None => Ok(stack.insert((self.build)().start_blocking()?).clone()),
        }
    }

    /// [`get_blocking`](Self::get_blocking) off the runtime's threads. Dropped, it still runs to its end.
    #[cfg(feature = "async")]
    pub async fn get(&'static self) -> Result<Stack, Error> {
        crate::unblock("get", move || self.get_blocking()).await
    }
}

impl Stack {
    /// The stack that all tests of this process share: a Postgres primary and a Redis master, for tests that do no
    /// harm to either. Others start their own, or a [`SharedStack`] of their own.
    #[cfg(feature = "async")]
    pub async fn shared() -> Result<Self, Error> {
        SHARED.get().await
    }

    /// [`shared`](Self::shared), blocking.
    pub fn shared_blocking() -> Result<Self, Error> {
        SHARED.get_blocking()
    }
}
