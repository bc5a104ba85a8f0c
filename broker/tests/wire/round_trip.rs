//! What is encoded is decoded to the same, whole or in pieces, and is as long as was said.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use headwater_broker::mqtt::codec::{
    EncodeError, PublishRef, decode, encode, encode_publish, encode_publish_head, encode_publish_within, encoded_len,
    fit, frame_len,
};
use headwater_broker::mqtt::packet::*;
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use crate::generate;

pub(crate) const MAX: u32 = 268_435_460;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn every_packet_is_decoded_as_it_was_encoded((version, packet) in generate::packet()) {
        let mut buf = BytesMut::new();
        encode(&packet, version, &mut buf).expect("a valid packet");
        prop_assert_eq!(encoded_len(&packet, version), Ok(buf.len()));
        prop_assert_eq!(frame_len(&buf), Ok(Some(buf.len())));
        let decoded = decode(&mut buf, Some(version), MAX);
        prop_assert_eq!(decoded, Ok(Some(packet)));
        prop_assert!(buf.is_empty());
    }

    /// Two packets, cut anywhere: the first is given as soon as it is there, never earlier, and the second is left alone.
    #[test]
    fn packets_are_found_in_a_stream_cut_anywhere(
        (version, first) in generate::packet(),
        (cut, tail) in (any::<prop::sample::Index>(), any::<u8>()),
    ) {
        let mut whole = BytesMut::new();
        encode(&first, version, &mut whole).expect("a valid packet");
        let len = whole.len();
        let cut = cut.index(len);
        let mut buf = BytesMut::from(&whole[..cut]);
        prop_assert_eq!(decode(&mut buf, Some(version), MAX), Ok(None));
        prop_assert_eq!(&buf[..], &whole[..cut], "an incomplete packet stays as it is");
        prop_assert!(frame_len(&buf).expect("valid so far").is_none_or(|known| known == len));
        buf.extend_from_slice(&whole[cut..]);
        buf.extend_from_slice(&[tail]);
        prop_assert_eq!(decode(&mut buf, Some(version), MAX), Ok(Some(first)));
        prop_assert_eq!(&buf[..], &[tail]);
    }

    /// [MQTT-3.1.2-24] The limit counts the whole packet.
    #[test]
    fn the_limit_on_packets_counts_every_byte((version, packet) in generate::packet()) {
        let mut buf = BytesMut::new();
        encode(&packet, version, &mut buf).expect("a valid packet");
        let len = u32::try_from(buf.len()).expect("small");
        prop_assert!(decode(&mut buf.clone(), Some(version), len - 1).is_err());
        prop_assert!(decode(&mut buf, Some(version), len).is_ok());
    }

    #[test]
    fn a_publish_head_and_its_payload_are_the_publish(publish in generate::publish(Version::V5)) {
        let mut whole = BytesMut::new();
        encode(&Packet::Publish(publish.clone()), Version::V5, &mut whole).expect("a valid packet");
        let mut parts = BytesMut::new();
        encode_publish_head(&publish.as_parts(), Version::V5, &mut parts).expect("a valid packet");
        parts.extend_from_slice(&publish.payload);
        prop_assert_eq!(&parts, &whole);
        let mut within = BytesMut::new();
        let len = whole.len();
        prop_assert_eq!(encode_publish_within(&publish.as_parts(), Version::V5, len - 1, &mut within), Ok(false));
        prop_assert!(within.is_empty());
        prop_assert_eq!(encode_publish_within(&publish.as_parts(), Version::V5, len, &mut within), Ok(true));
        prop_assert_eq!(within, whole);
    }

    /// [MQTT-3.2.2-19] [MQTT-3.2.2-20] [MQTT-3.4.2-2] [MQTT-3.4.2-3] [MQTT-3.5.2-2] [MQTT-3.5.2-3] [MQTT-3.6.2-2]
    /// [MQTT-3.6.2-3] [MQTT-3.7.2-2] [MQTT-3.7.2-3] [MQTT-3.9.2-1] [MQTT-3.11.2-1] [MQTT-3.14.2-3] [MQTT-3.14.2-4]
    #[test]
    fn what_is_only_for_people_is_dropped_to_fit(packet in generate::packet_of(Version::V5), max in 0..200_u32) {
        let before = encoded_len(&packet, Version::V5).expect("a valid packet");
        let mut fitted = packet.clone();
        let fits = fit(&mut fitted, Version::V5, max).expect("a valid packet");
        let after = encoded_len(&fitted, Version::V5).expect("a valid packet");
        prop_assert_eq!(fits, after <= max as usize);
        if before <= max as usize {
            prop_assert_eq!(fitted, packet);
        } else if fits {
            prop_assert_eq!(bare(fitted), bare(packet));
        }
    }
}

