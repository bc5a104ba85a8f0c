//! Reading: finds where a stream continues, unpacks one block or frame at a time without the lock, and says what is missing.

use std::ops::Range;

use bytes::Bytes;

use super::held::{Piece, Source};
use super::layout::{Meta, TABLE_BASE, TAG_PUT};
use super::record::{GapReason, Item, Stamp, StoredMessage, TableId};
use super::records::{FrameRecords, RawMessage, Record};
use super::shared::{Content, Shared};
use super::stream::{Seq, StreamId};
use super::tables::{Live, Place};
use super::{ReadBatch, ReadError};
use crate::clock::Monotonic;

/// A piece that moved is looked for again this often; it can move only when an epoch is written or dropped.
pub(super) const MAX_LOOKS: u32 = 1000;

/// A batch being filled.
struct Filling<'a> {
    shared: &'a Shared,
    id: StreamId,
    items: Vec<Item>,
    /// Next sequence to be accounted for.
    at: u64,
    msgs_left: usize,
    bytes_left: usize,
}

impl Filling<'_> {
    fn full(&self) -> bool {
        self.msgs_left == 0 || (self.bytes_left == 0 && !self.items.is_empty())
    }

    /// Everything up to `end` is missing.
    fn missing(&mut self, end: u64) {
        for (first, end, why) in self.shared.gaps(self.id, self.at..end) {
            match self.items.last_mut() {
                Some(Item::Gap { last, reason, .. }) if *reason == why && last.0 + 1 == first => *last = Seq(end),
                _ => {
                    self.items.push(Item::Gap { first: Seq(first), last: Seq(end), reason: why });
                    self.msgs_left = self.msgs_left.saturating_sub(1);
                }
            }
        }
        self.at = self.at.max(end);
    }

    /// A message, and that everything before it is missing. False if the batch was full before it.
    fn message(&mut self, body: &Bytes, boot: u32, message: &RawMessage<'_>) -> bool {
        if message.seq > self.at {
            self.missing(message.seq);
        }
        if self.full() {
            return false;
        }
        self.items.push(Item::Message(StoredMessage {
            seq: Seq(message.seq),
            stamp: Stamp { boot, at: Monotonic(message.at) },
            subject: body.slice_ref(message.subject),
            headers: body.slice_ref(message.headers),
            payload: body.slice_ref(message.payload),
            tag: message.tag,
        }));
        self.at = message.seq + 1;
        self.msgs_left -= 1;
        self.bytes_left = self.bytes_left.saturating_sub(usize::try_from(message.bytes()).unwrap_or(usize::MAX));
        true
    }

    /// Adds messages of the stream in order, those that still live. Stops when full.
    fn messages<'m>(&mut self, body: &Bytes, boot: u32, messages: impl Iterator<Item = RawMessage<'m>>, end: u64) {
        let from = self.at;
        let mut wanted = messages.filter(|m| m.seq >= from && m.seq < end);
        let limited = self.shared.lock().stream(self.id).held.subjects.is_some();
        if !limited {
            let _full = wanted.all(|message| self.message(body, boot, &message));
            return;
        }
        // One look at the subjects for all of a block or frame, which bounds the list.
        let list: Vec<RawMessage<'_>> = wanted.collect();
        let live: Vec<bool> = {
            let core = self.shared.lock();
            let subjects = core.stream(self.id).held.subjects.as_ref();
            list.iter().map(|m| subjects.is_none_or(|s| s.is_live(core.hash(m.subject), m.seq))).collect()
        };
        for (message, _) in list.iter().zip(live).filter(|(_, live)| *live) {
            if !self.message(body, boot, message) {
                return;
            }
        }
        if let Some(last) = list.last()
            && !self.full()
            && self.at <= last.seq
        {
            self.missing(last.seq + 1);
        }
    }
}

/// What there is at a position.
enum Here {
    End,
    Missing(u64),
    Piece(Piece),
}

impl Shared {
    /// See `Log::read`.
    pub(super) fn read(
        &self,
        id: StreamId,
        from: Seq,
        max_msgs: usize,
        max_bytes: usize,
    ) -> Result<ReadBatch, ReadError> {
        if id.0 as usize >= self.lock().streams.len() {
            return Err(ReadError::UnknownStream(id));
        }
        let mut filling = Filling {
            shared: self,
            id,
            items: Vec::new(),
            at: from.0.max(1),
            msgs_left: max_msgs.max(1),
            bytes_left: max_bytes.max(1),
        };
        let mut looks = 0;
        while !filling.full() {
            let piece = match self.here(&mut filling) {
                Here::End => break,
                Here::Missing(end) => {
                    filling.missing(end);
                    continue;
                }
                Here::Piece(piece) => piece,
            };
            let before = filling.at;
            match self.content(piece.source, id.0, filling.at, piece.last) {
                Ok(None) => {
                    looks += 1;
                    if looks > MAX_LOOKS {
                        return Err(ReadError::Storage("a part of the stream cannot be found".into()));
                    }
                    continue;
                }
                Err(unreadable) => self.damaged(&mut filling, unreadable.end.min(piece.last + 1)),
                Ok(Some(Content::Block(block))) => {
                    let end = block.last_seq.min(piece.last) + 1;
                    let messages = block.messages().map_while(Result::ok);
                    filling.messages(&block.body, block.boot, messages, end);
                    self.behind(&mut filling, before, end, piece.last);
                }
                Ok(Some(Content::Frame { body, base_at, boot })) => {
                    let messages = FrameRecords::new(&body).map_while(Result::ok).filter_map(|record| match record {
                        Record::Message { stream, message } if stream == id.0 => {
                            Some(RawMessage { at: base_at.saturating_add(message.at), ..message })
                        }
                        _ => None,
                    });
                    filling.messages(&body, boot, messages, piece.last + 1);
                    self.behind(&mut filling, before, piece.last + 1, piece.last);
                }
            }
        }
        Ok(ReadBatch { items: filling.items, next: Seq(filling.at) })
    }

