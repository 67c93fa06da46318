//! What a stream is told that was not read for long.

use super::*;

#[tokio::test]
async fn an_interruption_is_not_told_after_its_end_however_full_the_queue() {
    let routes = Arc::<Routes>::default();
    let filter = Filter::new("a").expect("a good name");
    let (mut stream, confirmed) = routes.add(&filter);
    routes.confirm(1);
    confirmed.await.expect("confirmed");
    let mut told = Vec::new();
    // The interruption is the last that fits.
    for _ in 0..4095 {
        routes.deliver(Lane::Plain, "a", &Bytes::from_static(b"x"));
    }
    for event in [BusEvent::Interrupted, BusEvent::Restored] {
        routes.tell_all(&event);
    }
    while !told.contains(&BusEvent::Interrupted) || !told.contains(&BusEvent::Restored) {
        let event = stream.next().await.expect("it goes on");
        if matches!(event, BusEvent::Interrupted | BusEvent::Restored) {
            told.push(event);
        }
    }
    assert_eq!(told, [BusEvent::Interrupted, BusEvent::Restored]);
}
