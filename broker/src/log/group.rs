//! The group being collected: records of many appends, encoded once, that the writer takes as one frame. Pure.

use std::time::Instant;

use super::record::NewMessage;
use super::records::{RawMessage, put_delete, put_message, put_meta, put_put};
use super::tables::TableOp;

/// A buffer that grew beyond this is given back after use, so that one burst does not cost memory for ever.
const KEEP_BYTES: usize = 256 << 10;

/// The messages of one stream in a group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) stream: u32,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) msgs: u64,
    pub(super) bytes: u64,
}

/// A message whose subject counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct SubjectNote {
    pub(super) stream: u32,
    pub(super) subject: u128,
    pub(super) seq: u64,
    pub(super) bytes: u32,
}

/// A group.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// The body of the frame.
    pub(super) raw: Vec<u8>,
    pub(super) records: u32,
    pub(super) base_at: u64,
    /// Last append contained.
    pub(super) ticket: u64,
    pub(super) spans: Vec<Span>,
    pub(super) tables: Vec<TableOp>,
    pub(super) subjects: Vec<SubjectNote>,
    /// Reservations of memory streams: stream, end.
    pub(super) reserves: Vec<(u32, u64)>,
    /// When the first append came.
    pub(super) opened: Option<Instant>,
}

/// How far a group was filled, to go back to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    raw: usize,
    records: u32,
    tables: usize,
    subjects: usize,
}

impl Group {
    pub(super) fn is_empty(&self) -> bool {
        self.records == 0
    }

    pub(super) fn mark(&self) -> Mark {
        Mark { raw: self.raw.len(), records: self.records, tables: self.tables.len(), subjects: self.subjects.len() }
    }

    /// Forgets what was added behind `mark`. Spans are taken back by [`Group::unmessage`].
    pub(super) fn reset(&mut self, mark: Mark) {
        self.raw.truncate(mark.raw);
        self.records = mark.records;
        self.tables.truncate(mark.tables);
        self.subjects.truncate(mark.subjects);
    }

    /// Adds a message. `span` is where the stream's span was found last time; returns where it is.
    pub(super) fn message(&mut self, span: usize, seq: u64, at: u64, message: &NewMessage<'_>) -> usize {
        let raw = RawMessage {
            seq,
            at: at.saturating_sub(self.base_at),
            tag: message.tag,
            subject: message.subject,
            headers: message.headers,
            payload: message.payload,
        };
        let stream = message.stream.0;
        put_message(&mut self.raw, stream, &raw);
        self.records += 1;
        let bytes = raw.bytes();
        match self.spans.get_mut(span).filter(|s| s.stream == stream) {
            Some(found) => {
                if found.msgs == 0 {
                    found.first = seq;
                }
                found.last = seq;
                found.msgs += 1;
                found.bytes += bytes;
                span
            }
            None => {
                self.spans.push(Span { stream, first: seq, last: seq, msgs: 1, bytes });
                self.spans.len() - 1
            }
        }
    }

    /// Takes back the last message of a span; its bytes go with [`Group::reset`].
    pub(super) fn unmessage(&mut self, span: usize, bytes: u64) {
        if let Some(found) = self.spans.get_mut(span) {
            found.last -= 1;
            found.msgs -= 1;
            found.bytes -= bytes;
        }
    }

    pub(super) fn put(&mut self, table: u8, hash: u128, key: &[u8], value: &[u8]) {
        let bytes = u32::try_from(key.len() + value.len()).unwrap_or(u32::MAX);
        self.tables.push(TableOp { table, key: hash, index: self.records, put: Some(bytes) });
        put_put(&mut self.raw, table, key, value);
        self.records += 1;
    }

    pub(super) fn delete(&mut self, table: u8, hash: u128, key: &[u8]) {
        self.tables.push(TableOp { table, key: hash, index: self.records, put: None });
        put_delete(&mut self.raw, table, key);
        self.records += 1;
    }

    pub(super) fn meta(&mut self, encoded: &[u8]) {
        put_meta(&mut self.raw, encoded);
        self.records += 1;
    }

    /// Makes it ready for the next use.
    pub(super) fn clear(&mut self) {
        self.raw.clear();
        self.raw.shrink_to(KEEP_BYTES);
        self.spans.clear();
        self.tables.clear();
        self.tables.shrink_to(1024);
        self.subjects.clear();
        self.subjects.shrink_to(4096);
        self.reserves.clear();
        self.records = 0;
        self.ticket = 0;
        self.opened = None;
    }
}
