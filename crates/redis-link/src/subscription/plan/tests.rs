//! The rules one by one.

mod model;

use super::*;
use crate::{Keys, Value};
use bytes::Bytes;

fn keys() -> Keys {
    Keys::new("n")
}

/// Of all kinds in turn; most of the sharded ones in slots that move.
fn channel(index: usize) -> Channel {
    let (keys, mut name) = (keys(), format!("c{index}"));
    if index % 9 != 2 {
        while sharded(&name).slot() > 2500 {
            name.push('x');
        }
    }
    let channel = match index % 3 {
        0 => keys.channel(&name),
        1 => keys.channel_pattern(&name),
        _ => keys.sharded_channel_in("s", &name),
    };
    channel.expect("a good name")
}

fn sharded(name: &str) -> Channel {
    keys().sharded_channel_in("s", name).expect("a good name")
}

/// A cluster of three masters; `moved` slots of the first belong to the second.
fn layout(moved: u16) -> Arc<Layout> {
    let node = |port| Value::Array(vec![Value::Bytes(Bytes::from_static(b"h")), Value::Int(port)]);
    let range = |first: u16, last: u16, port| {
        Value::Array(vec![Value::Int(first.into()), Value::Int(last.into()), node(port)])
    };
    let mut ranges = vec![range(5000, 9999, 2), range(10_000, 16_383, 3)];
    if moved > 0 {
        ranges.push(range(0, moved - 1, 2));
    }
    if moved < 5000 {
        ranges.push(range(moved, 4999, 1));
    }
    Arc::new(Layout::of_cluster(&Value::Array(ranges), &Endpoint::new("h", 1)).expect("a layout"))
}

fn shard(port: u16) -> Seat {
    Seat::Shard(Endpoint::new("h", port))
}

fn refusal() -> Error {
    Error::Acl { command: "a channel".to_owned(), message: "NOPERM".to_owned() }
}

/// Does what the plan says, and all of it is taken.
fn calm(plan: &mut Plan, seat: &Seat) -> Vec<SubscriptionEvent> {
    let mut events = Vec::new();
    while let Some(step) = plan.next(seat) {
        if step.adding {
            events.extend(plan.taken(seat, &step.channels));
        } else {
            plan.given_back(seat, &step.channels);
        }
    }
    events.extend(plan.settled(seat));
    events
}

#[test]
fn a_loss_is_told_once_and_restored_once_all_are_back() {
    let now = Instant::now();
    let mut plan = Plan::new(false, now);
    let (a, s) = (channel(0), channel(2));
    assert!(plan.want(&[a.clone(), s.clone()], 2));
    assert!(
        matches!(plan.outcome(std::slice::from_ref(&a)), Outcome::Waiting(Some((since, _))) if since == now)
    );
    assert!(matches!(plan.closed(&Seat::Shared, "away", now)[..], [SubscriptionEvent::Lost { .. }]));
    assert!(plan.closed(&Seat::Shared, "still away", now).is_empty(), "told");
    assert_eq!(calm(&mut plan, &Seat::Shared), [SubscriptionEvent::Restored], "the other never was there");
    assert!(matches!(plan.outcome(&[a, s.clone()]), Outcome::Taken));
    let lost = plan.closed(&Seat::Shared, "cut", now);
    let channels = vec![s];
    let cause = "cut".to_owned();
    assert_eq!(
        lost,
        [
            SubscriptionEvent::Lost { cause: cause.clone() },
            SubscriptionEvent::ShardsLost { channels: channels.clone(), cause }
        ]
    );
    let back = calm(&mut plan, &Seat::Shared);
    assert!(back.contains(&SubscriptionEvent::Restored));
    assert!(back.contains(&SubscriptionEvent::ShardsRestored { channels }));
}

#[test]
fn one_command_has_one_kind_and_is_bounded() {
    let mut plan = Plan::new(false, Instant::now());
    let channels: Vec<_> = (0..1800).map(channel).collect();
    assert!(!plan.want(&channels, 1799) && plan.wanted() == 0, "all or nothing");
    assert!(plan.want(&channels, 1800));
    let mut steps = 0;
    while let Some(step) = plan.next(&Seat::Shared) {
        assert!(step.adding && step.channels.iter().all(|channel| channel.kind() == step.kind));
        assert!((1..=BATCH).contains(&step.channels.len()));
        plan.taken(&Seat::Shared, &step.channels);
        steps += 1;
    }
    assert_eq!(steps, 6);
}

