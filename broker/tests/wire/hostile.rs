//! Bytes from a peer who means no good, or whose memory is broken: refused with a reason, never a panic.

use bytes::BytesMut;
use headwater_broker::mqtt::codec::{encode, frame_len};
use headwater_broker::mqtt::packet::Version;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::generate;
use crate::judge::swallow;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in vec(any::<u8>(), 0..64), version in prop::option::of(generate::version())) {
        swallow(&bytes, version);
    }

    /// Most random bytes fail at the first field; these carry a header that fits.
    #[test]
    fn no_body_makes_the_decoder_panic(
        first in any::<u8>(),
        body in vec(prop_oneof![2 => 0..8_u8, 1 => any::<u8>()], 0..48),
        version in generate::version(),
    ) {
        let mut bytes = vec![first, u8::try_from(body.len()).expect("short")];
        bytes.extend_from_slice(&body);
        swallow(&bytes, Some(version));
    }

    #[test]
    fn a_packet_cut_short_is_refused(
        (version, packet) in generate::packet(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut whole = BytesMut::new();
        encode(&packet, version, &mut whole).expect("a valid packet");
        // The length is made to fit what is left, so that the packet is whole but its fields are not.
        let start = frame_len(&whole).expect("valid").map(|len| whole[1..].iter().position(|b| b & 0x80 == 0).map_or(len, |p| p + 2));
        let start = start.expect("whole");
        let body = &whole[start..start + cut.index(whole.len() - start + 1)];
        let mut bytes = vec![whole[0]];
        if body.len() < 128 {
            bytes.push(u8::try_from(body.len()).expect("checked"));
        } else {
            bytes.push(u8::try_from(body.len() % 128).expect("below 128") | 0x80);
            bytes.push(u8::try_from(body.len() / 128).expect("short packets"));
        }
        bytes.extend_from_slice(body);
        swallow(&bytes, Some(version));
    }

    #[test]
    fn a_packet_with_damaged_bytes_is_refused_or_still_valid(
        (version, packet) in generate::packet(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        seen in any::<bool>(),
    ) {
        let mut bytes = BytesMut::new();
        encode(&packet, version, &mut bytes).expect("a valid packet");
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        swallow(&bytes, Some(version).filter(|_| seen));
    }

    #[test]
    fn a_packet_read_in_the_other_version_does_not_panic((version, packet) in generate::packet()) {
        let mut bytes = BytesMut::new();
        encode(&packet, version, &mut bytes).expect("a valid packet");
        swallow(&bytes, Some(if version == Version::V5 { Version::V311 } else { Version::V5 }));
    }
}
