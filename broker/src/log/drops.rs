//! The `drops` file: which epoch is being dropped, and what that means for those who had not read it.
//!
//! Dropping an epoch cannot be undone, and what it held can be counted only while it is there. So the decision, with the state behind it,
//! is written here and synced before the first byte goes (G3): a kill or a power cut at any moment leaves either the epoch, or a note of
//! what was lost with it. An epoch that a note names and that is still there is dropped when the log is opened.
//!
//! Values are absolute, never differences: applying a note once more changes nothing.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

use super::layout::{CursorRecord, DROPS_PLACE_BYTES, DROPS_VERSION, LossRecord, decode, encode};
use super::notes::Notes;

/// One note.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DropNote {
    /// Notes are numbered; the newest counts.
    pub(super) serial: u64,
    /// The epoch, and the last group in it: its number alone may be given again after a store was lost.
    pub(super) epoch: u32,
    pub(super) last_group: u64,
    /// Entries of the ledger that no frame or epoch contains yet.
    pub(super) losses: Vec<LossRecord>,
    /// All readers.
    pub(super) cursors: Vec<CursorRecord>,
    /// Streams that were in the epoch: number, first sequence held, messages discarded since the stream was made.
    pub(super) streams: Vec<(u32, u64, u64)>,
}

/// The open file.
#[derive(Debug)]
pub(super) struct Drops {
    notes: Notes,
    serial: AtomicU64,
}

impl Drops {
    /// Opens the file, or makes it, allocated; returns the newest note that is whole.
    pub(super) fn open(dir: &Path, seed: u64) -> io::Result<(Drops, Option<DropNote>)> {
        let (notes, bodies) = Notes::open(&dir.join("drops"), DROPS_PLACE_BYTES, seed)?;
        let whole = bodies.iter().filter_map(|body| decode::<DropNote>(DROPS_VERSION, body));
        let newest = whole.map(|(note, _)| note).max_by_key(|note| note.serial);
        let serial = AtomicU64::new(newest.as_ref().map_or(0, |note| note.serial) + 1);
        Ok((Drops { notes, serial }, newest))
    }

    /// Notes a drop; durable when this returns.
    pub(super) fn decide(&self, mut note: DropNote) -> io::Result<()> {
        note.serial = self.serial.fetch_add(1, Relaxed);
        self.notes.write(note.serial, &pack(note.clone()))?;
        self.notes.sync()
    }
}

/// What does not fit is left out, the least telling first: it is then worked out at opening from what is missing.
fn pack(mut note: DropNote) -> Vec<u8> {
    let room = Notes::room(DROPS_PLACE_BYTES);
    let mut body = encode(DROPS_VERSION, &note);
    while body.len() > room {
        if !note.streams.is_empty() {
            note.streams.truncate(note.streams.len() / 2);
        } else if !note.cursors.is_empty() {
            note.cursors.truncate(note.cursors.len() / 2);
        } else {
            note.losses.truncate(note.losses.len() / 2);
        }
        body = encode(DROPS_VERSION, &note);
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_whole_note_counts() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (drops, none) = Drops::open(dir.path(), 7).expect("open");
        assert_eq!(none, None);
        let note = |epoch| DropNote { epoch, streams: vec![(0, 5, 4)], ..DropNote::default() };
        drops.decide(note(1)).expect("written");
        drops.decide(note(2)).expect("written");
        let newest = Drops::open(dir.path(), 7).expect("open").1.expect("there");
        assert_eq!((newest.epoch, newest.streams.len()), (2, 1));
        drops.notes.harm(newest.serial);
        assert_eq!(Drops::open(dir.path(), 7).expect("open").1.map(|n| n.epoch), Some(1));
    }

    #[test]
    fn a_note_always_fits() {
        let cursors =
            (0..4096).map(|n| CursorRecord { stream: n, name: format!("{n:0>64}"), floor: u64::MAX, lost: u64::MAX });
        let streams = (0..4096).map(|n| (n, u64::MAX, u64::MAX));
        let note = DropNote { cursors: cursors.collect(), streams: streams.collect(), ..DropNote::default() };
        let body = pack(note);
        assert!(body.len() <= Notes::room(DROPS_PLACE_BYTES));
        let (back, _) = decode::<DropNote>(DROPS_VERSION, &body).expect("whole");
        assert!(back.cursors.len() >= 256 && back.streams.is_empty());
    }
}
