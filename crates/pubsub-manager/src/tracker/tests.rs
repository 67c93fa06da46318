//! What was missed is told, exactly where that is possible, and never in silence.

use super::*;
use crate::{Codec, MessageId};
use proptest::prelude::*;

const EVERY: Duration = Duration::from_secs(1);

fn header(kind: Kind, publisher: u64, epoch: u32, sequence: u64) -> Header {
    let id = MessageId { publisher: PublisherId(publisher), epoch, sequence };
    Header { kind, codec: Codec::default(), id, published_at: 0, trace: None }
}

struct Bench {
    tracker: Tracker,
    now: Instant,
    subject: Arc<str>,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        Self { tracker: Tracker::new(EVERY, now), now, subject: "n".into() }
    }

    fn wait(&mut self, seconds: f64) {
        self.now += Duration::from_secs_f64(seconds);
    }

    fn hears(&mut self, kind: Kind, publisher: u64, epoch: u32, sequence: u64) -> Verdict {
        self.tracker.heard(&self.subject, &header(kind, publisher, epoch, sequence), self.now)
    }

    /// The gaps before a message that is handed out.
    fn message(&mut self, publisher: u64, epoch: u32, sequence: u64) -> Vec<Missed> {
        let verdict = self.hears(Kind::Message, publisher, epoch, sequence);
        assert!(verdict.deliver);
        verdict.gaps
    }

    fn cut(&mut self, seconds: f64) {
        self.tracker.interrupted(GapCause::Reconnect, self.now);
        self.wait(seconds);
        self.tracker.restored(self.now);
    }
}

fn missed(count: impl Into<Option<u64>>, cause: GapCause) -> Vec<Missed> {
    vec![Missed { count: count.into(), cause }]
}

#[tokio::test(start_paused = true)]
async fn joining_in_the_middle_misses_nothing() {
    let mut bench = Bench::new();
    assert_eq!(bench.message(1, 1, 500), []);
    assert_eq!(bench.message(1, 1, 501), []);
    assert_eq!(bench.message(1, 1, 505), missed(3, GapCause::Missed));
}

#[tokio::test(start_paused = true)]
async fn a_copy_and_a_late_one_are_not_handed_out() {
    let mut bench = Bench::new();
    bench.message(1, 1, 7);
    assert_eq!(bench.hears(Kind::Message, 1, 1, 7), Verdict::default());
    bench.message(1, 1, 9);
    assert_eq!(bench.hears(Kind::Message, 1, 1, 8), Verdict::default(), "it was told as missed");
}

