//! Answers to queries: walks a stream from either end, over what lies in epochs, in frames or in memory, and unpacks what may hold
//! something of what was asked for, one block or frame at a time, without the lock.

use std::ops::Range;

use bytes::Bytes;

use super::filter::SubjectFilter;
use super::held::{Piece, Source};
use super::layout::{SIGNATURES_STREAM, key};
use super::query::{Ahead, Order, Page, Query};
use super::read::MAX_LOOKS;
use super::record::{GapReason, Item, Stamp, StoredMessage};
use super::records::{FrameRecords, RawMessage, Record};
use super::shared::{Content, Shared};
use super::signature::{self, Signatures, Wanted};
use super::stream::{Seq, StreamId};
use super::{Log, ReadError};
use crate::clock::{Monotonic, WallTime};

/// Messages of a memory stream that are looked at while the state is locked.
const RING_STEP: usize = 1024;

impl Log {
    /// One page of what a query asks for. Blocking: reads the disk unless the messages are in the tail or in memory.
    ///
    /// # Errors
    /// See [`ReadError`]. What is damaged is no error but an [`Item::Gap`].
    pub fn page(&self, stream: StreamId, query: &Query) -> Result<Page, ReadError> {
        self.shared().look_at_clock();
        self.shared().page(stream, query)
    }

    /// The first message from `from` on that the filter takes. Blocking, as long as looking takes.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn next(
        &self,
        stream: StreamId,
        from: Seq,
        filter: Option<SubjectFilter>,
    ) -> Result<Option<StoredMessage>, ReadError> {
        self.shared().first_message(stream, Query { filter, first: from, ..Query::default() })
    }

    /// The last message that the filter takes. Blocking, as long as looking takes.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn last(&self, stream: StreamId, filter: Option<SubjectFilter>) -> Result<Option<StoredMessage>, ReadError> {
        self.shared().first_message(stream, Query { filter, order: Order::Backward, ..Query::default() })
    }

    /// The first message that was stored at `time` or later, by what is known of the clocks now ([`Log::time`]); `None` if there is none
    /// yet. Messages of a boot of which nothing is known any more count as older than the boots behind it. Blocking: reads some twenty blocks.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn first_at(&self, stream: StreamId, time: WallTime) -> Result<Option<Seq>, ReadError> {
        self.shared().look_at_clock();
        self.shared().first_at(stream, time)
    }
}

impl Shared {
    fn page(&self, id: StreamId, query: &Query) -> Result<Page, ReadError> {
        let state = {
            let core = self.lock();
            let stream = core.streams.get(id.0 as usize).ok_or(ReadError::UnknownStream(id))?;
            stream.state()
        };
        let last = query.last.unwrap_or(state.last).min(state.last);
        let mut walk = Walk {
            shared: self,
            id,
            filter: query.filter.as_ref(),
            wanted: query.filter.as_ref().and_then(|filter| Wanted::of(filter, self.seed)),
            ahead: Ahead::new(query.first.0.max(1)..last.0 + 1, query.order),
            page: Page::default(),
            msgs_left: query.max_msgs.max(1),
            bytes_left: query.max_bytes.max(1),
            reads_left: query.max_reads.max(1),
            looks: 0,
            signatures: None,
        };
        while !walk.ahead.is_done() && !walk.is_full() && walk.reads_left > 0 {
            walk.step()?;
        }
        let (next, more) = (Seq(walk.ahead.at()), !walk.ahead.is_done());
        Ok(Page { next, more, ..walk.page })
    }

    fn first_message(&self, id: StreamId, mut query: Query) -> Result<Option<StoredMessage>, ReadError> {
        // A gap, and what is behind it.
        query.max_msgs = if query.filter.is_some() { 1 } else { 2 };
        loop {
            let page = self.page(id, &query)?;
            let message = page.items.into_iter().find_map(|item| match item {
                Item::Message(message) => Some(message),
                Item::Gap { .. } => None,
            });
            if message.is_some() || !page.more {
                return Ok(message);
            }
            match query.order {
                Order::Forward => query.first = page.next,
                Order::Backward => query.last = Some(page.next),
            }
        }
    }

    fn first_at(&self, id: StreamId, time: WallTime) -> Result<Option<Seq>, ReadError> {
        let (spans, mut from) = {
            let core = self.lock();
            let stream = core.streams.get(id.0 as usize).ok_or(ReadError::UnknownStream(id))?;
            (core.boots.spans_since(time), stream.state().first)
        };
        let mut reached: Option<Stamp> = None;
        for span in spans {
            if reached.is_some_and(|stamp| stamp > *span.end()) {
                continue;
            }
            if reached.is_none_or(|stamp| stamp < *span.start()) {
                let Some((seq, stamp)) = self.first_since(id, from, *span.start())? else { return Ok(None) };
                (from, reached) = (seq, Some(stamp));
            }
            if reached.is_some_and(|stamp| stamp <= *span.end()) {
                return Ok(Some(from));
            }
        }
        Ok(None)
    }