/// Without what may be dropped.
fn bare(mut packet: Packet) -> Packet {
    match &mut packet {
        Packet::ConnAck(p) => {
            p.properties.user.clear();
            p.properties.reason_string = None;
        }
        Packet::PubAck(p) | Packet::PubRec(p) | Packet::PubRel(p) | Packet::PubComp(p) => {
            p.user.clear();
            p.reason_string = None;
        }
        Packet::SubAck(p) => p.reason_string = None,
        Packet::UnsubAck(p) => p.reason_string = None,
        Packet::Disconnect(p) => {
            p.user.clear();
            p.reason_string = None;
        }
        Packet::Auth(p) => {
            p.user.clear();
            p.reason_string = None;
        }
        _ => {}
    }
    packet
}

/// Sizes at which the remaining length takes one byte more (table 2-1).
#[test]
fn remaining_lengths_around_every_boundary_survive() {
    for boundary in [0x7F, 0x80, 0x3FFF, 0x4000, 0x1F_FFFF, 0x20_0000_usize] {
        for version in [Version::V311, Version::V5] {
            let overhead = if version == Version::V5 { 4 } else { 3 };
            let publish = Publish {
                dup: false,
                qos: QoS::AtMostOnce,
                retain: false,
                topic: Some("t".parse().expect("valid")),
                packet_id: None,
                topic_alias: None,
                subscription_ids: Vec::new(),
                properties: None,
                payload: Bytes::from(vec![7; boundary - overhead]),
            };
            let mut buf = BytesMut::new();
            encode(&Packet::Publish(publish.clone()), version, &mut buf).expect("a valid packet");
            let header = 1 + boundary.ilog2() as usize / 7 + 1;
            assert_eq!(buf.len(), header + boundary);
            assert_eq!(decode(&mut buf, Some(version), MAX), Ok(Some(Packet::Publish(publish))));
        }
    }
}

/// What the properties here are worth: each kind of packet in each version, and each field of MQTT 5 both there and not, is made.
#[test]
fn every_packet_and_every_property_is_made() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut kinds = BTreeMap::<Version, BTreeSet<String>>::new();
    let mut fields = BTreeMap::<String, BTreeSet<&str>>::new();
    for _ in 0..6_000 {
        let (version, packet) = generate::packet().new_tree(&mut runner).expect("no filter is that strict").current();
        let text = format!("{packet:?}");
        let kind = text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned();
        kinds.entry(version).or_default().insert(kind.clone());
        if version == Version::V5 {
            let words = text.split([' ', '{', '(', ',', ')', '}', '[']).filter(|word| !word.is_empty());
            let words: Vec<&str> = words.collect();
            for pair in words.windows(2) {
                let value = ["None", "Some", "true", "false"].into_iter().find(|value| *value == pair[1]);
                if let (Some(name), Some(value)) = (pair[0].strip_suffix(':'), value)
                    && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
                {
                    fields.entry(format!("{kind} {name}")).or_default().insert(value);
                }
            }
        }
    }
    let made: Vec<usize> = kinds.values().map(BTreeSet::len).collect();
    assert_eq!((kinds.len(), made), (3, vec![14, 14, 15]), "{kinds:?}");
    assert!(fields.len() > 50, "{fields:#?}");
    let one_sided: Vec<_> = fields.iter().filter(|(_, values)| values.len() < 2).collect();
    assert!(one_sided.is_empty(), "always or never there: {one_sided:?}");
}

