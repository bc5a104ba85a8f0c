//! The cursors of a log: how far every reader has confirmed, and what retention took from it before that. Pure.

use tracing::{error, warn};

use super::core::Core;
use super::held::Loss;
use super::layout::{CursorRecord, Meta};
use super::record::Stamp;
use super::stream::StreamId;
use crate::clock::Monotonic;

/// Cursors kept at most; a further one works but is not saved.
pub(super) const MAX_CURSORS: usize = 4096;

/// A cursor.
#[derive(Debug)]
pub(super) struct CursorCore {
    /// Tells it from another one that had its place before.
    pub(super) serial: u64,
    pub(super) name: String,
    pub(super) stream: StreamId,
    pub(super) floor: u64,
    pub(super) lost: u64,
    /// Not to be written.
    pub(super) volatile: bool,
    pub(super) dirty: bool,
    /// It is behind what is held, and that was announced.
    in_loss: bool,
}

/// How a handle finds its cursor.
#[derive(Clone, Copy, Debug)]
pub(super) struct CursorAt {
    pub(super) index: usize,
    serial: u64,
}

impl Core {
    /// Charges what streams discarded to the cursors that had not confirmed it.
    pub(super) fn settle_losses(&mut self, now: Monotonic) {
        for id in 0..self.streams.len() {
            let stream = &mut self.streams[id];
            if stream.held.has_losses() {
                stream.dirty = true;
                let losses = stream.held.take_losses();
                self.charge_cursors(StreamId(u32::try_from(id).unwrap_or(u32::MAX)), &losses, now);
            }
        }
    }

    pub(super) fn charge_cursors(&mut self, id: StreamId, losses: &[Loss], now: Monotonic) {
        let at = Stamp { boot: self.boots.current(), at: now };
        for cursor in self.cursors.iter_mut().flatten().filter(|c| c.stream == id) {
            let mut lost = 0;
            for loss in losses.iter().filter_map(|loss| unconfirmed(loss, cursor.floor)) {
                lost += loss.msgs;
                self.losses.add(id.0, &cursor.name, &loss, at, cursor.in_loss || lost > loss.msgs);
            }
            if lost == 0 {
                continue;
            }
            cursor.lost += lost;
            cursor.dirty = true;
            if !cursor.in_loss {
                cursor.in_loss = true;
                let stream = &self.streams[id.0 as usize].name;
                let floor = cursor.floor;
                warn!(
                    cursor = cursor.name,
                    stream, floor, lost, "retention discarded messages that a reader had not confirmed"
                );
            }
        }
    }

    /// A reader confirmed everything up to `floor`.
    pub(super) fn advance_cursor(&mut self, at: CursorAt, floor: u64) {
        let cursor = self.cursors.get_mut(at.index).and_then(Option::as_mut).filter(|c| c.serial == at.serial);
        let Some(cursor) = cursor else { return };
        if floor <= cursor.floor {
            return;
        }
        cursor.floor = floor;
        cursor.dirty = !cursor.volatile;
        let first = self.streams[cursor.stream.0 as usize].state().first.0;
        if cursor.floor + 1 >= first {
            cursor.in_loss = false;
        }
    }

    /// What a handle points at, unless it was removed.
    pub(super) fn cursor_at(&self, at: CursorAt) -> Option<&CursorCore> {
        self.cursors.get(at.index)?.as_ref().filter(|c| c.serial == at.serial)
    }

    /// The cursor of that name, made if missing.
    pub(super) fn cursor(&mut self, name: &str, stream: StreamId) -> CursorAt {
        let found = (0..).zip(&self.cursors).find_map(|(index, cursor)| {
            let cursor = cursor.as_ref().filter(|c| c.stream == stream && c.name == name)?;
            Some(CursorAt { index, serial: cursor.serial })
        });
        if let Some(at) = found {
            return at;
        }
        let volatile = self.cursors.iter().flatten().filter(|c| !c.volatile).count() >= MAX_CURSORS;
        if volatile {
            error!(cursor = name, limit = MAX_CURSORS, "too many cursors; this one is not saved");
        }
        let serial = self.next_cursor;
        self.next_cursor += 1;
        let cursor = CursorCore {
            serial,
            name: name.to_owned(),
            stream,
            floor: 0,
            lost: 0,
            volatile,
            dirty: !volatile,
            in_loss: false,
        };
        let index = self.cursors.iter().position(Option::is_none).unwrap_or(self.cursors.len());
        if index == self.cursors.len() {
            self.cursors.push(None);
        }
        self.cursors[index] = Some(cursor);
        CursorAt { index, serial }
    }

    /// Forgets a cursor.
    pub(super) fn remove_cursor(&mut self, name: &str, stream: StreamId) {
        for cursor in &mut self.cursors {
            if cursor.as_ref().is_some_and(|c| c.stream == stream && c.name == name) {
                *cursor = None;
                self.metas.push_back(Meta::CursorGone { stream: stream.0, name: name.to_owned() });
            }
        }
    }
}

/// The part of a loss that a reader with this floor had not confirmed. Where only a part of a range is, and the range had holes, its messages
/// and bytes are the most that it can be.
fn unconfirmed(loss: &Loss, floor: u64) -> Option<Loss> {
    let first = loss.first.max(floor + 1);
    let msgs = loss.msgs.min((loss.last + 1).checked_sub(first)?);
    let bytes = if msgs == loss.msgs { loss.bytes } else { loss.bytes / loss.msgs.max(1) * msgs };
    (msgs > 0).then_some(Loss { first, msgs, bytes, ..*loss })
}

/// A cursor as it is saved.
pub(super) fn record(cursor: &CursorCore) -> CursorRecord {
    CursorRecord { stream: cursor.stream.0, name: cursor.name.clone(), floor: cursor.floor, lost: cursor.lost }
}
