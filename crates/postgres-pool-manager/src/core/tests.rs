//! Random histories against the rules: nothing lost, nothing doubled, nobody overtaken, no limit broken.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeSet, VecDeque};

const LIMITS: Limits = Limits { size: 2, overflow: 1, min_idle: 0, connecting: 3, queue: 8, cap: u32::MAX };

#[derive(Clone, Debug)]
enum Op {
    Acquire,
    Return(usize),
    Lose(usize),
    Cancel(usize),
    Connected,
    Failed,
    Resize(u32, u32, u32),
    Reap,
    Suspend,
    Resume,
    Borrow,
    Dismiss,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => Just(Op::Acquire),
        5 => (0usize..8).prop_map(Op::Return),
        1 => (0usize..8).prop_map(Op::Lose),
        2 => (0usize..8).prop_map(Op::Cancel),
        4 => Just(Op::Connected),
        1 => Just(Op::Failed),
        1 => (1u32..5, 0u32..3, 0u32..3).prop_map(|(s, o, m)| Op::Resize(s, o, m)),
        1 => Just(Op::Reap),
        1 => Just(Op::Suspend),
        2 => Just(Op::Resume),
        1 => Just(Op::Borrow),
        1 => Just(Op::Dismiss),
    ]
}

/// The shell, simplified: connections and waiters are numbers.
#[derive(Default)]
struct Model {
    next: u32,
    held: Vec<u32>,
    queue: VecDeque<(u64, u32)>,
    served: BTreeSet<u32>,
    closed: BTreeSet<u32>,
    connecting: u32,
}

impl Model {
    fn settle(&mut self, put: &Put<u32, u32>) {
        match *put {
            Put::Kept => {}
            Put::Hand(waiter, connection) => {
                let (_, first) = self.queue.pop_front().expect("handed to nobody");
                assert_eq!(first, waiter, "overtaken");
                self.serve(waiter, connection);
            }
            Put::Close(connection) => assert!(self.closed.insert(connection)),
        }
    }

    fn serve(&mut self, waiter: u32, connection: u32) {
        assert!(self.served.insert(waiter), "served twice");
        assert!(!self.held.contains(&connection), "held twice");
        self.held.push(connection);
    }
}

fn run(core: &mut Core<u32, u32>, model: &mut Model, op: &Op) {
    let pick = |n: usize, len: usize| if len == 0 { None } else { Some(n % len) };
    match *op {
        Op::Acquire => match core.take() {
            Take::Got(c) => {
                assert!(model.queue.is_empty(), "a waiter was overtaken");
                assert!(!model.held.contains(&c));
                model.held.push(c);
            }
            Take::Wait => {
                let id = model.next;
                model.next += 1;
                match core.enqueue(id) {
                    Ok(ticket) => model.queue.push_back((ticket, id)),
                    Err(_) => assert!(model.queue.len() >= LIMITS.queue),
                }
            }
            Take::Closed => unreachable!(),
        },
        Op::Return(n) => {
            if let Some(at) = pick(n, model.held.len()) {
                let put = core.put(model.held.swap_remove(at));
                model.settle(&put);
            }
        }
        Op::Lose(n) => {
            if let Some(at) = pick(n, model.held.len()) {
                model.closed.insert(model.held.swap_remove(at));
                core.forfeit();
            }
        }
        Op::Cancel(n) => {
            if let Some(at) = pick(n, model.queue.len()) {
                let (ticket, _) = model.queue.remove(at).expect("in range");
                assert!(core.cancel(ticket) && !core.cancel(ticket));
            }
        }
        Op::Connected if model.connecting > 0 => {
            model.connecting -= 1;
            let id = model.next;
            model.next += 1;
            let put = core.connected(id);
            model.settle(&put);
        }
        Op::Failed if model.connecting > 0 => {
            // As the connecting task does: ask again, go on or end.
            if !core.still_wanted() {
                model.connecting -= 1;
            }
        }
        Op::Connected | Op::Failed => {}
        Op::Resize(size, overflow, min_idle) => {
            model.closed.extend(core.resize(Limits { size, overflow, min_idle, ..LIMITS }));
        }
        Op::Reap => {
            for gone in core.reap(|c, over, spare| over || (spare > 0 && c % 2 == 0)) {
                assert!(model.closed.insert(gone));
            }
        }
        Op::Suspend => core.suspend(),
        Op::Resume => {
            for (waiter, connection) in core.resume() {
                assert_eq!(model.queue.pop_front().expect("waiting").1, waiter);
                model.serve(waiter, connection);
            }
        }
        Op::Borrow => model.held.extend(core.borrow_if(|c| c % 3 == 0)),
        Op::Dismiss => {
            let gone = core.dismiss();
            assert_eq!(gone.len(), model.queue.len());
            model.queue.clear();
        }
    }
    model.connecting += core.wish();
}

