//! What every store of durable channels has to do, asked of the store itself: what is kept, what is dead, how groups are
//! looked after.

use crate::{
    durable_rig::{payloads, rig, some, take, waiting},
    durable_support::{Stores, over_every_store},
    support::{PATIENCE, soon},
};
use bytes::Bytes;
use local_stack::wait_for;
use pubsub_manager::{
    DurableId, DurableLimits, Error, GroupChange, GroupName, LossCause, Resolution, Settle, Settled,
    StartFrom, Take,
};
use std::time::{Duration, SystemTime};

over_every_store! {
    what_was_delivered_too_often_is_a_dead_letter_with_a_reason
    dead_letters_are_retried_to_their_group_alone_or_dropped
    without_room_for_dead_letters_a_message_stays
    a_replay_begins_at_an_id_or_a_time
    nothing_is_trimmed_that_a_group_has_not_acknowledged
    a_full_channel_says_so_and_names_the_slowest_group
    a_paused_group_is_given_nothing
    consumers_without_anything_pending_are_forgotten
    what_does_not_exist_is_unknown
    a_deleted_group_is_gone_and_whoever_knew_it_is_told
    not_more_bytes_than_asked_for
}

async fn what_was_delivered_too_often_is_a_dead_letter_with_a_reason(stores: Stores) {
    let rig = rig(stores);
    let mut source = rig.open("a").await;
    rig.append(&["poison", "good"]).await;
    let brief = || Take {
        max: 1,
        ack_timeout: Duration::from_millis(50),
        max_deliveries: 2,
        wait: PATIENCE,
        ..some()
    };
    let first = take(&mut source, brief()).await;
    let mut second = take(&mut source, brief()).await;
    if payloads(&second) == ["good"] {
        assert_eq!(rig.settle("a", &second.messages[0], Settle::Ack).await, Settled::Done);
        second = take(&mut source, brief()).await;
    }
    assert_eq!((payloads(&second), second.messages[0].id), (vec!["poison".to_owned()], first.messages[0].id));
    let mut dead = 0;
    while dead == 0 {
        let taken = take(&mut source, brief()).await;
        dead += taken.dead;
        for message in &taken.messages {
            rig.settle("a", message, Settle::Ack).await;
        }
    }
    let letters = rig.letters().await;
    assert_eq!((letters.len(), letters[0].deliveries, letters[0].position), (1, 2, first.messages[0].id));
    assert!(letters[0].reason.contains("2 deliveries") && letters[0].reason.contains("by a"), "{letters:?}");
    assert_eq!(letters[0].record.as_ref().map(|record| record.payload.clone()), Some(Bytes::from("poison")));
    assert_eq!(rig.info().await.dead_letters, 1);
}

async fn dead_letters_are_retried_to_their_group_alone_or_dropped(stores: Stores) {
    let rig = rig(stores);
    let (mut source, mut other) = (rig.open("a").await, rig.of_group("mail").open("a").await);
    rig.append(&["1", "2"]).await;
    let taken = take(&mut source, some()).await;
    let copy = taken.messages[0].record.as_ref().map(|record| record.id);
    assert_eq!(take(&mut other, some()).await.messages.len(), 2);
    for message in &taken.messages {
        let how = Settle::Dead { reason: "it is Sunday".to_owned(), max: 10 };
        assert_eq!(rig.settle("a", message, how).await, Settled::Done);
    }
    let letters = rig.letters().await;
    assert_eq!(letters.iter().map(|letter| letter.reason.as_str()).collect::<Vec<_>>(), ["it is Sunday"; 2]);
    let page = rig.store.dead_letters(&rig.channel, &rig.group, Some(letters[0].id), 9, soon()).await;
    assert_eq!(page.expect("listed"), letters[1..]);
    let resolve = |letter: DurableId, how| rig.store.resolve(&rig.channel, &rig.group, letter, how, soon());
    resolve(letters[0].id, Resolution::Retry).await.expect("retried");
    resolve(letters[1].id, Resolution::Drop).await.expect("dropped");
    for letter in &letters {
        let again = resolve(letter.id, Resolution::Retry).await;
        assert!(matches!(again, Err(Error::UnknownDeadLetter { .. })), "{again:?}");
    }
    let again = take(&mut source, waiting()).await;
    assert_eq!((again.messages.len(), again.messages[0].deliveries), (1, 1));
    assert_eq!(again.messages[0].record.as_ref().map(|record| record.id), copy, "the same message");
    rig.append(&["3"]).await;
    assert_eq!(payloads(&take(&mut other, waiting()).await), ["3"], "the retry is not the other group's");
    assert_eq!(rig.letters().await, []);
}

