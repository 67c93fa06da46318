//! What every store of durable channels has to do, asked of the store itself: places, deliveries, what is due, who may
//! settle.

use crate::{
    durable_rig::{payloads, record, rig, some, take, waiting},
    durable_support::{Stores, over_every_store},
    support::{PATIENCE, soon},
};
use local_stack::wait_for;
use pubsub_manager::{DurableLimits, Settle, Settled, StartFrom, Take};
use std::time::{Duration, SystemTime};

over_every_store! {
    records_come_back_as_they_were_appended_and_in_order
    a_group_begins_where_it_was_told_to
    each_record_goes_to_one_consumer_of_a_group_and_to_every_group
    what_is_not_settled_in_time_goes_to_another_and_the_first_is_too_late
    extended_it_stays
    a_retry_waits_and_counts_and_a_release_does_not
    a_consumer_of_the_same_name_first_gets_what_it_had
}

async fn records_come_back_as_they_were_appended_and_in_order(stores: Stores) {
    let rig = rig(stores);
    let records: Vec<_> = (0..150).map(|n| record(&n.to_string())).collect();
    rig.store.append(&rig.channel, &records, &DurableLimits::default(), soon()).await.expect("appended");
    let mut source = rig.open("a").await;
    let (first, second) = (take(&mut source, some()).await, take(&mut source, some()).await);
    let all: Vec<_> = first.messages.into_iter().chain(second.messages).collect();
    assert_eq!(
        all.iter().map(|one| one.record.clone()).collect::<Vec<_>>(),
        records.into_iter().map(Some).collect::<Vec<_>>()
    );
    assert!(
        all.windows(2).all(|pair| pair[0].id < pair[1].id && pair[0].id.sequence + 1 == pair[1].id.sequence)
    );
    assert!(all.iter().all(|one| one.deliveries == 1));
    // A waiting take is woken.
    let (taken, ()) = tokio::join!(take(&mut source, waiting()), rig.append(&["late"]));
    assert_eq!(payloads(&taken), ["late"]);
    assert_eq!(rig.store.channels(soon()).await.expect("listed"), ["orders.paid"]);
}

async fn a_group_begins_where_it_was_told_to(stores: Stores) {
    let rig = rig(stores);
    rig.append(&["1", "2"]).await;
    let all = take(&mut rig.open("x").await, some()).await;
    let second = all.messages[1].id;
    // Ids hold milliseconds: what is appended later must be so by the store's clock.
    wait_for("another millisecond", PATIENCE, async || {
        rig.append(&["filler"]).await;
        let mut source = rig.of_group("clock").open("x").await;
        take(&mut source, some()).await.messages.last().is_some_and(|last| last.id.millis > second.millis + 1)
    })
    .await;
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(second.millis + 1);
    let cases = [
        ("earliest", StartFrom::Earliest, Some("1")),
        ("id", StartFrom::Id(second), Some("2")),
        ("time", StartFrom::Time(time), Some("filler")),
        ("now", StartFrom::Now, None),
    ];
    for (name, start, first) in cases {
        let mut source = rig.of_group(name).open_at("x", start).await;
        assert_eq!(payloads(&take(&mut source, some()).await).first().map(String::as_str), first, "{name}");
    }
    // It is there already: where it begins was decided.
    let mut again = rig.of_group("now").open_at("y", StartFrom::Earliest).await;
    assert_eq!(take(&mut again, some()).await.messages, []);
}

async fn each_record_goes_to_one_consumer_of_a_group_and_to_every_group(stores: Stores) {
    let rig = rig(stores);
    let (mut a, mut b, mut other) =
        (rig.open("a").await, rig.open("b").await, rig.of_group("mail").open("a").await);
    rig.append(&["1", "2", "3", "4"]).await;
    let two = || Take { max: 2, ..some() };
    let (of_a, of_b) = (take(&mut a, two()).await, take(&mut b, two()).await);
    assert_eq!([payloads(&of_a), payloads(&of_b)].concat(), ["1", "2", "3", "4"]);
    assert_eq!(payloads(&take(&mut other, some()).await).len(), 4);
    assert_eq!(take(&mut a, some()).await.messages, []);
    let info = rig.info().await;
    assert_eq!((info.consumers, info.pending, info.lag, info.delivered), (2, 4, 0, 4), "{info:?}");
    for message in of_a.messages {
        assert_eq!(rig.settle("a", &message, Settle::Ack).await, Settled::Done);
        assert_eq!(rig.settle("a", &message, Settle::Ack).await, Settled::NotPending);
    }
    rig.append(&["5"]).await;
    let info = rig.info().await;
    assert_eq!((info.pending, info.lag, info.acknowledged), (2, 1, 2), "{info:?}");
    assert!(info.oldest_unacked.is_some());
}