fn check(core: &Core<u32, u32>, model: &Model, shrunk: bool) {
    let counts = core.counts();
    assert_eq!(counts.in_use as usize, model.held.len(), "a permit was lost or invented");
    assert_eq!(counts.waiting as usize, model.queue.len());
    assert_eq!(counts.connecting, model.connecting);
    let total = counts.in_use + counts.idle + counts.connecting;
    assert!(shrunk || total <= core.limits().max(), "{counts:?} over {:?}", core.limits());
    if core.phase() == Phase::Open {
        assert!(counts.idle == 0 || counts.waiting == 0, "idle connections beside waiters");
        // Whoever waits is waited for: a connection in use, or one on its way.
        assert!(counts.waiting == 0 || total > 0, "waiting for nothing");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_doubled_or_overtaken(ops in prop::collection::vec(op(), 1..120)) {
        let (mut core, mut model) = (Core::new(LIMITS), Model::default());
        let mut last_resize_over = false;
        for op in ops {
            let before = core.counts();
            let resized = matches!(op, Op::Resize(..));
            run(&mut core, &mut model, &op);
            let now = core.counts();
            let (then, total) =
                (before.in_use + before.idle + before.connecting, now.in_use + now.idle + now.connecting);
            let over = total > core.limits().max();
            if over && !resized {
                prop_assert!(last_resize_over && total <= then, "grew while over the limit");
            }
            last_resize_over = over;
            check(&core, &model, over);
        }
        // Everything comes back: nobody is left waiting, all is idle or closed.
        core.resume().into_iter().for_each(|(w, c)| { model.queue.pop_front(); model.serve(w, c); });
        for _ in 0..1000 {
            if model.held.is_empty() && model.connecting == 0 && model.queue.is_empty() { break; }
            run(&mut core, &mut model, &Op::Return(0));
            run(&mut core, &mut model, &Op::Connected);
        }
        prop_assert!(model.queue.is_empty() && model.held.is_empty() && model.connecting == 0);
        prop_assert!(core.counts().idle <= core.limits().max());
        let (idle, waiters) = core.close();
        prop_assert!(waiters.is_empty());
        for c in idle { prop_assert!(model.closed.insert(c), "closed twice"); }
        prop_assert_eq!(core.take(), Take::Closed);
    }
}

#[test]
fn a_burst_on_a_live_pool_opens_one_connection_at_a_time() {
    let mut core = Core::new(Limits { size: 20, min_idle: 5, ..LIMITS });
    assert_eq!(core.wish(), 3, "below min_idle a few at a time");
    for id in 0..3 {
        let _ = core.connected(id);
    }
    assert_eq!(core.wish(), 2);
    let _ = (core.connected(3), core.connected(4));
    while let Take::Got(_) = core.take() {}
    for waiter in 0..8 {
        core.enqueue(waiter).unwrap();
    }
    assert_eq!((core.wish(), core.wish()), (1, 0));
    assert!(core.still_wanted());
    core.dismiss();
    for id in 0..5 {
        assert_eq!(core.put(id), Put::Kept);
    }
    assert!(!core.still_wanted(), "served meanwhile: not needed");
    assert_eq!(core.counts().connecting, 0);
}

#[test]
fn a_shrink_while_empty_holds_the_new_limit() {
    let mut core: Core<u32, u32> = Core::new(LIMITS);
    for waiter in 0..3 {
        assert_eq!(core.take(), Take::Wait);
        core.enqueue(waiter).unwrap();
    }
    assert_eq!(core.wish(), 3);
    for id in 0..3 {
        assert!(matches!(core.connected(id), Put::Hand(..)));
    }
    assert!(core.resize(Limits { size: 1, overflow: 0, ..LIMITS }).is_empty());
    assert_eq!((core.put(0), core.put(1), core.put(2)), (Put::Close(0), Put::Close(1), Put::Kept));
}

#[test]
fn what_was_only_checked_is_used_no_sooner() {
    let mut core: Core<u32, u32> = Core::new(LIMITS);
    assert_eq!(core.wish(), 0);
    for id in 0..3 {
        assert!(core.reserve());
        assert_eq!(core.connected(id), Put::Kept);
    }
    let borrowed = core.borrow_if(|id| *id == 1);
    assert_eq!(core.put_unused(borrowed.unwrap()), Put::Kept);
    assert_eq!((core.take(), core.take(), core.take()), (Take::Got(2), Take::Got(0), Take::Got(1)));
}

#[test]
fn callers_that_hold_on_to_theirs_make_it_open_several_at_a_time() {
    let mut core = Core::new(Limits { size: 20, ..LIMITS });
    for waiter in 0..8 {
        assert_eq!(core.take(), Take::Wait);
        core.enqueue(waiter).unwrap();
    }
    assert_eq!(core.wish(), 3, "nothing is open yet");
    for id in 0..3 {
        assert!(matches!(core.connected(id), Put::Hand(..)));
    }
    assert_eq!(core.wish(), 3, "nothing came back meanwhile");
    assert!(matches!(core.put(0), Put::Hand(..)));
    assert!(matches!(core.connected(3), Put::Hand(..)));
    assert_eq!(core.wish(), 0, "it turns over: those under way will do");
}
