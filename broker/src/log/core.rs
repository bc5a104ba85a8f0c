//! The state of the open log, behind one short lock. No I/O and no clock in here: times are passed in, what must be read is asked for.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::boots::Boots;
use super::cursors::{CursorCore, record};
use super::drops::DropNote;
use super::group::Group;
use super::held::{Held, Piece, Source};
use super::layout::{LOSSES, META_VERSION, Meta, Snapshot, StreamRecord, encode};
use super::losses::Losses;
use super::memory::Ring;
use super::plan::{META_ROOM_BYTES, Sizes};
use super::record::{Entry, NewMessage, Stamp, Ticket};
use super::records::RECORD_OVERHEAD_BYTES;
use super::stream::{Discard, Seq, StreamConfig, StreamId, StreamLimits, StreamState, StreamUid};
use super::tables::{Live, Place, Tables};
use super::tail::Tail;
use super::{AppendError, Appended};
use crate::clock::Monotonic;

/// Streams ever made in a data directory.
pub(super) const MAX_STREAMS: usize = 4096;
/// Unreadable ranges remembered per stream; further ones show as discarded.
pub(super) const MAX_DAMAGE: usize = 64;
/// Sequences of a memory stream that are reserved at a time.
pub(super) const RESERVATION: u64 = 65_536;
/// The log's own records in one commit; what finds no room waits for the next one.
const PIGGYBACK_BYTES: usize = 48 << 10;

/// A stream.
#[derive(Debug)]
pub(super) struct StreamCore {
    pub(super) name: String,
    pub(super) uid: StreamUid,
    /// `None` if it is no longer configured: readable until retention takes it.
    pub(super) config: Option<StreamConfig>,
    /// Next sequence to give out.
    pub(super) next: u64,
    /// Behind the last durable one.
    pub(super) durable_next: u64,
    /// Up to here a person removed it.
    pub(super) purged: u64,
    pub(super) held: Held,
    pub(super) ring: Option<Ring>,
    /// Of a memory stream: sequences below are safe to use, and have been asked for.
    pub(super) reserved: u64,
    pub(super) reserving: u64,
    /// Unreadable, both ends included, in order.
    pub(super) damage: Vec<(u64, u64)>,
    pending_msgs: u64,
    pending_bytes: u64,
    span: usize,
    /// `first` moved since it was last written.
    pub(super) dirty: bool,
}

impl StreamCore {
    pub(super) fn new(name: String, uid: StreamUid) -> StreamCore {
        StreamCore {
            name,
            uid,
            config: None,
            next: 1,
            durable_next: 1,
            purged: 0,
            held: Held::new(1),
            ring: None,
            reserved: 0,
            reserving: 0,
            damage: Vec::new(),
            pending_msgs: 0,
            pending_bytes: 0,
            span: 0,
            dirty: false,
        }
    }

    pub(super) fn limits(&self) -> Option<&StreamLimits> {
        self.config.as_ref().map(|c| &c.limits)
    }

    pub(super) fn state(&self) -> StreamState {
        if let Some(ring) = &self.ring {
            return ring.state();
        }
        let first = if self.held.msgs == 0 { self.durable_next } else { self.held.first };
        StreamState {
            first: Seq(first),
            last: Seq(self.durable_next - 1),
            msgs: self.held.msgs,
            bytes: self.held.bytes,
        }
    }

    pub(super) fn discarded_msgs(&self) -> u64 {
        self.held.discarded_msgs + self.ring.as_ref().map_or(0, |r| r.discarded_msgs)
    }

    /// The limit that a message of `bytes` would exceed.
    fn refuses(&self, bytes: u64, disk_full: bool) -> Option<&'static str> {
        let limits = self.limits()?;
        if let Some(ring) = &self.ring {
            return ring.refuses(bytes);
        }
        if limits.discard == Discard::Old {
            return None;
        }
        let over = |max: Option<u64>, now: u64| max.is_some_and(|max| now > max);
        if over(limits.max_msgs, self.held.msgs + self.pending_msgs + 1) {
            Some("max_msgs")
        } else if over(limits.max_bytes, self.held.bytes + self.pending_bytes + bytes) {
            Some("max_bytes")
        } else if disk_full {
            Some("disk")
        } else {
            None
        }
    }

    pub(super) fn note_damage(&mut self, first: u64, last: u64) -> bool {
        if first > last || self.damage.len() >= MAX_DAMAGE || self.damage.iter().any(|d| d.0 <= first && last <= d.1) {
            return false;
        }
        self.damage.push((first, last));
        self.damage.sort_unstable();
        true
    }
}

