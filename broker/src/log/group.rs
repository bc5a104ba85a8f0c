//! The group being collected: records of many appends, encoded once, that the writer takes as one frame. Pure.

use std::time::{Duration, Instant};

use super::record::NewMessage;
use super::records::{RawMessage, put_delete, put_message, put_meta, put_put};
use super::tables::TableOp;

/// A buffer that grew beyond this is given back after use, so that one burst does not cost memory for ever.
const KEEP_BYTES: usize = 256 << 10;

/// How long a group that nobody waits for is kept open for company. At 40,000 messages per second it saves all but some 200 syncs of a
/// second; readers of the log see such messages so much later, and so much of them is lost when the power goes. A store-and-forward
/// link does not notice 5 ms, and a device that cares waits for an acknowledgement.
pub(super) const UNAWAITED_DELAY: Duration = Duration::from_millis(5);

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
    /// Somebody waits for it to become durable.
    pub(super) awaited: bool,
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

    /// When it is to be committed at the latest, where one that is waited for may wait for `max_delay`. `None`: nothing was appended.
    pub(super) fn due(&self, max_delay: Duration) -> Option<Instant> {
        let delay = if self.awaited { max_delay } else { max_delay.max(UNAWAITED_DELAY) };
        self.opened.map(|opened| opened + delay)
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
        self.awaited = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_DELAY: Duration = Duration::from_millis(1);

    #[test]
    fn a_group_is_due_when_the_first_of_those_who_wait_for_it_is() {
        let opened = Instant::now();
        let mut group = Group::default();
        assert_eq!(group.due(MAX_DELAY), None);
        group.opened = Some(opened);
        assert_eq!(group.due(Duration::ZERO), Some(opened + UNAWAITED_DELAY), "nobody waits");
        group.awaited = true;
        assert_eq!(group.due(MAX_DELAY), Some(opened + MAX_DELAY));
        assert_eq!(group.due(Duration::ZERO), Some(opened));
        group.clear();
        group.opened = Some(opened);
        assert_eq!(group.due(MAX_DELAY), Some(opened + UNAWAITED_DELAY), "the next one begins unawaited");
    }

    #[test]
    fn a_delay_that_was_asked_for_is_longer_for_all() {
        let opened = Instant::now();
        let group = Group { opened: Some(opened), ..Group::default() };
        assert_eq!(group.due(2 * UNAWAITED_DELAY), Some(opened + 2 * UNAWAITED_DELAY));
    }
}
