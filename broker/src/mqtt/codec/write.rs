//! Writes the data types of section 1.5, into a buffer or into a counter of bytes.

use bytes::{BufMut, BytesMut};

use super::EncodeError;
use super::frame::{MAX_REMAINING_LENGTH, varint_len};

/// Where the body of a packet is written to. Every body is written twice by the same code, first into a [`Counter`]:
/// lengths come before what they count, and what is counted cannot differ from what is written.
pub(in crate::mqtt) trait Sink {
    /// Bytes as they are.
    fn put(&mut self, bytes: &[u8]);

    /// A string or binary field: its length in two bytes, then `bytes` (1.5.4, 1.5.6).
    fn field(&mut self, bytes: &[u8]) {
        // A longer field never gets here: the counter refused it.
        let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.u16(len);
        self.put(bytes);
    }

    fn u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    fn u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    /// A variable byte integer (1.5.5) in the fewest bytes [MQTT-1.5.5-1].
    fn varint(&mut self, value: usize) {
        let len = varint_len(value);
        let mut bytes = [0_u8; 4];
        for (index, byte) in bytes.iter_mut().take(len).enumerate() {
            let more = if index + 1 < len { 0x80 } else { 0 };
            *byte = (value >> (7 * index)).to_le_bytes()[0] & 0x7F | more;
        }
        self.put(&bytes[..len]);
    }
}

impl Sink for BytesMut {
    fn put(&mut self, bytes: &[u8]) {
        self.put_slice(bytes);
    }
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Counts what would be written, and notices fields that are too long to be.
#[derive(Debug, Default)]
pub(in crate::mqtt) struct Counter {
    bytes: usize,
    field_too_long: bool,
}

impl Counter {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The count, if a packet may have it as its remaining length.
    pub(in crate::mqtt) fn remaining_length(&self) -> Result<usize, EncodeError> {
        if self.field_too_long {
            return Err(EncodeError::FieldTooLong);
        }
        if self.bytes > MAX_REMAINING_LENGTH {
            return Err(EncodeError::PacketTooLong);
        }
        Ok(self.bytes)
    }
}

impl Sink for Counter {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
    }

    fn field(&mut self, bytes: &[u8]) {
        self.field_too_long |= bytes.len() > usize::from(u16::MAX);
        self.bytes += 2 + bytes.len();
    }
}
