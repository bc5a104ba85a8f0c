//! The `ends` file: how far every stream was durable, kept apart from the frames that say so.
//!
//! A frame proves that the one before it was synced, for it is written only then. Nothing proves that of the last frame: damaged, it looks
//! like a write that the power cut, and so does everything at the end of a staging file that was shortened or removed. Therefore the writer
//! notes here, at most once in [`NOTE_AFTER`] and when the log is closed, up to where all is on disk. What opening then does not find
//! below these ends is damaged, and reported; only what came after the last note is taken for unfinished.
//!
//! Notes are not synced, save the one at closing: one that a power cut takes leaves what it would have said unsaid. They alternate
//! between two places, so that a torn one leaves the one before it.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::layout::{ENDS_PLACE_BYTES, ENDS_VERSION, decode, encode};
use super::notes::Notes;
use super::wear::Volume;

/// How long an acknowledged message may be unmentioned here. Each note dirties a page of its own, which the kernel writes after some
/// 30 seconds: that bounds the wear, this the time in which damage to the last frames would go unnoticed.
pub(super) const NOTE_AFTER: Duration = Duration::from_secs(1);

/// The most that a [`Volume`] takes.
const WEAR_BYTES: usize = 20;

/// One note.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// Notes are numbered; the newest counts.
    pub(super) serial: u64,
    /// Every group up to this one is on disk.
    pub(super) group: u64,
    /// Streams with messages in frames, and the sequence behind their last durable message. Those that do not fit are left out
    /// (the worst case of 20 bytes each: 817 streams).
    pub(super) ends: Vec<(u32, u64)>,
    /// What was written up to then; behind the rest, and missing in notes of earlier builds.
    #[serde(skip)]
    pub(super) wear: Volume,
}

/// The open file.
#[derive(Debug)]
pub(super) struct Ends {
    notes: Notes,
    serial: AtomicU64,
}

impl Ends {
    /// Opens the file, or makes it, allocated; returns the newest note that is whole.
    pub(super) fn open(dir: &Path, seed: u64) -> io::Result<(Ends, Note)> {
        let (notes, bodies) = Notes::open(&dir.join("ends"), ENDS_PLACE_BYTES, seed)?;
        let newest = bodies.iter().filter_map(|body| unpack(body)).max_by_key(|note| note.serial).unwrap_or_default();
        Ok((Ends { notes, serial: AtomicU64::new(newest.serial + 1) }, newest))
    }

    /// Notes that every group up to `group` is on disk, with the ends of its streams.
    pub(super) fn note(&self, group: u64, ends: Vec<(u32, u64)>, wear: Volume) -> io::Result<()> {
        let serial = self.serial.fetch_add(1, Relaxed);
        self.notes.write(serial, &pack(Note { serial, group, ends, wear }))
    }

    /// Makes the notes durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.notes.sync()
    }
}

fn pack(mut note: Note) -> Vec<u8> {
    let room = Notes::room(ENDS_PLACE_BYTES) - WEAR_BYTES;
    let mut body = encode(ENDS_VERSION, &note);
    while body.len() > room {
        note.ends.truncate(note.ends.len() * room / body.len());
        body = encode(ENDS_VERSION, &note);
    }
    postcard::to_extend(&note.wear, body).expect("a growing buffer takes two numbers")
}

fn unpack(body: &[u8]) -> Option<Note> {
    let (note, rest) = decode::<Note>(ENDS_VERSION, body)?;
    Some(Note { wear: postcard::from_bytes(rest).unwrap_or_default(), ..note })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_note_leaves_the_one_before_it() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (ends, none) = Ends::open(dir.path(), 7).expect("open");
        assert_eq!(none, Note::default());
        ends.note(3, vec![(0, 10)], Volume::default()).expect("written");
        ends.note(4, vec![(0, 12), (9, u64::MAX)], Volume { written: 9, payload: 5 }).expect("written");
        let (_, newest) = Ends::open(dir.path(), 7).expect("open");
        assert_eq!((newest.group, &newest.ends[..]), (4, &[(0, 12), (9, u64::MAX)][..]));
        assert_eq!(newest.wear, Volume { written: 9, payload: 5 });

        ends.notes.harm(newest.serial);
        let (again, before) = Ends::open(dir.path(), 7).expect("open");
        assert_eq!((before.group, &before.ends[..]), (3, &[(0, 10)][..]));
        again.note(5, Vec::new(), Volume::default()).expect("written");
        let (_, after) = Ends::open(dir.path(), 7).expect("open");
        assert_eq!(after.group, 5);
    }

    #[test]
    fn a_note_of_an_earlier_build_has_no_wear() {
        let body = encode(ENDS_VERSION, &Note { serial: 1, group: 2, ends: vec![(0, 3)], wear: Volume::default() });
        let note = unpack(&body).expect("whole");
        assert_eq!((note.group, note.wear), (2, Volume::default()));
    }

    #[test]
    fn more_streams_than_fit_are_left_out() {
        let ends: Vec<(u32, u64)> = (0..4096).map(|id| (u32::MAX - id, u64::MAX)).collect();
        let bytes = pack(Note { serial: 1, group: 2, ends, wear: Volume { written: u64::MAX, payload: u64::MAX } });
        assert!(bytes.len() <= Notes::room(ENDS_PLACE_BYTES));
        let note = unpack(&bytes).expect("whole");
        assert_eq!(note.wear.payload, u64::MAX);
        assert!(note.ends.len() >= 817, "{}", note.ends.len());
    }

    #[test]
    fn a_note_of_another_log_is_none() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (ends, _) = Ends::open(dir.path(), 7).expect("open");
        ends.note(3, vec![(0, 10)], Volume::default()).expect("written");
        assert_eq!(Ends::open(dir.path(), 8).expect("open").1, Note::default());
    }
}
