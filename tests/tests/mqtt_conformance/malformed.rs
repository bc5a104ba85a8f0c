//! What the broker does with packets that are malformed or break the protocol: it says why (on MQTT 5), closes that
//! connection, and nobody else notices [MQTT-4.13.1-1].

use headwater_broker::mqtt::packet::{Packet, Publish, QoS, ReasonCode, Version};

use crate::client::{Client, hello, publish, text};
use crate::target::Target;

use ReasonCode::{MalformedPacket, PacketTooLarge, ProtocolError, TopicAliasInvalid, TopicNameInvalid};

#[rustfmt::skip]
const V5: &[(&str, &[u8], ReasonCode)] = &[
    ("2.1.3-1", b"\xC1\0", MalformedPacket),
    ("1.5.5-1", b"\xC0\x80\0", MalformedPacket),
    ("(2.1.4)", b"\x30\xFF\xFF\xFF\xFF\x01", MalformedPacket),
    ("(2.1.4)", b"\x30\xFF\xFF\xFF\x7F", PacketTooLarge),
    ("(2.1.2)", b"\0\0", MalformedPacket),
    ("3.3.1-4", b"\x36\x06\0\x01t\0\x01\0", MalformedPacket),
    ("3.3.1-2", b"\x38\x04\0\x01t\0", MalformedPacket),
    ("3.3.2-2", b"\x30\x04\0\x01#\0", MalformedPacket),
    ("1.5.4-1", b"\x30\x05\0\x02\xC3\x28\0", MalformedPacket),
    ("2.2.1-3", b"\x32\x06\0\x01t\0\0\0", ProtocolError),
    ("(3.3.2.3.2)", b"\x30\x06\0\x01t\x02\x01\x02", ProtocolError),
    ("(2.2.2.2)", b"\x30\x06\0\x01t\x02\x7E\0", MalformedPacket),
    ("3.8.1-1", b"\x80\x07\0\x01\0\0\x01a\0", MalformedPacket),
    ("3.8.3-2", b"\x82\x03\0\x01\0", ProtocolError),
    ("3.8.3-5", b"\x82\x07\0\x01\0\0\x01a\x80", MalformedPacket),
    ("3.8.3-4", b"\x82\x10\0\x01\0\0\x0A$share/g/a\x04", ProtocolError),
    ("3.10.3-2", b"\xA2\x03\0\x01\0", ProtocolError),
    ("3.6.1-1", b"\x60\x02\0\x01", MalformedPacket),
    ("2.1.3-1", b"\x41\x02\0\x01", MalformedPacket),
    ("2.1.3-1", b"\x52\x02\0\x01", MalformedPacket),
    ("2.1.3-1", b"\x71\x02\0\x01", MalformedPacket),
    ("3.10.1-1", b"\xA0\x06\0\x01\0\0\x01a", MalformedPacket),
    ("3.14.1-1", b"\xE1\0", MalformedPacket),
    ("3.15.1-1", b"\xF1\0", MalformedPacket),
    ("1.5.4-2", b"\x30\x06\0\x03a\0b\0", MalformedPacket),
    ("1.5.5-1", b"\x30\x05\0\x01t\x80\0", MalformedPacket),
    ("1.5.7-1", b"\x30\x0B\0\x01t\x07\x26\0\x01\xFF\0\x01v", MalformedPacket),
    ("2.2.1-3", b"\x82\x07\0\0\0\0\x01a\0", ProtocolError),
    ("2.2.1-3", b"\xA2\x06\0\0\0\0\x01a", ProtocolError),
    ("(2.2.2.2) a property of a will", b"\x30\x09\0\x01t\x05\x18\0\0\0\x01", MalformedPacket),
    ("(2.2.2.2) a property in UNSUBSCRIBE", b"\xA2\x08\0\x01\x02\x0B\x01\0\x01a", MalformedPacket),
    ("(2.2.2.1) properties longer than the packet", b"\x30\x06\0\x01t\x09\x01\0", MalformedPacket),
    ("(2.1.4) a field longer than the packet", b"\x30\x04\0\x05ab", MalformedPacket),
    ("(2.1.4) bytes behind the packet", b"\xC0\x01\0", MalformedPacket),
    ("(3.3.2.1) neither topic nor alias", b"\x30\x03\0\0\0", ProtocolError),
    ("(3.3.2.3.2) twice", b"\x30\x08\0\x01t\x04\x01\0\x01\0", ProtocolError),
    ("(3.3.2.3.3) twice", b"\x30\x0E\0\x01t\x0A\x02\0\0\0\x01\x02\0\0\0\x01", ProtocolError),
    ("3.3.2-8", b"\x30\x07\0\x01t\x03\x23\0\0", TopicAliasInvalid),
    ("3.3.2-9", b"\x30\x07\0\x01t\x03\x23\xFF\xFF", TopicAliasInvalid),
    ("(3.3.2.3.4) an alias that means nothing", b"\x30\x06\0\0\x03\x23\0\x05", ProtocolError),
    ("3.3.2-13", b"\x30\x08\0\x01t\x04\x08\0\x01\xFF", MalformedPacket),
    ("3.3.2-14", b"\x30\x08\0\x01t\x04\x08\0\x01+", ProtocolError),
    ("3.3.2-19", b"\x30\x08\0\x01t\x04\x03\0\x01\xFF", MalformedPacket),
    ("3.3.4-6", b"\x30\x06\0\x01t\x02\x0B\x01", ProtocolError),
    ("(2.4) a reason code that does not exist", b"\x40\x03\0\x01\x7F", MalformedPacket),
    ("3.4.2-1", b"\x40\x03\0\x01\x92", ProtocolError),
    ("3.5.2-1", b"\x50\x03\0\x01\x8F", ProtocolError),
    ("3.6.2-1", b"\x62\x03\0\x01\x10", ProtocolError),
    ("3.7.2-1", b"\x70\x03\0\x01\x80", ProtocolError),
    ("(3.4.2.2.2) twice", b"\x40\x0A\0\x01\0\x06\x1F\0\0\x1F\0\0", ProtocolError),
    ("(3.8.2.1.2) identifier 0", b"\x82\x09\0\x01\x02\x0B\0\0\x01a\0", ProtocolError),
    ("3.8.3-1", b"\x82\x07\0\x01\0\0\x01\xFF\0", MalformedPacket),
    ("(3.8.3) no options", b"\x82\x06\0\x01\0\0\x01a", MalformedPacket),
    ("(3.8.3.1) QoS 3", b"\x82\x07\0\x01\0\0\x01a\x03", ProtocolError),
    ("(3.8.3.1) Retain Handling 3", b"\x82\x07\0\x01\0\0\x01a\x30", ProtocolError),
    ("3.10.3-1", b"\xA2\x06\0\x01\0\0\x01\xFF", MalformedPacket),
    ("3.14.2-1", b"\xE0\x01\x91", ProtocolError),
    ("(3.14.2.2.2) a session expiry where there was none", b"\xE0\x07\0\x05\x11\0\0\0\x01", ProtocolError),
    ("3.15.2-1", b"\xF0\x02\x87\0", ProtocolError),
    ("(3.15.2.2.2) AUTH without a method", b"\xF0\x02\x18\0", ProtocolError),
    ("4.12.0-7", b"\xF0\x06\x18\x04\x15\0\x01m", ProtocolError),
    ("(3.2) a packet that only a server sends: CONNACK", b"\x20\x03\0\0\0", ProtocolError),
    ("(3.9) a packet that only a server sends: SUBACK", b"\x90\x04\0\x01\0\0", ProtocolError),
    ("(3.11) a packet that only a server sends: UNSUBACK", b"\xB0\x04\0\x01\0\0", ProtocolError),
    ("(3.13) a packet that only a server sends: PINGRESP", b"\xD0\0", ProtocolError),
];

