//! The content of a file, in pages: what was never written takes no room, and a copy shares its pages until one of both changes.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes in a page.
pub const PAGE: usize = 4096;

/// Bytes with holes. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Pages {
    len: usize,
    pages: Arc<BTreeMap<usize, Arc<Vec<u8>>>>,
}

impl Pages {
    /// Bytes, holes included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing, not even a hole.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that take room: whole pages.
    #[must_use]
    pub fn allocated(&self) -> usize {
        self.pages.len() * PAGE
    }

    /// Bytes that a write there would newly take.
    #[must_use]
    pub fn needed(&self, at: usize, len: usize) -> usize {
        (at / PAGE..(at + len).div_ceil(PAGE)).filter(|page| !self.pages.contains_key(page)).count() * PAGE
    }

    /// At most `len` bytes from `at` on; fewer where the content ends. Holes are zeros.
    #[must_use]
    pub fn read(&self, at: usize, len: usize) -> Vec<u8> {
        let end = self.len.min(at.saturating_add(len));
        let mut bytes = vec![0; end.saturating_sub(at)];
        let mut done = 0;
        while done < bytes.len() {
            let (page, inside) = ((at + done) / PAGE, (at + done) % PAGE);
            let n = (PAGE - inside).min(bytes.len() - done);
            if let Some(page) = self.pages.get(&page) {
                bytes[done..done + n].copy_from_slice(&page[inside..inside + n]);
            }
            done += n;
        }
        bytes
    }

    /// Writes at `at`; what lies between the end and there is a hole.
    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        self.len = self.len.max(at + bytes.len());
        let pages = Arc::make_mut(&mut self.pages);
        let mut done = 0;
        while done < bytes.len() {
            let (page, inside) = ((at + done) / PAGE, (at + done) % PAGE);
            let n = (PAGE - inside).min(bytes.len() - done);
            let page = Arc::make_mut(pages.entry(page).or_insert_with(|| Arc::new(vec![0; PAGE])));
            page[inside..inside + n].copy_from_slice(&bytes[done..done + n]);
            done += n;
        }
    }

    /// Shortens, or lengthens with a hole.
    pub fn set_len(&mut self, len: usize) {
        if len < self.len {
            let pages = Arc::make_mut(&mut self.pages);
            pages.split_off(&len.div_ceil(PAGE));
            if let Some(page) = pages.get_mut(&(len / PAGE)) {
                Arc::make_mut(page)[len % PAGE..].fill(0);
            }
        }
        self.len = len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    #[test]
    fn it_is_what_a_plain_row_of_bytes_is() {
        let mut chance = Chance::new();
        let mut number = |end: u64| usize::try_from(chance.below(end)).expect("small");
        let (mut pages, mut plain) = (Pages::default(), Vec::new());
        for round in 0..500u64 {
            let before = (pages.clone(), plain.clone());
            if number(3) == 0 {
                let len = number(20_000);
                pages.set_len(len);
                plain.resize(len, 0);
            } else {
                let (at, bytes) = (number(20_000), vec![u8::try_from(round % 251).expect("small") + 1; number(9000)]);
                let allocated = pages.allocated() + pages.needed(at, bytes.len());
                pages.write(at, &bytes);
                assert_eq!(pages.allocated(), allocated);
                if plain.len() < at + bytes.len() {
                    plain.resize(at + bytes.len(), 0);
                }
                plain[at..at + bytes.len()].copy_from_slice(&bytes);
            }
            assert_eq!(pages.len(), plain.len());
            assert!(pages.read(0, usize::MAX) == plain, "round {round}");
            assert!(before.0.read(0, usize::MAX) == before.1, "a copy changed in round {round}");
            let (at, len) = (number(25_000), number(9000));
            assert!(pages.read(at, len) == plain.get(at..plain.len().min(at + len)).unwrap_or_default());
        }
    }

    #[test]
    fn a_hole_takes_no_room() {
        let mut pages = Pages::default();
        pages.set_len(64 << 20);
        assert_eq!((pages.allocated(), pages.needed(5000, 4000)), (0, 2 * PAGE));
        pages.write(5000, &[1; 4000]);
        assert_eq!((pages.allocated(), pages.needed(5000, 4000)), (2 * PAGE, 0));
        pages.set_len(0);
        assert_eq!(pages.allocated(), 0);
    }
}
