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

/// rumqttc reads in `frame`, and in what we make of `packet`, what we read: as far as it takes them.
fn judged(packet: &Packet, version: Version, frame: &[u8]) {
    let known = within_rumqttc(packet.clone());
    if known == *packet
        && let Some(back) = through_rumqttc(version, frame)
    {
        assert_eq!(decode_one(&back, version), *packet, "rumqttc read something else in {frame:?}");
    }
    let mut ours = BytesMut::new();
    encode(&known, version, &mut ours).expect("a part of what was decoded can be encoded");
    if let Some(back) = through_rumqttc(version, &ours) {
        assert_eq!(decode_one(&back, version), known, "rumqttc read something else in {ours:?}");
    }
}

fn decode_one(bytes: &BytesMut, version: Version) -> Packet {
    let mut bytes = bytes.clone();
    let packet = decode(&mut bytes, Some(version), MAX).expect("rumqttc writes valid packets");
    assert!(bytes.is_empty());
    packet.expect("rumqttc writes whole packets")
}

/// Through rumqttc and back; `None` if it does not take the packet.
pub(crate) fn through_rumqttc(version: Version, bytes: &[u8]) -> Option<BytesMut> {
    let mut stream = BytesMut::from(bytes);
    let mut out = BytesMut::new();
    match version {
        Version::V31 | Version::V311 => {
            let packet = v4::Packet::read(&mut stream, MAX as usize).ok()?;
            packet.write(&mut out, MAX as usize).ok()?;
        }
        Version::V5 => {
            let packet = v5::Packet::read(&mut stream, Some(MAX)).ok()?;
            packet.write(&mut out, Some(MAX)).ok()?;
        }
    }
    Some(out)
}

/// What rumqttc cannot say is taken out of `packet`, so that the rest is compared.
pub(crate) fn within_rumqttc(mut packet: Packet) -> Packet {
    match &mut packet {
        // It has a login or none, and takes an empty name and password for none.
        Packet::Connect(p)
            if p.username.as_deref().is_none_or(str::is_empty)
                || p.password.as_deref().is_none_or(<[u8]>::is_empty) =>
        {
            p.username = None;
            p.password = None;
        }
        // It counts a byte too many for each identifier it reads, and so loses the third.
        Packet::Publish(p) => p.subscription_ids.truncate(2),
        _ => {}
    }
    packet
}