#[rustfmt::skip]
const V311: &[(&str, &[u8])] = &[
    ("2.2.2-2", b"\xC1\0"),
    ("3.3.1-4", b"\x36\x05\0\x01t\0\x01"),
    ("3.3.2-2", b"\x30\x03\0\x01#"),
    ("4.7.3-1", b"\x30\x02\0\0"),
    ("1.5.3-1", b"\x30\x04\0\x02\xC3\x28"),
    ("1.5.3-1", b"\x30\x05\0\x03\xED\xA0\x80"),
    ("1.5.3-2", b"\x30\x03\0\x01\0"),
    ("2.2.2-2", b"\x41\x02\0\x01"),
    ("3.3.1-2", b"\x38\x03\0\x01t"),
    ("3.6.1-1", b"\x60\x02\0\x01"),
    ("3.8.1-1", b"\x80\x06\0\x01\0\x01a\0"),
    ("3.10.1-1", b"\xA0\x05\0\x01\0\x01a"),
    ("3.14.1-1", b"\xE1\0"),
    ("2.3.1-1", b"\x82\x06\0\0\0\x01a\0"),
    ("2.3.1-1", b"\xA2\x05\0\0\0\x01a"),
    ("3.8.3-1", b"\x82\x06\0\x01\0\x01\xFF\0"),
    ("3-8.3-4", b"\x82\x06\0\x01\0\x01a\x04"),
    ("3.10.3-1", b"\xA2\x05\0\x01\0\x01\xFF"),
    ("(2.2.3) a length of five bytes", b"\x30\xFF\xFF\xFF\xFF\x01"),
    ("(2.2.1) packet type 0", b"\0\0"),
    ("2.3.1-1", b"\x32\x05\0\x01t\0\0"),
    ("3-8.3-4", b"\x82\x06\0\x01\0\x01a\x03"),
    ("3.8.3-3", b"\x82\x02\0\x01"),
    ("3.10.3-2", b"\xA2\x02\0\x01"),
    ("(2.2.1) AUTH is of 5.0", b"\xF0\0"),
    ("(3.2) a packet that only a server sends", b"\x20\x02\0\0"),
    ("(3.13) a packet that only a server sends", b"\xD0\0"),
];

