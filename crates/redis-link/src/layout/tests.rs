//! Layouts as servers describe them.

use super::*;
use bytes::Bytes;

fn text(text: &str) -> Value {
    Value::Bytes(Bytes::copy_from_slice(text.as_bytes()))
}

fn node(host: Value, port: i64) -> Value {
    Value::Array(vec![host, Value::Int(port), text("id"), Value::Array(Vec::new())])
}

fn range(first: i64, last: i64, nodes: &[Value]) -> Value {
    Value::Array([&[Value::Int(first), Value::Int(last)], nodes].concat())
}

#[test]
fn ranges_in_any_order_make_one_table() {
    let asked = Endpoint::new("10.0.0.9", 1);
    let reply = Value::Array(vec![
        range(8000, 16_383, &[node(text("10.0.0.2"), 2), node(text("10.0.0.4"), 4)]),
        range(0, 99, &[node(Value::Nil, 1), node(text("10.0.0.3"), 3)]),
        range(200, 7999, &[node(text(""), 1), node(text("10.0.0.3"), 3)]),
    ]);
    let layout = Layout::of_cluster(&reply, &asked).expect("a layout");
    assert_eq!(layout.masters, [Endpoint::new("10.0.0.9", 1), Endpoint::new("10.0.0.2", 2)]);
    assert_eq!(layout.replicas.len(), 2);
    let table = layout.slots.as_ref().expect("a cluster");
    assert_eq!(
        [0, 99, 100, 199, 200, 8000].map(|slot| table.owner(slot)),
        [Some(0), Some(0), None, None, Some(0), Some(1)]
    );
    assert_eq!(layout.uncovered(), Some((100, 100)));
    assert_eq!(layout.slots_of(0).count(), 100 + 7800);
}

#[test]
fn nonsense_is_an_error() {
    let asked = Endpoint::new("h", 1);
    for reply in [
        Value::Nil,
        Value::Array(vec![Value::Int(1)]),
        Value::Array(vec![range(0, 20_000, &[node(text("h"), 1)])]),
        Value::Array(vec![range(0, 1, &[node(text("h"), 100_000)])]),
        Value::Array(vec![range(0, 1, &[])]),
    ] {
        assert!(Layout::of_cluster(&reply, &asked).is_err(), "{reply:?}");
    }
    let empty = Layout::of_cluster(&Value::Array(Vec::new()), &asked).expect("a layout");
    assert_eq!(empty.uncovered(), Some((SLOTS, 0)));
}
