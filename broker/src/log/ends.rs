//! The `ends` file: how far every stream was durable, kept apart from the frames that say so.
//!
//! A frame proves that the one before it was synced, for it is written only then. Nothing proves that of the last frame: damaged, it looks
//! like a write that the power cut, and so does everything at the end of a staging file that was shortened or removed. Therefore the writer
//! notes here, at most once in [`NOTE_AFTER`] and when the log is closed, up to where all is on disk. What opening then does not find
//! below these ends is damaged, and reported; only what came after the last note is taken for unfinished.
//!
//! Notes are not synced, save the one at closing: one that a power cut takes leaves what it would have said unsaid. They alternate
//! between two places, so that a torn one leaves the one before it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::layout::{ENDS_PLACE_BYTES, ENDS_VERSION, decode, encode};
use super::staging;
use super::wear::Volume;

/// How long an acknowledged message may be unmentioned here. Each note dirties a page of its own, which the kernel writes after some
/// 30 seconds: that bounds the wear, this the time in which damage to the last frames would go unnoticed.
pub(super) const NOTE_AFTER: Duration = Duration::from_secs(1);

/// Bytes of a note's checksum and length before it.
const HEAD_BYTES: usize = 12;
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
    file: File,
    seed: u64,
    serial: AtomicU64,
}

impl Ends {
    /// Opens the file, or makes it, allocated; returns the newest note that is whole.
    pub(super) fn open(dir: &Path, seed: u64) -> io::Result<(Ends, Note)> {
        let path = dir.join("ends");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        staging::fill(&file, 2 * ENDS_PLACE_BYTES as u64)?;
        let mut newest = Note::default();
        for number in 0..2 {
            let mut bytes = vec![0; ENDS_PLACE_BYTES];
            file.read_exact_at(&mut bytes, place(number))?;
            if let Some(note) = unpack(&bytes, seed).filter(|note| note.serial >= newest.serial) {
                newest = note;
            }
        }
        Ok((Ends { file, seed, serial: AtomicU64::new(newest.serial + 1) }, newest))
    }

    /// Notes that every group up to `group` is on disk, with the ends of its streams.
    pub(super) fn note(&self, group: u64, ends: Vec<(u32, u64)>, wear: Volume) -> io::Result<()> {
        let serial = self.serial.fetch_add(1, Relaxed);
        let bytes = pack(Note { serial, group, ends, wear }, self.seed);
        self.file.write_all_at(&bytes, place(serial))
    }

    /// Makes the notes durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// Where a note of this serial goes.
fn place(serial: u64) -> u64 {
    serial % 2 * ENDS_PLACE_BYTES as u64
}

fn pack(mut note: Note, seed: u64) -> Vec<u8> {
    let mut body = encode(ENDS_VERSION, &note);
    const ROOM: usize = ENDS_PLACE_BYTES - HEAD_BYTES - WEAR_BYTES;
    while body.len() > ROOM {
        note.ends.truncate(note.ends.len() * ROOM / body.len());
        body = encode(ENDS_VERSION, &note);
    }
    let body = postcard::to_extend(&note.wear, body).expect("a growing buffer takes two numbers");
    let len = u32::try_from(body.len()).expect("a place is shorter than 4 GiB");
    [&xxh3_64_with_seed(&body, seed).to_le_bytes()[..], &len.to_le_bytes(), &body].concat()
}

fn unpack(place: &[u8], seed: u64) -> Option<Note> {
    let (sum, rest) = place.split_first_chunk::<8>()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let body = rest.get(..u32::from_le_bytes(*len) as usize)?;
    let whole = xxh3_64_with_seed(body, seed) == u64::from_le_bytes(*sum);
    whole.then(|| decode::<Note>(ENDS_VERSION, body)).flatten().map(|(note, rest)| {
        let wear = postcard::from_bytes(rest).unwrap_or_default();
        Note { wear, ..note }
    })
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

        let at = place(newest.serial) + 14;
        ends.file.write_all_at(&[0xFF; 3], at).expect("written");
        let (again, before) = Ends::open(dir.path(), 7).expect("open");
        assert_eq!((before.group, &before.ends[..]), (3, &[(0, 10)][..]));
        again.note(5, Vec::new(), Volume::default()).expect("written");
        let (_, after) = Ends::open(dir.path(), 7).expect("open");
        assert_eq!(after.group, 5);
    }

    #[test]
    fn a_note_of_an_earlier_build_has_no_wear() {
        let body = encode(ENDS_VERSION, &Note { serial: 1, group: 2, ends: vec![(0, 3)], wear: Volume::default() });
        let len = u32::try_from(body.len()).expect("short");
        let note = [&xxh3_64_with_seed(&body, 7).to_le_bytes()[..], &len.to_le_bytes(), &body].concat();
        let note = unpack(&note, 7).expect("whole");
        assert_eq!((note.group, note.wear), (2, Volume::default()));
    }

    #[test]
    fn more_streams_than_fit_are_left_out() {
        let ends: Vec<(u32, u64)> = (0..4096).map(|id| (u32::MAX - id, u64::MAX)).collect();
        let bytes = pack(Note { serial: 1, group: 2, ends, wear: Volume { written: u64::MAX, payload: u64::MAX } }, 7);
        assert!(bytes.len() <= ENDS_PLACE_BYTES);
        let note = unpack(&bytes, 7).expect("whole");
        assert_eq!(note.wear.payload, u64::MAX);
        assert!(note.ends.len() >= 817, "{}", note.ends.len());
        assert!(unpack(&bytes, 8).is_none(), "another log's");
    }
}