/// A slow connection must not copy what it reads: topic and payload lie in the read buffer.
#[test]
fn topic_and_payload_are_slices_of_the_read_buffer() {
    let mut buf = BytesMut::from(&b"\x30\x08\x00\x03a/bhi!"[..]);
    let range = buf.as_ptr_range();
    let Ok(Some(Packet::Publish(publish))) = decode(&mut buf, Some(Version::V311), MAX) else {
        panic!("a valid PUBLISH was refused")
    };
    let topic = publish.topic.expect("has a topic");
    assert_eq!((topic.as_str(), &publish.payload[..]), ("a/b", &b"hi!"[..]));
    assert!(range.contains(&topic.as_bytes().as_ptr()));
    assert!(range.contains(&publish.payload.as_ptr()));
}

fn publish(qos: QoS, packet_id: Option<u16>) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some("t".parse().expect("valid")),
        packet_id: packet_id.and_then(PacketId::new),
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: None,
        payload: Bytes::from_static(b"hi"),
    }
}

/// [MQTT-3.3.2-6]
#[test]
fn a_waiting_message_is_sent_with_what_is_left_of_its_expiry() {
    let properties = PublishProperties { message_expiry: Some(60), ..PublishProperties::default() };
    let message = Publish { properties: Some(Box::new(properties)), ..publish(QoS::AtMostOnce, None) };
    let mut buf = BytesMut::new();
    let parts = PublishRef { message_expiry: Some(18), ..message.as_parts() };
    encode_publish(&parts, Version::V5, &mut buf).expect("a valid packet");
    let Ok(Some(Packet::Publish(sent))) = decode(&mut buf, Some(Version::V5), MAX) else {
        panic!("a valid PUBLISH was refused")
    };
    assert_eq!(sent.properties.expect("has an expiry").message_expiry, Some(18));
}

/// [MQTT-2.2.1-2] [MQTT-3.3.1-2] [MQTT-3.8.3-2] [MQTT-3.10.3-2] [MQTT-3.2.2-6] [MQTT-3.2.2-8] [MQTT-3.4.2-1]
/// [MQTT-3.5.2-1] [MQTT-3.6.2-1] [MQTT-3.7.2-1] [MQTT-3.9.3-2] [MQTT-3.11.3-2] [MQTT-3.14.2-1] [MQTT-3.15.2-1]
#[test]
fn what_must_not_be_sent_is_not_encoded() {
    let id = PacketId::new(1).expect("from 1");
    let ack = |reason| Ack { packet_id: id, reason, reason_string: None, user: Vec::new() };
    let connack = |session_present, reason| {
        Packet::ConnAck(Box::new(ConnAck { session_present, reason, properties: ConnAckProperties::default() }))
    };
    let disconnect = |reason| {
        let (reason_string, server_reference) = (None, None);
        Packet::Disconnect(Disconnect {
            reason,
            session_expiry: None,
            reason_string,
            user: Vec::new(),
            server_reference,
        })
    };
    let suback = |reasons: Vec<ReasonCode>| Packet::SubAck(SubAck { packet_id: id, reason_string: None, reasons });
    let unsuback =
        |reasons: Vec<ReasonCode>| Packet::UnsubAck(UnsubAck { packet_id: id, reason_string: None, reasons });
    let auth = |reason| {
        Packet::Auth(Auth { reason, method: Some("m".to_owned()), data: None, reason_string: None, user: Vec::new() })
    };
    let unnamed = Publish { topic: None, ..publish(QoS::AtMostOnce, None) };
    let never = [
        Packet::Publish(publish(QoS::AtMostOnce, Some(1))),
        Packet::Publish(publish(QoS::AtLeastOnce, None)),
        Packet::Publish(Publish { dup: true, ..publish(QoS::AtMostOnce, None) }),
        Packet::Publish(Publish { subscription_ids: vec![0], ..publish(QoS::AtMostOnce, None) }),
        Packet::Publish(unnamed),
        Packet::PubAck(ack(ReasonCode::PacketIdNotFound)),
        Packet::PubRec(ack(ReasonCode::TopicFilterInvalid)),
        Packet::PubRel(ack(ReasonCode::NotAuthorized)),
        Packet::PubComp(ack(ReasonCode::UnspecifiedError)),
        connack(true, ReasonCode::NotAuthorized),
        connack(false, ReasonCode::SessionTakenOver),
        disconnect(ReasonCode::PacketIdInUse),
        suback(Vec::new()),
        suback(vec![ReasonCode::PacketTooLarge]),
        unsuback(vec![ReasonCode::GrantedQoS1]),
        unsuback(Vec::new()),
        auth(ReasonCode::NotAuthorized),
        Packet::Subscribe(Subscribe { packet_id: id, subscription_id: None, user: Vec::new(), filters: Vec::new() }),
        Packet::Unsubscribe(Unsubscribe { packet_id: id, user: Vec::new(), filters: Vec::new() }),
    ];
    for packet in never {
        let mut buf = BytesMut::from(&b"before"[..]);
        assert!(matches!(encode(&packet, Version::V5, &mut buf), Err(EncodeError::Invalid(_))), "{packet:?}");
        assert_eq!(&buf[..], b"before");
    }
}

