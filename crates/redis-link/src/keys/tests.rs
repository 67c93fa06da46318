//! The schemes, their limits, and that different things never share a name.

use super::*;
use proptest::prelude::*;

fn keys() -> Keys {
    Keys::new("shop")
}

fn text(key: &Key) -> &str {
    std::str::from_utf8(key.as_bytes()).unwrap()
}

#[test]
fn the_schemes() {
    let keys = keys();
    assert_eq!(text(&keys.epoch()), "shop:epoch");
    assert_eq!(text(&keys.cache_value("users", "42").unwrap()), "shop:c:{users:42}:v");
    assert_eq!(text(&keys.cache_lease("users", "42").unwrap()), "shop:c:{users:42}:l");
    assert_eq!(text(&keys.cache_marker("tag", "vip").unwrap()), "shop:m:{tag:vip}");
    assert_eq!(text(&keys.lock("job", "token").unwrap()), "shop:k:{job}:token");
    assert_eq!(text(&keys.journal("0").unwrap()), "shop:j:{0}");
    assert_eq!(text(&keys.journal_part("0", "n").unwrap()), "shop:j:{0}:n");
    assert_eq!(text(&keys.other("rate", "agent", "n").unwrap()), "shop:rate:{agent}:n");
    assert_eq!(keys.channel("orders.created").unwrap().as_str(), "shop:p:orders.created");
    assert_eq!(keys.channel_in("w", "7").unwrap().as_str(), "shop:w:7");
    let pattern = keys.channel_pattern("orders.*").unwrap();
    assert!(pattern.is_pattern() && pattern.as_str() == "shop:p:orders.*");
    assert_eq!(keys.channel_name("shop:p:orders.created"), Some("orders.created"));
    assert_eq!(keys.channel_name("shops:p:orders"), None);
}

#[test]
fn parts_of_one_thing_share_a_slot() {
    let keys = keys();
    let value = keys.cache_value("users", "a}b{c").unwrap();
    assert_eq!(value.slot(), keys.cache_lease("users", "a}b{c").unwrap().slot());
    assert_eq!(keys.lock("x", "a").unwrap().slot(), keys.lock("x", "b").unwrap().slot());
    assert_eq!(keys.journal("3").unwrap().slot(), keys.journal_part("3", "n").unwrap().slot());
}

#[test]
fn names_outside_the_limits() {
    let keys = keys();
    let long = "x".repeat(MAX_NAME_LEN + 1);
    for error in [
        keys.cache_value("", "k").unwrap_err(),
        keys.cache_value("r", "").unwrap_err(),
        keys.cache_value("a:b", "k").unwrap_err(),
        keys.cache_value("}", "k").unwrap_err(),
        keys.cache_value("r", &long).unwrap_err(),
        keys.lock("a", "b}").unwrap_err(),
        keys.other("Rate", "a", "b").unwrap_err(),
        keys.channel("").unwrap_err(),
        keys.channel_in("", "x").unwrap_err(),
        keys.other("r", &"x".repeat(1024), &"y".repeat(1024)).unwrap_err(),
    ] {
        assert!(!error.to_string().is_empty());
    }
    assert_eq!(keys.lock(&long, "t").unwrap_err().to_string(), "the lock's name is longer than 1024 bytes");
    assert!(keys.cache_value("r", &"x".repeat(MAX_NAME_LEN)).is_ok());
}

proptest! {
    #[test]
    fn different_pairs_have_different_keys(a in "[a}:{]{1,4}", b in "[a}:{]{1,4}", c in "[a}:{]{1,4}", d in "[a}:{]{1,4}") {
        let keys = keys();
        let same = (&a, &b) == (&c, &d);
        if let (Ok(one), Ok(other)) = (keys.cache_value(&a, &b), keys.cache_value(&c, &d)) {
            prop_assert_eq!(one == other, same);
        }
        if let (Ok(one), Ok(other)) = (keys.lock(&a, &b), keys.lock(&c, &d)) {
            prop_assert_eq!(one == other, same);
        }
        if let (Ok(one), Ok(other)) = (keys.cache_value(&a, &b), keys.cache_lease(&a, &b)) {
            prop_assert_eq!(one.slot(), other.slot());
        }
    }
}
