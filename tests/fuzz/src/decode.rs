//! The packet decoder: any stream of bytes, in every protocol version, beside rumqttc's. And the stored form of properties.

use bytes::Bytes;
use headwater_broker::mqtt::packet::Version;
use headwater_broker::mqtt::properties::{decode_stored, encode_stored};

use crate::judge::swallow;

/// The first byte says in which version the connection is; then what the peer sends.
pub fn check(data: &[u8]) {
    let Some((mode, stream)) = data.split_first() else { return };
    let version = match mode % 5 {
        0 => None,
        1 => Some(Version::V31),
        2 => Some(Version::V311),
        3 => Some(Version::V5),
        _ => return stored(stream),
    };
    let taken = swallow(stream, version);
    assert!(taken <= stream.len() / 2, "no packet is shorter than two bytes");
}

fn stored(bytes: &[u8]) {
    let Ok(properties) = decode_stored(&Bytes::copy_from_slice(bytes)) else { return };
    let mut out = Vec::new();
    encode_stored(&properties, &mut out).expect("came from stored bytes");
    assert_eq!(decode_stored(&Bytes::from(out)), Ok(properties));
}
