//! What is stored: a message, how many of them a channel keeps, and the bytes of one for stores that keep bytes.

use crate::{Codec, Error, TraceContext};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// How much a channel keeps. Set by whoever appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DurableLimits {
    /// Messages that a channel may hold, give or take a hundred. What a group has not acknowledged is never removed, so a
    /// publish beyond it answers [`Error::Full`](crate::Error::Full) with the slowest group. Default 1,000,000.
    pub max_len: u64,
    /// Messages kept, for replays and for groups that come later, although every group has acknowledged them; fewer where
    /// `max_len` leaves no room for them. Default 10,000.
    pub keep_len: u64,
    /// For how long they are kept at most, by the store's clock. Default 24 hours.
    pub keep_for: Duration,
}

impl Default for DurableLimits {
    fn default() -> Self {
        Self { max_len: 1_000_000, keep_len: 10_000, keep_for: Duration::from_secs(24 * 3600) }
    }
}

/// A message as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DurableRecord {
    /// Names the message for ever, also when it is published or delivered again: what handlers recognise a repetition by.
    pub id: Uuid,
    /// Encoding of the payload.
    pub codec: Codec,
    /// When it was first published, by the publisher's clock.
    pub published_at: SystemTime,
    /// The publisher's trace context.
    pub trace: Option<TraceContext>,
    /// The encoded value.
    pub payload: Bytes,
}

const FORMAT: u8 = 1;
/// Format, codec, flags, id, time, trace id, span id.
const HEADER: usize = 3 + 16 + 8 + 16 + 8;

impl DurableRecord {
    /// The value, for whoever looks at records themselves.
    ///
    /// # Errors
    /// [`Error::Decode`]: it is no `T`.
    pub fn value<T: DeserializeOwned>(&self) -> Result<T, Error> {
        self.codec.decode(&self.payload).ok_or(Error::Decode { codec: self.codec.name() })
    }

    /// The record as bytes: a header of 51 and the payload.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(HEADER + self.payload.len());
        let trace = self.trace.unwrap_or(TraceContext { trace_id: [0; 16], span_id: [0; 8], sampled: false });
        bytes.put_u8(FORMAT);
        bytes.put_u8(self.codec.wire());
        bytes.put_u8(u8::from(self.trace.is_some()) | (u8::from(trace.sampled) << 1));
        bytes.put_slice(self.id.as_bytes());
        let at = self.published_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        bytes.put_u64(u64::try_from(at.as_micros()).unwrap_or(u64::MAX));
        bytes.put_slice(&trace.trace_id);
        bytes.put_slice(&trace.span_id);
        bytes.put_slice(&self.payload);
        bytes.freeze()
    }

    /// The reverse of [`to_bytes`](Self::to_bytes); `None` for what this version cannot read.
    #[must_use]
    pub fn from_bytes(mut bytes: Bytes) -> Option<Self> {
        if bytes.len() < HEADER || bytes.get_u8() != FORMAT {
            return None;
        }
        let codec = Codec::from_wire(bytes.get_u8())?;
        let flags = bytes.get_u8();
        let mut id = [0; 16];
        bytes.copy_to_slice(&mut id);
        let published_at = UNIX_EPOCH.checked_add(Duration::from_micros(bytes.get_u64()))?;
        let mut trace = TraceContext { trace_id: [0; 16], span_id: [0; 8], sampled: flags & 2 != 0 };
        bytes.copy_to_slice(&mut trace.trace_id);
        bytes.copy_to_slice(&mut trace.span_id);
        let trace = (flags & 1 != 0).then_some(trace);
        Some(Self { id: Uuid::from_bytes(id), codec, published_at, trace, payload: bytes })
    }
}

#[cfg(test)]
mod tests;
