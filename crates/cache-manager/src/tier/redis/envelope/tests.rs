//! Round trips, cut and changed bytes.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::{Header, Markers, accept};
use crate::tier::Fresh;

const MARKERS: [u8; 8] = *b"12345678";

fn blob(body: Option<Vec<u8>>, fresh_ms: u64, age_ms: u64) -> Bytes {
    let value = Fresh {
        body: body.map(Bytes::from),
        fresh_for: Duration::from_millis(fresh_ms),
        keep_for: Duration::from_secs(1000),
        age: Duration::from_millis(age_ms),
    };
    let markers = Markers::standing(&MARKERS, &MARKERS).unwrap();
    Header::new(7, 1_000_000, &value).blob(42, &markers, &value)
}

proptest! {
    #[test]
    fn what_was_written_is_read(body: Option<Vec<u8>>, fresh in 0_u64..10_000, age in 0_u64..10_000, later in 0_u64..10_000) {
        let markers = Markers::standing(&MARKERS, &MARKERS).unwrap();
        let stored = accept(&blob(body.clone(), fresh, age), &markers, 7, 1_000_000 + later).unwrap();
        prop_assert_eq!(stored.body.as_deref(), body.as_deref());
        prop_assert_eq!(stored.fresh_for, Duration::from_millis(fresh.saturating_sub(later)));
        prop_assert_eq!(stored.age, Duration::from_millis(age + later));
        prop_assert_eq!(stored.version, 42);
    }

    #[test]
    fn a_cut_blob_is_a_miss(body: Vec<u8>, cut in 1_usize..200) {
        let whole = blob(Some(body), 1000, 0);
        let markers = Markers::standing(&MARKERS, &MARKERS).unwrap();
        prop_assert_eq!(accept(&whole.slice(..whole.len().saturating_sub(cut)), &markers, 7, 0), None);
    }

    #[test]
    fn garbage_is_a_miss(bytes: Vec<u8>) {
        let markers = Markers::standing(&MARKERS, &MARKERS).unwrap();
        prop_assert_eq!(accept(&Bytes::from(bytes), &markers, 7, 0), None);
    }
}

#[test]
fn another_epoch_or_marker_is_a_miss() {
    let whole = blob(Some(b"body".to_vec()), 1000, 0);
    let other = Markers::standing(b"87654321", &MARKERS).unwrap();
    let everything = Markers::standing(&MARKERS, b"87654321").unwrap();
    let same = Markers::standing(&MARKERS, &MARKERS).unwrap();
    assert!(accept(&whole, &same, 7, 0).is_some());
    assert!(accept(&whole, &same, 8, 0).is_none());
    assert!(accept(&whole, &other, 7, 0).is_none() && accept(&whole, &everything, 7, 0).is_none());
    assert!(Markers::standing(b"short", &MARKERS).is_none());
}
