//! A primary whose commits wait for its replicas. Not here: what becomes of that after a promotion, which leaves the
//! new primary without anybody to wait for.

use std::time::{Duration, Instant};

use super::{Postgres, Starter};
use crate::error::Error;

impl Starter<'_> {
    /// The settings of the primary alone: a replica that is promoted would wait for itself.
    pub(super) fn synchronous_settings(&self) -> Vec<(&'static str, String)> {
        if !self.options.synchronous {
            return Vec::new();
        }
        let count = self.options.replicas;
        let names: Vec<String> = (1..=count).map(|index| format!("\"postgres-{index}\"")).collect();
        vec![
            ("synchronous_standby_names", format!("FIRST {count} ({})", names.join(", "))),
            ("synchronous_commit", "on".into()),
        ]
    }
}

impl Postgres {
    /// Waits until commits wait for every replica that runs and is not paused (`sync_state` in `pg_stat_replication`).
    /// Blocks. [`Error::Waited`] names the replica that they do not wait for.
    pub fn wait_synchronous_blocking(&self, within: Duration) -> Result<(), Error> {
        let start = Instant::now();
        for replica in self.replicas.iter().filter(|replica| replica.is_running() && !replica.is_paused()) {
            let question = format!(
                "select 1 from pg_stat_replication where application_name = '{}' and sync_state = 'sync'",
                replica.name()
            );
            while self.primary.sql_blocking("postgres", &question)?.is_empty() {
                let waited = start.elapsed();
                if waited > within {
                    let what = format!("{} is a synchronous standby", replica.name());
                    return Err(Error::Waited { what, waited });
                }
                crate::pause(Duration::from_millis(5));
            }
        }
        Ok(())
    }
}

#[cfg(feature = "async")]
impl Postgres {
    /// [`wait_synchronous_blocking`](Self::wait_synchronous_blocking) off the runtime's threads.
    pub async fn wait_synchronous(&self, within: Duration) -> Result<(), Error> {
        let postgres = self.clone();
        crate::unblock("wait_synchronous", move || postgres.wait_synchronous_blocking(within)).await
    }
}