/// [MQTT-3.2.2-6] and [MQTT-3.9.3-2] of 3.1.1, and table 3.1 there.
#[test]
fn reasons_become_the_return_codes_of_3_1_1() {
    let connack = |reason| {
        let mut buf = BytesMut::new();
        let packet = ConnAck { session_present: false, reason, properties: ConnAckProperties::default() };
        encode(&Packet::ConnAck(Box::new(packet)), Version::V311, &mut buf).map(|()| buf[3])
    };
    for (reason, code) in [
        (ReasonCode::Success, 0),
        (ReasonCode::UnsupportedProtocolVersion, 1),
        (ReasonCode::ClientIdNotValid, 2),
        (ReasonCode::ServerUnavailable, 3),
        (ReasonCode::QuotaExceeded, 3),
        (ReasonCode::BadUserNameOrPassword, 4),
        (ReasonCode::NotAuthorized, 5),
    ] {
        assert_eq!(connack(reason), Ok(code), "{reason:?}");
    }
    // No return code fits: the connection is closed without CONNACK.
    assert!(matches!(connack(ReasonCode::MalformedPacket), Err(EncodeError::Invalid(_))));

    let reasons = vec![ReasonCode::GrantedQoS2, ReasonCode::NotAuthorized, ReasonCode::TopicFilterInvalid];
    let packet_id = PacketId::new(1).expect("from 1");
    let mut buf = BytesMut::new();
    let packet = Packet::SubAck(SubAck { packet_id, reason_string: Some("no".to_owned()), reasons });
    encode(&packet, Version::V311, &mut buf).expect("a valid packet");
    assert_eq!(&buf[..], b"\x90\x05\0\x01\x02\x80\x80");
}

/// Strings that do not fit their length field are refused before anything is written.
#[test]
fn a_field_of_65_536_bytes_is_not_encoded() {
    let packet_id = PacketId::new(1).expect("from 1");
    let ack = |len| {
        Packet::PubAck(Ack {
            packet_id,
            reason: ReasonCode::Success,
            reason_string: Some("x".repeat(len)),
            user: Vec::new(),
        })
    };
    let mut buf = BytesMut::new();
    assert_eq!(encode(&ack(65_536), Version::V5, &mut buf), Err(EncodeError::FieldTooLong));
    assert!(buf.is_empty());
    assert_eq!(encode(&ack(65_535), Version::V5, &mut buf), Ok(()));
}
