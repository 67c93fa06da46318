//! Taking a warm connection and giving it back, with nothing in between.

use std::sync::Arc;

use anyhow::Result;

use super::peers::Pools;
use crate::Bench;
use crate::measure::{self, Contender, Crew, Entrant};
use crate::report::{By, OURS};

struct Ours(Arc<Pools>);

impl Contender for Ours {
    async fn op(&self, _turn: usize) {
        let _ = std::hint::black_box(self.0.ours.write().await.expect("a connection"));
    }
}

struct Deadpool(Arc<Pools>);

impl Contender for Deadpool {
    async fn op(&self, _turn: usize) {
        let _ = std::hint::black_box(self.0.deadpool.get().await.expect("a connection"));
    }
}

struct Bb8(Arc<Pools>);

impl Contender for Bb8 {
    async fn op(&self, _turn: usize) {
        let _ = std::hint::black_box(self.0.bb8.get().await.expect("a connection"));
    }
}

struct SqlxPool(Arc<Pools>);

impl Contender for SqlxPool {
    async fn op(&self, _turn: usize) {
        let _ = std::hint::black_box(self.0.sqlx.acquire().await.expect("a connection"));
    }
}

/// One task, then 32 over ten connections.
pub(crate) async fn run(bench: &mut Bench, pools: &Arc<Pools>) -> Result<()> {
    let entrants = [
        Entrant::new(OURS, Ours(pools.clone())),
        Entrant::new("deadpool-postgres", Deadpool(pools.clone())),
        Entrant::new("bb8-postgres", Bb8(pools.clone())),
        Entrant::new("sqlx-pool", SqlxPool(pools.clone())),
    ];
    for (tasks, crew, batch) in [(1, Crew::One, 16), (32, Crew::Tasks(32), 16)] {
        let progress = bench.progress("pool checkout", tasks, entrants.len());
        let shown = measure::measure(&entrants, bench.plan(crew, batch), &progress).await?;
        bench.report.add("pool", "checkout", tasks, By::Rate, &shown);
    }
    Ok(())
}
