//! What holds for any bytes at all, with another implementation as a judge. Shared with the fuzz targets (`tests/fuzz`),
//! which include this file.

use bytes::{Bytes, BytesMut};
use headwater_broker::mqtt::codec::{connect_version, decode, encode, encoded_len, frame_len};
use headwater_broker::mqtt::packet::{Packet, Version};
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;

/// Largest packet here.
pub(crate) const MAX: u32 = 1 << 20;

/// Decodes until nothing more comes. Whatever was accepted must be what it says: encoded again, it decodes to itself, and
/// rumqttc reads the same, if it takes it. Tells how many packets were taken.
pub(crate) fn swallow(bytes: &[u8], version: Option<Version>) -> usize {
    let mut buf = BytesMut::from(bytes);
    let _ = connect_version(&buf); // only that it does not panic
    let (mut version, mut taken) = (version, 0);
    loop {
        let before = buf.clone().freeze();
        match decode(&mut buf, version, MAX) {
            Ok(Some(packet)) => {
                assert!(buf.len() < before.len(), "a packet takes bytes");
                let frame = before.slice(..before.len() - buf.len());
                assert_eq!(frame_len(&frame), Ok(Some(frame.len())));
                waits_for_the_whole(&frame, version);
                if let Packet::Connect(connect) = &packet {
                    version = Some(connect.version);
                }
                let version = version.expect("a CONNECT came first");
                again(&packet, version);
                judged(&packet, version, &frame);
                taken += 1;
            }
            Ok(None) => {
                assert_eq!(buf, before, "nothing is taken before a packet is whole");
                return taken;
            }
            Err(error) => {
                assert!(error.reason.is_failure(), "{error}");
                return taken;
            }
        }
    }
}

fn waits_for_the_whole(frame: &Bytes, version: Option<Version>) {
    for len in [1, frame.len() / 2, frame.len() - 1] {
        assert_eq!(decode(&mut BytesMut::from(&frame[..len]), version, MAX), Ok(None));
    }
}

fn again(packet: &Packet, version: Version) {
    let mut buf = BytesMut::new();
    encode(packet, version, &mut buf).expect("what was decoded can be encoded");
    assert_eq!(encoded_len(packet, version), Ok(buf.len()));
    assert_eq!(decode(&mut buf, Some(version), MAX).as_ref(), Ok(&Some(packet.clone())));
    assert!(buf.is_empty());
}

/// rumqttc reads in what we make of `packet` what it reads in `frame`, which we read it from. Where they are not of one length, we have
/// left something out that means nothing: a default, or what is for people only.
fn judged(packet: &Packet, version: Version, frame: &[u8]) {
    let mut ours = BytesMut::new();
    encode(packet, version, &mut ours).expect("what was decoded can be encoded");
    // It counts a byte too many for each identifier that it reads, and so loses what follows.
    let miscounted = matches!(packet, Packet::Publish(p) if !p.subscription_ids.is_empty());
    if ours.len() != frame.len() || miscounted {
        return;
    }
    let frame = BytesMut::from(frame);
    match version {
        Version::V31 | Version::V311 => {
            let read = |mut bytes: BytesMut| v4::Packet::read(&mut bytes, MAX as usize).ok();
            assert_eq!(read(ours), read(frame), "we read {packet:?}");
        }
        Version::V5 => {
            let read = |mut bytes: BytesMut| v5::Packet::read(&mut bytes, Some(MAX)).ok();
            assert_eq!(read(ours), read(frame), "we read {packet:?}");
        }
    }
}