#[test]
fn a_slot_that_moves_takes_its_channels_along_and_no_others() {
    let now = Instant::now();
    let mut plan = Plan::new(true, now);
    let all: Vec<_> = (0..200).map(|n| sharded(&n.to_string())).collect();
    assert!(plan.want(&all, 1000));
    assert!(matches!(plan.outcome(&all), Outcome::Waiting(Some(_))), "no layout yet");
    assert_eq!(plan.place(&layout(0), now), Some(Vec::new()));
    for port in 1..=3 {
        plan.sit(&Endpoint::new("h", port), now);
        assert!(calm(&mut plan, &shard(port)).is_empty());
    }
    assert!(matches!(plan.outcome(&all), Outcome::Taken));
    let moved: HashSet<_> = all.iter().filter(|channel| channel.slot() < 1000).cloned().collect();
    assert!(!moved.is_empty());
    let events = plan.place(&layout(1000), now).expect("news");
    let [SubscriptionEvent::ShardsLost { channels, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(channels.iter().cloned().collect::<HashSet<_>>(), moved);
    assert_eq!(plan.next(&shard(1)), None, "the old master forgets by itself");
    let back = calm(&mut plan, &shard(2));
    let [SubscriptionEvent::ShardsRestored { channels }] = &back[..] else { panic!("{back:?}") };
    assert_eq!(channels.iter().cloned().collect::<HashSet<_>>(), moved);
}

#[test]
fn what_a_server_forgot_is_lost_and_restored() {
    let now = Instant::now();
    let mut plan = Plan::new(true, now);
    plan.place(&layout(0), now);
    let of_first: Vec<_> =
        (0..200).map(|n| sharded(&n.to_string())).filter(|channel| channel.slot() < 5000).take(3).collect();
    assert!(plan.want(&of_first, 10));
    plan.sit(&Endpoint::new("h", 1), now);
    calm(&mut plan, &shard(1));
    let events = plan.forgotten(&shard(1), &of_first[..1], &of_first[1..2]);
    let lost = of_first[..2].to_vec();
    let cause = "the server had forgotten it".to_owned();
    assert_eq!(
        events,
        [
            SubscriptionEvent::ShardsLost { channels: lost, cause },
            SubscriptionEvent::ShardsRestored { channels: of_first[..1].to_vec() }
        ]
    );
    assert!(plan.next(&shard(1)).is_none() && plan.trouble().is_some(), "put off");
    let other = (200..).map(|n| sharded(&n.to_string())).find(|channel| channel.slot() < 5000);
    let other = [other.expect("there are many")];
    assert!(plan.want(&other, 10));
    assert_eq!(plan.next(&shard(1)).expect("not held up").channels, other);
    plan.taken(&shard(1), &other);
    assert!(plan.again(&shard(1)));
    assert_eq!(plan.next(&shard(1)).expect("asked again").channels, of_first[1..2]);
}

#[test]
fn a_connection_that_nobody_needs_any_more_is_no_trouble() {
    let now = Instant::now();
    let mut plan = Plan::new(true, now);
    plan.place(&layout(0), now);
    calm(&mut plan, &Seat::Shared);
    plan.sit(&Endpoint::new("h", 1), now);
    assert!(plan.closed(&shard(1), "gone", now).is_empty() && plan.trouble().is_none());
    let one = (0..).map(|n| sharded(&n.to_string())).find(|channel| channel.slot() < 5000);
    assert!(plan.want(&[one.expect("there are many")], 1));
    assert_eq!(plan.trouble().as_deref(), Some("gone"));
    plan.place(&layout(5000), now);
    assert!(plan.trouble().is_some_and(|why| why != "gone"));
    plan.sit(&Endpoint::new("h", 2), now);
    calm(&mut plan, &shard(2));
    assert!(plan.trouble().is_none() && plan.masters() == HashSet::from([Endpoint::new("h", 2)]));
}

#[test]
fn a_refusal_ends_a_channel_that_was_never_taken_and_leaves_out_one_that_was() {
    let now = Instant::now();
    let mut plan = Plan::new(false, now);
    let (a, b) = (channel(0), channel(3));
    assert!(plan.want(std::slice::from_ref(&a), 10));
    calm(&mut plan, &Seat::Shared);
    assert!(plan.want(std::slice::from_ref(&b), 10));
    plan.refused(&Seat::Shared, std::slice::from_ref(&b), &refusal());
    assert!(matches!(plan.outcome(std::slice::from_ref(&b)), Outcome::Refused(_)));
    assert_eq!(plan.wanted(), 1);
    plan.closed(&Seat::Shared, "a right is gone", now);
    plan.refused(&Seat::Shared, &[a.clone(), b], &refusal());
    plan.refused(&Seat::Shared, std::slice::from_ref(&a), &refusal());
    assert_eq!(calm(&mut plan, &Seat::Shared), [SubscriptionEvent::Restored]);
    assert!(plan.trouble().is_some_and(|why| why.contains("refuses 1")));
    assert_eq!(plan.left_out(&Seat::Shared), std::slice::from_ref(&a));
    plan.readmit(&a);
    calm(&mut plan, &Seat::Shared);
    assert!(
        plan.trouble().is_none() && matches!(plan.outcome(&[a]), Outcome::Refused(_)),
        "until wanted again"
    );
}
