//! How the log is fitted into its budget: sizes by budget, and which epochs go before a new one is written. Pure.
//!
//! Proof of the bound (G2). Only these allocate blocks in the data directory after open:
//! 1. the staging files: allocated once at open, overwritten in place; those of an earlier, smaller budget grow at an open that finds
//!    room for it, which the sealer keeps free from then on;
//! 2. one ingestion at a time, by the sealer: at most [`epoch_bound`] bytes, whatever the data is (a block is stored as it is
//!    where compression does not make it smaller);
//! 3. the manifest that goes with an ingestion or a drop: at most [`manifest_bound`], old and new version together;
//! 4. the reserve file, taken only through the same check.
//!
//! fjall's journal and memtables are never used, nothing is compacted. The sealer measures what is allocated (`used`, blocks of every
//! file, including a failed ingestion's leftovers), and ingests only if `used + epoch_bound + manifest_bound <= budget`; otherwise it
//! drops epochs first. A drop writes only a manifest, which is kept free by every check before it. So at every instant
//! `allocated <= used + epoch_bound + manifest_bound <= budget`. A crash leaves at most the ingestion in progress, which the check had
//! counted, and which lsm-tree removes at open before anything is written. A reader holds a file open at most for one block, and a
//! drop waits for it.

/// Sizes that follow from the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// One staging slot; there are two.
    pub(super) slot_bytes: u64,
    /// Records of an epoch, uncompressed: a slot is sealed when it holds as many.
    pub(super) epoch_raw_bytes: u64,
    /// Records of one group, uncompressed. A frame always fits into an empty slot, also where it cannot be compressed.
    pub(super) group_bytes: usize,
    /// Released when the filesystem is full.
    pub(super) reserve_bytes: u64,
    /// Live bytes of all tables.
    pub(super) table_bytes: u64,
}

const MIB: u64 = 1 << 20;

/// The smallest budget.
pub(super) const MIN_BUDGET: u64 = 32 * MIB;

/// Sizes for a budget: larger epochs wear the flash less, smaller ones take less memory and less of a small budget.
pub(super) fn sizes(budget: u64) -> Sizes {
    let (slot_bytes, epoch_raw_bytes) = match budget / MIB {
        // As small as a message of 1 MiB allows: both slots are 4.3 % of 64 MiB.
        0..=128 => (SMALL_SLOT_BYTES, 2 * MIB),
        129..=4096 => (2 * MIB, 4 * MIB),
        4097..=16384 => (4 * MIB, 8 * MIB),
        _ => (16 * MIB, 32 * MIB),
    };
    Sizes {
        slot_bytes,
        epoch_raw_bytes,
        group_bytes: group_bytes(slot_bytes),
        reserve_bytes: 256 << 10,
        table_bytes: budget / 4,
    }
}

/// Slots of the smallest budgets: room for a message of 1 MiB, 96 KiB of topic, properties and company, and the log's own records.
const SMALL_SLOT_BYTES: u64 = 1408 << 10;

/// The largest group for which a slot has room beside [`META_ROOM_BYTES`] and a frame's header. More than 1.5 MiB would only cost memory.
fn group_bytes(slot_bytes: u64) -> usize {
    let room = slot_bytes.saturating_sub(META_ROOM_BYTES as u64 + (32 << 10));
    usize::try_from(room).map_or(3 << 19, |room| room.min(3 << 19))
}

impl Sizes {
    /// The same with the slots that there are, where the budget has no room for larger ones yet.
    pub(super) fn with_slots(self, slot_bytes: u64) -> Sizes {
        let lacking = usize::try_from(self.slot_bytes.saturating_sub(slot_bytes)).unwrap_or(usize::MAX);
        if lacking == 0 {
            return self;
        }
        // A frame of either fits.
        let group_bytes = group_bytes(slot_bytes).max(self.group_bytes.saturating_sub(lacking));
        Sizes { slot_bytes, group_bytes, ..self }
    }
}

/// Room in a frame, beside the group, for the log's own records.
pub(super) const META_ROOM_BYTES: usize = 256 << 10;

/// Nothing longer was ever compressed into a frame or a block: who says so is damaged, and gets no memory for it.
pub(super) const MAX_RAW_BYTES: u32 = 4 << 20;

/// Target size of a block before compression. Larger compresses better, smaller reads and caches cheaper.
pub(super) const BLOCK_TARGET_BYTES: usize = 24 << 10;

/// The most that the file of an epoch can take: blocks stored uncompressed, and for each block its key twice, header, checksum,
/// index entry and padding (under 256 bytes), the records' time differences (which may be longer in a block than in a frame), the
/// index, the signatures and the snapshot, and lsm-tree's own sections and the rounding to 4 KiB.
pub(super) fn epoch_bound(raw_bytes: u64, records: u64, blocks: u64, index_bytes: u64) -> u64 {
    (raw_bytes + 10 * records + 256 * blocks + index_bytes + (32 << 10)).next_multiple_of(4096)
}

/// The most that manifests can take on top of what is measured: lsm-tree writes the new version (under 64 bytes a table), a
/// temporary pointer file, and grows the directories.
pub(super) fn manifest_bound(tables: u64) -> u64 {
    (2 * 64 * (tables + 2)).next_multiple_of(4096) + (96 << 10)
}

/// What the plan must know of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EpochFacts {
    pub(super) number: u32,
    /// Allocated bytes of its file.
    pub(super) disk_bytes: u64,
    /// Holds live messages of a `discard = "new"` stream, or what a stream has reserved: never dropped to make room.
    pub(super) protected: bool,
    /// Holds table records, which must be looked at (and the live ones carried) before it is dropped.
    pub(super) tables: bool,
    /// The rank of the most wanted message in it.
    pub(super) rank: Rank,
}