#[tokio::test(start_paused = true)]
async fn a_tail_lost_in_an_interruption() {
    let mut bench = Bench::new();
    bench.message(1, 1, 7);
    bench.cut(1.0);
    let verdict = bench.hears(Kind::Announcement, 1, 1, 12);
    assert_eq!(verdict, Verdict { gaps: missed(5, GapCause::Reconnect), deliver: false });
    assert_eq!(bench.message(1, 1, 13), []);
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_began_during_the_interruption_is_counted_from_its_first() {
    let mut bench = Bench::new();
    bench.wait(3.0);
    bench.cut(1.0);
    assert_eq!(bench.message(9, 1, 5), missed(4, GapCause::Reconnect));
    // Not so after too short a time to know them all.
    let mut bench = Bench::new();
    bench.cut(1.0);
    assert_eq!(bench.message(9, 1, 5), missed(None, GapCause::Reconnect));
}

#[tokio::test(start_paused = true)]
async fn a_counter_that_begins_anew() {
    let mut bench = Bench::new();
    bench.message(1, 1, 7);
    bench.hears(Kind::Farewell, 1, 1, 7);
    assert_eq!(bench.message(1, 2, 1), [], "the one before took its leave");
    let unheard_end = bench.message(1, 5, 3);
    let cause = GapCause::Missed;
    assert_eq!(unheard_end, [Missed { count: None, cause }, Missed { count: Some(2), cause }]);
    assert_eq!(bench.hears(Kind::Message, 1, 2, 2), Verdict::default(), "an older counter is late");
}

#[tokio::test(start_paused = true)]
async fn silence_is_told_once_and_not_while_cut_off() {
    let mut bench = Bench::new();
    bench.message(1, 1, 7);
    bench.message(2, 1, 1);
    bench.hears(Kind::Farewell, 2, 1, 1);
    bench.wait(3.0);
    assert_eq!(bench.tracker.tick(bench.now), 0);
    bench.wait(1.0);
    assert_eq!(bench.tracker.tick(bench.now), 1);
    bench.wait(10.0);
    assert_eq!(bench.tracker.tick(bench.now), 0);
    bench.message(1, 1, 8);
    bench.tracker.interrupted(GapCause::Reconnect, bench.now);
    bench.wait(10.0);
    assert_eq!(bench.tracker.tick(bench.now), 0, "nobody can be heard");
    bench.tracker.restored(bench.now);
    assert_eq!(bench.tracker.tick(bench.now), 0);
    bench.wait(4.0);
    assert_eq!(bench.tracker.tick(bench.now), 1);
}

#[tokio::test(start_paused = true)]
async fn memory_is_bounded() {
    let mut bench = Bench::new();
    for publisher in 0..10_000 {
        bench.now += Duration::from_micros(1);
        bench.message(publisher, 1, 1);
    }
    assert_eq!(bench.tracker.publishers.len(), MAX_PUBLISHERS);
    bench.wait(700.0);
    bench.tracker.tick(bench.now);
    assert!(bench.tracker.publishers.is_empty());
}

proptest! {
    /// Two publishers, cuts at random: delivered + counted = sent, once the last announcement is heard.
    #[test]
    fn the_sum_is_exact(steps in prop::collection::vec((0u8..8, 1u64..5), 1..100)) {
        let mut bench = Bench::new();
        // Long enough for everybody there to have been heard: nobody yet.
        bench.wait(3.0);
        let (mut sent, mut accounted, mut cut) = ([0_u64; 2], [0_u64; 2], false);
        let account = |verdict: Verdict, accounted: &mut u64| {
            for gap in &verdict.gaps {
                *accounted += gap.count.expect("always known here");
            }
            *accounted += u64::from(verdict.deliver);
        };
        for (action, n) in steps {
            match action {
                0..=3 => for _ in 0..n {
                    let publisher = usize::from(action % 2);
                    sent[publisher] += 1;
                    if !cut {
                        let verdict = bench.hears(Kind::Message, publisher as u64, 1, sent[publisher]);
                        account(verdict, &mut accounted[publisher]);
                    }
                },
                4 | 5 if !cut => { bench.tracker.interrupted(GapCause::Reconnect, bench.now); cut = true; }
                6 if cut => { bench.tracker.restored(bench.now); cut = false; }
                _ => {}
            }
            bench.wait(0.1);
        }
        bench.tracker.restored(bench.now);
        for publisher in 0..2 {
            if sent[publisher] > 0 {
                let verdict = bench.hears(Kind::Announcement, publisher as u64, 1, sent[publisher]);
                account(verdict, &mut accounted[publisher]);
            }
        }
        prop_assert_eq!(sent, accounted);
    }
}

#[tokio::test(start_paused = true)]
async fn copies_of_a_farewell_are_no_gap_and_the_next_counter_is_none_either() {
    let mut bench = Bench::new();
    bench.message(1, 1, 1);
    bench.wait(3.0);
    bench.cut(0.1);
    // Overlapping patterns bring each frame twice.
    for _ in 0..2 {
        assert_eq!(bench.hears(Kind::Farewell, 1, 1, 1), Verdict::default());
    }
    assert_eq!(bench.message(1, 2, 1), []);
    // Without a farewell it is.
    assert_eq!(bench.message(1, 3, 1), missed(None, GapCause::Missed));
}

#[tokio::test(start_paused = true)]
async fn who_took_leave_is_forgotten_soon_and_told_silent_never() {
    let mut bench = Bench::new();
    bench.message(1, 1, 1);
    bench.hears(Kind::Farewell, 1, 1, 1);
    assert_eq!(bench.tracker.publishers(), 1);
    bench.wait(4.0);
    assert_eq!((bench.tracker.tick(bench.now), bench.tracker.publishers()), (0, 0));
}
