//! What the sealer is to do with a full slot: which streams go into which epoch, and how large that can get. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::classes::Class;
use super::core::Core;
use super::held::{Piece, Source};
use super::plan::{BLOCK_TARGET_BYTES, epoch_bound};
use super::signature;
use super::staging::SlotId;
use super::tail::TailFrame;

/// A part of a slot smaller than this share of a full one goes into one epoch with what its class had in the last one, as long as that is as
/// small: a quiet stream of its own class makes one epoch of some hundred kilobytes in many rounds, not one in each. Of a class that gets a
/// hundredth of the traffic, an epoch is written six times or so before it is large enough: a few percent of all that is written.
const SMALL_SHARE: u64 = 16;

/// An epoch with more blocks is not absorbed: there is one for each stream and boot at least.
pub(super) const MAX_ABSORBED_BLOCKS: usize = 64;

/// Taken for the record of a message, on top of its bytes.
const MIN_RAW_BYTES: u64 = 40;

/// A full slot, as it was when the sealer looked.
pub(super) struct Job {
    pub(super) slot: SlotId,
    pub(super) frames: Arc<Vec<TailFrame>>,
    pub(super) last_group: u64,
    /// One epoch each; there is at least one.
    pub(super) parts: Vec<Part>,
    pub(super) snapshot: Vec<u8>,
    /// The most that the epoch of a part can take.
    pub(super) bound: u64,
}

/// The streams of one class in a slot.
pub(super) struct Part {
    pub(super) class: Option<Class>,
    /// In order of number.
    pub(super) streams: Vec<Staged>,
    /// Takes the table records of the slot, and ends it: frames up to its last group need no replay after that.
    pub(super) last: bool,
    pub(super) has_tables: bool,
}

/// A stream in a slot.
#[derive(Clone, Copy)]
pub(super) struct Staged {
    pub(super) id: u32,
    /// First sequence that is live; those before it are left out.
    pub(super) first: u64,
    /// Bytes of the records at most.
    pub(super) raw_bytes: u64,
}

fn raw_bytes(piece: &Piece) -> u64 {
    piece.bytes + MIN_RAW_BYTES * piece.msgs
}

impl Job {
    pub(super) fn new(core: &Core, slot: SlotId) -> Job {
        let tail = core.tail.slot(slot);
        let frames = Arc::clone(&tail.frames);
        let groups = frames.first().map_or(0, |f| f.header.group)..=frames.last().map_or(0, |f| f.header.group);
        let last_group = *groups.end();
        let mut classes: BTreeMap<Class, Vec<Staged>> = BTreeMap::new();
        let mut count = 0;
        for (id, stream) in (0u32..).zip(&core.streams) {
            let inside = |s: Source| matches!(s, Source::Frame(group) if groups.contains(&group));
            // Newest last: those of this slot are near the end.
            let behind = |s: Source| matches!(s, Source::Frame(group) if group > last_group);
            let pieces = stream.held.pieces().rev().skip_while(|p| behind(p.source)).take_while(|p| inside(p.source));
            let mut staged: Option<Staged> = None;
            for piece in pieces {
                let found = staged.get_or_insert(Staged { id, first: piece.first, raw_bytes: 0 });
                found.first = found.first.min(piece.first);
                found.raw_bytes += raw_bytes(piece);
            }
            if let Some(mut staged) = staged {
                staged.first = staged.first.max(stream.held.first);
                classes.entry(Class::of(id, stream.limits())).or_default().push(staged);
                count += 1;
            }
        }
        let has_tables = tail.table_records > 0;
        let part = |(class, streams)| Part { class: Some(class), streams, last: false, has_tables: false };
        let mut parts: Vec<Part> = classes.into_iter().map(part).collect();
        match parts.last_mut() {
            Some(part) => (part.last, part.has_tables) = (true, has_tables),
            None => parts.push(Part { class: None, streams: Vec::new(), last: true, has_tables }),
        }
        let snapshot = core.encoded_snapshot();
        // A block also ends where the boot changes.
        let cuts = frames
            .windows(2)
            .filter(|w| w[0].header.boot != w[1].header.boot || w[0].header.base_at > w[1].header.base_at);
        let cuts = cuts.count() as u64 + 1;
        let tables = if has_tables { 256 } else { 0 };
        let absorbed = if parts.len() > 1 { small(core) } else { 0 };
        let raw_bytes = tail.raw_bytes + absorbed;
        let signed = raw_bytes / BLOCK_TARGET_BYTES as u64 + cuts * count;
        let blocks = signed + cuts * tables + MAX_ABSORBED_BLOCKS as u64 + 2;
        let signed = if absorbed > 0 { signed + MAX_ABSORBED_BLOCKS as u64 } else { signed };
        let signatures = signature::bound(count, signed);
        let index_bytes = snapshot.len() as u64 + 64 * (count + tables) + 10 * blocks + signatures;
        let bound = epoch_bound(raw_bytes, tail.records + absorbed / MIN_RAW_BYTES, blocks, index_bytes);
        Job { slot, frames, last_group, parts, snapshot, bound }
    }

    /// The epoch that a part of this slot should go together with, and what is live in it.
    pub(super) fn absorbable(&self, core: &Core, part: &Part) -> Option<(u32, Vec<Staged>)> {
        let class = part.class.filter(|_| self.parts.len() > 1)?;
        let of_class = || (0u32..).zip(&core.streams).filter(|(id, s)| Class::of(*id, s.limits()) == class);
        let newest = of_class().filter_map(|(_, stream)| {
            stream.held.pieces().rev().find_map(|p| match p.source {
                Source::Epoch(number) if p.msgs > 0 => Some(number),
                _ => None,
            })
        });
        let number = newest.max()?;
        let epoch = core.epochs.iter().find(|e| e.number == number)?;
        let others = (0u32..).zip(&core.streams).filter(|(id, s)| Class::of(*id, s.limits()) != class);
        if epoch.table_records > 0 || others.into_iter().any(|(_, s)| s.held.piece_in(number).is_some()) {
            return None;
        }
        let live = of_class().filter_map(|(id, stream)| {
            let piece = stream.held.piece_in(number)?;
            Some(Staged { id, first: piece.first.max(stream.held.first), raw_bytes: raw_bytes(piece) })
        });
        let live: Vec<Staged> = live.collect();
        let together: u64 = part.streams.iter().chain(&live).map(|s| s.raw_bytes).sum();
        (together <= small(core)).then_some((number, live))
    }
}

fn small(core: &Core) -> u64 {
    (core.sizes.epoch_raw_bytes / SMALL_SHARE).max(32 << 10)
}
