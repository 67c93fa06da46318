//! The faults of `--chaos`: Redis is killed, comes back empty, then the Postgres replica is killed; at fixed shares
//! of the measured time, so that each has room to show.

use std::time::Duration;

use anyhow::Context;

use crate::servers::Stack;

/// When Redis dies, comes back, and when the Postgres replica dies, as shares of the measured time.
const REDIS_DIES: f64 = 0.15;
const REDIS_RETURNS: f64 = 0.35;
const REPLICA_DIES: f64 = 0.65;

#[derive(Debug)]
pub(crate) struct Chaos<'a>(pub(crate) &'a Stack);

impl Chaos<'_> {
    /// Injects the faults; returns them with their times.
    pub(crate) async fn run(
        &self,
        warmup: Duration,
        run: Duration,
        mut tell: impl FnMut(&str),
    ) -> anyhow::Result<Vec<String>> {
        let start = tokio::time::Instant::now() + warmup;
        let at = |share: f64| tokio::time::sleep_until(start + run.mul_f64(share));
        let mut faults = Vec::new();
        let mut note = |what: &str| {
            let text = format!("{:.1} s: {what}", start.elapsed().as_secs_f64());
            tell(&text);
            faults.push(text);
        };
        let redis = self.0.redis().master();
        at(REDIS_DIES).await;
        redis.kill().context("cannot kill Redis")?;
        note("Redis master killed (SIGKILL)");
        at(REDIS_RETURNS).await;
        redis.restart_empty().await.context("cannot bring Redis back")?;
        note("Redis master back, empty");
        at(REPLICA_DIES).await;
        if let Some(replica) = self.0.postgres().replicas().first() {
            replica.kill().context("cannot kill the Postgres replica")?;
            note("Postgres replica killed (SIGKILL)");
        }
        Ok(faults)
    }
}
