//! What the broker does with packets that are malformed or break the protocol: it says why (on MQTT 5), closes that
//! connection, and nobody else notices [MQTT-4.13.1-1].

use headwater_broker::mqtt::packet::{ReasonCode, Version};

use crate::client::{Client, hello, publish, text};
use crate::target::Target;

use ReasonCode::{MalformedPacket, PacketTooLarge, ProtocolError};

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
    ("1.5.3-2", b"\x30\x03\0\x01\0"),
    ("2.3.1-1", b"\x32\x05\0\x01t\0\0"),
    ("3-8.3-4", b"\x82\x06\0\x01\0\x01a\x03"),
    ("3.8.3-3", b"\x82\x02\0\x01"),
    ("3.10.3-2", b"\xA2\x02\0\x01"),
    ("(2.2.1) AUTH is of 5.0", b"\xF0\0"),
    ("(3.2) a packet that only a server sends", b"\x20\x02\0\0"),
    ("(3.13) a packet that only a server sends", b"\xD0\0"),
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
