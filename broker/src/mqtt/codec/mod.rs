//! The wire format of MQTT 3.1.1 and 5.0: bytes to packets and back, without I/O.
//!
//! [`decode`] takes packets off the front of a read buffer, one per call. Topic and payload of a PUBLISH are slices of
//! that buffer, and a PUBLISH without properties allocates nothing; everything that is usually kept (CONNECT, filters)
//! is copied, so that it does not keep the buffer alive. All that the specifications call malformed or a protocol
//! error, and that one packet alone shows, is found here with its reason code. What depends on the state of a
//! connection (who may send what, and when) is left to the session.
//!
//! [`encode`] appends a packet to a write buffer; [`encode_publish`] does so from borrowed parts, for fan-out.
//!
//! Both directions are covered, client to server and server to client: tests drive the broker with the same codec.
//!
//! Memory: a decoded packet owns at most about ten times its bytes on the wire (a list of empty user properties), and
//! lists longer than [`MAX_FILTERS`] or [`MAX_USER_PROPERTIES`] are refused.

mod ack;
mod connect;
mod frame;
mod property;
mod publish;
mod read;
mod session_end;
mod subscribe;
mod write;

use std::fmt;

use bytes::{Bytes, BytesMut};

pub use connect::{connect_return_code, connect_version};
pub use frame::{MAX_REMAINING_LENGTH, frame_len};
pub use publish::{PublishRef, encode_publish, encode_publish_head, encode_publish_within, publish_len};

use super::packet::{DecodeError, Packet, ReasonCode, Version};
use frame::{Header, Kind};
pub(super) use property::Properties;
pub(super) use read::{Reader, malformed};
pub(super) use write::Counter;
use write::Sink;

/// Most topic filters in one SUBSCRIBE or UNSUBSCRIBE; more end the connection with Quota exceeded. Clients send a few
/// dozen; each costs about 64 bytes beside its text.
pub const MAX_FILTERS: usize = 8_192;

/// Most user properties in one packet; more end the connection with Quota exceeded. Each costs 48 bytes beside its text.
pub const MAX_USER_PROPERTIES: usize = 1_024;

/// Why a packet cannot be written. Nothing was written; trying again cannot help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// A string or binary field longer than 65,535 bytes [MQTT-1.5.4-1].
    FieldTooLong,
    /// A remaining length above [`MAX_REMAINING_LENGTH`].
    PacketTooLong,
    /// The packet contradicts itself, or this protocol version cannot express it. Says what.
    Invalid(&'static str),
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EncodeError::FieldTooLong => "a field is longer than 65,535 bytes",
            EncodeError::PacketTooLong => "the packet is longer than 268,435,455 bytes",
            EncodeError::Invalid(what) => what,
        })
    }
}

impl std::error::Error for EncodeError {}