/// CONNECT of 5.0: the first byte, the body, and the reason in CONNACK.
#[rustfmt::skip]
const CONNECT_V5: &[(&str, u8, &[u8], ReasonCode)] = &[
    ("2.1.3-1", 0x11, b"\0\x04MQTT\x05\x02\0\0\0\0\x01a", MalformedPacket),
    ("1.5.4-1", 0x10, b"\0\x04MQTT\x05\x02\0\0\0\0\x03\xED\xA0\x80", MalformedPacket),
    ("1.5.4-2", 0x10, b"\0\x04MQTT\x05\x02\0\0\0\0\x01\0", MalformedPacket),
    ("3.1.2-3", 0x10, b"\0\x04MQTT\x05\x03\0\0\0\0\x01a", MalformedPacket),
    ("3.1.2-9", 0x10, b"\0\x04MQTT\x05\x06\0\0\0\0\x01a", MalformedPacket),
    ("3.1.2-11", 0x10, b"\0\x04MQTT\x05\x0A\0\0\0\0\x01a", MalformedPacket),
    ("3.1.2-12", 0x10, b"\0\x04MQTT\x05\x1E\0\0\0\0\x01a\0\0\x01w\0\0", MalformedPacket),
    ("3.1.2-13", 0x10, b"\0\x04MQTT\x05\x22\0\0\0\0\x01a", MalformedPacket),
    ("3.1.2-16", 0x10, b"\0\x04MQTT\x05\x02\0\0\0\0\x01a\0\x01u", MalformedPacket),
    ("3.1.2-17", 0x10, b"\0\x04MQTT\x05\x82\0\0\0\0\x01a", MalformedPacket),
    ("3.1.2-18", 0x10, b"\0\x04MQTT\x05\x82\0\0\0\0\x01a\0\x01u\0\x01p", MalformedPacket),
    ("3.1.2-19", 0x10, b"\0\x04MQTT\x05\xC2\0\0\0\0\x01a\0\x01u", MalformedPacket),
    ("(3.1.2.11.2) session expiry twice", 0x10, b"\0\x04MQTT\x05\x02\0\0\x0A\x11\0\0\0\x01\x11\0\0\0\x01\0\x01a", ProtocolError),
    ("(3.1.2.11.3) Receive Maximum 0", 0x10, b"\0\x04MQTT\x05\x02\0\0\x03\x21\0\0\0\x01a", ProtocolError),
    ("(3.1.2.11.3) Receive Maximum twice", 0x10, b"\0\x04MQTT\x05\x02\0\0\x06\x21\0\x01\x21\0\x01\0\x01a", ProtocolError),
    ("(3.1.2.11.4) Maximum Packet Size 0", 0x10, b"\0\x04MQTT\x05\x02\0\0\x05\x27\0\0\0\0\0\x01a", ProtocolError),
    ("(3.1.2.11.5) Topic Alias Maximum twice", 0x10, b"\0\x04MQTT\x05\x02\0\0\x06\x22\0\x01\x22\0\x01\0\x01a", ProtocolError),
    ("(3.1.2.11.6) Request Response Information 2", 0x10, b"\0\x04MQTT\x05\x02\0\0\x02\x19\x02\0\x01a", ProtocolError),
    ("(3.1.2.11.7) Request Problem Information 2", 0x10, b"\0\x04MQTT\x05\x02\0\0\x02\x17\x02\0\x01a", ProtocolError),
    ("(3.1.2.11.10) authentication data alone", 0x10, b"\0\x04MQTT\x05\x02\0\0\x04\x16\0\x01d\0\x01a", ProtocolError),
    ("(2.2.2.2) a property of PUBLISH", 0x10, b"\0\x04MQTT\x05\x02\0\0\x03\x23\0\x01\0\x01a", MalformedPacket),
    ("(2.2.2.2) a property that does not exist", 0x10, b"\0\x04MQTT\x05\x02\0\0\x02\x7E\0\0\x01a", MalformedPacket),
    ("(2.1.4) bytes behind the packet", 0x10, b"\0\x04MQTT\x05\x02\0\0\0\0\x01a!", MalformedPacket),
    ("3.1.3-3", 0x10, b"\0\x04MQTT\x05\x02\0\0\0", MalformedPacket),
    ("3.1.3-4", 0x10, b"\0\x04MQTT\x05\x02\0\0\0\0\x01\x80", MalformedPacket),
    ("(3.1.3.2.2) will delay twice", 0x10, b"\0\x04MQTT\x05\x06\0\0\0\0\x01a\x0A\x18\0\0\0\x01\x18\0\0\0\x01\0\x01w\0\0", ProtocolError),
    ("(3.1.3.2.3) payload format 2 of a will", 0x10, b"\0\x04MQTT\x05\x06\0\0\0\0\x01a\x02\x01\x02\0\x01w\0\0", ProtocolError),
    ("3.1.3-11", 0x10, b"\0\x04MQTT\x05\x06\0\0\0\0\x01a\0\0\x01\xFF\0\0", MalformedPacket),
    ("3.1.3-12", 0x10, b"\0\x04MQTT\x05\x82\0\0\0\0\x01a\0\x01\xFF", MalformedPacket),
    ("4.7.1-1", 0x10, b"\0\x04MQTT\x05\x06\0\0\0\0\x01a\0\0\x01#\0\0", MalformedPacket),
    ("4.7.3-1", 0x10, b"\0\x04MQTT\x05\x06\0\0\0\0\x01a\0\0\0\0\0", MalformedPacket),
];

