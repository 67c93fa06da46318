//! Rounds with contenders that only count.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use indicatif::ProgressBar;

use super::{Contender, Crew, Entrant, Plan, measure, steps};

struct Counting(Arc<AtomicUsize>);

impl Contender for Counting {
    async fn op(&self, _turn: usize) {
        self.0.fetch_add(1, Relaxed);
    }
}

struct Failing;

impl Contender for Failing {
    async fn op(&self, _turn: usize) {
        panic!("this operation fails");
    }
}

fn plan(crew: Crew) -> Plan {
    Plan { rounds: 11, round: Duration::from_millis(1), crew, batch: 8 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_gets_every_round_and_every_operation_is_counted() {
    for (crew, size) in [(Crew::One, 1), (Crew::Tasks(4), 4), (Crew::Threads(2), 2)] {
        let counts = [Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0))];
        let entrants = [
            Entrant::new("ours", Counting(counts[0].clone())),
            Entrant::new("theirs", Counting(counts[1].clone())),
        ];
        let progress = ProgressBar::hidden();
        let run = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(measure(&entrants, plan(crew), &progress))
        });
        let shown = run.expect("measured");
        assert_eq!(progress.position(), steps(2, 11));
        for (one, count) in shown.iter().zip(&counts) {
            assert_eq!((one.rates.len(), one.medians.len()), (11, 11));
            let batches = one.times.len() as usize;
            assert!(batches >= 11 * size && batches * 8 < count.load(Relaxed), "the warm-up is not counted");
        }
    }
}

#[tokio::test]
async fn a_failed_operation_ends_the_measurement() {
    let entrants = [Entrant::new("ours", Failing)];
    let run = measure(&entrants, plan(Crew::Tasks(2)), &ProgressBar::hidden()).await;
    assert!(run.is_err_and(|error| error.to_string().contains("ours failed")));
}
