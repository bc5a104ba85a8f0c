//! The last few unpacked frames and blocks, so that a reader who comes back for more does not unpack them again. Pure.

use std::collections::VecDeque;

use bytes::Bytes;

use super::block::OpenBlock;

/// Unpacked bytes kept, frames and blocks together; something larger is not kept at all.
const MAX_BYTES: usize = 256 << 10;
/// Entries kept: more readers at different places than this unpack more often.
const MAX_ENTRIES: usize = 16;

#[derive(Debug)]
enum Entry {
    Frame { group: u64, body: Bytes },
    Block { epoch: u32, stream: u32, block: OpenBlock },
}

/// Most recently used last.
#[derive(Debug, Default)]
pub(super) struct Cache {
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Cache {
    pub(super) fn frame(&mut self, group: u64) -> Option<Bytes> {
        let at = self.entries.iter().rposition(|e| matches!(e, Entry::Frame { group: g, .. } if *g == group))?;
        match &self.entries[at] {
            Entry::Frame { body, .. } => Some(body.clone()),
            Entry::Block { .. } => None,
        }
    }

    pub(super) fn block(&mut self, epoch: u32, stream: u32, seq: u64) -> Option<OpenBlock> {
        self.entries.iter().rev().find_map(|entry| match entry {
            Entry::Block { epoch: e, stream: s, block }
                if *e == epoch && *s == stream && (block.first_seq..=block.last_seq).contains(&seq) =>
            {
                Some(block.clone())
            }
            _ => None,
        })
    }

    pub(super) fn keep_frame(&mut self, group: u64, body: Bytes) {
        self.keep(body.len(), Entry::Frame { group, body });
    }

    pub(super) fn keep_block(&mut self, epoch: u32, stream: u32, block: OpenBlock) {
        self.keep(block.body.len(), Entry::Block { epoch, stream, block });
    }

    fn keep(&mut self, bytes: usize, entry: Entry) {
        if bytes > MAX_BYTES {
            return;
        }
        self.bytes += bytes;
        self.entries.push_back(entry);
        while self.bytes > MAX_BYTES || self.entries.len() > MAX_ENTRIES {
            match self.entries.pop_front() {
                Some(Entry::Frame { body, .. }) => self.bytes -= body.len(),
                Some(Entry::Block { block, .. }) => self.bytes -= block.body.len(),
                None => break,
            }
        }
    }

    /// Gives everything back.
    pub(super) fn clear(&mut self) {
        *self = Cache::default();
    }
}