/// CONNECT of 3.1.1, which has no return code for any of this.
#[rustfmt::skip]
const CONNECT_V311: &[(&str, &[u8])] = &[
    ("3.1.2-3", b"\0\x04MQTT\x04\x03\0\0\0\x01a"),
    ("3.1.2-9", b"\0\x04MQTT\x04\x06\0\0\0\x01a"),
    ("3.1.2-11", b"\0\x04MQTT\x04\x02\0\0\0\x01a\0\x01w\0\x01m"),
    ("3.1.2-13", b"\0\x04MQTT\x04\x0A\0\0\0\x01a"),
    ("3.1.2-14", b"\0\x04MQTT\x04\x1E\0\0\0\x01a\0\x01w\0\0"),
    ("3.1.2-15", b"\0\x04MQTT\x04\x22\0\0\0\x01a"),
    ("3.1.2-18", b"\0\x04MQTT\x04\x02\0\0\0\x01a\0\x01u"),
    ("3.1.2-19", b"\0\x04MQTT\x04\x82\0\0\0\x01a"),
    ("3.1.2-20", b"\0\x04MQTT\x04\x82\0\0\0\x01a\0\x01u\0\x01p"),
    ("3.1.2-21", b"\0\x04MQTT\x04\xC2\0\0\0\x01a\0\x01u"),
    ("3.1.2-22", b"\0\x04MQTT\x04\x42\0\0\0\x01a\0\x01p"),
    ("3.1.3-3", b"\0\x04MQTT\x04\x02\0\0"),
    ("3.1.3-4", b"\0\x04MQTT\x04\x02\0\0\0\x01\xFF"),
    ("3.1.3-10", b"\0\x04MQTT\x04\x06\0\0\0\x01a\0\x01\xFF\0\0"),
    ("3.1.3-11", b"\0\x04MQTT\x04\x82\0\0\0\x01a\0\x01\xFF"),
    ("4.7.1-1", b"\0\x04MQTT\x04\x06\0\0\0\x01a\0\x01#\0\0"),
    ("(2.2.3) bytes behind the packet", b"\0\x04MQTT\x04\x02\0\0\0\x01a!"),
];