async fn what_is_not_settled_in_time_goes_to_another_and_the_first_is_too_late(stores: Stores) {
    let rig = rig(stores);
    let (mut a, mut b) = (rig.open("a").await, rig.open("b").await);
    rig.append(&["x"]).await;
    let first = take(&mut a, Take { ack_timeout: Duration::from_millis(200), ..some() }).await;
    let second = take(&mut b, waiting()).await;
    assert_eq!((payloads(&second), second.messages[0].deliveries), (vec!["x".to_owned()], 2));
    for how in [Settle::Ack, Settle::Retry(Duration::ZERO), Settle::Extend(PATIENCE), Settle::Release] {
        assert_eq!(rig.settle("a", &first.messages[0], how).await, Settled::Superseded);
    }
    // Also under the second one's name: it is about this delivery.
    assert_eq!(rig.settle("b", &first.messages[0], Settle::Ack).await, Settled::Superseded);
    assert_eq!(rig.settle("b", &second.messages[0], Settle::Ack).await, Settled::Done);
    let info = rig.info().await;
    assert_eq!((info.pending, info.redelivered, info.oldest_unacked), (0, 1, None), "{info:?}");
}

async fn extended_it_stays(stores: Stores) {
    let rig = rig(stores);
    let (mut a, mut b) = (rig.open("a").await, rig.open("b").await);
    rig.append(&["x"]).await;
    let first = take(&mut a, Take { ack_timeout: Duration::from_secs(5), ..some() }).await;
    assert_eq!(rig.settle("a", &first.messages[0], Settle::Extend(PATIENCE)).await, Settled::Done);
    let second = take(&mut b, Take { wait: Duration::from_secs(6), ..some() }).await;
    assert_eq!(second.messages, []);
    assert_eq!(rig.settle("a", &first.messages[0], Settle::Ack).await, Settled::Done);
}

async fn a_retry_waits_and_counts_and_a_release_does_not(stores: Stores) {
    let rig = rig(stores);
    let mut source = rig.open("a").await;
    rig.append(&["x"]).await;
    let first = take(&mut source, some()).await;
    let settled = rig.settle("a", &first.messages[0], Settle::Retry(Duration::from_millis(700))).await;
    assert_eq!(settled, Settled::Done);
    let began = std::time::Instant::now();
    assert_eq!(take(&mut source, some()).await.messages, []);
    assert_eq!((rig.info().await.waiting, rig.info().await.pending), (1, 1));
    let second = take(&mut source, waiting()).await;
    assert!(began.elapsed() > Duration::from_millis(400), "{:?}", began.elapsed());
    assert_eq!(second.messages[0].deliveries, 2);
    assert_eq!(rig.settle("a", &second.messages[0], Settle::Release).await, Settled::Done);
    let third = take(&mut source, waiting()).await;
    assert_eq!(third.messages[0].deliveries, 2);
    assert_eq!(rig.info().await.waiting, 0);
}

async fn a_consumer_of_the_same_name_first_gets_what_it_had(stores: Stores) {
    let rig = rig(stores);
    rig.append(&["1", "2", "3", "4"]).await;
    let mut dead = rig.open("a").await;
    assert_eq!(take(&mut dead, Take { max: 3, ..some() }).await.messages.len(), 3);
    let mut other = rig.open("b").await;
    let mut again = rig.open("a").await;
    let two = take(&mut again, Take { max: 2, ..some() }).await;
    assert_eq!((payloads(&two), two.messages[0].deliveries), (vec!["1".to_owned(), "2".to_owned()], 2));
    assert_eq!(payloads(&take(&mut other, some()).await), ["4"], "not what another has");
    let holding = [two.messages[0].id, two.messages[1].id];
    let rest = take(&mut again, Take { holding: &holding, ..some() }).await;
    assert_eq!(payloads(&rest), ["3"]);
    // It lost its connection, and with it an answer: what it holds is not delivered again, the rest is.
    let mut third = rig.open("a").await;
    let rest = take(&mut third, Take { holding: &holding, ..some() }).await;
    assert_eq!((payloads(&rest), rest.messages[0].deliveries), (vec!["3".to_owned()], 3));
    assert_eq!(take(&mut third, Take { holding: &holding, ..some() }).await.messages, []);
}