/// An epoch, as much of it as is kept in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct EpochCore {
    pub(super) number: u32,
    pub(super) disk_bytes: u64,
    /// Last group in it.
    pub(super) last_group: u64,
    /// Table records in it, live or not.
    pub(super) table_records: u64,
}

/// Counters for status and metrics.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub(super) commits: u64,
    pub(super) staged_bytes: u64,
    pub(super) ingested_bytes: u64,
    pub(super) epochs_written: u64,
    pub(super) epochs_dropped: u64,
    pub(super) appended_msgs: u64,
    pub(super) appended_bytes: u64,
    pub(super) busy: u64,
    pub(super) refused: u64,
    pub(super) slot_waits: u64,
    pub(super) damaged_msgs: u64,
    pub(super) disk_used: u64,
}

/// Everything.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) sizes: Sizes,
    pub(super) seed: u64,
    pub(super) streams: Vec<StreamCore>,
    pub(super) names: HashMap<String, StreamId>,
    pub(super) cursors: Vec<Option<CursorCore>>,
    pub(super) next_cursor: u64,
    pub(super) losses: Losses,
    pub(super) boots: Boots,
    pub(super) tables: Tables,
    pub(super) tail: Tail,
    pub(super) epochs: VecDeque<EpochCore>,
    pub(super) next_epoch: u32,
    pub(super) next_group: u64,
    /// Frames up to this group are in epochs.
    pub(super) last_sealed_group: u64,
    pub(super) next_generation: u64,
    pub(super) group: Group,
    /// When the first append came of the group that is being written and synced.
    committing: Option<Instant>,
    pub(super) ticket: u64,
    pub(super) durable: u64,
    table_pending_bytes: u64,
    /// The log's own records that the next commit takes along.
    pub(super) metas: VecDeque<Meta>,
    /// A commit is wanted even if no group is there.
    pub(super) must_commit: bool,
    pub(super) closing: bool,
    /// The writer has ended: nothing more will be sealed.
    pub(super) writer_ended: bool,
    pub(super) failed: bool,
    /// What must not be discarded fills the disk.
    pub(super) disk_full: bool,
    /// A drop is being noted. What it did to readers and streams must not be saved ahead of the note.
    pub(super) noting: bool,
    /// Decided to be dropped by an earlier run: nothing of it is shown.
    pub(super) condemned: Option<u32>,
    pub(super) counters: Counters,
}

impl Core {
    pub(super) fn new(sizes: Sizes, seed: u64) -> Core {
        Core {
            sizes,
            seed,
            streams: Vec::new(),
            names: HashMap::new(),
            cursors: Vec::new(),
            next_cursor: 0,
            losses: Losses::default(),
            boots: Boots::default(),
            tables: Tables::default(),
            tail: Tail::default(),
            epochs: VecDeque::new(),
            next_epoch: 1,
            next_group: 1,
            last_sealed_group: 0,
            next_generation: 1,
            group: Group::default(),
            committing: None,
            ticket: 0,
            durable: 0,
            table_pending_bytes: 0,
            metas: VecDeque::new(),
            must_commit: false,
            closing: false,
            writer_ended: false,
            failed: false,
            disk_full: false,
            noting: false,
            condemned: None,
            counters: Counters::default(),
        }
    }

    pub(super) fn stream(&self, id: StreamId) -> &StreamCore {
        &self.streams[id.0 as usize]
    }

    pub(super) fn stream_mut(&mut self, id: StreamId) -> &mut StreamCore {
        &mut self.streams[id.0 as usize]
    }

    /// Hash of a table key or subject; seeded, so that nobody outside can make two keys meet.
    pub(super) fn hash(&self, bytes: &[u8]) -> u128 {
        xxhash_rust::xxh3::xxh3_128_with_seed(bytes, self.seed)
    }