#[tokio::test]
async fn a_wrong_packet_ends_its_connection_with_the_reason() {
    let target = Target::start().await;
    let mut bystander = Client::connect(&target, hello(Version::V5, "bystander")).await;
    bystander.subscribe("malformed/bystander", Default::default()).await;
    for (clause, bytes, reason) in V5 {
        let mut client = Client::connect(&target, hello(Version::V5, "wrong")).await;
        client.send_to_be_refused(bytes).await;
        assert_eq!(client.closed().await, Some(*reason), "[MQTT-{clause}] {bytes:02x?}");
    }
    bystander.publish(publish("malformed/bystander", "well")).await;
    assert_eq!(text(&bystander.message().await), "well");
}

#[tokio::test]
async fn a_wrong_packet_ends_its_connection_without_a_word_in_3_1_1() {
    let target = Target::start().await;
    let mut bystander = Client::connect(&target, hello(Version::V311, "bystander")).await;
    for (clause, bytes) in V311 {
        let mut client = Client::connect(&target, hello(Version::V311, "wrong")).await;
        client.send_to_be_refused(bytes).await;
        assert_eq!(client.closed().await, None, "[MQTT-{clause}] of 3.1.1 {bytes:02x?}");
    }
    bystander.settled().await;
}

fn framed(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first, u8::try_from(body.len()).expect("short")], body].concat()
}

/// [MQTT-3.1.4-1] [MQTT-3.14.0-1]: in a CONNACK, and never in a DISCONNECT.
#[tokio::test]
async fn a_wrong_connect_gets_its_reason() {
    let target = Target::start().await;
    for (clause, first, body, reason) in CONNECT_V5 {
        let mut client = Client::open(&target, Version::V5).await;
        client.send_bytes(&framed(*first, body)).await;
        assert_eq!(client.refused_or_closed().await, Some(*reason), "[MQTT-{clause}] {body:02x?}");
    }
}

/// 3.1.1: [MQTT-3.1.4-1] [MQTT-3.2.2-6]
#[tokio::test]
async fn a_wrong_connect_of_3_1_1_gets_no_word() {
    let target = Target::start().await;
    for (clause, body) in CONNECT_V311 {
        let mut client = Client::open(&target, Version::V311).await;
        client.send_to_be_refused(&framed(0x10, body)).await;
        assert_eq!(client.refused_or_closed().await, None, "[MQTT-{clause}] of 3.1.1 {body:02x?}");
    }
}

/// 3.14.2.1: a topic that is as it should be, and that this broker does not take: it bounds the levels.
#[tokio::test]
async fn a_topic_of_too_many_levels_is_told_so() {
    let target = Target::start().await;
    let deep = [&[0, 200][..], &[b'/'; 200]].concat();
    let publish =
        |body: Vec<u8>| [&[0x30, 0x80 | u8::try_from(body.len() % 128).expect("below 128"), 1], &body[..]].concat();
    let topic = publish([&deep[..], b"\0"].concat());
    let response = publish([&b"\0\x01t\xCB\x01\x08"[..], &deep].concat());
    for bytes in [topic, response] {
        let mut client = Client::connect(&target, hello(Version::V5, "deep")).await;
        client.send_bytes(&bytes).await;
        assert_eq!(client.closed().await, Some(TopicNameInvalid));
    }
}

