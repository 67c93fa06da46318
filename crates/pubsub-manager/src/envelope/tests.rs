//! What is written is read back; what is broken is said to be, without a panic.

use super::*;
use proptest::prelude::*;

fn headers() -> impl Strategy<Value = Header> {
    let kind = prop_oneof![Just(Kind::Message), Just(Kind::Announcement), Just(Kind::Farewell)];
    let codec = prop_oneof![Just(Codec::MessagePack), Just(Codec::Json)];
    let trace = prop::option::of((any::<[u8; 16]>(), any::<[u8; 8]>(), any::<bool>()));
    (kind, codec, any::<(u64, u32, u64, u64)>(), trace).prop_map(
        |(kind, codec, (publisher, epoch, sequence, at), trace)| Header {
            kind,
            codec,
            id: MessageId { publisher: PublisherId(publisher), epoch, sequence },
            published_at: at,
            trace: trace.map(|(trace_id, span_id, sampled)| TraceContext { trace_id, span_id, sampled }),
        },
    )
}

proptest! {
    #[test]
    fn round_trip(envelopes in prop::collection::vec((headers(), prop::collection::vec(any::<u8>(), 0..200)), 1..5)) {
        let mut frame = BytesMut::new();
        for (header, payload) in &envelopes {
            encode(&mut frame, header, payload);
        }
        let mut frame = frame.freeze();
        for (header, payload) in &envelopes {
            let (read, body) = decode(&mut frame).expect("another").expect("readable");
            prop_assert_eq!(&read, header);
            prop_assert_eq!(&body[..], &payload[..]);
        }
        prop_assert!(decode(&mut frame).is_none());
    }

    #[test]
    fn garbage_is_said_to_be(bytes in prop::collection::vec(any::<u8>(), 1..300)) {
        let mut frame = Bytes::from(bytes);
        while let Some(read) = decode(&mut frame) {
            if read.is_err() { prop_assert!(frame.is_empty()); }
        }
    }

    #[test]
    fn a_cut_frame_is_said_to_be(header in headers(), payload in prop::collection::vec(any::<u8>(), 1..100), keep in 0.0f64..1.0) {
        let mut frame = BytesMut::new();
        encode(&mut frame, &header, &payload);
        let keep = ((frame.len() - 1) as f64 * keep) as usize + 1;
        let mut frame = frame.freeze().slice(..keep.min(HEADER_BYTES + payload.len() - 1));
        prop_assert_eq!(decode(&mut frame), Some(Err(Unreadable)));
        prop_assert_eq!(decode(&mut frame), None);
    }
}
