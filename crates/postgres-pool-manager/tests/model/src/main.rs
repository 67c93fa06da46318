//! The pool's own core and shell under a scheduler that tries interleavings: `cargo xtask model`.
//!
//! `core.rs` and `shell.rs` are the crate's files, not copies; only lock and channel are others (`sync`), and
//! connections are numbers (`pool`). Run as `pool-model SCHEDULES SEED`: each property under so many random schedules.
//! A schedule in which something waits for ever counts as a failure too. A failure prints the schedule and ends the run.

#[allow(dead_code, reason = "the pool uses more of it than the model")]
#[path = "../../../src/core.rs"]
mod core;
mod pool;
mod properties;
#[allow(dead_code, reason = "the pool uses more of it than the model")]
#[path = "../../../src/shell.rs"]
mod shell;
mod sync;

use shuttle::{Config, Runner, scheduler::RandomScheduler};
use std::time::Instant;

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>().expect("a number"));
    let (schedules, seed) = (args.next().unwrap_or(10_000), args.next().unwrap_or(1));
    for (name, property) in properties::ALL {
        println!("{name}: {schedules} schedules, seed {seed}");
        let started = Instant::now();
        let scheduler = RandomScheduler::new_from_seed(seed, schedules as usize);
        let ran = Runner::new(scheduler, Config::new()).run(property);
        assert_eq!(ran as u64, schedules);
        println!("{name}: held, {:.1} s", started.elapsed().as_secs_f64());
    }
}