/// What goes first when the disk is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// Discarded already, or confirmed by every reader of its stream.
    Spent,
    /// Not so, in a stream of this priority.
    Wanted(u8),
}

/// Bytes that may be allocated: the budget, or less where the filesystem has less than that and `min_free` left. Never less than what is
/// used now, so that a filesystem that somebody else filled makes us replace, not discard everything.
pub(super) fn effective_budget(budget: u64, used: u64, available: u64, min_free: u64) -> u64 {
    budget.min(used.saturating_add(available.saturating_sub(min_free)))
}

/// The next epoch to drop so that `incoming` more bytes fit, or `None` if they fit or nothing can be dropped (see [`fits`]).
/// The lowest rank goes first, within it the oldest; a protected one is passed over. `epochs` is in order of age.
pub(super) fn next_drop(used: u64, incoming: u64, budget: u64, epochs: &[EpochFacts]) -> Option<EpochFacts> {
    if fits(used, incoming, budget) {
        return None;
    }
    worst(epochs)
}

/// The epoch that is wanted least.
pub(super) fn worst(epochs: &[EpochFacts]) -> Option<EpochFacts> {
    epochs.iter().filter(|e| !e.protected).min_by_key(|e| (e.rank, e.number)).copied()
}

/// Whether `incoming` more bytes stay within the budget.
pub(super) fn fits(used: u64, incoming: u64, budget: u64) -> bool {
    used.saturating_add(incoming) <= budget
}

/// Whether appends to `discard = "new"` streams must be refused: what cannot be dropped, and three epochs for what was already
/// accepted (two slots and the one being sealed), no longer fit.
pub(super) fn protected_full(used: u64, epochs: &[EpochFacts], epoch_max: u64, budget: u64) -> bool {
    let droppable: u64 = epochs.iter().filter(|e| !e.protected).map(|e| e.disk_bytes).sum();
    !fits(used.saturating_sub(droppable), epoch_max.saturating_mul(3), budget)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn facts() -> impl Strategy<Value = Vec<EpochFacts>> {
        let rank = prop_oneof![Just(Rank::Spent), (0u8..4).prop_map(Rank::Wanted)];
        proptest::collection::vec((1u64..5_000_000, any::<bool>(), any::<bool>(), rank), 0..40).prop_map(|list| {
            let fact = |(number, (disk_bytes, protected, tables, rank))| EpochFacts {
                number,
                disk_bytes,
                protected,
                tables,
                rank,
            };
            (1u32..).zip(list).map(fact).collect()
        })
    }

    proptest! {
        #[test]
        fn dropping_as_planned_ends_within_the_budget_or_with_nothing_to_drop(
            mut epochs in facts(), other in 0u64..10_000_000, incoming in 0u64..6_000_000, budget in 0u64..100_000_000,
        ) {
            let mut used = other + epochs.iter().map(|e| e.disk_bytes).sum::<u64>();
            let mut last = (Rank::Spent, 0);
            while let Some(victim) = next_drop(used, incoming, budget, &epochs) {
                prop_assert!(!victim.protected);
                prop_assert!((victim.rank, victim.number) > last, "least wanted, then oldest first");
                prop_assert!(used + incoming > budget, "no more than needed");
                last = (victim.rank, victim.number);
                used -= victim.disk_bytes;
                epochs.retain(|e| e.number != victim.number);
            }
            prop_assert!(used + incoming <= budget || epochs.iter().all(|e| e.protected));
        }

        #[test]
        fn the_effective_budget_never_exceeds_either_bound(budget: u64, used: u64, available: u64, min_free: u64) {
            let effective = effective_budget(budget, used, available, min_free);
            prop_assert!(effective <= budget);
            if effective > used {
                prop_assert!(available - (effective - used) >= min_free);
            }
        }

        #[test]
        fn a_full_group_fits_into_an_empty_slot(budget in MIN_BUDGET..=(1u64 << 45)) {
            let sizes = sizes(budget);
            prop_assert!(super::super::frame::frame_len(sizes.group_bytes + META_ROOM_BYTES) as u64 <= sizes.slot_bytes);
        }

        #[test]
        fn a_message_of_1_mib_is_taken_at_every_budget(budget in MIN_BUDGET..=(1u64 << 45)) {
            prop_assert!(sizes(budget).group_bytes >= (1 << 20) + (64 << 10));
            prop_assert!(sizes(budget).group_bytes + META_ROOM_BYTES <= MAX_RAW_BYTES as usize);
        }

        #[test]
        fn a_full_group_fits_into_a_slot_that_has_not_grown_yet(budget in MIN_BUDGET..=(1u64 << 45), old in 1u64..=2) {
            let sizes = sizes(budget).with_slots(old * MIB);
            prop_assert!(sizes.slot_bytes >= old * MIB || sizes.slot_bytes == SMALL_SLOT_BYTES);
            prop_assert!(super::super::frame::frame_len(sizes.group_bytes + META_ROOM_BYTES) as u64 <= sizes.slot_bytes);
        }

        #[test]
        fn the_smallest_budget_holds_everything_that_is_fixed(budget in MIN_BUDGET..=(1u64 << 45)) {
            let sizes = sizes(budget);
            let signatures = super::super::signature::bound(400, 400);
            let raw_bytes = sizes.epoch_raw_bytes + sizes.group_bytes as u64;
            let epoch = epoch_bound(raw_bytes, 50_000, 400, (1 << 20) + signatures);
            prop_assert!(2 * sizes.slot_bytes + sizes.reserve_bytes + 4 * epoch + manifest_bound(100) <= budget);
        }
    }
}