    /// Appends a group to the one being collected, all of it or nothing.
    pub(super) fn append(&mut self, entries: &[Entry<'_>], stamp: Stamp) -> Result<Appended, AppendError> {
        if self.failed || self.closing {
            return Err(AppendError::Failed);
        }
        let room = self.sizes.group_bytes;
        let needed: usize = entries.iter().map(|e| entry_bytes(e) + RECORD_OVERHEAD_BYTES).sum();
        if needed > room {
            return Err(AppendError::TooLarge { bytes: needed, limit: room });
        }
        if self.group.raw.len() + needed > room {
            self.counters.busy += 1;
            return Err(AppendError::Busy);
        }
        let was_empty = self.group.is_empty();
        if was_empty {
            self.group.base_at = stamp.at.0;
        }
        let mark = self.group.mark();
        let pending = self.table_pending_bytes;
        let mut last_seq = None;
        for (at, entry) in entries.iter().enumerate() {
            let done = match entry {
                Entry::Message(message) => self.append_message(message, stamp).map(|seq| last_seq = Some(Seq(seq))),
                Entry::Put { table, key, value } => self.append_put(*table, key, value),
                Entry::Delete { table, key } => {
                    let hash = self.hash(key);
                    self.group.delete(table.0, hash, key);
                    Ok(())
                }
            };
            if let Err(refusal) = done {
                self.take_back(&entries[..at]);
                self.group.reset(mark);
                self.table_pending_bytes = pending;
                self.counters.refused += u64::from(matches!(refusal, AppendError::Full { .. }));
                self.counters.busy += u64::from(refusal == AppendError::Busy);
                return Err(refusal);
            }
        }
        self.count(entries, stamp);
        if self.group.is_empty() {
            // Only memory streams: done already.
            return Ok(Appended { ticket: Ticket(self.durable), last_seq });
        }
        self.ticket += 1;
        self.group.ticket = self.ticket;
        if was_empty {
            self.group.opened = Some(Instant::now());
        }
        Ok(Appended { ticket: Ticket(self.ticket), last_seq })
    }

    fn append_message(&mut self, message: &NewMessage<'_>, stamp: Stamp) -> Result<u64, AppendError> {
        let bytes = message_bytes(message);
        let disk_full = self.disk_full;
        let hash = self.seed;
        let stream = self.streams.get_mut(message.stream.0 as usize).ok_or(AppendError::Failed)?;
        if let Some(max) = stream.limits().and_then(|l| l.max_msg_bytes)
            && bytes > u64::from(max)
        {
            return Err(AppendError::TooLarge {
                bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
                limit: max as usize,
            });
        }
        if let Some(limit) = stream.refuses(bytes, disk_full) {
            return Err(AppendError::Full { stream: stream.name.clone(), limit });
        }
        if let Some(ring) = &mut stream.ring {
            if ring.next() >= stream.reserved {
                // Faster than the reservation reached the disk: a little later it has.
                return Err(AppendError::Busy);
            }
            return Ok(ring.push(stamp, message));
        }
        let seq = stream.next;
        stream.next += 1;
        stream.pending_msgs += 1;
        stream.pending_bytes += bytes;
        stream.span = self.group.message(stream.span, seq, stamp.at.0, message);
        if stream.held.subjects.is_some() {
            let subject = xxhash_rust::xxh3::xxh3_128_with_seed(message.subject, hash);
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            self.group.subjects.push(super::group::SubjectNote { stream: message.stream.0, subject, seq, bytes });
        }
        Ok(seq)
    }

    fn append_put(&mut self, table: super::TableId, key: &[u8], value: &[u8]) -> Result<(), AppendError> {
        let bytes = (key.len() + value.len()) as u64;
        if self.tables.live_bytes() + self.table_pending_bytes + bytes > self.sizes.table_bytes {
            return Err(AppendError::Full { stream: format!("$table-{}", table.0), limit: "tables" });
        }
        self.table_pending_bytes += bytes;
        let hash = self.hash(key);
        self.group.put(table.0, hash, key, value);
        Ok(())
    }

    fn take_back(&mut self, entries: &[Entry<'_>]) {
        for entry in entries.iter().rev() {
            let Entry::Message(message) = entry else { continue };
            let bytes = message_bytes(message);
            let stream = &mut self.streams[message.stream.0 as usize];
            if let Some(ring) = &mut stream.ring {
                ring.unpush();
                continue;
            }
            stream.next -= 1;
            stream.pending_msgs -= 1;
            stream.pending_bytes -= bytes;
            self.group.unmessage(stream.span, bytes);
        }
    }

    /// After a group was taken in whole: counters, and the limits and reservations of memory streams.
    fn count(&mut self, entries: &[Entry<'_>], stamp: Stamp) {
        for entry in entries {
            let Entry::Message(message) = entry else { continue };
            self.counters.appended_msgs += 1;
            self.counters.appended_bytes += message_bytes(message);
            let id = message.stream;
            if self.streams[id.0 as usize].ring.is_none() {
                continue;
            }
            let lost = self.streams[id.0 as usize].ring.as_mut().map(|r| r.enforce(|_| false));
            self.charge_cursors(id, &lost.unwrap_or_default(), stamp.at);
            let stream = &mut self.streams[id.0 as usize];
            let next = stream.ring.as_ref().map_or(0, Ring::next);
            if next + RESERVATION / 2 > stream.reserving {
                stream.reserving = next + RESERVATION;
                self.metas.push_back(Meta::Reserve { stream: id.0, upto: stream.reserving });
                self.must_commit = true;
            }
        }
    }

    /// Takes the group being collected, the log's own pending records added; `spare` takes its place.
    pub(super) fn take_group(&mut self, spare: Group, now: Monotonic) -> Group {
        let mut group = std::mem::replace(&mut self.group, spare);
        self.committing = group.opened;
        if group.is_empty() {
            group.base_at = now.0;
        }
        // What must not be saved yet is still to be.
        self.must_commit &= self.noting;
        let start = group.raw.len();
        while let Some(meta) = self.metas.pop_front() {
            if let Meta::Reserve { stream, upto } = meta {
                group.reserves.push((stream, upto));
            }
            group.meta(&self.encoded(&meta));
            if group.raw.len() - start > PIGGYBACK_BYTES {
                self.must_commit = !self.metas.is_empty();
                return group;
            }
        }
        if self.noting {
            return group;
        }
        for (id, stream) in (0..).zip(&mut self.streams) {
            if stream.dirty && group.raw.len() - start < PIGGYBACK_BYTES {
                stream.dirty = false;
                let meta = Meta::Trim { stream: id, first: stream.held.first, purged: stream.purged };
                group.meta(&encode(META_VERSION, &meta));
            }
        }
        for cursor in self.cursors.iter_mut().flatten() {
            if cursor.dirty && group.raw.len() - start < PIGGYBACK_BYTES {
                cursor.dirty = false;
                group.meta(&encode(META_VERSION, &Meta::Cursor(record(cursor))));
            }
        }
        while group.raw.len() - start < PIGGYBACK_BYTES
            && let Some((key, value)) = self.losses.take(self.next_group)
        {
            // What the table counts as pending, `publish` takes off again.
            self.table_pending_bytes += (key.len() + value.len()) as u64;
            group.put(LOSSES, self.hash(&key), &key, &value);
        }
        group
    }

    /// Whether a memory stream waits for its reservation to become durable.
    pub(super) fn awaits_reservation(&self) -> bool {
        self.streams.iter().any(|s| s.ring.as_ref().is_some_and(|r| r.next() >= s.reserved))
    }

    /// Whether a commit now would save something.
    pub(super) fn has_unsaved(&self) -> bool {
        !self.group.is_empty()
            || !self.metas.is_empty()
            || self.streams.iter().any(|s| s.dirty)
            || self.cursors.iter().flatten().any(|c| c.dirty)
            || self.losses.has_unsaved()
    }

    /// When the oldest append came that is not on disk yet.
    pub(super) fn oldest_pending(&self) -> Option<Instant> {
        self.committing.or(self.group.opened)
    }

    /// The group is on disk, in the frame of this number: readers may see it.
    pub(super) fn publish(&mut self, group: &Group, number: u64, now: Monotonic) {
        self.committing = None;
        for span in group.spans.iter().filter(|s| s.msgs > 0) {
            let stream = &mut self.streams[span.stream as usize];
            stream.durable_next = span.last + 1;
            stream.pending_msgs -= span.msgs;
            stream.pending_bytes -= span.bytes;
            let source = Source::Frame(number);
            stream.held.add(Piece { source, first: span.first, last: span.last, msgs: span.msgs, bytes: span.bytes });
        }
        for note in &group.subjects {
            self.streams[note.stream as usize].held.note_subject(note.subject, note.seq, note.bytes);
        }
        for op in &group.tables {
            let place = Place::Tail { group: number, index: op.index };
            self.tables.set(op.table, op.key, op.put.map(|bytes| Live { place, bytes }));
            self.table_pending_bytes -= u64::from(op.put.unwrap_or(0));
        }
        for &(stream, upto) in &group.reserves {
            let stream = &mut self.streams[stream as usize];
            stream.reserved = stream.reserved.max(upto);
        }
        self.durable = self.durable.max(group.ticket);
        self.settle_losses(now);
    }

    /// What every epoch ends with and every slot begins with.
    pub(super) fn snapshot(&self) -> Snapshot {
        let streams = (0..).zip(&self.streams).map(|(id, s)| StreamRecord {
            id,
            name: s.name.clone(),
            uid: s.uid.0,
            // Not `next`: what was given out and never became durable was never seen.
            next: s.durable_next.max(s.reserving),
            first: if s.ring.is_some() { s.reserving } else { s.held.first },
            purged: s.purged,
            discarded_msgs: s.discarded_msgs(),
            damage: s.damage.clone(),
        });
        Snapshot {
            streams: streams.collect(),
            cursors: self.cursors.iter().flatten().filter(|c| !c.volatile).map(record).collect(),
            boots: self.boots.records(),
        }
    }

    /// The record that a slot begins with, so that a lost store does not lose names, identities and sequences. Left out where it is too
    /// large: the cursors, which then read some messages twice, and after that the rest.
    pub(super) fn slot_record(&self) -> Option<Vec<u8>> {
        const ROOM: usize = META_ROOM_BYTES - PIGGYBACK_BYTES - 4096;
        let mut snapshot = self.snapshot();
        let encoded = self.encoded(&Meta::Snapshot(snapshot.clone()));
        if encoded.len() <= ROOM {
            return Some(encoded);
        }
        snapshot.cursors.clear();
        Some(self.encoded(&Meta::Snapshot(snapshot))).filter(|e| e.len() <= ROOM)
    }

    /// Removes an epoch from everything; what is live in it is discarded. Returns the note that must be on disk before the epoch goes.
    pub(super) fn forget_epoch(&mut self, number: u32, now: Monotonic) -> DropNote {
        self.noting = true;
        let last_group = self.epochs.iter().find(|e| e.number == number).map_or(0, |e| e.last_group);
        self.epochs.retain(|e| e.number != number);
        let mut streams: Vec<u32> = Vec::new();
        for (id, stream) in (0..).zip(&mut self.streams) {
            if stream.held.drop_epoch(number) || stream.dirty {
                streams.push(id);
            }
        }
        self.settle_losses(now);
        let first = |id: u32| {
            let stream = &self.streams[id as usize];
            (id, stream.held.first, stream.held.discarded_msgs)
        };
        DropNote {
            serial: 0,
            epoch: number,
            last_group,
            losses: self.losses.unsaved(self.next_group).cloned().collect(),
            cursors: self.cursors.iter().flatten().filter(|c| !c.volatile).map(record).collect(),
            streams: streams.into_iter().map(first).collect(),
        }
    }

    /// Takes over what a note says; saved again with the next commit, for the next note overwrites it.
    pub(super) fn apply_drop(&mut self, note: DropNote) {
        for (id, first, discarded_msgs) in note.streams {
            if let Some(stream) = self.streams.get_mut(id as usize) {
                stream.dirty |= first > stream.held.known_first;
                stream.held.trim_known(first);
                stream.held.discarded_msgs = stream.held.discarded_msgs.max(discarded_msgs);
            }
        }
        for record in &note.cursors {
            self.restore_cursor(record, false);
        }
        for record in note.losses {
            self.losses.restore(record, false);
        }
    }
}

fn message_bytes(message: &NewMessage<'_>) -> u64 {
    (message.subject.len() + message.headers.len() + message.payload.len()) as u64
}

fn entry_bytes(entry: &Entry<'_>) -> usize {
    match entry {
        Entry::Message(m) => m.subject.len() + m.headers.len() + m.payload.len(),
        Entry::Put { key, value, .. } => key.len() + value.len(),
        Entry::Delete { key, .. } => key.len(),
    }
}
