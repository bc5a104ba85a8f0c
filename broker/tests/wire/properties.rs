//! Table 2-4 of MQTT 5.0: every property in every packet. Where it belongs it is taken, twice is a protocol error unless
//! the specification allows it, and elsewhere the packet is malformed (2.2.2.2).

use bytes::BytesMut;
use headwater_broker::mqtt::codec::decode;
use headwater_broker::mqtt::packet::{ReasonCode, Version};

use Place::*;

/// What has properties.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Connect,
    Will,
    ConnAck,
    Publish,
    PubAck,
    PubRec,
    PubRel,
    PubComp,
    Subscribe,
    SubAck,
    Unsubscribe,
    UnsubAck,
    Disconnect,
    Auth,
}

#[rustfmt::skip]
const ALL: &[Place] = &[
    Connect, Will, ConnAck, Publish, PubAck, PubRec, PubRel, PubComp, Subscribe, SubAck, Unsubscribe, UnsubAck, Disconnect, Auth,
];

/// The property with a value, where it belongs, and where it may come more than once.
#[rustfmt::skip]
const TABLE: &[(&[u8], &[Place], &[Place])] = &[
    (b"\x01\x01", &[Publish, Will], &[]),
    (b"\x02\0\0\0\x09", &[Publish, Will], &[]),
    (b"\x03\0\x01c", &[Publish, Will], &[]),
    (b"\x08\0\x01r", &[Publish, Will], &[]),
    (b"\x09\0\x01d", &[Publish, Will], &[]),
    (b"\x0B\x07", &[Publish, Subscribe], &[Publish]),
    (b"\x11\0\0\0\x09", &[Connect, ConnAck, Disconnect], &[]),
    (b"\x12\0\x01i", &[ConnAck], &[]),
    (b"\x13\0\x09", &[ConnAck], &[]),
    (METHOD, &[Connect, ConnAck, Auth], &[]),
    (b"\x16\0\x01d", &[Connect, ConnAck, Auth], &[]),
    (b"\x17\x01", &[Connect], &[]),
    (b"\x18\0\0\0\x09", &[Will], &[]),
    (b"\x19\x01", &[Connect], &[]),
    (b"\x1A\0\x01i", &[ConnAck], &[]),
    (b"\x1C\0\x01s", &[ConnAck, Disconnect], &[]),
    (b"\x1F\0\x01r", &[ConnAck, PubAck, PubRec, PubRel, PubComp, SubAck, UnsubAck, Disconnect, Auth], &[]),
    (b"\x21\0\x09", &[Connect, ConnAck], &[]),
    (b"\x22\0\x09", &[Connect, ConnAck], &[]),
    (b"\x23\0\x09", &[Publish], &[]),
    (b"\x24\x01", &[ConnAck], &[]),
    (b"\x25\x01", &[ConnAck], &[]),
    (b"\x26\0\x01k\0\x01v", ALL, ALL),
    (b"\x27\0\0\0\x09", &[Connect, ConnAck], &[]),
    (b"\x28\x01", &[ConnAck], &[]),
    (b"\x29\x01", &[ConnAck], &[]),
    (b"\x2A\x01", &[ConnAck], &[]),
];

/// An authentication method, without which there is neither its data nor an AUTH packet.
const METHOD: &[u8] = b"\x15\0\x01m";

/// What the decoder says of the packet with these properties, and whatever else it needs.
fn read(place: Place, properties: &[u8]) -> Result<(), ReasonCode> {
    let needs_method = place == Auth || (place == Connect && properties.starts_with(b"\x16"));
    let method = if needs_method && !properties.starts_with(METHOD) { METHOD } else { b"" };
    let (first, before, after): (u8, &[u8], &[u8]) = match place {
        Connect => (0x10, b"\0\x04MQTT\x05\x02\0\0", b"\0\0"),
        Will => (0x10, b"\0\x04MQTT\x05\x06\0\0\0\0\0", b"\0\x01w\0\0"),
        ConnAck => (0x20, b"\0\0", b""),
        Publish => (0x30, b"\0\x01t", b""),
        PubAck => (0x40, b"\0\x01\0", b""),
        PubRec => (0x50, b"\0\x01\0", b""),
        PubRel => (0x62, b"\0\x01\0", b""),
        PubComp => (0x70, b"\0\x01\0", b""),
        Subscribe => (0x82, b"\0\x01", b"\0\x01a\0"),
        SubAck => (0x90, b"\0\x01", b"\0"),
        Unsubscribe => (0xA2, b"\0\x01", b"\0\x01a"),
        UnsubAck => (0xB0, b"\0\x01", b"\0"),
        Disconnect => (0xE0, b"\0", b""),
        Auth => (0xF0, b"\x18", b""),
    };
    let short = |len: usize| u8::try_from(len).expect("short");
    let properties = [method, properties].concat();
    let body = [before, &[short(properties.len())], &properties, after].concat();
    let mut packet = BytesMut::from(&[&[first, short(body.len())], &body[..]].concat()[..]);
    let version = (first != 0x10).then_some(Version::V5);
    match decode(&mut packet, version, 1_000) {
        Ok(Some(_)) => Ok(()),
        Ok(None) => panic!("the packet was whole"),
        Err(error) => Err(error.reason),
    }
}

#[test]
fn every_property_is_taken_where_it_belongs_and_nowhere_else() {
    for (property, at_home, again) in TABLE {
        for place in ALL {
            let taken = if at_home.contains(place) { Ok(()) } else { Err(ReasonCode::MalformedPacket) };
            assert_eq!(read(*place, property), taken, "{property:02x?} in {place:?}");
            if at_home.contains(place) {
                let twice = if again.contains(place) { Ok(()) } else { Err(ReasonCode::ProtocolError) };
                assert_eq!(read(*place, &property.repeat(2)), twice, "{property:02x?} twice in {place:?}");
            }
        }
    }
}

/// Identifiers that are not in the table.
#[test]
fn a_property_that_does_not_exist_is_taken_nowhere() {
    let known: Vec<u8> = TABLE.iter().map(|(property, ..)| property[0]).collect();
    for id in (0..0x80).filter(|id| !known.contains(id)) {
        for place in ALL {
            // Whatever its type were: it is refused by its identifier.
            assert_eq!(read(*place, &[id, 0, 1, b'x', 0]), Err(ReasonCode::MalformedPacket), "{id:#x} in {place:?}");
        }
    }
}