/// Takes the next packet off the front of `buf`; `None` if it is not all there yet ([`frame_len`] tells its length once
/// that is known). `version` is `None` until CONNECT was seen: then only a CONNECT is let through [MQTT-3.1.0-1].
///
/// What can be refused early is refused early: a wrong packet type or flags at the first byte, a packet above
/// `max_packet_bytes` (all of it counted, as Maximum Packet Size does) as soon as its length is known.
///
/// # Errors
/// The bytes are not a packet, and the connection is to be closed with the reason in the error. What is left in `buf`
/// is unspecified, except that a refused CONNECT stays there for [`connect_version`].
pub fn decode(
    buf: &mut BytesMut,
    version: Option<Version>,
    max_packet_bytes: u32,
) -> Result<Option<Packet>, DecodeError> {
    let Some(first) = buf.first() else { return Ok(None) };
    let header = Header::parse(*first, version)?;
    let Some(frame) = frame::frame_bounds(buf)? else { return Ok(None) };
    if frame.end > usize::try_from(max_packet_bytes).unwrap_or(usize::MAX) {
        return Err(DecodeError {
            reason: ReasonCode::PacketTooLarge,
            detail: "packet exceeds Maximum Packet Size [MQTT-3.2.2-15]",
        });
    }
    if buf.len() < frame.end {
        return Ok(None);
    }
    if header.kind == Kind::Connect {
        // Copied: user name, will and client id live as long as the connection, the read buffer need not.
        let body = Bytes::copy_from_slice(&buf[frame.start..frame.end]);
        let connect = connect::decode_connect(&mut Reader::new(&body))?;
        bytes::Buf::advance(buf, frame.end);
        return Ok(Some(Packet::Connect(Box::new(connect))));
    }
    // Header::parse lets only a CONNECT through without a version.
    let version = version.unwrap_or(Version::V311);
    let mut body = buf.split_to(frame.end).freeze();
    bytes::Buf::advance(&mut body, frame.start);
    let mut reader = Reader::new(&body);
    let packet = match header.kind {
        Kind::Connect | Kind::ConnAck => Packet::ConnAck(Box::new(connect::decode_connack(&mut reader, version)?)),
        Kind::Publish => Packet::Publish(publish::decode(&mut reader, header.flags, version)?),
        Kind::PubAck => Packet::PubAck(ack::decode(&mut reader, Kind::PubAck, version)?),
        Kind::PubRec => Packet::PubRec(ack::decode(&mut reader, Kind::PubRec, version)?),
        Kind::PubRel => Packet::PubRel(ack::decode(&mut reader, Kind::PubRel, version)?),
        Kind::PubComp => Packet::PubComp(ack::decode(&mut reader, Kind::PubComp, version)?),
        Kind::Subscribe => Packet::Subscribe(subscribe::decode_subscribe(&mut reader, version)?),
        Kind::SubAck => Packet::SubAck(subscribe::decode_suback(&mut reader, version)?),
        Kind::Unsubscribe => Packet::Unsubscribe(subscribe::decode_unsubscribe(&mut reader, version)?),
        Kind::UnsubAck => Packet::UnsubAck(subscribe::decode_unsuback(&mut reader, version)?),
        Kind::PingReq => Packet::PingReq,
        Kind::PingResp => Packet::PingResp,
        Kind::Disconnect => Packet::Disconnect(session_end::decode_disconnect(&mut reader, version)?),
        Kind::Auth => Packet::Auth(session_end::decode_auth(&mut reader)?),
    };
    reader.finish()?;
    Ok(Some(packet))
}

/// Appends `packet` to `out`. What MQTT 3.1.1 has no place for (properties, reasons of acknowledgements) is left out
/// there; a CONNECT is written in its own version.
///
/// # Errors
/// As [`EncodeError`] says; `out` is unchanged.
pub fn encode(packet: &Packet, version: Version, out: &mut BytesMut) -> Result<(), EncodeError> {
    if let Packet::Publish(publish) = packet {
        return encode_publish(&publish.as_parts(), version, out);
    }
    let remaining = remaining_length(packet, version)?;
    out.reserve(frame::header_len(remaining) + remaining);
    out.u8(Kind::of(packet).first_byte());
    out.varint(remaining);
    write_body(packet, version, out);
    Ok(())
}

/// Bytes that [`encode`] would append: what Maximum Packet Size is compared with [MQTT-3.1.2-24].
///
/// # Errors
/// As of [`encode`].
pub fn encoded_len(packet: &Packet, version: Version) -> Result<usize, EncodeError> {
    if let Packet::Publish(publish) = packet {
        return publish_len(&publish.as_parts(), version);
    }
    let remaining = remaining_length(packet, version)?;
    Ok(frame::header_len(remaining) + remaining)
}

