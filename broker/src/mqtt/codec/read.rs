//! Reads the data types of section 1.5 off the body of a packet.

use bytes::Bytes;

use crate::mqtt::packet::{DecodeError, PacketId, ReasonCode};
use crate::mqtt::topic::{TopicError, TopicName};

pub(in crate::mqtt) fn malformed(detail: &'static str) -> DecodeError {
    DecodeError { reason: ReasonCode::MalformedPacket, detail }
}

pub(super) fn protocol_error(detail: &'static str) -> DecodeError {
    DecodeError { reason: ReasonCode::ProtocolError, detail }
}

/// A position in the body of a packet.
#[derive(Clone, Debug)]
pub(in crate::mqtt) struct Reader<'a> {
    body: &'a Bytes,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(in crate::mqtt) fn new(body: &'a Bytes) -> Reader<'a> {
        Reader { body, rest: body }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Nothing may follow.
    pub(super) fn finish(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(malformed("bytes behind the end of the packet (2.1.4)")) }
    }

    /// The next `count` bytes.
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let Some((head, rest)) = self.rest.split_at_checked(count) else {
            return Err(malformed("packet ends within a field (2.1.4)"));
        };
        self.rest = rest;
        Ok(head)
    }

    /// A reader over the next `count` bytes.
    pub(super) fn part(&mut self, count: usize) -> Result<Reader<'a>, DecodeError> {
        Ok(Reader { body: self.body, rest: self.take(count)? })
    }

    /// All that is left.
    pub(super) fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// `slice`, which was read off this reader, as a share of the body.
    pub(super) fn shared(&self, slice: &[u8]) -> Bytes {
        self.body.slice_ref(slice)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A variable byte integer (1.5.5).
    pub(super) fn varint(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0_u32;
        for index in 0..4 {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7F) << (7 * index);
            if byte & 0x80 == 0 {
                if byte == 0 && index > 0 {
                    return Err(malformed("variable byte integer in more bytes than needed [MQTT-1.5.5-1]"));
                }
                return Ok(value);
            }
        }
        Err(malformed("variable byte integer of more than four bytes (1.5.5)"))
    }

    /// A variable byte integer that counts bytes or items.
    pub(super) fn length(&mut self) -> Result<usize, DecodeError> {
        // 28 bits fit; on a machine where they did not, no packet could be that long either.
        Ok(usize::try_from(self.varint()?).unwrap_or(usize::MAX))
    }

    /// Binary data (1.5.6).
    pub(super) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    /// A UTF-8 encoded string (1.5.4).
    pub(super) fn string(&mut self) -> Result<&'a str, DecodeError> {
        let bytes = self.binary()?;
        if bytes.contains(&0) {
            return Err(malformed("string contains U+0000 [MQTT-1.5.4-2]"));
        }
        std::str::from_utf8(bytes).map_err(|_| malformed("string is not UTF-8 [MQTT-1.5.4-1]"))
    }

    /// A packet identifier.
    pub(super) fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        PacketId::new(self.u16()?).ok_or_else(|| protocol_error("packet identifier 0 [MQTT-2.2.1-3]"))
    }
}

/// `bytes` as a response topic, or how the connection ends.
pub(super) fn response_topic(bytes: Bytes) -> Result<TopicName, DecodeError> {
    TopicName::new(bytes).map_err(|error| match error {
        TopicError::TooDeep => too_deep(),
        _ => protocol_error("response topic is not a valid topic name [MQTT-3.3.2-14]"),
    })
}

/// `bytes` as a topic name, or how the connection ends.
pub(super) fn topic_name(bytes: Bytes) -> Result<TopicName, DecodeError> {
    TopicName::new(bytes).map_err(|error| match error {
        TopicError::TooDeep => too_deep(),
        TopicError::Empty => malformed("topic name is empty [MQTT-4.7.3-1]"),
        TopicError::TooLong => malformed("topic name is longer than 65,535 bytes [MQTT-4.7.3-3]"),
        TopicError::NotUtf8 => malformed("topic name is not UTF-8 [MQTT-1.5.4-1]"),
        TopicError::Nul => malformed("topic name contains U+0000 [MQTT-4.7.3-2]"),
        TopicError::Wildcard | TopicError::MisplacedWildcard | TopicError::BadShare => {
            malformed("topic name contains a wildcard [MQTT-3.3.2-2]")
        }
    })
}

/// A topic name that is as the specification wants it, and that we do not take.
fn too_deep() -> DecodeError {
    DecodeError {
        reason: ReasonCode::TopicNameInvalid,
        detail: "topic name has more than 128 levels, the limit of this broker",
    }
}
