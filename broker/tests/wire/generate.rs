//! Random packets that are valid in their protocol version.

use std::num::NonZeroU16;

use bytes::Bytes;
use headwater_broker::mqtt::packet::*;
use headwater_broker::mqtt::topic::{TopicFilter, TopicName};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

pub(crate) fn version() -> impl Strategy<Value = Version> {
    select(vec![Version::V31, Version::V311, Version::V5])
}

/// A packet with its version, any kind, either direction.
pub(crate) fn packet() -> impl Strategy<Value = (Version, Packet)> {
    version().prop_flat_map(|version| (Just(version), packet_of(version)))
}

pub(crate) fn packet_of(version: Version) -> BoxedStrategy<Packet> {
    let both = prop_oneof![
        2 => connect(version).prop_map(|p| Packet::Connect(Box::new(p))),
        1 => connack(version).prop_map(|p| Packet::ConnAck(Box::new(p))),
        4 => publish(version).prop_map(Packet::Publish),
        1 => ack(version, ACK_REASONS).prop_map(Packet::PubAck),
        1 => ack(version, ACK_REASONS).prop_map(Packet::PubRec),
        1 => ack(version, RELEASE_REASONS).prop_map(Packet::PubRel),
        1 => ack(version, RELEASE_REASONS).prop_map(Packet::PubComp),
        2 => subscribe(version).prop_map(Packet::Subscribe),
        1 => suback(version).prop_map(Packet::SubAck),
        1 => unsubscribe(version).prop_map(Packet::Unsubscribe),
        1 => unsuback(version).prop_map(Packet::UnsubAck),
        1 => Just(Packet::PingReq),
        1 => Just(Packet::PingResp),
        1 => disconnect(version).prop_map(Packet::Disconnect),
    ];
    match version {
        Version::V31 | Version::V311 => both.boxed(),
        Version::V5 => prop_oneof![15 => both, 1 => auth().prop_map(Packet::Auth)].boxed(),
    }
}

pub(crate) fn text() -> impl Strategy<Value = String> {
    vec(any::<char>().prop_filter("U+0000 is not allowed", |c| *c != '\0'), 0..8).prop_map(String::from_iter)
}

pub(crate) fn binary() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..24).prop_map(Bytes::from)
}

fn path(levels: &'static [&'static str]) -> impl Strategy<Value = String> {
    vec(select(levels), 1..5).prop_map(|levels| levels.join("/")).prop_filter("not empty", |text| !text.is_empty())
}

pub(crate) fn topic() -> impl Strategy<Value = TopicName> {
    prop_oneof![
        path(&["", "a", "b", "factory", "größe", "$SYS", "x y"]),
        text().prop_filter("a topic", |text| text.parse::<TopicName>().is_ok()),
    ]
    .prop_map(|text| text.parse().expect("made of valid levels"))
}

fn filter() -> impl Strategy<Value = Result<TopicFilter, String>> {
    prop_oneof![
        path(&["", "a", "b", "+", "#", "$SYS", "größe"]),
        text(),
        path(&["a", "+"]).prop_map(|p| format!("$share/g/{p}"))
    ]
    .prop_map(|text| text.parse::<TopicFilter>().map_err(|_| text))
}

fn user() -> impl Strategy<Value = Vec<(String, String)>> {
    vec((text(), text()), 0..3)
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    (1..=u16::MAX).prop_map(|id| PacketId::new(id).expect("from 1"))
}

fn nonzero() -> impl Strategy<Value = NonZeroU16> {
    (1..=u16::MAX).prop_map(|n| NonZeroU16::new(n).expect("from 1"))
}