async fn without_room_for_dead_letters_a_message_stays(stores: Stores) {
    let rig = rig(stores);
    let mut source = rig.open("a").await;
    rig.append(&["1", "2"]).await;
    let taken = take(&mut source, some()).await;
    let how = || Settle::Dead { reason: "no".to_owned(), max: 1 };
    assert_eq!(rig.settle("a", &taken.messages[0], how()).await, Settled::Done);
    assert_eq!(rig.settle("a", &taken.messages[1], how()).await, Settled::DeadLettersFull);
    let info = rig.info().await;
    assert_eq!((info.dead_letters, info.pending, info.waiting), (1, 1, 1), "{info:?}");
}

async fn a_replay_begins_at_an_id_or_a_time(stores: Stores) {
    let rig = rig(stores);
    let mut source = rig.open("a").await;
    rig.append(&["1", "2", "3"]).await;
    let taken = take(&mut source, some()).await;
    for message in &taken.messages {
        rig.settle("a", message, Settle::Ack).await;
    }
    rig.change(GroupChange::Place(StartFrom::Id(taken.messages[1].id))).await;
    assert_eq!(payloads(&take(&mut source, waiting()).await), ["2", "3"]);
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(taken.messages[0].id.millis);
    rig.change(GroupChange::Place(StartFrom::Time(time))).await;
    assert_eq!(payloads(&take(&mut source, waiting()).await), ["1", "2", "3"]);
    rig.append(&["4"]).await;
    rig.change(GroupChange::Place(StartFrom::Now)).await;
    let skipped = take(&mut source, some()).await;
    assert_eq!((skipped.messages, skipped.loss), (vec![], None), "asked for, so no loss");
}

async fn nothing_is_trimmed_that_a_group_has_not_acknowledged(stores: Stores) {
    let rig = rig(stores);
    let limits = DurableLimits { keep_len: 50, ..DurableLimits::default() };
    let mut source = rig.open("a").await;
    let held = {
        rig.append_within(&["0"], &limits).await.expect("appended");
        take(&mut source, some()).await.messages.remove(0)
    };
    for n in 1..2_000 {
        rig.append_within(&[&n.to_string()], &limits).await.expect("appended");
    }
    rig.store.tend(&rig.key("a"), PATIENCE, soon()).await.expect("tended");
    let mut all = rig.of_group("auditor").open("a").await;
    let mut seen = 0;
    while let count @ 1.. = take(&mut all, some()).await.messages.len() {
        seen += count;
    }
    assert_eq!(seen, 2_000, "one pending message keeps all that follow");
    rig.store
        .change(&rig.channel, &GroupName::new("auditor").expect("good"), GroupChange::Delete, soon())
        .await
        .expect("deleted");
    // Everything up to the thousandth.
    assert_eq!(rig.settle("a", &held, Settle::Ack).await, Settled::Done);
    for _ in 0..10 {
        for message in take(&mut source, some()).await.messages {
            assert_eq!(rig.settle("a", &message, Settle::Ack).await, Settled::Done);
        }
    }
    rig.store.tend(&rig.key("a"), PATIENCE, soon()).await.expect("tended");
    let mut kept = rig.of_group("late").open("a").await;
    let first = take(&mut kept, some()).await.messages[0].id.sequence;
    eprintln!("acknowledged up to 1001 of 2000, 50 to be kept: the first kept is {first}");
    assert!((800..=1_002).contains(&first), "{first}");
    let rest = take(&mut source, some()).await;
    assert_eq!((payloads(&rest)[0].as_str(), rest.loss), ("1001", None));
}

async fn a_full_channel_says_so_and_names_the_slowest_group(stores: Stores) {
    let rig = rig(stores);
    let limits = DurableLimits { max_len: 300, keep_len: 1, keep_for: Duration::from_secs(3600) };
    let (mut source, mut other) = (rig.open("a").await, rig.of_group("quick").open("a").await);
    for _ in 0..300 {
        rig.append_within(&["x"], &limits).await.expect("appended");
    }
    while let some @ [_, ..] = &*take(&mut other, some()).await.messages {
        for message in some {
            rig.of_group("quick").settle("a", message, Settle::Ack).await;
        }
    }
    let full = rig.append_within(&["one too many"], &limits).await;
    match full {
        Err(Error::Full { channel, group, limit: 300 }) => {
            assert_eq!((channel.as_str(), group.as_str()), ("orders.paid", "billing"));
        }
        other => panic!("{other:?}"),
    }
    // The stuck group has lost nothing, and once it has caught up there is room.
    let mut seen = 0;
    while let some @ [_, ..] = &*take(&mut source, some()).await.messages {
        for message in some {
            rig.settle("a", message, Settle::Ack).await;
            seen += 1;
        }
    }
    assert_eq!(seen, 300);
    rig.append_within(&["room"], &limits).await.expect("appended");
    assert_eq!(payloads(&take(&mut source, some()).await), ["room"]);
}

