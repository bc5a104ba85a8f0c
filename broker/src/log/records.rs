//! Encoding of records in frames and blocks. Pure; the bytes are described in `layout.rs`.

use super::layout::{KIND_DELETE, KIND_MESSAGE, KIND_META, KIND_PUT};

/// The bytes are not what was written: damage, or a newer version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// One record of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record<'a> {
    Message { stream: u32, message: RawMessage<'a> },
    Put { table: u8, key: &'a [u8], value: &'a [u8] },
    Delete { table: u8, key: &'a [u8] },
    Meta(&'a [u8]),
}

/// A message as it lies in a frame or block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RawMessage<'a> {
    /// Absolute in frames and as returned from blocks.
    pub(super) seq: u64,
    /// Since the frame's base; absolute as returned from blocks.
    pub(super) at: u64,
    pub(super) tag: u8,
    pub(super) subject: &'a [u8],
    pub(super) headers: &'a [u8],
    pub(super) payload: &'a [u8],
}

impl RawMessage<'_> {
    /// What limits count.
    pub(super) fn bytes(&self) -> u64 {
        (self.subject.len() + self.headers.len() + self.payload.len()) as u64
    }
}

/// Appends a varint.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a message record to a frame body.
pub(super) fn put_message(out: &mut Vec<u8>, stream: u32, message: &RawMessage<'_>) {
    out.push(KIND_MESSAGE);
    put_varint(out, u64::from(stream));
    put_block_message(out, message.seq, message.at, message);
}

/// Appends a message to a block body, with these differences in place of its own sequence and time.
pub(super) fn put_block_message(out: &mut Vec<u8>, seq: u64, at: u64, message: &RawMessage<'_>) {
    put_varint(out, seq);
    put_varint(out, at);
    out.push(message.tag);
    put_bytes(out, message.subject);
    put_bytes(out, message.headers);
    put_bytes(out, message.payload);
}

/// Appends a table record to a frame body.
pub(super) fn put_put(out: &mut Vec<u8>, table: u8, key: &[u8], value: &[u8]) {
    out.push(KIND_PUT);
    out.push(table);
    put_bytes(out, key);
    put_bytes(out, value);
}

/// Appends a removal to a frame body.
pub(super) fn put_delete(out: &mut Vec<u8>, table: u8, key: &[u8]) {
    out.push(KIND_DELETE);
    out.push(table);
    put_bytes(out, key);
}

/// Appends an encoded `Meta` to a frame body.
pub(super) fn put_meta(out: &mut Vec<u8>, meta: &[u8]) {
    out.push(KIND_META);
    put_bytes(out, meta);
}

/// At most this many bytes are added to subject, headers and payload (or key and value) by the encoding in a frame.
pub(super) const RECORD_OVERHEAD_BYTES: usize = 1 + 5 + 10 + 10 + 1 + 3 * 5;

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, Malformed> {
        let (&first, rest) = self.0.split_first().ok_or(Malformed)?;
        self.0 = rest;
        Ok(first)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && bits > 1 {
                return Err(Malformed);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
        let (head, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(head)
    }

    fn message(&mut self) -> Result<RawMessage<'a>, Malformed> {
        Ok(RawMessage {
            seq: self.varint()?,
            at: self.varint()?,
            tag: self.byte()?,
            subject: self.bytes()?,
            headers: self.bytes()?,
            payload: self.bytes()?,
        })
    }
}

/// Walks the records of a frame body. Ends after the first error.
pub(super) struct FrameRecords<'a>(Reader<'a>);

impl<'a> FrameRecords<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self(Reader(body))
    }

    fn read(&mut self) -> Result<Record<'a>, Malformed> {
        let reader = &mut self.0;
        Ok(match reader.byte()? {
            KIND_MESSAGE => {
                let stream = u32::try_from(reader.varint()?).map_err(|_| Malformed)?;
                Record::Message { stream, message: reader.message()? }
            }
            KIND_PUT => Record::Put { table: reader.byte()?, key: reader.bytes()?, value: reader.bytes()? },
            KIND_DELETE => Record::Delete { table: reader.byte()?, key: reader.bytes()? },
            KIND_META => Record::Meta(reader.bytes()?),
            _ => return Err(Malformed),
        })
    }
}

impl<'a> Iterator for FrameRecords<'a> {
    type Item = Result<Record<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.0.is_empty() {
            return None;
        }
        let record = self.read();
        if record.is_err() {
            self.0.0 = &[];
        }
        Some(record)
    }
}

/// Walks the messages of a block body, with absolute sequences and times. Ends after the first error.
pub(super) struct BlockMessages<'a> {
    reader: Reader<'a>,
    seq: u64,
    at: u64,
}

impl<'a> BlockMessages<'a> {
    pub(super) fn new(body: &'a [u8], first_seq: u64, base_at: u64) -> Self {
        Self { reader: Reader(body), seq: first_seq, at: base_at }
    }

    fn read(&mut self) -> Result<RawMessage<'a>, Malformed> {
        let mut message = self.reader.message()?;
        self.seq = self.seq.checked_add(message.seq).ok_or(Malformed)?;
        self.at = self.at.checked_add(message.at).ok_or(Malformed)?;
        message.seq = self.seq;
        message.at = self.at;
        Ok(message)
    }
}

impl<'a> Iterator for BlockMessages<'a> {
    type Item = Result<RawMessage<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.0.is_empty() {
            return None;
        }
        let message = self.read();
        if message.is_err() {
            self.reader.0 = &[];
        }
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varints_come_back(value: u64) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            prop_assert!(out.len() <= 10);
            prop_assert_eq!(Reader(&out).varint(), Ok(value));
        }

        #[test]
        fn messages_come_back(stream: u32, seq: u64, at: u64, tag: u8, subject: Vec<u8>, headers: Vec<u8>, payload: Vec<u8>) {
            let message = RawMessage { seq, at, tag, subject: &subject, headers: &headers, payload: &payload };
            let mut out = Vec::new();
            put_message(&mut out, stream, &message);
            prop_assert!(out.len() as u64 <= message.bytes() + RECORD_OVERHEAD_BYTES as u64);
            put_put(&mut out, tag, &subject, &payload);
            put_delete(&mut out, tag, &headers);
            let records: Vec<_> = FrameRecords::new(&out).collect();
            prop_assert_eq!(records, vec![
                Ok(Record::Message { stream, message }),
                Ok(Record::Put { table: tag, key: &subject, value: &payload }),
                Ok(Record::Delete { table: tag, key: &headers }),
            ]);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            for record in FrameRecords::new(&bytes) { let _seen = record; }
            for message in BlockMessages::new(&bytes, u64::MAX - 3, 5) { let _seen = message; }
        }
    }
}
