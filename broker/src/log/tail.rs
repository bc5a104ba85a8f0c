//! The tail: frames that are in no epoch yet, compressed as they lie in the slots, so that reading near the end needs no disk.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::frame::FrameHeader;
use super::staging::SlotId;

/// Frames share buffers of this size: no allocation per commit.
const CHUNK_BYTES: usize = 64 << 10;

/// A frame in memory.
#[derive(Clone, Debug)]
pub(super) struct TailFrame {
    pub(super) header: FrameHeader,
    pub(super) body: Bytes,
}

/// What a slot is for now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing in it is needed.
    #[default]
    Free,
    /// Frames are added.
    Active,
    /// Full; waits to become an epoch.
    Sealed,
}

/// One slot as it is in memory.
#[derive(Debug, Default)]
pub(super) struct SlotTail {
    pub(super) stage: Stage,
    /// Shared with the sealer once sealed.
    pub(super) frames: Arc<Vec<TailFrame>>,
    /// Bytes of the file that are used.
    pub(super) used: u64,
    pub(super) raw_bytes: u64,
    pub(super) records: u64,
    /// How many of them belong to tables.
    pub(super) table_records: u64,
    pub(super) generation: u64,
}

/// Both slots.
#[derive(Debug, Default)]
pub(super) struct Tail {
    slots: [SlotTail; 2],
    chunk: BytesMut,
}

impl Tail {
    pub(super) fn slot(&self, id: SlotId) -> &SlotTail {
        &self.slots[id.index()]
    }

    pub(super) fn slot_mut(&mut self, id: SlotId) -> &mut SlotTail {
        &mut self.slots[id.index()]
    }

    /// The slot that frames are added to.
    pub(super) fn active(&self) -> Option<SlotId> {
        [SlotId::A, SlotId::B].into_iter().find(|s| self.slot(*s).stage == Stage::Active)
    }

    /// The slot that is to become an epoch next.
    pub(super) fn sealed(&self) -> Option<SlotId> {
        let sealed = [SlotId::A, SlotId::B].into_iter().filter(|s| self.slot(*s).stage == Stage::Sealed);
        sealed.min_by_key(|s| self.slot(*s).generation)
    }

    /// Adds a frame that was written to `slot`, `len` bytes long in the file.
    pub(super) fn push(&mut self, slot: SlotId, header: FrameHeader, body: &[u8], len: u64) {
        if self.chunk.capacity() < body.len() {
            self.chunk = BytesMut::with_capacity(CHUNK_BYTES.max(body.len()));
        }
        self.chunk.extend_from_slice(body);
        let body = self.chunk.split().freeze();
        let slot = &mut self.slots[slot.index()];
        slot.used += len;
        slot.raw_bytes += u64::from(header.raw_len);
        slot.records += u64::from(header.records);
        Arc::make_mut(&mut slot.frames).push(TailFrame { header, body });
    }

    /// The frame of a group, if it is in no epoch yet.
    pub(super) fn frame(&self, group: u64) -> Option<TailFrame> {
        self.slots.iter().find_map(|slot| {
            let at = slot.frames.binary_search_by_key(&group, |f| f.header.group).ok()?;
            slot.frames.get(at).cloned()
        })
    }

    /// The slot became an epoch.
    pub(super) fn free(&mut self, id: SlotId) {
        self.slots[id.index()] = SlotTail::default();
    }

    /// Bytes of memory that the frames take.
    pub(super) fn bytes(&self) -> u64 {
        let per_frame = std::mem::size_of::<TailFrame>() as u64;
        self.slots.iter().flat_map(|s| s.frames.iter()).map(|f| f.body.len() as u64 + per_frame).sum()
    }
}