async fn a_paused_group_is_given_nothing(stores: Stores) {
    let rig = rig(stores);
    let (mut source, mut other) = (rig.open("a").await, rig.of_group("mail").open("a").await);
    rig.change(GroupChange::Pause).await;
    rig.append(&["x"]).await;
    let taken = take(&mut source, Take { wait: Duration::from_millis(100), ..some() }).await;
    assert!(taken.paused && taken.messages.is_empty());
    assert_eq!(take(&mut other, some()).await.messages.len(), 1, "another group goes on");
    let mut new = rig.open("b").await;
    assert!(take(&mut new, some()).await.paused, "it is the group's, not the consumer's");
    assert!(rig.info().await.paused);
    rig.change(GroupChange::Resume).await;
    assert_eq!(payloads(&take(&mut source, some()).await), ["x"]);
}

async fn consumers_without_anything_pending_are_forgotten(stores: Stores) {
    let rig = rig(stores);
    rig.append(&["1", "2"]).await;
    let (mut idle, mut busy, mut alive) =
        (rig.open("idle").await, rig.open("busy").await, rig.open("alive").await);
    let first = take(&mut idle, Take { max: 1, ..some() }).await;
    rig.settle("idle", &first.messages[0], Settle::Ack).await;
    assert_eq!(take(&mut busy, some()).await.messages.len(), 1);
    wait_for("one to be forgotten", PATIENCE, async || {
        take(&mut alive, some()).await;
        rig.store.tend(&rig.key("alive"), Duration::from_secs(1), soon()).await.expect("tended");
        rig.info().await.consumers == 2
    })
    .await;
    assert_eq!(rig.info().await.pending, 1);
    // It is nobody's enemy: should it come back, it is known again.
    take(&mut idle, some()).await;
    assert_eq!(rig.info().await.consumers, 3);
}

async fn what_does_not_exist_is_unknown(stores: Stores) {
    let rig = rig(stores);
    for round in 0..2 {
        let change = |change| rig.store.change(&rig.channel, &rig.group, change, soon());
        for one in [GroupChange::Pause, GroupChange::Place(StartFrom::Now), GroupChange::Delete] {
            assert!(matches!(change(one).await, Err(Error::UnknownGroup { .. })), "{one:?}");
        }
        let letters = rig.store.dead_letters(&rig.channel, &rig.group, None, 1, soon()).await;
        assert!(matches!(letters, Err(Error::UnknownGroup { .. })), "{letters:?}");
        let id = DurableId { millis: 1, sequence: 1 };
        let resolved = rig.store.resolve(&rig.channel, &rig.group, id, Resolution::Retry, soon()).await;
        assert!(matches!(resolved, Err(Error::UnknownGroup { .. })), "{resolved:?}");
        assert_eq!(rig.store.groups(&rig.channel, soon()).await.expect("listed"), []);
        if round == 0 {
            // A channel without groups is no different from none.
            rig.append(&["x"]).await;
        }
    }
}

async fn a_deleted_group_is_gone_and_whoever_knew_it_is_told(stores: Stores) {
    let rig = rig(stores);
    rig.append(&["1", "2"]).await;
    let mut source = rig.open("a").await;
    let known = source.incarnation();
    assert_eq!(take(&mut source, some()).await.messages.len(), 2);
    rig.change(GroupChange::Delete).await;
    let gone = source.take(&some()).await;
    assert!(matches!(gone, Err(Error::UnknownGroup { .. })), "{gone:?}");
    let again = rig.store.open(&rig.key("a"), StartFrom::Now, Some(known), soon()).await;
    let mut again = again.expect("opened");
    assert_ne!(again.incarnation(), known);
    let taken = take(&mut again, some()).await;
    assert_eq!(payloads(&taken), ["1", "2"], "nothing that exists is skipped");
    let loss = taken.loss.expect("told");
    assert_eq!((loss.cause, loss.missed), (LossCause::GroupGone, None));
    assert!(take(&mut again, some()).await.loss.is_some(), "until somebody was told");
    rig.store.told(&rig.key("a"), loss.number, soon()).await.expect("recorded");
    assert_eq!(take(&mut again, some()).await.loss, None);
    assert_eq!(rig.info().await.losses, 1);
}

async fn not_more_bytes_than_asked_for(stores: Stores) {
    let rig = rig(stores);
    let large = "x".repeat(10_000);
    rig.append(&[&*large; 100]).await;
    let mut source = rig.open("a").await;
    let taken = take(&mut source, Take { max_bytes: 50_000, ..some() }).await;
    // By steps.
    assert!((5..=40).contains(&taken.messages.len()), "{}", taken.messages.len());
    let mut again = rig.open("a").await;
    let mut seen = 0;
    while let count @ 1.. =
        take(&mut again, Take { max_bytes: 50_000, max_deliveries: 2, ..some() }).await.messages.len()
    {
        seen += count;
    }
    assert_eq!(seen, 100, "what it had, in several answers, then the rest");
}