fn qos() -> impl Strategy<Value = QoS> {
    select(vec![QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
}

fn only_v5<T: Default + std::fmt::Debug + Clone + 'static>(
    version: Version,
    strategy: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<T> {
    match version {
        Version::V31 | Version::V311 => Just(T::default()).boxed(),
        Version::V5 => strategy.boxed(),
    }
}

pub(crate) fn message_properties() -> impl Strategy<Value = PublishProperties> {
    (of(0..=1_u8), of(any::<u32>()), of(text()), of(topic()), of(binary()), user()).prop_map(
        |(payload_format, message_expiry, content_type, response_topic, correlation_data, user)| PublishProperties {
            payload_format,
            message_expiry,
            content_type,
            response_topic,
            correlation_data,
            user,
        },
    )
}

/// As a decoder gives them: absent if there is nothing in them.
fn boxed_properties() -> impl Strategy<Value = Option<Box<PublishProperties>>> {
    of(message_properties()).prop_map(|p| p.filter(|p| *p != PublishProperties::default()).map(Box::new))
}

fn connect(version: Version) -> impl Strategy<Value = Connect> {
    let properties = (
        of(any::<u32>()),
        of(nonzero()),
        of(1..=u32::MAX),
        of(any::<u16>()),
        of(any::<bool>()),
        of(any::<bool>()),
        user(),
        of((text(), of(binary()))),
    )
        .prop_map(|(expiry, receive, packet, alias, response, problem, user, authentication)| {
            let (authentication_method, authentication_data) = match authentication {
                Some((method, data)) => (Some(method), data),
                None => (None, None),
            };
            ConnectProperties {
                session_expiry: expiry,
                receive_maximum: receive,
                maximum_packet_size: packet,
                topic_alias_maximum: alias,
                request_response_information: response,
                request_problem_information: problem,
                user,
                authentication_method,
                authentication_data,
            }
        });
    let will =
        (topic(), binary(), qos(), any::<bool>(), only_v5(version, any::<u32>()), only_v5(version, boxed_properties()))
            .prop_map(|(topic, payload, qos, retain, delay, properties)| Will {
                topic,
                payload,
                qos,
                retain,
                delay,
                properties,
            });
    (any::<bool>(), any::<u16>(), text(), of(will), of(text()), of(binary()), only_v5(version, properties)).prop_map(
        move |(clean_start, keep_alive, client_id, will, username, password, properties)| Connect {
            version,
            clean_start,
            keep_alive,
            client_id,
            will,
            // 3.1.1 has no password without a user name.
            password: password.filter(|_| version == Version::V5 || username.is_some()),
            username,
            properties,
        },
    )
}

fn connack(version: Version) -> impl Strategy<Value = ConnAck> {
    let codes: &[u8] = match version {
        Version::V31 | Version::V311 => &[0x00, 0x84, 0x85, 0x86, 0x87, 0x88],
        Version::V5 => CONNACK_REASONS,
    };
    let properties = (
        (of(any::<u32>()), of(nonzero()), of(select(vec![QoS::AtMostOnce, QoS::AtLeastOnce])), of(any::<bool>())),
        (of(1..=u32::MAX), of(text()), of(any::<u16>()), of(text()), user(), of(any::<bool>())),
        (of(any::<bool>()), of(any::<bool>()), of(any::<u16>()), of(text()), of(text()), of(text()), of(binary())),
    )
        .prop_map(|(a, b, c)| ConnAckProperties {
            session_expiry: a.0,
            receive_maximum: a.1,
            maximum_qos: a.2,
            retain_available: a.3,
            maximum_packet_size: b.0,
            assigned_client_id: b.1,
            topic_alias_maximum: b.2,
            reason_string: b.3,
            user: b.4,
            wildcard_subscription_available: b.5,
            subscription_id_available: c.0,
            shared_subscription_available: c.1,
            server_keep_alive: c.2,
            response_information: c.3,
            server_reference: c.4,
            authentication_method: c.5,
            authentication_data: c.6,
        });
    (any::<bool>(), reason(codes), only_v5(version, properties)).prop_map(|(session_present, reason, properties)| {
        ConnAck { session_present: session_present && reason == ReasonCode::Success, reason, properties }
    })
}

pub(crate) fn publish(version: Version) -> impl Strategy<Value = Publish> {
    let v5 = (of(nonzero()), any::<bool>(), vec(1..=268_435_455_u32, 0..3), boxed_properties());
    (any::<bool>(), qos(), any::<bool>(), topic(), packet_id(), only_v5(version, v5), binary()).prop_map(
        |(dup, qos, retain, topic, packet_id, (topic_alias, by_alias, subscription_ids, properties), payload)| {
            Publish {
                dup: dup && qos != QoS::AtMostOnce,
                qos,
                retain,
                topic: Some(topic).filter(|_| !(by_alias && topic_alias.is_some())),
                packet_id: Some(packet_id).filter(|_| qos != QoS::AtMostOnce),
                topic_alias,
                subscription_ids,
                properties,
                payload,
            }
        },
    )
}

fn reason(codes: &[u8]) -> impl Strategy<Value = ReasonCode> + use<> {
    select(codes.to_vec()).prop_map(|code| ReasonCode::from_u8(code).expect("listed in the specification"))
}

/// Table 3-1.
const CONNACK_REASONS: &[u8] = &[
    0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B,
    0x9C, 0x9D, 0x9F,
];
/// Tables 3-4 and 3-5.
const ACK_REASONS: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
/// Tables 3-6 and 3-7.
const RELEASE_REASONS: &[u8] = &[0x00, 0x92];
/// Table 3-8.
const SUBACK_REASONS: &[u8] = &[0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2];
/// Table 3-9.
const UNSUBACK_REASONS: &[u8] = &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91];
/// Table 3-10.
const DISCONNECT_REASONS: &[u8] = &[
    0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98,
    0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
];

fn ack(version: Version, codes: &'static [u8]) -> impl Strategy<Value = Ack> {
    let v5 = (select(codes), of(text()), user());
    (packet_id(), only_v5(version, v5)).prop_map(|(packet_id, (code, reason_string, user))| Ack {
        packet_id,
        reason: ReasonCode::from_u8(code).expect("listed in the specification"),
        reason_string,
        user,
    })
}

fn subscribe(version: Version) -> impl Strategy<Value = Subscribe> {
    let handling = select(vec![RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::DoNotSend]);
    let v5 = (any::<bool>(), any::<bool>(), of(handling));
    let one = (filter(), qos(), only_v5(version, v5)).prop_map(|(filter, qos, (no_local, as_published, handling))| {
        let shared = filter.as_ref().is_ok_and(TopicFilter::is_shared);
        let options = SubscriptionOptions {
            qos,
            no_local: no_local && !shared,
            retain_as_published: as_published,
            retain_handling: handling.unwrap_or_default(),
        };
        (filter, options)
    });
    (packet_id(), only_v5(version, (of(1..=268_435_455_u32), user())), vec(one, 1..4)).prop_map(
        |(packet_id, (subscription_id, user), filters)| Subscribe { packet_id, subscription_id, user, filters },
    )
}

fn suback(version: Version) -> impl Strategy<Value = SubAck> {
    let codes: &[u8] = match version {
        Version::V31 | Version::V311 => &[0x00, 0x01, 0x02, 0x80],
        Version::V5 => SUBACK_REASONS,
    };
    (packet_id(), only_v5(version, of(text())), vec(reason(codes), 1..4))
        .prop_map(|(packet_id, reason_string, reasons)| SubAck { packet_id, reason_string, reasons })
}

fn unsubscribe(version: Version) -> impl Strategy<Value = Unsubscribe> {
    (packet_id(), only_v5(version, user()), vec(filter(), 1..4)).prop_map(|(packet_id, user, filters)| Unsubscribe {
        packet_id,
        user,
        filters,
    })
}

fn unsuback(version: Version) -> impl Strategy<Value = UnsubAck> {
    (packet_id(), only_v5(version, of(text())), only_v5(version, vec(reason(UNSUBACK_REASONS), 1..4)))
        .prop_map(|(packet_id, reason_string, reasons)| UnsubAck { packet_id, reason_string, reasons })
}

fn disconnect(version: Version) -> impl Strategy<Value = Disconnect> {
    only_v5(version, (select(DISCONNECT_REASONS), of(any::<u32>()), of(text()), user(), of(text()))).prop_map(
        |(code, session_expiry, reason_string, user, server_reference)| Disconnect {
            reason: ReasonCode::from_u8(code).expect("listed in the specification"),
            session_expiry,
            reason_string,
            user,
            server_reference,
        },
    )
}

fn auth() -> impl Strategy<Value = Auth> {
    let full = (reason(&[0x00, 0x18, 0x19]), text(), of(binary()), of(text()), user()).prop_map(
        |(reason, method, data, reason_string, user)| Auth { reason, method: Some(method), data, reason_string, user },
    );
    let bare =
        Just(Auth { reason: ReasonCode::Success, method: None, data: None, reason_string: None, user: Vec::new() });
    prop_oneof![4 => full, 1 => bare]
}
