//! The staging log: two preallocated files, overwritten in place, so that a commit allocates nothing and needs no journal of the
//! filesystem. Reads them back after a crash.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::frame::{FrameHeader, decode_frame, frame_len, looks_like_frame, read_header, unpack};
use super::layout::{FRAME_ALIGN, FRAME_HEADER_BYTES};
use super::records::{FrameRecords, Record};

/// Which of the two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotId {
    A,
    B,
}

impl SlotId {
    pub(super) fn other(self) -> SlotId {
        match self {
            SlotId::A => SlotId::B,
            SlotId::B => SlotId::A,
        }
    }

    pub(super) fn index(self) -> usize {
        match self {
            SlotId::A => 0,
            SlotId::B => 1,
        }
    }
}

/// The two files.
#[derive(Debug)]
pub(super) struct Staging {
    files: [File; 2],
    slot_bytes: u64,
    owed: u64,
}

/// No log ever had smaller slots.
#[cfg(not(test))]
const LEAST_SLOT_BYTES: u64 = 1 << 20;
#[cfg(test)]
const LEAST_SLOT_BYTES: u64 = 32 << 10;

impl Staging {
    /// Opens both files; makes those that are missing, and allocates them in full, so that every later write is in place. Files of an
    /// earlier, smaller budget grow if that takes no more than `room`; else they stay as large as they are, and [`Staging::owed`] says
    /// what is missing. A longer file (the budget was lowered) stays as it is: it may hold frames.
    pub(super) fn open(dir: &Path, slot_bytes: u64, room: u64) -> io::Result<Staging> {
        let open = |name: &str| {
            let path = dir.join(name);
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
        };
        let files = [open("staging-0")?, open("staging-1")?];
        let (mut allocated, mut longest) = (Vec::new(), 0);
        for file in &files {
            let metadata = file.metadata()?;
            allocated.push((metadata.blocks() * 512).min(metadata.len()));
            longest = longest.max(metadata.len());
        }
        let missing = |slot_bytes: u64| allocated.iter().map(|bytes| slot_bytes.saturating_sub(*bytes)).sum::<u64>();
        let wanted = missing(slot_bytes);
        // What is shorter than this never was a slot.
        let (slot_bytes, owed) = if wanted > room && (LEAST_SLOT_BYTES..slot_bytes).contains(&longest) {
            (longest, wanted - missing(longest))
        } else {
            (slot_bytes, 0)
        };
        for file in &files {
            fill(file, slot_bytes)?;
        }
        File::open(dir)?.sync_all()?;
        Ok(Staging { files, slot_bytes, owed })
    }

    /// Bytes that the files still lack and take at the next open that finds them free.
    pub(super) fn owed(&self) -> u64 {
        self.owed
    }

    /// Gives back what a slot has beyond its size, from a larger budget. Only for slots without a frame there.
    pub(super) fn shorten(&self, slot: SlotId) -> io::Result<()> {
        let file = &self.files[slot.index()];
        if file.metadata()?.len() > self.slot_bytes { file.set_len(self.slot_bytes) } else { Ok(()) }
    }

    pub(super) fn slot_bytes(&self) -> u64 {
        self.slot_bytes
    }

    /// Writes a frame in place.
    pub(super) fn write(&self, slot: SlotId, at: u64, frame: &[u8]) -> io::Result<()> {
        debug_assert!(at + frame.len() as u64 <= self.slot_bytes);
        self.files[slot.index()].write_all_at(frame, at)
    }

    /// Makes what was written durable.
    pub(super) fn sync(&self, slot: SlotId) -> io::Result<()> {
        self.files[slot.index()].sync_data()
    }

    /// Makes durable what was read from the beginning of a slot, whatever became of the writes that put it there.
    pub(super) fn write_again(&self, slot: SlotId, bytes: &[u8]) -> io::Result<()> {
        self.files[slot.index()].write_all_at(bytes, 0)?;
        self.sync(slot)
    }

