//! The envelope around every message: a fixed binary header of 64 bytes, then the payload; several may follow one
//! another in one frame. It does not look into payloads.

use crate::{Codec, PublisherId, TraceContext};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::fmt;

/// Size of the header in bytes.
pub const HEADER_BYTES: usize = 64;
const MAGIC: u16 = 0xDB53;
const FORMAT: u8 = 1;

/// What names one message for ever: who, which of its counters, which number.
///
/// A publisher counts per channel, and each counter has an `epoch` of its own within the publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId {
    /// The publishing manager.
    pub publisher: PublisherId,
    /// The counter.
    pub epoch: u32,
    /// The number: 1, 2, 3 …
    pub sequence: u64,
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.publisher, self.epoch, self.sequence)
    }
}

/// What an envelope is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A message.
    Message,
    /// "My last number is this one": told every second, without payload.
    Announcement,
    /// The same for the last time: the counter ends.
    Farewell,
    /// A message that asks for an answer: eight bytes that the answer repeats stand before the payload.
    Request,
    /// The answer: the eight bytes and one for how it went stand before the payload.
    Reply,
}

impl Kind {
    /// Whether it carries something for subscribers.
    pub(crate) const fn is_message(self) -> bool {
        matches!(self, Self::Message | Self::Request)
    }
}

/// The header of one envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) codec: Codec,
    pub(crate) id: MessageId,
    /// Microseconds since 1970 by the publisher's clock.
    pub(crate) published_at: u64,
    pub(crate) trace: Option<TraceContext>,
}

/// Appends one envelope to a frame.
pub(crate) fn encode(frame: &mut BytesMut, header: &Header, payload: &[u8]) {
    frame.reserve(HEADER_BYTES + payload.len());
    frame.put_u16(MAGIC);
    frame.put_u8(FORMAT);
    frame.put_u8(match header.kind {
        Kind::Message => 1,
        Kind::Announcement => 2,
        Kind::Farewell => 3,
        Kind::Request => 4,
        Kind::Reply => 5,
    });
    frame.put_u8(header.codec.wire());
    let trace = header.trace.unwrap_or(TraceContext { trace_id: [0; 16], span_id: [0; 8], sampled: false });
    frame.put_u8(u8::from(header.trace.is_some()) | (u8::from(trace.sampled) << 1));
    frame.put_u16(0);
    frame.put_u64(header.id.publisher.0);
    frame.put_u32(header.id.epoch);
    frame.put_u64(header.id.sequence);
    frame.put_u64(header.published_at);
    // Bounded by the configured message size, far below 4 GiB.
    frame.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
    frame.put_slice(&trace.trace_id);
    frame.put_slice(&trace.span_id);
    frame.put_slice(payload);
}

/// A frame that is not ours, is cut short, or is of a format this version cannot read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

/// Takes the next envelope off a frame; `None` at its end.
pub(crate) fn decode(frame: &mut Bytes) -> Option<Result<(Header, Bytes), Unreadable>> {
    if frame.is_empty() {
        return None;
    }
    let envelope = decode_one(frame);
    if envelope.is_none() {
        frame.clear();
    }
    Some(envelope.ok_or(Unreadable))
}

fn decode_one(frame: &mut Bytes) -> Option<(Header, Bytes)> {
    if frame.len() < HEADER_BYTES {
        return None;
    }
    let mut header = frame.split_to(HEADER_BYTES);
    if (header.get_u16(), header.get_u8()) != (MAGIC, FORMAT) {
        return None;
    }
    let kind = match header.get_u8() {
        1 => Kind::Message,
        2 => Kind::Announcement,
        3 => Kind::Farewell,
        4 => Kind::Request,
        5 => Kind::Reply,
        _ => return None,
    };
    let codec = Codec::from_wire(header.get_u8())?;
    let flags = header.get_u8();
    header.advance(2);
    let publisher = PublisherId(header.get_u64());
    let id = MessageId { publisher, epoch: header.get_u32(), sequence: header.get_u64() };
    let published_at = header.get_u64();
    let length = usize::try_from(header.get_u32()).ok()?;
    let mut trace = TraceContext { trace_id: [0; 16], span_id: [0; 8], sampled: flags & 2 != 0 };
    header.copy_to_slice(&mut trace.trace_id);
    header.copy_to_slice(&mut trace.span_id);
    let trace = (flags & 1 != 0).then_some(trace);
    if frame.len() < length {
        return None;
    }
    Some((Header { kind, codec, id, published_at, trace }, frame.split_to(length)))
}

#[cfg(test)]
mod tests;