/// Makes `packet` fit into `max_packet_bytes` as the specification wants it: the user properties go first, then the
/// reason string [MQTT-3.2.2-19, MQTT-3.2.2-20, MQTT-3.4.2-2, MQTT-3.4.2-3 and their like]. Packets without a reason
/// string are left alone. Tells whether the packet fits now; one that does not must not be sent [MQTT-3.1.2-24].
///
/// # Errors
/// As of [`encode`].
pub fn fit(packet: &mut Packet, version: Version, max_packet_bytes: u32) -> Result<bool, EncodeError> {
    let max = usize::try_from(max_packet_bytes).unwrap_or(usize::MAX);
    if encoded_len(packet, version)? <= max {
        return Ok(true);
    }
    let mut none = Vec::new();
    let (user, reason_string) = match packet {
        Packet::ConnAck(p) => (&mut p.properties.user, &mut p.properties.reason_string),
        Packet::PubAck(p) | Packet::PubRec(p) | Packet::PubRel(p) | Packet::PubComp(p) => {
            (&mut p.user, &mut p.reason_string)
        }
        Packet::SubAck(p) => (&mut none, &mut p.reason_string),
        Packet::UnsubAck(p) => (&mut none, &mut p.reason_string),
        Packet::Disconnect(p) => (&mut p.user, &mut p.reason_string),
        Packet::Auth(p) => (&mut p.user, &mut p.reason_string),
        Packet::Connect(_)
        | Packet::Publish(_)
        | Packet::Subscribe(_)
        | Packet::Unsubscribe(_)
        | Packet::PingReq
        | Packet::PingResp => return Ok(false),
    };
    let string = reason_string.take();
    user.clear();
    let bare = encoded_len(packet, version)?;
    // A reason string costs its identifier, a length and its bytes; the lengths before it may grow by two bytes each.
    if let Some(string) = string
        && bare + 1 + 2 + string.len() + 4 <= max
    {
        match packet {
            Packet::ConnAck(p) => p.properties.reason_string = Some(string),
            Packet::PubAck(p) | Packet::PubRec(p) | Packet::PubRel(p) | Packet::PubComp(p) => {
                p.reason_string = Some(string);
            }
            Packet::SubAck(p) => p.reason_string = Some(string),
            Packet::UnsubAck(p) => p.reason_string = Some(string),
            Packet::Disconnect(p) => p.reason_string = Some(string),
            Packet::Auth(p) => p.reason_string = Some(string),
            _ => {}
        }
    }
    Ok(encoded_len(packet, version)? <= max)
}

/// Checks what can be written and counts it.
fn remaining_length(packet: &Packet, version: Version) -> Result<usize, EncodeError> {
    check(packet, version)?;
    let mut counter = Counter::default();
    write_body(packet, version, &mut counter);
    counter.remaining_length()
}

fn check(packet: &Packet, version: Version) -> Result<(), EncodeError> {
    match packet {
        Packet::Connect(p) => connect::check_connect(p),
        Packet::ConnAck(p) => connect::check_connack(p, version),
        Packet::PubAck(p) | Packet::PubRec(p) | Packet::PubRel(p) | Packet::PubComp(p) => {
            ack::check(p, Kind::of(packet))
        }
        Packet::Subscribe(p) => subscribe::check_subscribe(p),
        Packet::Unsubscribe(p) => subscribe::check_filters(p.filters.len()),
        Packet::SubAck(p) => subscribe::check_suback(p),
        Packet::UnsubAck(p) => subscribe::check_unsuback(p, version),
        Packet::Disconnect(p) => session_end::check_disconnect(p),
        Packet::Auth(p) => session_end::check_auth(p, version),
        Packet::Publish(_) | Packet::PingReq | Packet::PingResp => Ok(()),
    }
}

fn write_body(packet: &Packet, version: Version, out: &mut impl Sink) {
    match packet {
        Packet::Connect(p) => connect::write_connect(p, out),
        Packet::ConnAck(p) => connect::write_connack(p, version, out),
        Packet::Publish(p) => publish::write_body(&p.as_parts(), version, out),
        Packet::PubAck(p) | Packet::PubRec(p) | Packet::PubRel(p) | Packet::PubComp(p) => ack::write(p, version, out),
        Packet::Subscribe(p) => subscribe::write_subscribe(p, version, out),
        Packet::SubAck(p) => subscribe::write_suback(p, version, out),
        Packet::Unsubscribe(p) => subscribe::write_unsubscribe(p, version, out),
        Packet::UnsubAck(p) => subscribe::write_unsuback(p, version, out),
        Packet::PingReq | Packet::PingResp => {}
        Packet::Disconnect(p) => session_end::write_disconnect(p, version, out),
        Packet::Auth(p) => session_end::write_auth(p, out),
    }
}
