//! How a contender is timed: rounds of a fixed length, interleaved with everybody else's.
//!
//! Knows nothing of what is measured. Rounds go by time rather than by count, so that a slow contender does not
//! stretch the distance between two rounds that are compared.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use indicatif::ProgressBar;

/// Longest time that is told apart from longer ones.
const LONGEST_NS: u64 = 60_000_000_000;

/// One implementation of an operation.
pub(crate) trait Contender: Send + Sync + 'static {
    /// Does the operation once, on the `turn`-th of its keys. Panics when it fails: a failed operation is fast,
    /// and must not be mistaken for a good one.
    fn op(&self, turn: usize) -> impl Future<Output = ()> + Send;
}

/// A contender of any type, under the name by which `bars.csv` knows it.
pub(crate) struct Entrant {
    pub(crate) name: &'static str,
    contender: Arc<dyn Drive>,
}

impl Entrant {
    pub(crate) fn new(name: &'static str, contender: impl Contender) -> Self {
        Self { name, contender: Arc::new(contender) }
    }
}

/// Who does the operation at the same time.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Crew {
    /// One after the other, on the calling runtime.
    One,
    /// Operating-system threads, for operations that never wait.
    Threads(usize),
    /// Tasks of the calling runtime.
    Tasks(usize),
}

/// How a row is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) round: Duration,
    pub(crate) crew: Crew,
    /// Operations timed as one, where a single one is shorter than reading the clock.
    pub(crate) batch: usize,
}

/// What one entrant showed, over all rounds.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) name: &'static str,
    /// Time of one operation, in nanoseconds.
    pub(crate) times: Histogram<u64>,
    /// Operations a second, round by round.
    pub(crate) rates: Vec<f64>,
    /// Median time of one operation in nanoseconds, round by round.
    pub(crate) medians: Vec<f64>,
}

/// Measures everybody in turns, after one round of warming up each. The order shifts from round to round, so that
/// nobody always follows the same neighbour.
pub(crate) async fn measure(entrants: &[Entrant], plan: Plan, progress: &ProgressBar) -> Result<Vec<Shown>> {
    let mut shown = Vec::new();
    for entrant in entrants {
        progress.set_message(format!("{} (warm-up)", entrant.name));
        run(entrant, plan).await?;
        progress.inc(1);
        shown.push(Shown { name: entrant.name, times: histogram()?, rates: Vec::new(), medians: Vec::new() });
    }
    for round in 0..plan.rounds {
        for seat in 0..entrants.len() {
            let at = (round + seat) % entrants.len();
            progress.set_message(entrants[at].name);
            let lap = run(&entrants[at], plan).await?;
            shown[at].rates.push(lap.operations as f64 / lap.took.as_secs_f64());
            shown[at].medians.push(lap.times.value_at_quantile(0.5) as f64);
            shown[at].times.add(&lap.times)?;
            progress.inc(1);
        }
    }
    Ok(shown)
}

/// The steps that [`measure`] shows on its progress bar.
pub(crate) fn steps(entrants: usize, rounds: usize) -> u64 {
    (entrants * (rounds + 1)) as u64
}

/// One round of one entrant.
struct Lap {
    operations: u64,
    took: Duration,
    times: Histogram<u64>,
}

async fn run(entrant: &Entrant, plan: Plan) -> Result<Lap> {
    let contender = &entrant.contender;
    let started = Instant::now();
    let until = started + plan.round;
    let laps = match plan.crew {
        Crew::One => vec![contender.drive(0, until, plan.batch).await],
        Crew::Tasks(size) => {
            let tasks: Vec<_> = (0..size)
                .map(|seat| {
                    let contender = contender.clone();
                    tokio::spawn(async move { contender.drive(seat, until, plan.batch).await })
                })
                .collect();
            let mut laps = Vec::new();
            for task in tasks {
                laps.push(task.await.with_context(|| format!("{} failed", entrant.name))?);
            }
            laps
        }
        Crew::Threads(size) => {
            let runtime = tokio::runtime::Handle::current();
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..size)
                    .map(|seat| {
                        let (runtime, contender) = (runtime.clone(), contender.clone());
                        scope.spawn(move || runtime.block_on(contender.drive(seat, until, plan.batch)))
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join()).collect::<std::result::Result<Vec<_>, _>>()
            })
            .map_err(|_| anyhow::anyhow!("{} failed", entrant.name))?
        }
    };
    let mut times = histogram()?;
    let mut operations = 0;
    for lap in laps {
        operations += lap.operations;
        times.add(&lap.times)?;
    }
    Ok(Lap { operations, took: started.elapsed(), times })
}

fn histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, LONGEST_NS, 3).context("histogram")
}

/// [`Contender`] with its type erased around the loop, so that the loop itself is compiled for each type.
trait Drive: Send + Sync {
    fn drive(
        &self,
        seat: usize,
        until: Instant,
        batch: usize,
    ) -> Pin<Box<dyn Future<Output = Lap> + Send + '_>>;
}

impl<C: Contender> Drive for C {
    fn drive(
        &self,
        seat: usize,
        until: Instant,
        batch: usize,
    ) -> Pin<Box<dyn Future<Output = Lap> + Send + '_>> {
        Box::pin(async move {
            let started = Instant::now();
            let mut times = histogram().expect("the bounds are constants");
            let mut operations = 0_u64;
            // Far apart, so that no two seats walk the same keys side by side.
            let mut turn = seat.wrapping_mul(7919);
            let mut before = started;
            loop {
                for _ in 0..batch {
                    self.op(turn).await;
                    turn = turn.wrapping_add(1);
                }
                let now = Instant::now();
                times.saturating_record((now - before).as_nanos() as u64 / batch as u64);
                operations += batch as u64;
                before = now;
                if now >= until {
                    return Lap { operations, took: started.elapsed(), times };
                }
            }
        })
    }
}

#[cfg(test)]
mod tests;
