//! Conversions of replies.

use super::*;

fn text(text: &str) -> Value {
    Value::Bytes(Bytes::copy_from_slice(text.as_bytes()))
}

#[test]
fn integers_come_as_integers_and_as_digits() {
    assert_eq!(Value::Int(-7).as_int(), Ok(-7));
    assert_eq!(text("42").as_int(), Ok(42));
    assert_eq!(Value::Bool(true).as_int(), Ok(1));
    let error = text("x").as_int().unwrap_err();
    assert_eq!(error.to_string(), "Redis answered with a string where an integer was expected");
}

#[test]
fn nothing_is_not_an_empty_string() {
    assert_eq!(Value::Nil.into_bytes(), Ok(None));
    assert_eq!(text("").into_bytes(), Ok(Some(Bytes::new())));
    assert!(Value::Int(1).into_bytes().is_err());
    assert!(Value::Nil.is_nil() && !text("").is_nil());
}

#[test]
fn pairs_come_as_maps_and_as_flat_lists() {
    let pairs = vec![(text("a"), Value::Int(1)), (text("b"), Value::Int(2))];
    assert_eq!(Value::Map(pairs.clone()).into_pairs(), Ok(pairs.clone()));
    let flat = vec![text("a"), Value::Int(1), text("b"), Value::Int(2)];
    assert_eq!(Value::Array(flat).into_pairs(), Ok(pairs));
    assert!(Value::Array(vec![Value::Nil]).into_pairs().is_err());
}

#[test]
fn an_error_is_an_error_only_at_the_top() {
    let error = || Resp3Frame::SimpleError { data: "ERR no".into(), attributes: None };
    assert_eq!(Value::from_frame(error()), Err("ERR no".to_owned()));
    let inside = Resp3Frame::Array { data: vec![error()], attributes: None };
    assert_eq!(Value::from_frame(inside), Ok(Value::Array(vec![Value::Error("ERR no".to_owned())])));
}

#[test]
fn strings_share_the_buffer() {
    let buffer = Bytes::from_static(b"shared");
    let frame = Resp3Frame::BlobString { data: buffer.clone(), attributes: None };
    let value = Value::from_frame(frame).unwrap().into_bytes().unwrap().unwrap();
    assert_eq!(value.as_ptr(), buffer.as_ptr());
}
