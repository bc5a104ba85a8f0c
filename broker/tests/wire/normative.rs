//! The normative statements about the wire format, and the bytes that hold us to them. All statements, with all tests of
//! each, are in `tests/tests/mqtt_conformance/normative`.
//!
//! Numbers without a mark are those of MQTT 5.0; `3.1.1:` marks those of MQTT 3.1.1, where they differ. A statement in
//! parentheses is one that the specification makes without a number, in the section named.

use bytes::BytesMut;
use headwater_broker::mqtt::codec::{MAX_FILTERS, MAX_USER_PROPERTIES, decode, encode};
use headwater_broker::mqtt::packet::{
    Packet, PacketId, ReasonCode, Subscribe, SubscriptionOptions, Unsubscribe, Version,
};

use Expect::{Refused, Taken};
use ReasonCode::{
    MalformedPacket as Malformed, PacketTooLarge, ProtocolError as Protocol, QuotaExceeded, TopicAliasInvalid,
    UnsupportedProtocolVersion as Unsupported,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Expect {
    Taken,
    Refused(ReasonCode),
}

/// On what connection the bytes arrive.
const FIRST: Option<Version> = None;
const V4: Option<Version> = Some(Version::V311);
const V5: Option<Version> = Some(Version::V5);

const MAX: u32 = 1_000;

/// The clause, what it says of the bytes, the connection, the first byte, the body, and what happens.
type Case = (&'static str, &'static str, Option<Version>, u8, &'static [u8], Expect);

#[rustfmt::skip]
const CASES: &[Case] = &[
    // Data types and the fixed header.
    ("1.5.4-1", "a string with a surrogate half (CESU-8)", FIRST, 0x10, b"\0\x04MQTT\x05\x02\0\0\0\0\x03\xED\xA0\x80", Refused(Malformed)),
    ("1.5.4-1", "a string that is no UTF-8", FIRST, 0x10, b"\0\x04MQTT\x04\x02\0\0\0\x01\xFF", Refused(Malformed)),
    ("1.5.4-1", "an overlong form of `/`", V5, 0x30, b"\0\x02\xC0\xAF\0", Refused(Malformed)),
    ("1.5.4-2", "U+0000 in a string", FIRST, 0x10, b"\0\x04MQTT\x05\x02\0\0\0\0\x01\0", Refused(Malformed)),
    ("1.5.4-2", "U+0000 in a topic", V4, 0x30, b"\0\x03a\0b", Refused(Malformed)),
    ("1.5.4-3", "U+FEFF is not skipped and not stripped", V5, 0x30, b"\0\x04\xEF\xBB\xBFa\0", Taken),
    ("1.5.5-1", "a property length in more bytes than needed", V5, 0x30, b"\0\x01t\x80\0", Refused(Malformed)),
    ("1.5.5-1", "a subscription identifier in more bytes than needed", V5, 0x82, b"\0\x01\x03\x0B\x81\0\0\x01a\0", Refused(Malformed)),
    ("1.5.5-1", "a variable byte integer of five bytes", V5, 0x82, b"\0\x01\x06\x0B\x80\x80\x80\x80\x01\0\x01a\0", Refused(Malformed)),
    ("1.5.7-1", "a user property whose name is no UTF-8", V5, 0x30, b"\0\x01t\x06\x26\0\x01\xFF\0\0", Refused(Malformed)),
    ("(2.1.2)", "packet type 0", V5, 0x00, b"", Refused(Malformed)),
    ("3.1.1: (2.2.1)", "packet type 15", V4, 0xF0, b"", Refused(Malformed)),
    ("2.1.3-1", "reserved flags of CONNECT", FIRST, 0x11, CONNECT_5, Refused(Malformed)),
    ("2.1.3-1", "reserved flags of CONNACK", V5, 0x21, b"\0\0\0", Refused(Malformed)),
    ("2.1.3-1", "reserved flags of PUBACK", V5, 0x42, b"\0\x01", Refused(Malformed)),
    ("2.1.3-1", "reserved flags of PUBREC", V5, 0x51, b"\0\x01", Refused(Malformed)),
    ("3.6.1-1", "flags of PUBREL other than 0010", V5, 0x60, b"\0\x01", Refused(Malformed)),
    ("3.6.1-1", "flags of PUBREL 0010", V5, 0x62, b"\0\x01", Taken),
    ("2.1.3-1", "reserved flags of PUBCOMP", V5, 0x72, b"\0\x01", Refused(Malformed)),
    ("3.8.1-1", "flags of SUBSCRIBE other than 0010", V5, 0x80, b"\0\x01\0\0\x01a\0", Refused(Malformed)),
    ("2.1.3-1", "reserved flags of SUBACK", V5, 0x92, b"\0\x01\0\0", Refused(Malformed)),
    ("3.10.1-1", "flags of UNSUBSCRIBE other than 0010", V5, 0xA0, b"\0\x01\0\0\x01a", Refused(Malformed)),
    ("2.1.3-1", "reserved flags of UNSUBACK", V5, 0xB2, b"\0\x01\0\0", Refused(Malformed)),
    ("2.1.3-1", "reserved flags of PINGREQ", V5, 0xC1, b"", Refused(Malformed)),
    ("2.1.3-1", "reserved flags of PINGRESP", V5, 0xD8, b"", Refused(Malformed)),
    ("3.14.1-1", "reserved flags of DISCONNECT", V5, 0xE1, b"", Refused(Malformed)),
    ("3.15.1-1", "reserved flags of AUTH", V5, 0xF1, b"", Refused(Malformed)),
    ("(2.1.4)", "bytes behind the last field: PINGREQ", V5, 0xC0, b"\0", Refused(Malformed)),
    ("(2.1.4)", "bytes behind the last field: DISCONNECT of 3.1.1", V4, 0xE0, b"\0", Refused(Malformed)),
    ("(2.1.4)", "bytes behind the last field: PUBACK of 3.1.1", V4, 0x40, b"\0\x01\0", Refused(Malformed)),
    ("(2.1.4)", "bytes behind the last field: CONNECT", FIRST, 0x10, b"\0\x04MQTT\x04\x02\0\0\0\0!", Refused(Malformed)),
    ("(2.1.4)", "a packet that ends within a field", V4, 0x30, b"\0\x05ab", Refused(Malformed)),
    ("2.2.1-2", "PUBLISH at QoS 0 has no packet identifier: what follows the topic is payload", V4, 0x30, b"\0\x01t\0\0", Taken),
    ("2.2.1-3", "packet identifier 0 in SUBSCRIBE", V4, 0x82, b"\0\0\0\x01a\0", Refused(Protocol)),
    ("2.2.1-3", "packet identifier 0 in UNSUBSCRIBE", V5, 0xA2, b"\0\0\0\0\x01a", Refused(Protocol)),
    ("2.2.1-4", "packet identifier 0 in PUBLISH", V4, 0x32, b"\0\x01t\0\0", Refused(Protocol)),
    ("2.2.1-5", "packet identifier 0 in PUBACK", V4, 0x40, b"\0\0", Refused(Protocol)),
    ("2.2.1-6", "packet identifier 0 in SUBACK", V4, 0x90, b"\0\0\0", Refused(Protocol)),
    ("2.2.2-1", "SUBSCRIBE without a property length reads the filter as one", V5, 0x82, b"\0\x01", Refused(Malformed)),
    ("(2.2.2.2)", "a property that its packet does not have: topic alias in CONNECT", FIRST, 0x10, b"\0\x04MQTT\x05\x02\0\0\x03\x23\0\x01\0\0", Refused(Malformed)),
    ("(2.2.2.2)", "a property that its packet does not have: message expiry in PUBACK", V5, 0x40, b"\0\x01\0\x05\x02\0\0\0\x01", Refused(Malformed)),
    ("(2.2.2.2)", "a property that its packet does not have: will delay in PUBLISH", V5, 0x30, b"\0\x01t\x05\x18\0\0\0\x01", Refused(Malformed)),
    ("(2.2.2.2)", "a property that its packet does not have: reason string in SUBSCRIBE", V5, 0x82, b"\0\x01\x03\x1F\0\0\0\x01a\0", Refused(Malformed)),
    ("(2.2.2.2)", "a property that its packet does not have: subscription identifier in UNSUBSCRIBE", V5, 0xA2, b"\0\x01\x02\x0B\x01\0\x01a", Refused(Malformed)),
    ("(2.2.2.2)", "a property that does not exist", V5, 0x30, b"\0\x01t\x02\x7E\0", Refused(Malformed)),
    ("(2.2.2.2)", "a property identifier of two bytes", V5, 0x30, b"\0\x01t\x03\x81\x01\0", Refused(Malformed)),
    ("(2.2.2.1)", "properties longer than the packet", V5, 0x30, b"\0\x01t\x09\x01\0", Refused(Malformed)),
    ("(2.4)", "a reason code that does not exist", V5, 0x40, b"\0\x01\x7F", Refused(Malformed)),

    // CONNECT.
    ("3.1.0-1", "a first packet other than CONNECT", FIRST, 0xC0, b"", Refused(Protocol)),
    ("3.1.2-1", "another protocol name", FIRST, 0x10, b"\0\x06MQIsdq\x03\x02\0\0\0\0", Refused(Unsupported)),
    ("3.1.2-1", "the protocol name in small letters", FIRST, 0x10, b"\0\x04mqtt\x04\x02\0\0\0\0", Refused(Unsupported)),
    ("3.1.2-2", "a protocol version from the future", FIRST, 0x10, b"\0\x04MQTT\x06\x02\0\0\0\0\0", Refused(Unsupported)),
    ("3.1.2-3", "the reserved connect flag", FIRST, 0x10, b"\0\x04MQTT\x05\x03\0\0\0\0\0", Refused(Malformed)),
    ("3.1.2-8", "a will flag without a will", FIRST, 0x10, b"\0\x04MQTT\x04\x06\0\0\0\0", Refused(Malformed)),
    ("3.1.2-9", "a will with its properties, topic and payload", FIRST, 0x10, b"\0\x04MQTT\x05\x06\0\0\0\0\0\0\0\x01w\0\x02hi", Taken),
    ("3.1.2-11", "will QoS without a will", FIRST, 0x10, b"\0\x04MQTT\x04\x0A\0\0\0\0", Refused(Malformed)),
    ("3.1.2-12", "will QoS 3", FIRST, 0x10, b"\0\x04MQTT\x05\x1E\0\0\0\0\0\0\0\x01w\0\0", Refused(Malformed)),
    ("3.1.2-13", "will retain without a will", FIRST, 0x10, b"\0\x04MQTT\x05\x22\0\0\0\0\0", Refused(Malformed)),
    ("3.1.2-16", "a user name that no flag announces", FIRST, 0x10, b"\0\x04MQTT\x04\x02\0\0\0\0\0\x01u", Refused(Malformed)),
    ("3.1.2-17", "a user name flag without a user name", FIRST, 0x10, b"\0\x04MQTT\x04\x82\0\0\0\0", Refused(Malformed)),
    ("3.1.2-18", "a password that no flag announces", FIRST, 0x10, b"\0\x04MQTT\x04\x82\0\0\0\0\0\x01u\0\x01p", Refused(Malformed)),
    ("3.1.2-19", "a password flag without a password", FIRST, 0x10, b"\0\x04MQTT\x04\xC2\0\0\0\0\0\x01u", Refused(Malformed)),
    ("3.1.1: 3.1.2-22", "a password without a user name", FIRST, 0x10, b"\0\x04MQTT\x04\x42\0\0\0\0\0\x01p", Refused(Malformed)),
    ("(3.1.2.9)", "a password without a user name is allowed in 5.0", FIRST, 0x10, b"\0\x04MQTT\x05\x42\0\0\0\0\0\0\x01p", Taken),
    ("(3.1.2.11.2)", "session expiry twice", FIRST, 0x10, b"\0\x04MQTT\x05\x02\0\0\x0A\x11\0\0\0\x01\x11\0\0\0\x01\0\0", Refused(Protocol)),
    ("(3.1.2.11.3)", "Receive Maximum 0", FIRST, 0x10, b"\0\x04MQTT\x05\x02\0\0\x03\x21\0\0\0\0", Refused(Protocol)),
    ("(3.1.2.11.3)", "Receive Maximum twice", FIRST, 0x10, b"\0\x04MQTT\x05\x02\0\0\x06\x21\0\x01\x21\0\x01\0\0", Refused(Protocol)),
    ("(3.1.2.11.4)", "Maximum Packet Size 0", FIRST, 0x10, b"\0\x04MQTT\x05\x02\0\0\x05\x27\0\0\0\0\0\0", Refused(Protocol)),
    ("(3.1.2.11.5)", "Topic Alias Maximum twice", FIRST, 0x10, b"\0\x04MQTT\x05\x02\0\0\x06\x22\0\x01\x22\0\x01\0\0", Refused(Protocol)),
    ("(3.1.2.11.6)", "Request Response Information 2", FIRST, 0x10, b"\0\x04MQTT\x05\x02\0\0\x02\x19\x02\0\0", Refused(Protocol)),
    ("(3.1.2.11.7)", "Request Problem Information 2", FIRST, 0x10, b"\0\x04MQTT\x05\x02\0\0\x02\x17\x02\0\0", Refused(Protocol)),
    ("(3.1.2.11.8)", "user properties may come again, with the same name", FIRST, 0x10, b"\0\x04MQTT\x05\x02\0\0\x0E\x26\0\x01a\0\x01b\x26\0\x01a\0\x01c\0\0", Taken),
    ("(3.1.2.11.9)", "authentication method twice", FIRST, 0x10, b"\0\x04MQTT\x05\x02\0\0\x08\x15\0\x01m\x15\0\x01m\0\0", Refused(Protocol)),
    ("(3.1.2.11.10)", "authentication data without a method", FIRST, 0x10, b"\0\x04MQTT\x05\x02\0\0\x04\x16\0\x01d\0\0", Refused(Protocol)),
    ("3.1.3-1", "no client identifier at all", FIRST, 0x10, b"\0\x04MQTT\x04\x02\0\0", Refused(Malformed)),
    ("3.1.3-3", "an empty client identifier is present", FIRST, 0x10, b"\0\x04MQTT\x04\x02\0\0\0\0", Taken),
    ("3.1.3-4", "a client identifier that is no UTF-8", FIRST, 0x10, b"\0\x04MQTT\x05\x02\0\0\0\0\x01\x80", Refused(Malformed)),
    ("(3.1.3.2.2)", "will delay twice", FIRST, 0x10, b"\0\x04MQTT\x05\x06\0\0\0\0\0\x0A\x18\0\0\0\x01\x18\0\0\0\x01\0\x01w\0\0", Refused(Protocol)),
    ("(3.1.3.2.3)", "payload format 2 of a will", FIRST, 0x10, b"\0\x04MQTT\x05\x06\0\0\0\0\0\x02\x01\x02\0\x01w\0\0", Refused(Protocol)),
    ("3.1.3-11", "a will topic that is no UTF-8", FIRST, 0x10, b"\0\x04MQTT\x05\x06\0\0\0\0\0\0\0\x01\xFF\0\0", Refused(Malformed)),
    ("4.7.1-1", "a will topic with a wildcard", FIRST, 0x10, b"\0\x04MQTT\x04\x06\0\0\0\0\0\x01#\0\0", Refused(Malformed)),
    ("4.7.3-1", "an empty will topic", FIRST, 0x10, b"\0\x04MQTT\x04\x06\0\0\0\0\0\0\0\0", Refused(Malformed)),
    ("3.1.3-12", "a user name that is no UTF-8", FIRST, 0x10, b"\0\x04MQTT\x04\x82\0\0\0\0\0\x01\xFF", Refused(Malformed)),
    ("(3.1.3.6)", "a password may be any bytes", FIRST, 0x10, b"\0\x04MQTT\x04\xC2\0\0\0\0\0\x01u\0\x02\xFF\0", Taken),

    // CONNACK.
    ("3.2.2-1", "reserved acknowledge flags", V5, 0x20, b"\x02\0\0", Refused(Malformed)),
    ("3.2.2-6", "session present in a refusal", V5, 0x20, b"\x01\x87\0", Refused(Protocol)),
    ("3.1.1: 3.2.2-4", "session present in a refusal", V4, 0x20, b"\x01\x05", Refused(Protocol)),
    ("3.2.2-8", "a reason code that CONNACK does not have", V5, 0x20, b"\0\x8E\0", Refused(Protocol)),
    ("3.1.1: (3.2.2.3)", "return code 6", V4, 0x20, b"\0\x06", Refused(Malformed)),
    ("(3.2.2.3.4)", "Maximum QoS 2", V5, 0x20, b"\0\0\x02\x24\x02", Refused(Protocol)),
    ("(3.2.2.3.5)", "Retain Available 2", V5, 0x20, b"\0\0\x02\x25\x02", Refused(Protocol)),

    // PUBLISH.
    ("3.3.1-2", "DUP at QoS 0", V5, 0x38, b"\0\x01t\0", Refused(Malformed)),
    ("3.3.1-4", "QoS 3", V5, 0x36, b"\0\x01t\0\x01\0", Refused(Malformed)),
    ("3.3.2-1", "no topic name", V5, 0x30, b"", Refused(Malformed)),
    ("3.3.2-2", "a wildcard in the topic name", V5, 0x30, b"\0\x03a/+\0", Refused(Malformed)),
    ("3.3.2-2", "a wildcard in the topic name", V4, 0x30, b"\0\x01#", Refused(Malformed)),
    ("4.7.3-1", "an empty topic name", V4, 0x30, b"\0\0", Refused(Malformed)),
    ("(3.3.2.1)", "an empty topic name without a topic alias", V5, 0x30, b"\0\0\0", Refused(Protocol)),
    ("(3.3.2.1)", "an empty topic name with a topic alias", V5, 0x30, b"\0\0\x03\x23\0\x01", Taken),
    ("(3.3.2.3.2)", "payload format 2", V5, 0x30, b"\0\x01t\x02\x01\x02", Refused(Protocol)),
    ("(3.3.2.3.2)", "payload format twice", V5, 0x30, b"\0\x01t\x04\x01\0\x01\0", Refused(Protocol)),
    ("(3.3.2.3.3)", "message expiry twice", V5, 0x30, b"\0\x01t\x0A\x02\0\0\0\x01\x02\0\0\0\x01", Refused(Protocol)),
    ("3.3.2-8", "topic alias 0", V5, 0x30, b"\0\x01t\x03\x23\0\0", Refused(TopicAliasInvalid)),
    ("(3.3.2.3.4)", "topic alias twice", V5, 0x30, b"\0\x01t\x06\x23\0\x01\x23\0\x01", Refused(Protocol)),
    ("3.3.2-13", "a response topic that is no UTF-8", V5, 0x30, b"\0\x01t\x04\x08\0\x01\xFF", Refused(Malformed)),
    ("3.3.2-14", "a response topic with a wildcard", V5, 0x30, b"\0\x01t\x04\x08\0\x01+", Refused(Protocol)),
    ("(3.3.2.3.5)", "response topic twice", V5, 0x30, b"\0\x01t\x08\x08\0\x01r\x08\0\x01r", Refused(Protocol)),
    ("(3.3.2.3.6)", "correlation data twice", V5, 0x30, b"\0\x01t\x06\x09\0\0\x09\0\0", Refused(Protocol)),
    ("3.3.2-15", "user properties in a PUBLISH are strings", V5, 0x30, b"\0\x01t\x07\x26\0\x01k\0\x01\xFE", Refused(Malformed)),
    ("(3.3.2.3.8)", "subscription identifier 0", V5, 0x30, b"\0\x01t\x02\x0B\0", Refused(Protocol)),
    ("(3.3.2.3.8)", "several subscription identifiers", V5, 0x30, b"\0\x01t\x04\x0B\x01\x0B\x02", Taken),
    ("3.3.2-19", "a content type that is no UTF-8", V5, 0x30, b"\0\x01t\x04\x03\0\x01\xFF", Refused(Malformed)),
    ("(3.3.2.3.9)", "content type twice", V5, 0x30, b"\0\x01t\x06\x03\0\0\x03\0\0", Refused(Protocol)),
    ("(3.3.3)", "a PUBLISH without payload", V5, 0x30, b"\0\x01t\0", Taken),

    // Acknowledgements.
    ("3.4.2-1", "a reason code that PUBACK does not have", V5, 0x40, b"\0\x01\x92", Refused(Protocol)),
    ("(3.4.2.1)", "PUBACK without a reason code", V5, 0x40, b"\0\x01", Taken),
    ("(3.4.2.2.1)", "PUBACK without a property length", V5, 0x40, b"\0\x01\x10", Taken),
    ("(3.4.2.2.2)", "reason string twice", V5, 0x40, b"\0\x01\0\x06\x1F\0\0\x1F\0\0", Refused(Protocol)),
    ("3.5.2-1", "a reason code that PUBREC does not have", V5, 0x50, b"\0\x01\x8F", Refused(Protocol)),
    ("3.6.2-1", "a reason code that PUBREL does not have", V5, 0x62, b"\0\x01\x10", Refused(Protocol)),
    ("3.7.2-1", "a reason code that PUBCOMP does not have", V5, 0x70, b"\0\x01\x80", Refused(Protocol)),

    // SUBSCRIBE and SUBACK.
    ("(3.8.2.1.2)", "subscription identifier 0", V5, 0x82, b"\0\x01\x02\x0B\0\0\x01a\0", Refused(Protocol)),
    ("(3.8.2.1.2)", "subscription identifier twice", V5, 0x82, b"\0\x01\x04\x0B\x01\x0B\x01\0\x01a\0", Refused(Protocol)),
    ("3.8.3-1", "a filter that is no UTF-8", V5, 0x82, b"\0\x01\0\0\x01\xFF\0", Refused(Malformed)),
    ("3.8.3-2", "no filter", V5, 0x82, b"\0\x01\0", Refused(Protocol)),
    ("3.1.1: 3.8.3-3", "no filter", V4, 0x82, b"\0\x01", Refused(Protocol)),
    ("(3.8.3)", "a filter without options", V5, 0x82, b"\0\x01\0\0\x01a", Refused(Malformed)),
    ("3.8.3-4", "No Local on a shared subscription", V5, 0x82, b"\0\x01\0\0\x0A$share/g/a\x04", Refused(Protocol)),
    ("3.8.3-5", "reserved subscription options", V5, 0x82, b"\0\x01\0\0\x01a\x40", Refused(Malformed)),
    ("(3.8.3.1)", "QoS 3", V5, 0x82, b"\0\x01\0\0\x01a\x03", Refused(Protocol)),
    ("(3.8.3.1)", "Retain Handling 3", V5, 0x82, b"\0\x01\0\0\x01a\x30", Refused(Protocol)),
    ("3.1.1: 3-8.3-4", "reserved bits of the requested QoS, which are the options of 5.0", V4, 0x82, b"\0\x01\0\x01a\x04", Refused(Malformed)),
    ("3.1.1: 3-8.3-4", "QoS 3", V4, 0x82, b"\0\x01\0\x01a\x03", Refused(Malformed)),
    ("4.7.1-1", "a misplaced `#` is answered in SUBACK", V5, 0x82, b"\0\x01\0\0\x02a#\0", Taken),
    ("3.9.2-2", "SUBACK without reason codes", V5, 0x90, b"\0\x01\0", Refused(Protocol)),
    ("3.9.3-2", "a reason code that SUBACK does not have", V5, 0x90, b"\0\x01\0\x10", Refused(Protocol)),
    ("3.1.1: 3.9.3-2", "return code 3", V4, 0x90, b"\0\x01\x03", Refused(Malformed)),

    // UNSUBSCRIBE and UNSUBACK.
    ("3.10.3-1", "a filter that is no UTF-8", V4, 0xA2, b"\0\x01\0\x01\xFF", Refused(Malformed)),
    ("3.10.3-2", "no filter", V5, 0xA2, b"\0\x01\0", Refused(Protocol)),
    ("3.1.1: 3.10.3-2", "no filter", V4, 0xA2, b"\0\x01", Refused(Protocol)),
    ("3.11.3-1", "UNSUBACK without reason codes", V5, 0xB0, b"\0\x01\0", Refused(Protocol)),
    ("3.11.3-2", "a reason code that UNSUBACK does not have", V5, 0xB0, b"\0\x01\0\x01", Refused(Protocol)),

    // DISCONNECT and AUTH.
    ("3.14.2-1", "a reason code that DISCONNECT does not have", V5, 0xE0, b"\x91", Refused(Protocol)),
    ("(3.14.2.1)", "DISCONNECT without a reason code", V5, 0xE0, b"", Taken),
    ("(3.14.2.2.1)", "DISCONNECT without a property length", V5, 0xE0, b"\x04", Taken),
    ("(3.14.2.2.2)", "session expiry twice", V5, 0xE0, b"\0\x0A\x11\0\0\0\x01\x11\0\0\0\x01", Refused(Protocol)),
    ("3.15.2-1", "a reason code that AUTH does not have", V5, 0xF0, b"\x87\0", Refused(Protocol)),
    ("(3.15.2.1)", "AUTH without a reason code", V5, 0xF0, b"", Taken),
    ("(3.15.2.2.2)", "AUTH without a method", V5, 0xF0, b"\x18\0", Refused(Protocol)),
];

const CONNECT_5: &[u8] = b"\0\x04MQTT\x05\x02\0\0\0\0\0";

#[test]
fn every_statement_holds_for_its_bytes() {
    for (clause, says, version, first, body, expected) in CASES {
        let mut buf = BytesMut::from(&[*first, u8::try_from(body.len()).expect("short")][..]);
        buf.extend_from_slice(body);
        let found = match decode(&mut buf, *version, MAX) {
            Ok(Some(_)) => Taken,
            Ok(None) => panic!("[MQTT-{clause}] {says}: the packet was whole"),
            Err(error) => Refused(error.reason),
        };
        assert_eq!(found, *expected, "[MQTT-{clause}] {says} ({version:?})");
    }
}

/// 2.1.4 and [MQTT-1.5.5-1]: the remaining length itself.
#[test]
fn remaining_lengths_are_at_most_four_bytes_and_no_longer_than_needed() {
    let refused = |bytes: &[u8]| decode(&mut BytesMut::from(bytes), V5, u32::MAX).expect_err("malformed").reason;
    assert_eq!(refused(b"\x30\xFF\xFF\xFF\xFF"), Malformed);
    assert_eq!(refused(b"\x30\x80\x80\x80\x80\x01"), Malformed);
    assert_eq!(refused(b"\xC0\x80\0"), Malformed);
    assert_eq!(refused(b"\xC0\x80\x80\x80\0"), Malformed);
    assert_eq!(decode(&mut BytesMut::from(&b"\x30\xFF\xFF\xFF\x7F"[..]), V5, u32::MAX), Ok(None));
}

/// [MQTT-3.2.2-15] A packet above the limit is refused as soon as its length is known, not after it was buffered.
#[test]
fn a_packet_above_the_limit_is_refused_by_its_header() {
    let error = decode(&mut BytesMut::from(&b"\x30\xFF\xFF\xFF\x7F"[..]), V5, MAX).expect_err("too large");
    assert_eq!(error.reason, PacketTooLarge);
}

/// A type or flag that is wrong is refused at the first byte.
#[test]
fn a_wrong_first_byte_is_refused_at_once() {
    for (version, first) in [(FIRST, 0x30), (V5, 0x36), (V4, 0xF0), (V5, 0x01)] {
        assert!(decode(&mut BytesMut::from(&[first][..]), version, MAX).is_err(), "{first:#x}");
    }
}

/// What the specification does not bound and we do: lists in one packet. 0x97, as nothing about them is malformed.
#[test]
fn lists_are_taken_up_to_their_limit() {
    let packet_id = PacketId::new(1).expect("from 1");
    let subscribe = |filters, users| {
        Packet::Subscribe(Subscribe {
            packet_id,
            subscription_id: None,
            user: vec![("k".to_owned(), "v".to_owned()); users],
            filters: vec![("a".parse().map_err(|_| String::new()), SubscriptionOptions::default()); filters],
        })
    };
    let unsubscribe = |filters| {
        let filters = vec!["a".parse().map_err(|_| String::new()); filters];
        Packet::Unsubscribe(Unsubscribe { packet_id, user: Vec::new(), filters })
    };
    for (packet, expected) in [
        (subscribe(MAX_FILTERS, 0), Taken),
        (subscribe(MAX_FILTERS + 1, 0), Refused(QuotaExceeded)),
        (unsubscribe(MAX_FILTERS), Taken),
        (unsubscribe(MAX_FILTERS + 1), Refused(QuotaExceeded)),
        (subscribe(1, MAX_USER_PROPERTIES), Taken),
        (subscribe(1, MAX_USER_PROPERTIES + 1), Refused(QuotaExceeded)),
    ] {
        let mut buf = BytesMut::new();
        encode(&packet, Version::V5, &mut buf).expect("it can be written");
        let found = decode(&mut buf, V5, u32::MAX).map_or_else(|error| Refused(error.reason), |_| Taken);
        assert_eq!(found, expected);
    }
}
