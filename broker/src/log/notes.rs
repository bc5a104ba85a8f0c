//! A small file of two places, written in turn: one that is torn leaves the one before it. Allocated once, overwritten in place, so that
//! writing to it needs no room on the disk.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::staging;

/// Bytes of a note's checksum and length before it.
const HEAD_BYTES: usize = 12;

/// The open file.
#[derive(Debug)]
pub(super) struct Notes {
    file: File,
    seed: u64,
    place_bytes: usize,
}

impl Notes {
    /// Opens the file, or makes it; returns what is whole in it, at most two bodies in no order.
    pub(super) fn open(path: &Path, place_bytes: usize, seed: u64) -> io::Result<(Notes, Vec<Vec<u8>>)> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        staging::fill(&file, 2 * place_bytes as u64)?;
        let notes = Notes { file, seed, place_bytes };
        let mut bodies = Vec::new();
        for number in 0..2 {
            let mut bytes = vec![0; place_bytes];
            notes.file.read_exact_at(&mut bytes, notes.place(number))?;
            bodies.extend(body(&bytes, seed).map(<[u8]>::to_vec));
        }
        Ok((notes, bodies))
    }

    /// The longest body.
    pub(super) fn room(place_bytes: usize) -> usize {
        place_bytes - HEAD_BYTES
    }

    /// Writes a body of at most [`Notes::room`] bytes over the one before the last. `serial` must be one more than that of the last.
    pub(super) fn write(&self, serial: u64, body: &[u8]) -> io::Result<()> {
        assert!(body.len() <= Notes::room(self.place_bytes), "notes are cut to fit by who makes them");
        let len = u32::try_from(body.len()).expect("a place is shorter than 4 GiB");
        let bytes = [&xxh3_64_with_seed(body, self.seed).to_le_bytes()[..], &len.to_le_bytes(), body].concat();
        self.file.write_all_at(&bytes, self.place(serial))
    }

    /// Makes what was written durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Where a note of this serial goes.
    pub(super) fn place(&self, serial: u64) -> u64 {
        serial % 2 * self.place_bytes as u64
    }

    /// Overwrites some bytes, as damage would.
    #[cfg(test)]
    pub(super) fn harm(&self, serial: u64) {
        self.file.write_all_at(&[0xFF; 3], self.place(serial) + 14).expect("written");
    }
}

fn body(place: &[u8], seed: u64) -> Option<&[u8]> {
    let (sum, rest) = place.split_first_chunk::<8>()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let body = rest.get(..u32::from_le_bytes(*len) as usize)?;
    (!body.is_empty() && xxh3_64_with_seed(body, seed) == u64::from_le_bytes(*sum)).then_some(body)
}