    /// The first message from `from` on with this stamp or a later one: stamps grow with the sequences.
    fn first_since(&self, id: StreamId, from: Seq, stamp: Stamp) -> Result<Option<(Seq, Stamp)>, ReadError> {
        let (mut first, mut end) = (from.0, self.lock().stream(id).state().last.0 + 1);
        let mut found = None;
        while first < end {
            let middle = first + (end - first) / 2;
            let query = Query { first: Seq(middle), last: Some(Seq(end - 1)), ..Query::default() };
            match self.first_message(id, query)? {
                Some(message) if message.stamp < stamp => first = message.seq.0 + 1,
                later => {
                    end = middle;
                    found = later.map(|message| (message.seq, message.stamp)).or(found);
                }
            }
        }
        Ok(found)
    }

    /// The signatures of a stream in an epoch, if there are any that can be read.
    fn signatures(&self, epoch: u32, stream: u32) -> Option<Signatures> {
        let value = self.store.value(&key(epoch, SIGNATURES_STREAM, 0)).ok()??;
        signature::decode(&value, self.seed, stream).filter(|found| !found.blocks.is_empty())
    }
}

/// A page being filled.
struct Walk<'a> {
    shared: &'a Shared,
    id: StreamId,
    filter: Option<&'a SubjectFilter>,
    /// What a block must hold to be of interest.
    wanted: Option<Wanted>,
    ahead: Ahead,
    page: Page,
    msgs_left: usize,
    bytes_left: usize,
    reads_left: usize,
    looks: u32,
    /// Those of the epoch that was looked at last.
    signatures: Option<(u32, Option<Signatures>)>,
}

/// What there is at a position.
enum Here {
    Hole(Range<u64>),
    Piece(Piece),
    /// Messages of a memory stream, and the sequences among which they are all that is asked for.
    Memory(Vec<StoredMessage>, Range<u64>),
}

