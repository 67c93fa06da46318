//! The bytes of one journal entry: format and kind, publisher, payload. No compression, no schema.

use super::PublisherId;
use bytes::{BufMut, Bytes, BytesMut};

const FORMAT: u8 = 0xA0;
const ENTRY: u8 = FORMAT | 1;
const HEARTBEAT: u8 = FORMAT | 2;
const HEADER: usize = 9;

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Entry { publisher: PublisherId, payload: Bytes },
    Heartbeat,
}

pub(crate) fn entry(publisher: PublisherId, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEADER + payload.len());
    frame.put_u8(ENTRY);
    frame.put_u64(publisher.0);
    frame.put_slice(payload);
    frame.freeze()
}

pub(crate) fn heartbeat(publisher: PublisherId) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEADER);
    frame.put_u8(HEARTBEAT);
    frame.put_u64(publisher.0);
    frame.freeze()
}

/// `None` for what this version cannot read; the reader reports that as a gap.
pub(crate) fn decode(frame: &Bytes) -> Option<Frame> {
    let publisher = PublisherId(u64::from_be_bytes(frame.get(1..HEADER)?.try_into().ok()?));
    match *frame.first()? {
        ENTRY => Some(Frame::Entry { publisher, payload: frame.slice(HEADER..) }),
        HEARTBEAT => Some(Frame::Heartbeat),
        _ => None,
    }
}
