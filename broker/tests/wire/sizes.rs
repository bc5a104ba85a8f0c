//! The round trip at the sizes where something changes: a length takes another byte, a field or a list is full.

use bytes::{Bytes, BytesMut};
use headwater_broker::mqtt::codec::{
    EncodeError, MAX_FILTERS, MAX_REMAINING_LENGTH, MAX_USER_PROPERTIES, decode, encode, encode_publish_head,
    encoded_len, frame_len, publish_len,
};
use headwater_broker::mqtt::packet::*;
use headwater_broker::mqtt::topic::{TopicFilter, TopicName};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::generate;
use crate::round_trip::MAX;

/// Bytes of a string or of binary data: about them a variable length takes a byte more, and the last is the longest there is.
const LENGTHS: [usize; 12] = [0, 1, 126, 127, 128, 129, 16_381, 16_383, 16_384, 16_385, 65_534, 65_535];

/// Whatever in a packet has a length of its own.
enum Field<'a> {
    Text(&'a mut String),
    Data(&'a mut Bytes),
    Topic(&'a mut TopicName),
    Filter(&'a mut Result<TopicFilter, String>),
    User(&'a mut Vec<(String, String)>),
    Filters(&'a mut Vec<Result<TopicFilter, String>>),
    Subscriptions(&'a mut Vec<(Result<TopicFilter, String>, SubscriptionOptions)>),
    Reasons(&'a mut Vec<ReasonCode>),
}

impl Field<'_> {
    fn stretch(self, len: usize) {
        match self {
            Field::Text(text) => *text = "x".repeat(len),
            Field::Data(data) => *data = Bytes::from(vec![7; len]),
            Field::Topic(topic) => *topic = "t".repeat(len.max(1)).parse().expect("a topic"),
            Field::Filter(filter) => *filter = Ok("f".repeat(len.max(1)).parse().expect("a filter")),
            // Short ones, so that the whole packet stays below a megabyte; the longest are among the texts.
            Field::User(user) => user.resize(len.min(MAX_USER_PROPERTIES), ("k".to_owned(), String::new())),
            Field::Filters(filters) => {
                filters.resize(len.clamp(1, MAX_FILTERS), Ok("f".parse().expect("a filter")));
            }
            Field::Subscriptions(filters) => filters.resize(
                len.clamp(1, MAX_FILTERS),
                (Ok("f".parse().expect("a filter")), SubscriptionOptions::default()),
            ),
            Field::Reasons(reasons) => reasons.resize(len.clamp(1, MAX_FILTERS), ReasonCode::Success),
        }
    }
}

fn user(user: &mut [(String, String)]) -> impl Iterator<Item = Field<'_>> {
    user.iter_mut().flat_map(|(name, value)| [Field::Text(name), Field::Text(value)])
}

fn travelling(properties: &mut PublishProperties) -> Vec<Field<'_>> {
    let PublishProperties {
        payload_format: _,
        message_expiry: _,
        content_type,
        response_topic,
        correlation_data,
        user,
    } = properties;
    let mut fields = Vec::from([Field::User(user)]);
    fields.extend(content_type.iter_mut().map(Field::Text));
    fields.extend(response_topic.iter_mut().map(Field::Topic));
    fields.extend(correlation_data.iter_mut().map(Field::Data));
    fields
}

fn texts<const N: usize>(texts: [&mut Option<String>; N]) -> impl Iterator<Item = Field<'_>> {
    texts.into_iter().flatten().map(Field::Text)
}

/// Every field that has a length. Bound by name, so that a new one must be thought about.
fn fields(packet: &mut Packet, version: Version) -> Vec<Field<'_>> {
    let v5 = version == Version::V5;
    let mut fields = Vec::new();
    match packet {
        Packet::Connect(p) => {
            let Connect { client_id, will, username, password, properties, .. } = &mut **p;
            fields.push(Field::Text(client_id));
            fields.extend(texts([username]));
            fields.extend(password.iter_mut().map(Field::Data));
            if let Some(Will { topic, payload, properties, .. }) = will {
                fields.extend([Field::Topic(topic), Field::Data(payload)]);
                fields.extend(properties.iter_mut().flat_map(|properties| travelling(properties)));
            }
            if v5 {
                fields.extend(texts([&mut properties.authentication_method]));
                fields.extend(properties.authentication_data.iter_mut().map(Field::Data));
                fields.extend(user(&mut properties.user));
            }
        }
        Packet::ConnAck(p) if v5 => {
            let p = &mut p.properties;
            fields.extend(texts([
                &mut p.assigned_client_id,
                &mut p.reason_string,
                &mut p.response_information,
                &mut p.server_reference,
                &mut p.authentication_method,
            ]));
            fields.extend(p.authentication_data.iter_mut().map(Field::Data));
            fields.push(Field::User(&mut p.user));
        }
        Packet::Publish(p) => {
            fields.push(Field::Data(&mut p.payload));
            fields.extend(p.topic.iter_mut().map(Field::Topic));
            fields.extend(p.properties.iter_mut().flat_map(|properties| travelling(properties)));
        }
        Packet::PubAck(p) | Packet::PubRec(p) | Packet::PubRel(p) | Packet::PubComp(p) if v5 => {
            fields.extend(texts([&mut p.reason_string]));
            fields.push(Field::User(&mut p.user));
        }
        Packet::Subscribe(p) => {
            match p.filters.len() {
                1 => fields.push(Field::Subscriptions(&mut p.filters)),
                _ => fields.extend(p.filters.iter_mut().map(|(filter, _)| Field::Filter(filter))),
            }
            if v5 {
                fields.push(Field::User(&mut p.user));
            }
        }
        Packet::Unsubscribe(p) => {
            match p.filters.len() {
                1 => fields.push(Field::Filters(&mut p.filters)),
                _ => fields.extend(p.filters.iter_mut().map(Field::Filter)),
            }
            if v5 {
                fields.extend(user(&mut p.user));
            }
        }
        Packet::SubAck(p) => {
            fields.push(Field::Reasons(&mut p.reasons));
            fields.extend(texts([&mut p.reason_string]));
        }
        Packet::UnsubAck(p) if v5 => {
            fields.push(Field::Reasons(&mut p.reasons));
            fields.extend(texts([&mut p.reason_string]));
        }
        Packet::Disconnect(p) if v5 => {
            fields.extend(texts([&mut p.reason_string, &mut p.server_reference]));
            fields.push(Field::User(&mut p.user));
        }
        Packet::Auth(p) if p.method.is_some() => {
            fields.extend(texts([&mut p.method, &mut p.reason_string]));
            fields.extend(p.data.iter_mut().map(Field::Data));
            fields.push(Field::User(&mut p.user));
        }
        Packet::ConnAck(_)
        | Packet::PubAck(_)
        | Packet::PubRec(_)
        | Packet::PubRel(_)
        | Packet::PubComp(_)
        | Packet::UnsubAck(_)
        | Packet::PingReq
        | Packet::PingResp
        | Packet::Disconnect(_)
        | Packet::Auth(_) => {}
    }
    fields
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn packets_with_fields_at_their_limits_survive(
        (version, packet) in generate::packet(),
        stretched in proptest::collection::vec((any::<Index>(), select(&LENGTHS[..])), 1..4),
    ) {
        let mut packet = packet;
        for (at, len) in stretched {
            let mut fields = fields(&mut packet, version);
            if !fields.is_empty() {
                fields.swap_remove(at.index(fields.len())).stretch(len);
            }
        }
        // As a decoder gives them: absent if there is nothing in them.
        if let Packet::Publish(Publish { properties, .. }) = &mut packet {
            properties.take_if(|properties| **properties == PublishProperties::default());
        }
        if let Packet::Connect(connect) = &mut packet
            && let Some(will) = &mut connect.will
        {
            will.properties.take_if(|properties| **properties == PublishProperties::default());
        }
        let mut buf = BytesMut::new();
        prop_assert_eq!(encode(&packet, version, &mut buf), Ok(()));
        prop_assert_eq!(encoded_len(&packet, version), Ok(buf.len()));
        prop_assert_eq!(frame_len(&buf), Ok(Some(buf.len())));
        prop_assert!(decode(&mut buf, Some(version), MAX) == Ok(Some(packet)), "another packet came back");
        prop_assert!(buf.is_empty());
    }
}

/// Section 2.1.4: four bytes of length at most. Its payload is a quarter of a gigabyte, so that it is not copied here.
#[test]
fn the_longest_packet_there_is_can_be_written_and_no_longer_one() {
    for version in [Version::V311, Version::V5] {
        let overhead = if version == Version::V5 { 4 } else { 3 };
        let payload = Bytes::from(vec![0; MAX_REMAINING_LENGTH - overhead + 1]);
        let publish = |payload: Bytes| Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic: Some("t".parse().expect("valid")),
            packet_id: None,
            topic_alias: None,
            subscription_ids: Vec::new(),
            properties: None,
            payload,
        };
        let longest = publish(payload.slice(1..));
        assert_eq!(publish_len(&longest.as_parts(), version), Ok(MAX_REMAINING_LENGTH + 5));
        let mut head = BytesMut::new();
        encode_publish_head(&longest.as_parts(), version, &mut head).expect("the longest packet");
        assert_eq!((&head[..5], head.len()), (&b"\x30\xff\xff\xff\x7f"[..], 5 + overhead));
        assert_eq!(frame_len(&head), Ok(Some(MAX_REMAINING_LENGTH + 5)));
        assert_eq!(decode(&mut head, Some(version), MAX), Ok(None), "it is waited for");
        let longer = publish(payload);
        assert_eq!(publish_len(&longer.as_parts(), version), Err(EncodeError::PacketTooLong));
        let mut out = BytesMut::new();
        assert_eq!(encode(&Packet::Publish(longer), version, &mut out), Err(EncodeError::PacketTooLong));
        assert!(out.is_empty());
    }
}
