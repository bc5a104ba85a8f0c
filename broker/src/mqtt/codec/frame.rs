//! The fixed header: packet type, flags, remaining length (2.1).

use std::ops::Range;

use super::read::{malformed, protocol_error};
use crate::mqtt::packet::{DecodeError, Packet, Version};

/// Largest remaining length: what four bytes of a variable byte integer hold (2.1.4).
pub const MAX_REMAINING_LENGTH: usize = 268_435_455;

/// Packet types by their number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    PingReq = 12,
    PingResp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl Kind {
    const ALL: [Kind; 15] = [
        Kind::Connect,
        Kind::ConnAck,
        Kind::Publish,
        Kind::PubAck,
        Kind::PubRec,
        Kind::PubRel,
        Kind::PubComp,
        Kind::Subscribe,
        Kind::SubAck,
        Kind::Unsubscribe,
        Kind::UnsubAck,
        Kind::PingReq,
        Kind::PingResp,
        Kind::Disconnect,
        Kind::Auth,
    ];

    pub(super) fn of(packet: &Packet) -> Kind {
        match packet {
            Packet::Connect(_) => Kind::Connect,
            Packet::ConnAck(_) => Kind::ConnAck,
            Packet::Publish(_) => Kind::Publish,
            Packet::PubAck(_) => Kind::PubAck,
            Packet::PubRec(_) => Kind::PubRec,
            Packet::PubRel(_) => Kind::PubRel,
            Packet::PubComp(_) => Kind::PubComp,
            Packet::Subscribe(_) => Kind::Subscribe,
            Packet::SubAck(_) => Kind::SubAck,
            Packet::Unsubscribe(_) => Kind::Unsubscribe,
            Packet::UnsubAck(_) => Kind::UnsubAck,
            Packet::PingReq => Kind::PingReq,
            Packet::PingResp => Kind::PingResp,
            Packet::Disconnect(_) => Kind::Disconnect,
            Packet::Auth(_) => Kind::Auth,
        }
    }

    /// Type and the flags that are fixed for it; a PUBLISH adds its own.
    pub(super) fn first_byte(self) -> u8 {
        (self as u8) << 4 | self.fixed_flags()
    }

    /// The reserved flags of every type but PUBLISH (table 2-2) [MQTT-2.1.3-1].
    fn fixed_flags(self) -> u8 {
        match self {
            Kind::PubRel | Kind::Subscribe | Kind::Unsubscribe => 0b0010,
            _ => 0,
        }
    }
}

/// The first byte of a packet, checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) flags: u8,
}

impl Header {
    pub(super) fn parse(first: u8, version: Option<Version>) -> Result<Header, DecodeError> {
        let index = usize::from(first >> 4);
        let Some(kind) = index.checked_sub(1).and_then(|index| Kind::ALL.get(index)).copied() else {
            return Err(malformed("packet type 0 is reserved (2.1.2)"));
        };
        let flags = first & 0x0F;
        if version.is_none() && kind != Kind::Connect {
            return Err(protocol_error("the first packet is not CONNECT [MQTT-3.1.0-1]"));
        }
        if kind == Kind::Auth && version.is_some_and(|version| version != Version::V5) {
            return Err(malformed("packet type 15 is reserved in MQTT 3.1.1 (2.2.1)"));
        }
        if kind == Kind::Publish {
            if flags & 0b0110 == 0b0110 {
                return Err(malformed("PUBLISH with QoS 3 [MQTT-3.3.1-4]"));
            }
            if flags & 0b1110 == 0b1000 {
                return Err(malformed("PUBLISH with DUP at QoS 0 [MQTT-3.3.1-2]"));
            }
        } else if flags != kind.fixed_flags() && version != Some(Version::V31) {
            // 3.1 repeats SUBSCRIBE, UNSUBSCRIBE and PUBREL with DUP, and says nothing of the other bits (2.1 there).
            return Err(malformed("reserved flags of the fixed header [MQTT-2.1.3-1]"));
        }
        Ok(Header { kind, flags })
    }
}

/// Where the body of the first packet in `buf` lies; its end is also the length of the packet. `None` while the
/// length is not all there.
pub(super) fn frame_bounds(buf: &[u8]) -> Result<Option<Range<usize>>, DecodeError> {
    let mut value = 0_usize;
    for (index, byte) in buf.iter().skip(1).take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            if *byte == 0 && index > 0 {
                return Err(malformed("remaining length in more bytes than needed [MQTT-1.5.5-1]"));
            }
            let start = index + 2;
            return Ok(Some(start..start + value));
        }
    }
    if buf.len() >= 5 {
        return Err(malformed("remaining length of more than four bytes (2.1.4)"));
    }
    Ok(None)
}

/// Bytes of the first packet in `buf`, header included, or `None` while its length is not all there. A reader may
/// reserve what is missing, once it has checked it against its limit.
///
/// # Errors
/// The length is malformed.
pub fn frame_len(buf: &[u8]) -> Result<Option<usize>, DecodeError> {
    Ok(frame_bounds(buf)?.map(|frame| frame.end))
}

/// Bytes of the fixed header before a body of `remaining` bytes.
pub(super) fn header_len(remaining: usize) -> usize {
    1 + varint_len(remaining)
}

/// Bytes of `value` as a variable byte integer (1.5.5).
pub(super) fn varint_len(value: usize) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}
