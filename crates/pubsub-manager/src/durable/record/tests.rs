//! Records survive being bytes; what is cut short or foreign is not read.

use super::*;
use proptest::prelude::*;

fn record(payload: Vec<u8>, micros: u64, trace: Option<bool>) -> DurableRecord {
    DurableRecord {
        id: Uuid::from_u128(u128::from(micros) << 7 | 5),
        codec: Codec::Json,
        published_at: UNIX_EPOCH + Duration::from_micros(micros),
        trace: trace.map(|sampled| TraceContext { trace_id: [7; 16], span_id: [9; 8], sampled }),
        payload: payload.into(),
    }
}

proptest! {
    #[test]
    fn bytes_and_back(payload: Vec<u8>, micros in 0..u64::MAX / 4, trace: Option<bool>) {
        let record = record(payload, micros, trace);
        prop_assert_eq!(DurableRecord::from_bytes(record.to_bytes()), Some(record));
    }

    #[test]
    fn anything_else_is_none_or_a_record(bytes: Vec<u8>) {
        let short = bytes.len() < HEADER;
        let read = DurableRecord::from_bytes(bytes.into());
        prop_assert!(!short || read.is_none());
    }
}

#[test]
fn another_format_is_not_read() {
    let mut bytes = record(vec![1], 1, None).to_bytes().to_vec();
    bytes[0] = FORMAT + 1;
    assert_eq!(DurableRecord::from_bytes(bytes.into()), None);
}
