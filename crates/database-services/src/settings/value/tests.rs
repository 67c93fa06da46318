//! How the texts of each kind are read.

use std::time::Duration;

use proptest::prelude::*;

use super::{Kind, Parsed, format_duration};

const ANY: Kind = Kind::Duration(0, u64::MAX);

#[test]
fn time_spans() {
    for (text, ms) in [
        ("5", 5_000),
        ("0.25", 250),
        ("500ms", 500),
        ("5s", 5_000),
        ("2m", 120_000),
        ("1m30s", 90_000),
        ("1 h", 3_600_000),
        ("1d", 86_400_000),
        ("1.5h", 5_400_000),
        ("0", 0),
    ] {
        assert_eq!(ANY.parse(text), Ok(Parsed::Duration(Duration::from_millis(ms))), "{text}");
    }
    for text in ["", "s", "5x", "-5", "5s5", "1e400", "nan", "5 seconds", "ms"] {
        assert!(ANY.parse(text).is_err(), "{text}");
    }
}

#[test]
fn sizes() {
    let kind = Kind::Bytes(1, 1 << 40);
    for (text, bytes) in
        [("65536", 65_536), ("64KiB", 65_536), ("1 mib", 1 << 20), ("2GB", 2_000_000_000), ("7b", 7)]
    {
        assert_eq!(kind.parse(text), Ok(Parsed::Int(bytes)), "{text}");
    }
    for text in ["", "KiB", "1.5MiB", "1TB", "99999999999GiB", "0"] {
        assert!(kind.parse(text).is_err(), "{text}");
    }
}

#[test]
fn booleans_numbers_words_lists() {
    for (text, b) in [
        ("true", true),
        ("YES", true),
        ("On", true),
        ("1", true),
        ("false", false),
        ("off", false),
        ("0", false),
    ] {
        assert_eq!(Kind::Bool.parse(text), Ok(Parsed::Bool(b)));
    }
    assert!(Kind::Bool.parse("2").is_err());
    assert_eq!(Kind::Int(1, 10_000).parse(" 1_000 "), Ok(Parsed::Int(1_000)));
    assert!(Kind::Int(1, 10).parse("-1").is_err() && Kind::Int(1, 10).parse("11").is_err());
    assert!(Kind::Float(0.0, 1.0).parse("NaN").is_err() && Kind::Float(0.0, 1.0).parse("1.01").is_err());
    assert_eq!(Kind::Choice(&["verify-full"]).parse("VERIFY_FULL"), Ok(Parsed::Text("verify-full".into())));
    assert_eq!(Kind::List.parse("a, b,,c "), Ok(Parsed::List(vec!["a".into(), "b".into(), "c".into()])));
}

proptest! {
    #[test]
    fn formatted_time_spans_read_back(ms in 0_u64..10_000_000_000) {
        let span = Duration::from_millis(ms);
        prop_assert_eq!(ANY.parse(&format_duration(span)), Ok(Parsed::Duration(span)));
    }

    #[test]
    fn no_text_makes_a_kind_panic(text in ".{0,40}") {
        for kind in [ANY, Kind::Bool, Kind::Int(0, 9), Kind::Float(0.0, 9.0), Kind::Bytes(0, 9), Kind::List, Kind::Link] {
            let _ = kind.parse(&text);
        }
    }
}
