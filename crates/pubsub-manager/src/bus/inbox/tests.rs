//! What a full queue does.

use super::*;

fn frame(subject: &str, text: &'static str) -> BusEvent {
    BusEvent::Frame { subject: subject.into(), frame: Bytes::from_static(text.as_bytes()) }
}

/// What has come so far.
async fn all(inbox: &mut Inbox) -> Vec<BusEvent> {
    let mut events = Vec::new();
    loop {
        tokio::select! {
            biased;
            event = inbox.next() => events.extend(event),
            () = std::future::ready(()) => return events,
        }
    }
}

#[tokio::test]
async fn interruptions_that_do_not_fit_are_told_after_those_that_did() {
    let (route, mut inbox) = inbox();
    for _ in 0..QUEUE - 1 {
        route.send(frame("a", "x"));
    }
    route.send(BusEvent::Interrupted);
    route.send(BusEvent::Restored);
    let events = all(&mut inbox).await;
    assert_eq!((events.len(), &events[0]), (QUEUE + 2, &BusEvent::Overflowed));
    assert_eq!(events[QUEUE..], [BusEvent::Interrupted, BusEvent::Restored], "not the other way round");
    // Both together are an overflow alone.
    for _ in 0..QUEUE {
        route.send(frame("a", "x"));
    }
    route.send(BusEvent::Interrupted);
    route.send(BusEvent::Restored);
    let events = all(&mut inbox).await;
    assert_eq!((events.len(), &events[0]), (QUEUE + 1, &BusEvent::Overflowed));
    for _ in 0..=QUEUE {
        route.send(BusEvent::Interrupted);
    }
    assert_eq!(all(&mut inbox).await.last(), Some(&BusEvent::Interrupted));
    route.send(BusEvent::Restored);
    assert_eq!(all(&mut inbox).await, [BusEvent::Restored]);
}

#[tokio::test]
async fn no_event_is_lost_by_waiting_for_it_in_vain() {
    let (route, mut inbox) = inbox();
    assert_eq!(all(&mut inbox).await, []);
    route.send(BusEvent::Interrupted);
    assert_eq!(all(&mut inbox).await, [BusEvent::Interrupted]);
}

#[tokio::test]
async fn the_end_of_an_interruption_before_it_began_is_no_news() {
    let (route, mut inbox) = inbox();
    route.send(BusEvent::Restored);
    route.send(frame("a", "x"));
    assert_eq!(all(&mut inbox).await, [frame("a", "x")]);
}
