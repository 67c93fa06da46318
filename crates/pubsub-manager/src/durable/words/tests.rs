//! Names and places: what is accepted, what is refused and why.

use super::*;

#[test]
fn names_of_groups() {
    for good in ["a", "billing", "billing-eu.2:x/y_z", &"g".repeat(128), "größe"] {
        assert_eq!(GroupName::new(good).unwrap().as_str(), good);
    }
    for (bad, why) in [
        ("", "empty"),
        (&"g".repeat(129)[..], "128"),
        ("a b", "allowed"),
        ("a}", "allowed"),
        ("~x", "allowed"),
    ] {
        let Err(Error::InvalidName { what: "group", reason, .. }) = GroupName::new(bad) else {
            panic!("{bad}")
        };
        assert!(reason.contains(why), "{bad}: {reason}");
    }
}

#[test]
fn places_are_read_as_they_are_written() {
    let id = DurableId { millis: 17, sequence: 4 };
    assert_eq!(id.to_string().parse::<DurableId>().unwrap(), id);
    for bad in ["", "1", "1-", "a-1", "1-2-3", "-1-2"] {
        assert!(matches!(bad.parse::<DurableId>(), Err(Error::InvalidName { .. })), "{bad}");
    }
}

#[test]
fn a_start_is_after_what_lies_before() {
    let id = |millis, sequence| DurableId { millis, sequence };
    assert_eq!(StartFrom::Now.after(), None);
    assert_eq!(StartFrom::Earliest.after(), Some(id(0, 0)));
    assert_eq!(StartFrom::Id(id(9, 5)).after(), Some(id(9, 4)));
    let time = UNIX_EPOCH + Duration::from_millis(9);
    assert_eq!(StartFrom::Time(time).after(), Some(id(8, u64::MAX)));
}
