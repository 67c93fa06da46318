//! Replies, with their bytes shared and not copied. No conversion into the caller's types beyond the simple ones.

use bytes::Bytes;
use fred::types::{Resp3Frame, Value as FredValue};

/// A reply of Redis.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Nothing.
    Nil,
    /// An integer.
    Int(i64),
    /// A floating point number.
    Double(f64),
    /// A truth value.
    Bool(bool),
    /// A string of any kind; shares the buffer that it was received in.
    Bytes(Bytes),
    /// A list, a set or a push.
    Array(Vec<Value>),
    /// Pairs in the server's order.
    Map(Vec<(Value, Value)>),
    /// An error inside of a larger reply.
    Error(String),
}

/// Redis answered something else than the command promises.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Redis answered with {found} where {expected} was expected")]
#[non_exhaustive]
pub struct UnexpectedReply {
    /// What the caller asked for.
    pub expected: &'static str,
    /// What came, without its content.
    pub found: &'static str,
}

impl Value {
    /// Whether there is nothing.
    #[must_use]
    pub const fn is_nil(&self) -> bool {
        matches!(self, Self::Nil)
    }

    /// The integer, also from a string of digits.
    ///
    /// # Errors
    /// If it is none.
    pub fn as_int(&self) -> Result<i64, UnexpectedReply> {
        match self {
            Self::Int(value) => Ok(*value),
            Self::Bool(value) => Ok(i64::from(*value)),
            Self::Bytes(text) => {
                let parsed = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
                parsed.ok_or_else(|| self.unexpected("an integer"))
            }
            _ => Err(self.unexpected("an integer")),
        }
    }

    /// The string's bytes.
    ///
    /// # Errors
    /// If it is no string.
    pub fn as_bytes(&self) -> Result<&Bytes, UnexpectedReply> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(self.unexpected("a string")),
        }
    }

    /// The string, if it is UTF-8.
    ///
    /// # Errors
    /// If it is no string or no UTF-8.
    pub fn as_str(&self) -> Result<&str, UnexpectedReply> {
        std::str::from_utf8(self.as_bytes()?).map_err(|_| self.unexpected("UTF-8"))
    }

    /// The list.
    ///
    /// # Errors
    /// If it is none.
    pub fn as_array(&self) -> Result<&[Value], UnexpectedReply> {
        match self {
            Self::Array(values) => Ok(values),
            _ => Err(self.unexpected("a list")),
        }
    }

    /// The string's bytes, `None` for nil.
    ///
    /// # Errors
    /// If it is neither.
    pub fn into_bytes(self) -> Result<Option<Bytes>, UnexpectedReply> {
        match self {
            Self::Nil => Ok(None),
            Self::Bytes(bytes) => Ok(Some(bytes)),
            other => Err(other.unexpected("a string or nil")),
        }
    }

    /// The list's elements.
    ///
    /// # Errors
    /// If it is none.
    pub fn into_array(self) -> Result<Vec<Value>, UnexpectedReply> {
        match self {
            Self::Array(values) => Ok(values),
            other => Err(other.unexpected("a list")),
        }
    }

    /// The pairs, also from a flat list of even length (as scripts return them).
    ///
    /// # Errors
    /// If it is neither.
    pub fn into_pairs(self) -> Result<Vec<(Value, Value)>, UnexpectedReply> {
        match self {
            Self::Map(pairs) => Ok(pairs),
            Self::Array(values) if values.len() % 2 == 0 => {
                let mut values = values.into_iter();
                let mut pairs = Vec::with_capacity(values.len() / 2);
                while let (Some(key), Some(value)) = (values.next(), values.next()) {
                    pairs.push((key, value));
                }
                Ok(pairs)
            }
            other => Err(other.unexpected("a map")),
        }
    }

    /// An error that says what this is instead of `expected`.
    #[must_use]
    pub fn unexpected(&self, expected: &'static str) -> UnexpectedReply {
        let found = match self {
            Self::Nil => "nil",
            Self::Int(_) => "an integer",
            Self::Double(_) => "a number",
            Self::Bool(_) => "a truth value",
            Self::Bytes(_) => "a string",
            Self::Array(_) => "a list",
            Self::Map(_) => "a map",
            Self::Error(_) => "an error",
        };
        UnexpectedReply { expected, found }
    }

    /// Bytes of all strings in it.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Error(message) => message.len(),
            Self::Array(values) => values.iter().map(Self::size).sum(),
            Self::Map(pairs) => pairs.iter().map(|(key, value)| key.size() + value.size()).sum(),
            Self::Nil | Self::Int(_) | Self::Double(_) | Self::Bool(_) => 0,
        }
    }

    /// Takes over what the driver has converted already.
    pub(crate) fn from_driver(value: FredValue) -> Self {
        match value {
            FredValue::Boolean(value) => Self::Bool(value),
            FredValue::Integer(value) => Self::Int(value),
            FredValue::Double(value) => Self::Double(value),
            FredValue::String(text) => Self::Bytes(text.into_inner()),
            FredValue::Bytes(bytes) => Self::Bytes(bytes),
            FredValue::Null => Self::Nil,
            FredValue::Queued => Self::Bytes(Bytes::from_static(b"QUEUED")),
            FredValue::Map(map) => {
                let pair = |(key, value): (fred::types::Key, FredValue)| {
                    (Self::Bytes(key.into_bytes()), Self::from_driver(value))
                };
                Self::Map(map.inner().into_iter().map(pair).collect())
            }
            FredValue::Array(values) => Self::Array(values.into_iter().map(Self::from_driver).collect()),
        }
    }

    /// Takes over a frame; `Err` is the message of an error reply.
    pub(crate) fn from_frame(frame: Resp3Frame) -> Result<Self, String> {
        match Self::convert(frame) {
            Self::Error(message) => Err(message),
            value => Ok(value),
        }
    }

    fn convert(frame: Resp3Frame) -> Self {
        match frame {
            Resp3Frame::BlobString { data, .. }
            | Resp3Frame::SimpleString { data, .. }
            | Resp3Frame::BigNumber { data, .. }
            | Resp3Frame::VerbatimString { data, .. }
            | Resp3Frame::ChunkedString(data) => Self::Bytes(data),
            Resp3Frame::SimpleError { data, .. } => Self::Error(data.to_string()),
            Resp3Frame::BlobError { data, .. } => Self::Error(String::from_utf8_lossy(&data).into_owned()),
            Resp3Frame::Number { data, .. } => Self::Int(data),
            Resp3Frame::Double { data, .. } => Self::Double(data),
            Resp3Frame::Boolean { data, .. } => Self::Bool(data),
            Resp3Frame::Null => Self::Nil,
            Resp3Frame::Array { data, .. } | Resp3Frame::Push { data, .. } => {
                Self::Array(data.into_iter().map(Self::convert).collect())
            }
            Resp3Frame::Set { data, .. } => Self::Array(data.into_iter().map(Self::convert).collect()),
            Resp3Frame::Map { data, .. } => {
                Self::Map(data.into_iter().map(|(k, v)| (Self::convert(k), Self::convert(v))).collect())
            }
            // A reply to HELLO, which the driver consumes.
            Resp3Frame::Hello { .. } => Self::Nil,
        }
    }
}

#[cfg(test)]
mod tests;