impl Walk<'_> {
    fn is_full(&self) -> bool {
        self.msgs_left == 0 || (self.bytes_left == 0 && !self.page.items.is_empty())
    }

    fn step(&mut self) -> Result<(), ReadError> {
        match self.here() {
            Here::Hole(hole) => self.pass(&hole),
            Here::Memory(messages, run) => {
                if messages.into_iter().all(|message| self.message(message)) {
                    self.pass(&run);
                }
            }
            Here::Piece(piece) => {
                if self.skip(&piece) {
                    self.unpack(&piece)?;
                }
            }
        }
        Ok(())
    }

    fn here(&self) -> Here {
        let core = self.shared.lock();
        let stream = core.stream(self.id);
        let at = self.ahead.at();
        let first = stream.state().first.0;
        if at < first {
            return Here::Hole(0..first);
        }
        let Some(ring) = &stream.ring else {
            return match stream.held.around(at) {
                Ok(piece) => Here::Piece(piece),
                Err(hole) => Here::Hole(hole),
            };
        };
        let all = self.ahead.all();
        let mut messages = ring.within(&all);
        let mut run = all.clone();
        let mut found = Vec::new();
        for _ in 0..RING_STEP {
            let next = match self.ahead.order() {
                Order::Forward => messages.next(),
                Order::Backward => messages.next_back(),
            };
            let Some(message) = next else { return Here::Memory(found, all.clone()) };
            run = message.seq.0..message.seq.0 + 1;
            if self.filter.is_none_or(|filter| filter.matches(&message.subject)) {
                found.push(message.clone());
            }
            if found.len() >= self.msgs_left {
                break;
            }
        }
        Here::Memory(found, run)
    }

    /// Passes blocks of a piece that hold nothing; true if one is left that may.
    fn skip(&mut self, piece: &Piece) -> bool {
        let (Some(wanted), Source::Epoch(epoch)) = (self.wanted, piece.source) else { return true };
        if self.signatures.as_ref().is_none_or(|(of, _)| *of != epoch) {
            self.reads_left = self.reads_left.saturating_sub(1);
            self.signatures = Some((epoch, self.shared.signatures(epoch, self.id.0)));
        }
        if let Some((_, Some(signatures))) = &self.signatures {
            self.page.blocks_skipped += self.ahead.skip(signatures, wanted, &(piece.first..piece.last + 1));
        }
        !self.ahead.is_done() && (piece.first..=piece.last).contains(&self.ahead.at())
    }

    fn unpack(&mut self, piece: &Piece) -> Result<(), ReadError> {
        let (id, at) = (self.id.0, self.ahead.at());
        self.reads_left = self.reads_left.saturating_sub(1);
        match self.shared.content(piece.source, id, at, piece.last) {
            Ok(None) => {
                self.looks += 1;
                if self.looks > MAX_LOOKS {
                    return Err(ReadError::Storage("a part of the stream cannot be found".into()));
                }
            }
            Err(unreadable) => self.damaged(piece, unreadable.end),
            Ok(Some(Content::Block(block))) => {
                self.page.blocks_read += 1;
                let run = block.first_seq..block.last_seq.min(piece.last) + 1;
                if self.messages(&block.body, block.boot, block.messages().map_while(Result::ok)) {
                    // The position may lie behind the block and before the next one.
                    let between = run.end <= at && self.ahead.at() == at;
                    let end = if between { self.shared.block_behind(piece, id, at) } else { run.end };
                    self.pass(&(run.start..end));
                }
            }
            Ok(Some(Content::Frame { body, base_at, boot })) => {
                let messages = FrameRecords::new(&body).map_while(Result::ok).filter_map(|record| match record {
                    Record::Message { stream, message } if stream == id => {
                        Some(RawMessage { at: base_at.saturating_add(message.at), ..message })
                    }
                    _ => None,
                });
                if self.messages(&body, boot, messages) {
                    self.pass(&(piece.first..piece.last + 1));
                }
            }
        }
        Ok(())
    }

    /// Adds those of the messages of a block or frame that are asked for and live. False if the page is full before the last one.
    fn messages<'m>(&mut self, body: &Bytes, boot: u32, messages: impl Iterator<Item = RawMessage<'m>>) -> bool {
        let taken = |m: &RawMessage<'_>| self.filter.is_none_or(|filter| filter.matches(m.subject));
        let mut list: Vec<RawMessage<'_>> = messages.filter(|m| self.ahead.holds(m.seq) && taken(m)).collect();
        self.ahead.arrange(&mut list);
        {
            let core = self.shared.lock();
            let held = &core.stream(self.id).held;
            let live =
                |m: &RawMessage<'_>| held.subjects.as_ref().is_none_or(|s| s.is_live(core.hash(m.subject), m.seq));
            list.retain(|m| m.seq >= held.first && live(m));
        }
        list.iter().all(|m| {
            let stamp = Stamp { boot, at: Monotonic(m.at) };
            self.message(match self.filter {
                // A copy: a page of rare messages must not keep a block for each.
                Some(_) => StoredMessage::copied(Seq(m.seq), stamp, m.subject, m.headers, m.payload, m.tag),
                None => StoredMessage {
                    seq: Seq(m.seq),
                    stamp,
                    subject: body.slice_ref(m.subject),
                    headers: body.slice_ref(m.headers),
                    payload: body.slice_ref(m.payload),
                    tag: m.tag,
                },
            })
        })
    }

    /// A message, and that everything before it is missing. False if the page was full before it.
    fn message(&mut self, message: StoredMessage) -> bool {
        if self.is_full() {
            return false;
        }
        let seq = message.seq.0;
        let between = self.ahead.reach(seq);
        self.missing(between);
        if self.is_full() {
            return false;
        }
        self.ahead.pass(&(seq..seq + 1));
        self.msgs_left -= 1;
        let bytes = message.subject.len() + message.headers.len() + message.payload.len();
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        self.page.items.push(Item::Message(message));
        true
    }

    /// Goes on behind `run`: what was not found by then is missing.
    fn pass(&mut self, run: &Range<u64>) {
        if !self.is_full() {
            let passed = self.ahead.pass(run);
            self.missing(passed);
        }
    }

    fn missing(&mut self, range: Range<u64>) {
        let mut gaps = self.shared.gaps(self.id, range);
        if self.filter.is_some() {
            gaps.retain(|gap| gap.2 == GapReason::Damage);
        }
        self.ahead.arrange(&mut gaps);
        for (first, last, reason) in gaps {
            self.gap(first, last, reason);
        }
    }

    fn gap(&mut self, from: u64, to: u64, why: GapReason) {
        if let Some(Item::Gap { first, last, reason }) = self.page.items.last_mut()
            && *reason == why
            && (last.0 + 1 == from || to + 1 == first.0)
        {
            (*first, *last) = (Seq(first.0.min(from)), Seq(last.0.max(to)));
            return;
        }
        self.page.items.push(Item::Gap { first: Seq(from), last: Seq(to), reason: why });
        self.msgs_left = self.msgs_left.saturating_sub(1);
    }

    /// The block or frame at the position cannot be read; the next one begins at `end`.
    fn damaged(&mut self, piece: &Piece, end: u64) {
        let first = self.shared.block_begin(piece, self.id.0, self.ahead.at());
        let range = self.ahead.pass(&(first..end.min(piece.last + 1)));
        self.shared.note_damage(self.id, range.clone());
        self.missing(range);
    }
}