    /// Everything in a slot.
    pub(super) fn read(&self, slot: SlotId) -> io::Result<Vec<u8>> {
        let file = &self.files[slot.index()];
        let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

/// Allocates every block of the file, up to `len`, without changing what is there. Never shortens it.
pub(super) fn fill(file: &File, len: u64) -> io::Result<()> {
    let metadata = file.metadata()?;
    if metadata.len() >= len && metadata.blocks() * 512 >= len {
        return Ok(());
    }
    // A fresh file, or one whose preparation was cut short: then it holds nothing beyond its length. Or a copy with holes: what is not
    // a zero is allocated, and of zeros nobody can say. What it holds stays.
    fill_holes(file, metadata.len().min(len))?;
    zero(file, metadata.len(), len)?;
    file.sync_all()
}

/// Writes zeros where there are zeros already, page by page.
fn fill_holes(file: &File, end: u64) -> io::Result<()> {
    let mut page = [0; 4096];
    let mut at = 0;
    while at < end {
        let n = usize::try_from(end - at).map_or(page.len(), |left| left.min(page.len()));
        file.read_exact_at(&mut page[..n], at)?;
        if page[..n].iter().all(|byte| *byte == 0) {
            file.write_all_at(&page[..n], at)?;
        }
        at += n as u64;
    }
    Ok(())
}

fn zero(file: &File, mut at: u64, end: u64) -> io::Result<()> {
    const CHUNK: usize = 64 << 10;
    let zeros = vec![0; CHUNK];
    while at < end {
        let n = usize::try_from(end - at).map_or(CHUNK, |left| left.min(CHUNK));
        file.write_all_at(&zeros[..n], at)?;
        at += n as u64;
    }
    Ok(())
}

/// Behind the last sequence of every stream in what looks like frames, although no checksum can be told right from wrong any more. Only
/// for the numbers: what such a frame holds is not to be shown.
pub(super) fn unchecked_ends(dir: &Path) -> io::Result<HashMap<u32, u64>> {
    let (mut ends, mut raw) = (HashMap::new(), Vec::new());
    for name in ["staging-0", "staging-1"] {
        let bytes = match std::fs::read(dir.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            bytes => bytes?,
        };
        for at in (0..bytes.len()).step_by(FRAME_ALIGN).filter(|at| looks_like_frame(&bytes[*at..])) {
            let Some(header) = read_header(&bytes[at..]) else { continue };
            let body = bytes.get(at + FRAME_HEADER_BYTES..at + FRAME_HEADER_BYTES + header.body_len as usize);
            if !body.is_some_and(|body| unpack(header.codec, body, header.raw_len, &mut raw)) {
                continue;
            }
            let records: Result<Vec<Record<'_>>, _> = FrameRecords::new(&raw).collect();
            // One that is not whole has another number of records, or ends within one.
            let Ok(records) = records else { continue };
            if records.len() != header.records as usize {
                continue;
            }
            for record in records {
                if let Record::Message { stream, message } = record {
                    let end = ends.entry(stream).or_insert(0);
                    *end = message.seq.saturating_add(1).max(*end);
                }
            }
        }
    }
    Ok(ends)
}

/// A frame found in a slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'a> {
    pub(super) header: FrameHeader,
    pub(super) body: &'a [u8],
    /// Where the next frame would begin.
    pub(super) end: u64,
}

/// What a slot holds.
#[derive(Debug, Default)]
pub(super) struct Scan<'a> {
    /// Whole frames of groups behind `after`, in order of position. Those of one slot life have one generation.
    pub(super) frames: Vec<Found<'a>>,
    /// Bytes of a frame behind the last one that was begun and not finished.
    pub(super) cut_bytes: u64,
}

