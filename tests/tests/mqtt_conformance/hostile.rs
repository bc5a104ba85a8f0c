//! G8: no bytes of a client bring the broker down, slow others, or fill its memory.

use bytes::BytesMut;
use headwater_broker::mqtt::codec::encode;
use headwater_broker::mqtt::packet::*;
use headwater_tests::chance::Chance;

use crate::client::{Client, VERSIONS, ack, hello, publish, publish_at, text};
use crate::target::Target;

/// Packets as a client sends them.
fn conversation(version: Version) -> Vec<Packet> {
    let id = PacketId::new(7).expect("from 1");
    let user = if version == Version::V5 { vec![("k".to_owned(), "v".to_owned())] } else { Vec::new() };
    let properties = PublishProperties {
        payload_format: Some(1),
        message_expiry: Some(10),
        content_type: Some("text/plain".to_owned()),
        response_topic: Some("hostile/answer".parse().expect("a topic")),
        correlation_data: Some(bytes::Bytes::from_static(b"c")),
        user: user.clone(),
    };
    let subscription_id = Some(3).filter(|_| version == Version::V5);
    let filters = ["hostile/#", "+/x", "$share/g/hostile"]
        .map(|text| (text.parse().map_err(|_| text.to_owned()), SubscriptionOptions::default()));
    vec![
        Packet::Subscribe(Subscribe { packet_id: id, subscription_id, user: user.clone(), filters: filters.into() }),
        Packet::Publish(Publish { properties: Some(Box::new(properties)), ..publish("hostile/a", "payload") }),
        Packet::Publish(publish_at(QoS::AtLeastOnce, 8, "hostile/b", "payload")),
        Packet::Publish(Publish { retain: true, ..publish_at(QoS::ExactlyOnce, 9, "stored/hostile", "payload") }),
        Packet::PubRel(ack(PacketId::new(9).expect("from 1"))),
        Packet::PubAck(ack(id)),
        Packet::PubRec(ack(id)),
        Packet::PubComp(ack(id)),
        Packet::Unsubscribe(Unsubscribe {
            packet_id: id,
            user,
            filters: vec!["hostile/#".parse().map_err(|_| String::new())],
        }),
        Packet::PingReq,
        Packet::Disconnect(Disconnect {
            reason: ReasonCode::Success,
            session_expiry: None,
            reason_string: None,
            user: Vec::new(),
            server_reference: None,
        }),
    ]
}

/// Thousands of conversations, each with some bytes changed, left out or doubled; with and without CONNECT among them.
#[tokio::test]
async fn damaged_conversations_harm_nobody() {
    let mut target = Target::start().await;
    let mut chance = Chance::new();
    let mut bystander = Client::connect(&target, hello(Version::V5, "bystander")).await;
    bystander.subscribe("bystander", QoS::AtLeastOnce).await;
    let mut before = None;
    for round in 0..2_000_u32 {
        let version = VERSIONS[usize::from(chance.below(2) == 0)];
        let mut bytes = BytesMut::new();
        let connect = Connect { keep_alive: 1, ..hello(version, "hostile") };
        encode(&Packet::Connect(Box::new(connect)), version, &mut bytes).expect("a valid packet");
        let greeting = bytes.len();
        for packet in conversation(version) {
            encode(&packet, version, &mut bytes).expect("a valid packet");
        }
        // Most leave CONNECT as it is, so that what follows is reached.
        let from = if chance.below(4) == 0 { 0 } else { greeting };
        let mut bytes = bytes.to_vec();
        for _ in 0..=chance.below(4) {
            let at = from + usize::try_from(chance.below((bytes.len() - from) as u64)).expect("short");
            match chance.below(4) {
                0 => bytes[at] = chance.number().to_le_bytes()[0],
                1 => bytes[at] ^= 1 << chance.below(8),
                2 => {
                    bytes.remove(at);
                }
                _ => bytes.insert(at, 0xFF),
            }
        }
        let mut client = Client::open(&target, version).await;
        client.send_to_be_refused(&bytes).await;
        client.vanish();
        if round % 50 == 0 {
            bystander.publish(Publish { qos: QoS::AtLeastOnce, ..publish("bystander", &round.to_string()) }).await;
            assert_eq!(text(&bystander.message().await), round.to_string());
        }
        if round == 500 {
            before = Some(target.resident_bytes());
        }
    }
    let grown = target.resident_bytes().saturating_sub(before.expect("measured on the way"));
    assert!(grown < 8 << 20, "grown by {grown} bytes");
}

/// A packet that announces much and sends little costs what it sent: nothing is reserved on a stranger's word.
#[tokio::test]
async fn announced_bytes_are_not_reserved() {
    let mut target = Target::start().await;
    let mut clients = Vec::new();
    let before = target.resident_bytes();
    for number in 0..200 {
        let mut client = Client::connect(&target, hello(Version::V5, &format!("announce-{number}"))).await;
        // Just below the limit of one megabyte.
        client.send_bytes(b"\x30\xF0\xFF\x3F\0\x01t\0").await;
        clients.push(client);
    }
    let mut other = Client::connect(&target, hello(Version::V5, "announce-other")).await;
    other.settled().await;
    let grown = target.resident_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "200 clients cost {grown} bytes");
}
