//! Names, patterns, and that the glob never misses what the filter wants.

use super::*;
use proptest::prelude::*;

#[test]
fn names() {
    for good in ["a", "orders.created", "a.b.c-d_e:f", "ünïcode.ok", "a[b]?"] {
        assert!(Subject::new(good).is_ok(), "{good}");
    }
    for bad in ["", ".", "a.", ".a", "a..b", "a b", "a\n", "a.*", "a.>", "a*b", &"x".repeat(256)] {
        assert!(matches!(Subject::new(bad), Err(Error::InvalidSubject { .. })), "{bad}");
    }
}

#[test]
fn patterns() {
    for bad in ["", "a.b*", ">.a", "a.>.b", "a>"] {
        assert!(Filter::new(bad).is_err(), "{bad}");
    }
    let cases = [
        ("orders.*", "orders.created", true),
        ("orders.*", "orders.created.eu", false),
        ("orders.*", "orders", false),
        ("orders.>", "orders.created", true),
        ("orders.>", "orders.created.eu", true),
        ("orders.>", "orders", false),
        ("*.created", "orders.created", true),
        ("*.created", "created", false),
        ("*", "a", true),
        ("*", "a.b", false),
        (">", "a.b.c", true),
        ("a.b", "a.b", true),
        ("a.b", "a.bc", false),
    ];
    for (pattern, subject, expected) in cases {
        assert_eq!(Filter::new(pattern).unwrap().matches(subject), expected, "{pattern} over {subject}");
    }
}

/// The store's glob language, as far as [`Filter::glob`] uses it.
fn glob_matches(glob: &[u8], text: &[u8]) -> bool {
    match (glob.first(), text.first()) {
        (None, None) => true,
        (Some(b'*'), _) => {
            glob_matches(&glob[1..], text) || (!text.is_empty() && glob_matches(glob, &text[1..]))
        }
        (Some(b'\\'), Some(c)) => glob.get(1) == Some(c) && glob_matches(&glob[2..], &text[1..]),
        (Some(g), Some(c)) => g == c && glob_matches(&glob[1..], &text[1..]),
        _ => false,
    }
}

proptest! {
    #[test]
    fn the_glob_covers_the_filter(
        pattern in r"([ab?\[\]^\\]{1,2}|\*)(\.([ab?\[]{1,2}|\*)){0,3}(\.>)?",
        subject in r"[ab?\[\]^\\]{1,2}(\.[ab?\[]{1,2}){0,4}",
    ) {
        let filter = Filter::new(&pattern).unwrap();
        if filter.matches(&subject) {
            prop_assert!(glob_matches(filter.glob().as_bytes(), subject.as_bytes()), "{} over {subject}", filter.glob());
        }
    }
}