/// Finds the frames in a slot that no epoch contains yet. What follows them from earlier lives of the slot is passed over.
pub(super) fn scan(bytes: &[u8], seed: u64, after: u64) -> Scan<'_> {
    let mut all: Vec<Found<'_>> = Vec::new();
    let mut torn: Vec<(u64, FrameHeader)> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if looks_like_frame(&bytes[at..]) {
            if let Some((header, body)) = decode_frame(seed, &bytes[at..]) {
                at += frame_len(body.len());
                if header.group > after {
                    all.push(Found { header, body, end: at as u64 });
                }
                continue;
            }
            torn.extend(read_header(&bytes[at..]).map(|header| (at as u64, header)));
        }
        at += FRAME_ALIGN;
    }
    // One life of a slot has one generation; an older one can only be a remnant.
    let generation = all.iter().map(|f| f.header.generation).max();
    all.retain(|f| Some(f.header.generation) == generation);
    let end = all.last().map_or(0, |f| f.end);
    let last_group = all.last().map_or(after, |f| f.header.group);
    let cut = torn.iter().filter(|(at, header)| *at >= end && header.group > last_group);
    let cut_bytes = cut.map(|(_, header)| frame_len(header.body_len as usize) as u64).next().unwrap_or(0);
    Scan { frames: all, cut_bytes: cut_bytes.min(bytes.len() as u64) }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{FrameIdentity, encode_frame};
    use super::*;

    fn frame(group: u64, generation: u64, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode_frame(&mut out, 1, FrameIdentity { group, generation, base_at: 0, boot: 1, records: 1 }, body);
        out
    }

    fn groups(scan: &Scan<'_>) -> Vec<u64> {
        scan.frames.iter().map(|f| f.header.group).collect()
    }

    #[test]
    fn frames_of_an_earlier_life_are_passed_over() {
        let mut slot: Vec<u8> = (1..=9).flat_map(|g| frame(g, 1, b"old and longer")).collect();
        let new: Vec<u8> = (20..=22).flat_map(|g| frame(g, 3, b"new")).collect();
        slot[..new.len()].copy_from_slice(&new);
        assert_eq!(groups(&scan(&slot, 1, 9)), [20, 21, 22]);
        assert_eq!(groups(&scan(&slot, 1, 20)), [21, 22]);
        assert_eq!(groups(&scan(&slot, 1, 22)), [0u64; 0]);
    }

    #[test]
    fn a_torn_tail_is_cut_and_a_hole_is_jumped() {
        let frames: Vec<Vec<u8>> = (1..=5).map(|g| frame(g, 1, &[7; 100])).collect();
        let mut slot = frames.concat();
        slot.resize(8192, 0);
        let third = frames[0].len() * 2;
        let mut holed = slot.clone();
        holed[third + FRAME_HEADER_BYTES + 3] ^= 1;
        assert_eq!(groups(&scan(&holed, 1, 0)), [1, 2, 4, 5]);

        let last = frames[0].len() * 4;
        let mut torn = slot.clone();
        torn[last + 60] ^= 1;
        let found = scan(&torn, 1, 0);
        assert_eq!(groups(&found), [1, 2, 3, 4]);
        assert_eq!(found.cut_bytes, frames[4].len() as u64);
    }

    #[test]
    fn a_fresh_file_is_allocated_in_full_and_stays_as_it_is() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let staging = Staging::open(dir.path(), 1 << 20, 0).expect("open");
        let meta = std::fs::metadata(dir.path().join("staging-1")).expect("there");
        assert!(meta.blocks() * 512 >= 1 << 20);
        staging.write(SlotId::B, 64, b"abc").expect("write");
        let again = Staging::open(dir.path(), 1 << 20, 0).expect("open");
        assert_eq!(&again.read(SlotId::B).expect("read")[64..67], b"abc");
    }

    #[test]
    fn a_copy_with_holes_is_allocated_again_and_keeps_what_it_holds() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("staging-0");
        let copy = File::create(&path).expect("made");
        copy.set_len(1 << 20).expect("all of it a hole");
        copy.write_all_at(b"abc", 70_000).expect("written");
        assert!(copy.metadata().expect("known").blocks() * 512 < 1 << 20, "this filesystem makes no holes");
        let staging = Staging::open(dir.path(), 1 << 20, 0).expect("open");
        assert!(std::fs::metadata(&path).expect("there").blocks() * 512 >= 1 << 20);
        let bytes = staging.read(SlotId::A).expect("read");
        assert_eq!((bytes.len(), &bytes[70_000..70_003]), (1 << 20, &b"abc"[..]));
        assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), 3);
    }
}