    /// What the stream has at the position; for a memory stream, reads it at once.
    fn here(&self, filling: &mut Filling<'_>) -> Here {
        let core = self.lock();
        let stream = core.stream(filling.id);
        let state = stream.state();
        if filling.at > state.last.0 {
            return Here::End;
        }
        if filling.at < state.first.0 {
            return Here::Missing(state.first.0);
        }
        if let Some(ring) = &stream.ring {
            let mut hole = None;
            for message in ring.from(filling.at) {
                if message.seq.0 > filling.at {
                    hole = Some(message.seq.0);
                    break;
                }
                if filling.full() {
                    break;
                }
                filling.at += 1;
                filling.msgs_left -= 1;
                let bytes = message.subject.len() + message.headers.len() + message.payload.len();
                filling.bytes_left = filling.bytes_left.saturating_sub(bytes);
                filling.items.push(Item::Message(message.clone()));
            }
            return hole.map_or(Here::End, Here::Missing);
        }
        match stream.held.piece_at(filling.at) {
            None => Here::Missing(state.last.0 + 1),
            Some(piece) if piece.first > filling.at => Here::Missing(piece.first),
            Some(piece) => Here::Piece(piece),
        }
    }

    /// A block or frame was read up to `end`: what did not come out of it by then is missing.
    fn behind(&self, filling: &mut Filling<'_>, before: u64, end: u64, last: u64) {
        if filling.full() {
            return;
        }
        if end > filling.at {
            filling.missing(end);
        } else if filling.at == before {
            // The position lies behind the block and before the next one.
            let next = self.next_in_piece(filling, last);
            filling.missing(next);
        }
    }

    fn next_in_piece(&self, filling: &Filling<'_>, last: u64) -> u64 {
        let piece = self.lock().stream(filling.id).held.piece_at(filling.at);
        piece.map_or(last + 1, |piece| self.block_behind(&Piece { last, ..piece }, filling.id.0, filling.at))
    }

    fn damaged(&self, filling: &mut Filling<'_>, end: u64) {
        self.note_damage(filling.id, filling.at..end);
        filling.missing(end);
    }

    /// Remembers that a part of a stream cannot be read.
    pub(super) fn note_damage(&self, id: StreamId, range: Range<u64>) {
        let mut core = self.lock();
        if !range.is_empty() && core.stream_mut(id).note_damage(range.start, range.end - 1) {
            core.metas.push_back(Meta::Damage { stream: id.0, first: range.start, last: range.end - 1 });
            core.counters.damaged_msgs += range.end - range.start;
        }
    }

    /// Why nothing of `range` is there: ranges, both ends included, in order.
    pub(super) fn gaps(&self, id: StreamId, range: Range<u64>) -> Vec<(u64, u64, GapReason)> {
        let core = self.lock();
        let stream = core.stream(id);
        let (mut at, mut gaps) = (range.start, Vec::new());
        while at < range.end {
            let (reason, end) = if at <= stream.purged {
                (GapReason::Purge, stream.purged + 1)
            } else if let Some(&(_, last)) = stream.damage.iter().find(|d| (d.0..=d.1).contains(&at)) {
                (GapReason::Damage, last + 1)
            } else {
                let next = stream.damage.iter().map(|d| d.0).filter(|first| *first > at).min();
                (GapReason::Retention, next.unwrap_or(range.end))
            };
            let end = end.min(range.end);
            gaps.push((at, end - 1, reason));
            at = end;
        }
        gaps
    }

    /// See `Log::table_get`.
    pub(super) fn table_get(&self, table: TableId, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        let hash = self.lock().hash(key);
        Ok(self.table_record(table, hash)?.map(|(_, value)| value))
    }

    /// The live record of a key, by its hash.
    pub(super) fn table_record(&self, table: TableId, hash: u128) -> Result<Option<(Bytes, Bytes)>, ReadError> {
        for _ in 0..MAX_LOOKS {
            let live = self.lock().tables.live(table.0, hash);
            let Some(Live { place, .. }) = live else { return Ok(None) };
            let id = TABLE_BASE + u32::from(table.0);
            let lost = || ReadError::Damaged(format!("a value of table {} cannot be read", table.0));
            let content = match place {
                Place::Epoch { epoch, ordinal } => {
                    self.content(Source::Epoch(epoch), id, u64::from(ordinal), u64::from(ordinal))
                }
                Place::Tail { group, .. } => self.content(Source::Frame(group), id, 0, 0),
            };
            let found = match (content, place) {
                (Ok(None), _) => continue,
                (Err(_), _) => return Err(lost()),
                (Ok(Some(Content::Block(block))), Place::Epoch { ordinal, .. }) => block
                    .messages()
                    .map_while(Result::ok)
                    .find(|m| m.seq == u64::from(ordinal) && m.tag == TAG_PUT)
                    .map(|m| (block.body.slice_ref(m.subject), block.body.slice_ref(m.payload))),
                (Ok(Some(Content::Frame { body, .. })), Place::Tail { index, .. }) => {
                    match FrameRecords::new(&body).nth(index as usize) {
                        Some(Ok(Record::Put { key, value, .. })) => Some((body.slice_ref(key), body.slice_ref(value))),
                        _ => None,
                    }
                }
                _ => None,
            };
            return found.map(Some).ok_or_else(lost);
        }
        Err(ReadError::Storage("a value moved on and on".into()))
    }
}
