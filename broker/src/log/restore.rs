//! Bringing the state back: from snapshots and records of earlier runs, and from the configuration.

use super::core::{Core, MAX_STREAMS, RESERVATION, StreamCore};
use super::cursors::CursorCore;
use super::layout::{CursorRecord, Meta, Snapshot, TABLE_BASE};
use super::memory::Ring;
use super::stream::{Storage, StreamConfig, StreamId, StreamUid};
use super::subjects::Subjects;

impl Core {
    /// Takes over what was saved, and what stands behind it. Later or earlier than what is known already: the later wins.
    pub(super) fn apply(&mut self, meta: Meta, rest: &[u8]) {
        match meta {
            Meta::Stream { id, name, uid } => self.restore_stream(id, name, StreamUid(uid)),
            Meta::Trim { stream, first, purged } => {
                if let Some(stream) = self.streams.get_mut(stream as usize) {
                    stream.held.trim_known(first.max(purged + 1));
                    stream.purged = stream.purged.max(purged);
                }
            }
            Meta::Reserve { stream, upto } => {
                if let Some(stream) = self.streams.get_mut(stream as usize) {
                    stream.next = stream.next.max(upto);
                    stream.durable_next = stream.durable_next.max(upto);
                }
            }
            Meta::Cursor(record) => self.restore_cursor(&record, true),
            Meta::CursorGone { stream, name } => {
                let gone = |c: &CursorCore| c.stream.0 == stream && c.name == name;
                for cursor in self.cursors.iter_mut().filter(|c| c.as_ref().is_some_and(gone)) {
                    *cursor = None;
                }
            }
            Meta::Boot(record) => {
                self.boots.restore(record);
                self.restore_anchors(rest);
            }
            Meta::Damage { stream, first, last } => {
                if let Some(stream) = self.streams.get_mut(stream as usize) {
                    stream.note_damage(first, last);
                }
            }
            Meta::Snapshot(snapshot) => self.apply_snapshot(snapshot, rest),
        }
    }

    pub(super) fn apply_snapshot(&mut self, snapshot: Snapshot, rest: &[u8]) {
        for record in snapshot.streams {
            self.restore_stream(record.id, record.name, StreamUid(record.uid));
            let Some(stream) = self.streams.get_mut(record.id as usize) else { continue };
            stream.next = stream.next.max(record.next);
            stream.held.trim_known(record.first.max(record.purged + 1));
            stream.purged = stream.purged.max(record.purged);
            stream.held.discarded_msgs = stream.held.discarded_msgs.max(record.discarded_msgs);
            for (first, last) in record.damage {
                stream.note_damage(first, last);
            }
        }
        for record in &snapshot.cursors {
            self.restore_cursor(record, true);
        }
        for record in snapshot.boots {
            self.boots.restore(record);
        }
        self.restore_anchors(rest);
    }

    fn restore_stream(&mut self, id: u32, name: String, uid: StreamUid) {
        let at = id as usize;
        if at >= MAX_STREAMS || id >= TABLE_BASE {
            return;
        }
        while self.streams.len() <= at {
            // Filled in by its own record; stays nameless if that is lost.
            self.streams.push(StreamCore::new(String::new(), StreamUid(0)));
        }
        self.names.insert(name.clone(), StreamId(id));
        let stream = &mut self.streams[at];
        stream.name = name;
        stream.uid = uid;
    }

    /// Takes over a cursor; `saved` unless it is in no frame or epoch yet.
    pub(super) fn restore_cursor(&mut self, record: &CursorRecord, saved: bool) {
        if record.stream as usize >= self.streams.len() {
            return;
        }
        let at = self.cursor(&record.name, StreamId(record.stream));
        if let Some(cursor) = self.cursors[at.index].as_mut() {
            cursor.floor = cursor.floor.max(record.floor);
            cursor.lost = cursor.lost.max(record.lost);
            cursor.dirty = !saved && !cursor.volatile;
        }
    }

    /// Gives a configured stream its number, and its limits.
    pub(super) fn configure(&mut self, config: StreamConfig, uid: impl FnOnce() -> u64) -> bool {
        let (id, made) = match self.names.get(&config.name) {
            Some(id) => (*id, false),
            None => {
                let id = StreamId(u32::try_from(self.streams.len()).unwrap_or(u32::MAX));
                let uid = StreamUid(uid());
                self.streams.push(StreamCore::new(config.name.clone(), uid));
                self.names.insert(config.name.clone(), id);
                self.metas.push_back(Meta::Stream { id: id.0, name: config.name.clone(), uid: uid.0 });
                (id, true)
            }
        };
        let stream = self.stream_mut(id);
        if config.storage == Storage::Memory {
            stream.ring = Some(Ring::new(config.limits.clone(), stream.next));
            stream.reserving = stream.next + RESERVATION;
            let upto = stream.reserving;
            self.metas.push_back(Meta::Reserve { stream: id.0, upto });
        } else {
            stream.held.subjects = config.limits.max_msgs_per_subject.map(Subjects::new);
        }
        self.stream_mut(id).config = Some(config);
        made
    }
}
