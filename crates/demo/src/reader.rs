//! The closed loop of one reader: next key, read it, judge what came, count it. The next read begins when the last
//! ended, so one clock reading a read is enough.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use crate::protocol::{Levels, Path, Stale};
use crate::service::{Service, Source};

/// Reads between two visits to what readers share.
const BATCH: usize = 256;
/// Reads without a wait between two visits to the scheduler: an in-memory hit never waits by itself, and the other
/// readers and the updater run on the same thread.
const YIELD: u32 = 64;

/// Where a phase is.
pub(crate) const WARMUP: u8 = 0;
pub(crate) const MEASURED: u8 = 1;
pub(crate) const OVER: u8 = 2;

/// The stage that all readers of a phase watch.
#[derive(Debug, Default)]
pub(crate) struct Stage(AtomicU8);

impl Stage {
    pub(crate) fn set(&self, stage: u8) {
        self.0.store(stage, Ordering::Release);
    }

    fn get(&self) -> u8 {
        self.0.load(Ordering::Acquire)
    }
}

/// What a reader hands over once a batch.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) nanos: Vec<u64>,
    pub(crate) levels: Levels,
    pub(crate) stale: Stale,
    pub(crate) failed: u64,
}

impl Batch {
    fn new() -> Self {
        Self {
            nanos: Vec::with_capacity(BATCH),
            levels: Levels::default(),
            stale: Stale::default(),
            failed: 0,
        }
    }

    fn clear(&mut self) {
        self.nanos.clear();
        (self.levels, self.stale, self.failed) = (Levels::default(), Stale::default(), 0);
    }
}

/// Reads until the phase is over. Stale and failed reads count during the warm-up too.
pub(crate) async fn read(service: Arc<Service>, path: Path, index: usize, of: usize) {
    let mut walk = service.workload.walk(index, of);
    let mut seen = vec![0_u32; service.workload.rows() as usize];
    let mut batch = Batch::new();
    let mut unbroken = 0;
    let mut began = Instant::now();
    loop {
        let stage = service.stage.get();
        if stage == OVER {
            break;
        }
        let key = walk.next();
        let expected = service.floors.expected(key);
        let outcome = match path {
            Path::Direct => service.read_direct(key).await,
            Path::Cached => service.read_cached(key).await,
        };
        let ended = Instant::now();
        match outcome {
            Ok((version, source)) => {
                expected.judge(version, &mut seen[key as usize], &mut batch.stale);
                if stage == MEASURED {
                    batch.nanos.push((ended - began).as_nanos() as u64);
                    match source {
                        Source::L1 => batch.levels.l1 += 1,
                        Source::L2 => batch.levels.l2 += 1,
                        Source::L3 => batch.levels.l3 += 1,
                        Source::Loader => batch.levels.loader += 1,
                    }
                }
                unbroken = if source == Source::L1 { unbroken + 1 } else { 0 };
            }
            Err(error) => {
                batch.failed += 1;
                service.failed(format!("read of {key}: {error}"));
                unbroken = YIELD;
            }
        }
        if batch.nanos.len() == BATCH || batch.failed > 0 {
            service.hand_over(&batch);
            batch.clear();
        }
        began = ended;
        if unbroken >= YIELD {
            unbroken = 0;
            tokio::task::yield_now().await;
            began = Instant::now();
        }
    }
    service.hand_over(&batch);
}