/// [MQTT-3.14.2-2] [MQTT-3.14.4-1] [MQTT-3.14.4-2]: also when there is much to be sent.
#[tokio::test]
async fn nothing_follows_a_disconnect_of_the_broker() {
    let target = Target::start().await;
    let mut publisher = Client::connect(&target, hello(Version::V5, "behind-pub")).await;
    let mut client = Client::connect(&target, hello(Version::V5, "behind")).await;
    client.subscribe("malformed/behind", QoS::AtLeastOnce).await;
    for number in 0..500_u32 {
        let qos = if number % 2 == 0 { QoS::AtLeastOnce } else { QoS::AtMostOnce };
        publisher.publish(Publish { qos, ..publish("malformed/behind", &"x".repeat(1_000)) }).await;
    }
    client.send_bytes(b"\xC1\0").await;
    loop {
        match client.recv().await {
            Packet::Publish(_) => {}
            Packet::Disconnect(disconnect) => {
                assert_eq!((disconnect.reason, disconnect.session_expiry), (MalformedPacket, None));
                break;
            }
            other => panic!("expected DISCONNECT, got {other:?}"),
        }
    }
    assert_eq!(client.closed().await, None);
}

/// [MQTT-3.14.0-1]: whoever does not wait for the answer to CONNECT gets that first.
#[tokio::test]
async fn connack_comes_before_the_disconnect_for_a_packet_behind_connect() {
    let target = Target::start().await;
    let mut client = Client::open(&target, Version::V5).await;
    let connect = framed(0x10, b"\0\x04MQTT\x05\x02\0\0\0\0\x05early");
    client.send_to_be_refused(&[&connect[..], b"\xC1\0"].concat()).await;
    client.accepted().await;
    assert_eq!(client.closed().await, Some(MalformedPacket));
}

/// 3.2.2.3.6: also before anybody knows how much the broker takes.
#[tokio::test]
async fn a_connect_that_is_too_large_is_told_so() {
    let target = Target::start().await;
    let mut client = Client::open(&target, Version::V5).await;
    // Two megabytes are announced; no more than this is needed to refuse them.
    client.send_to_be_refused(b"\x10\x80\x80\x80\x01\0\x04MQTT\x05\x02\0\0\0").await;
    assert_eq!(client.refused_or_closed().await, Some(PacketTooLarge));
}

/// Whoever goes on sending gets the reason, too: a connection that is reset may lose it on the way.
#[tokio::test]
async fn what_was_sent_behind_a_wrong_packet_does_not_tear_the_connection() {
    let target = Target::start().await;
    // More than one read takes, and less than sockets hold.
    let behind = b"\x30\x05\0\x01t\0x".repeat(7_000);
    for _ in 0..10 {
        let mut client = Client::connect(&target, hello(Version::V5, "goes-on")).await;
        client.send_to_be_refused(&[b"\xC1\0", &behind[..]].concat()).await;
        assert_eq!((client.closed().await, client.torn), (Some(MalformedPacket), false));
        let mut client = Client::open(&target, Version::V5).await;
        let refused = framed(0x10, b"\0\x04MQTT\x05\x03\0\0\0\0\x01a");
        client.send_to_be_refused(&[&refused[..], &behind[..]].concat()).await;
        assert_eq!((client.refused_or_closed().await, client.torn), (Some(MalformedPacket), false));
    }
}

/// What was sent before the wrong packet counts.
#[tokio::test]
async fn what_came_before_a_wrong_packet_counts() {
    let target = Target::start().await;
    let mut subscriber = Client::connect(&target, hello(Version::V5, "before-sub")).await;
    subscriber.subscribe("malformed/before", Default::default()).await;
    let mut client = Client::connect(&target, hello(Version::V5, "before")).await;
    client.send_to_be_refused(b"\x30\x17\0\x10malformed/before\0good\x36\x06\0\x01t\0\x01\0").await;
    assert_eq!(client.closed().await, Some(MalformedPacket));
    assert_eq!(text(&subscriber.message().await), "good");
}
