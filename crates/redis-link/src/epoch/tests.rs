//! Epochs kept without a database, and the epoch key's value.

use super::*;
use proptest::prelude::*;
use std::time::Duration;

/// One master, or the first of several: `a,b,c` is `a` in a cluster with `b` and `c`.
fn request(replids: &str, stored: Option<u32>, fresh: bool, minute: u64) -> EpochRequest<'_> {
    let masters: Vec<_> = replids.split(',').map(str::to_owned).collect();
    EpochRequest {
        name: "redis",
        replid: replids.split(',').next().unwrap(),
        masters: masters.leak(),
        all: true,
        stored,
        fresh,
        server_unix_seconds: SELF_KEPT_ZERO + 60 * minute,
        deadline: Deadline::after(Duration::from_secs(1)),
    }
}

#[tokio::test]
async fn the_same_data_keep_their_epoch_and_other_data_get_a_larger_one() {
    let epochs = SelfKeptEpochs::new();
    let first = epochs.advance(&request("a", None, true, 1000)).await.unwrap();
    assert_eq!(first, 1000);
    assert_eq!(epochs.advance(&request("a", Some(1000), false, 2000)).await.unwrap(), 1000);
    let flushed = epochs.advance(&request("a", None, true, 1000)).await.unwrap();
    assert_eq!(flushed, 1001);
    let promoted = epochs.advance(&request("b", Some(1001), true, 900)).await.unwrap();
    assert_eq!(promoted, 1002);
    // The old master comes back with its old data and its old key.
    let back = epochs.advance(&request("a", Some(1001), false, 900)).await.unwrap();
    assert_eq!(back, 1003);
}

#[tokio::test]
async fn a_fleet_that_sees_one_loss_begins_one_epoch() {
    let (one, two) = (SelfKeptEpochs::new(), SelfKeptEpochs::new());
    one.advance(&request("a", None, true, 1000)).await.unwrap();
    two.advance(&request("a", Some(1000), false, 1000)).await.unwrap();
    assert_eq!(one.advance(&request("b", Some(1000), true, 900)).await.unwrap(), 1001);
    // What `one` has claimed for the new server is good enough for `two`.
    assert_eq!(two.advance(&request("b", Some(1001), false, 900)).await.unwrap(), 1001);
}

#[tokio::test]
async fn names_are_apart_and_the_largest_epoch_is_the_last() {
    let epochs = SelfKeptEpochs::new();
    epochs.advance(&request("a", None, true, 5000)).await.unwrap();
    let other = EpochRequest { name: "other", ..request("a", None, true, 10) };
    assert_eq!(epochs.advance(&other).await.unwrap(), 10);
    assert!(epochs.advance(&request("b", Some(MAX_EPOCH), true, 10)).await.is_err());
    assert_eq!(epochs.advance(&request("b", Some(MAX_EPOCH), false, 10)).await.unwrap(), MAX_EPOCH);
    assert!(epochs.advance(&request("c", Some(10), false, 10)).await.is_err());
}

#[tokio::test]
async fn masters_of_a_cluster_have_epochs_of_their_own() {
    let (one, two) = (SelfKeptEpochs::new(), SelfKeptEpochs::new());
    for (master, epoch) in [("a,b,c", 1000), ("b,a,c", 1001), ("c,a,b", 1002)] {
        assert_eq!(one.advance(&request(master, None, true, 1000)).await.unwrap(), epoch);
    }
    // In whatever order another process meets them.
    for (master, epoch) in [("c,a,b", 1002), ("a,b,c", 1000), ("b,a,c", 1001)] {
        assert_eq!(two.advance(&request(master, Some(epoch), false, 1000)).await.unwrap(), epoch);
    }
    // `d` is promoted in place of `b`: an epoch larger than all, and the others keep theirs.
    assert_eq!(one.advance(&request("d,a,c", Some(1001), true, 900)).await.unwrap(), 1003);
    assert_eq!(one.advance(&request("a,d,c", Some(1000), false, 900)).await.unwrap(), 1000);
    assert_eq!(two.advance(&request("d,a,c", Some(1003), false, 900)).await.unwrap(), 1003);
    // Who reaches some of them only says nothing about the others.
    let some = EpochRequest { all: false, ..request("a", Some(1000), false, 900) };
    assert_eq!(two.advance(&some).await.unwrap(), 1000);
    assert_eq!(two.advance(&request("c,a,d", Some(1002), false, 900)).await.unwrap(), 1002);
    // `b` comes back with what it had.
    assert_eq!(two.advance(&request("b,a,c", Some(1001), false, 900)).await.unwrap(), 1004);
}

#[test]
fn a_claim_survives_its_text() {
    let claim = Claim::new("0123456789abcdef", 77);
    assert_eq!(Claim::parse(claim.value().as_bytes()), Some(claim.clone()));
    assert_ne!(Claim::new("0123456789abcdef", 77).value(), claim.value(), "the mark is random");
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Some(claim) = Claim::parse(&bytes) {
            prop_assert!((1..=MAX_EPOCH).contains(&claim.epoch));
        }
    }

    #[test]
    fn epochs_of_new_data_grow(steps in prop::collection::vec((any::<bool>(), 0_u64..3), 1..50)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let epochs = SelfKeptEpochs::new();
        let (mut last, mut minute) = (0, 100);
        for (fresh, minutes) in steps {
            minute += minutes;
            let stored = (last > 0).then_some(last);
            let fresh = fresh || stored.is_none();
            let epoch = runtime.block_on(epochs.advance(&request("a", stored, fresh, minute))).unwrap();
            let right = if fresh { epoch > last } else { epoch == last };
            prop_assert!(right, "epoch after last");
            last = epoch;
        }
    }
}
