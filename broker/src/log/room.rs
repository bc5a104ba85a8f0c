//! Making room: the second half of the sealer. What must go goes before anything is written; what is live in tables is carried on first.

use std::collections::HashSet;
use std::fs;

use tracing::{error, info, warn};

use super::block::{OpenBlock, Packer};
use super::classes::facts;
use super::core::Core;
use super::disk;
use super::epoch::{Contents, TableWriter, finish};
use super::layout::{TABLE_BASE, TAG_DELETE, TAG_PUT, key};
use super::plan::{
    BLOCK_TARGET_BYTES, EpochFacts, effective_budget, epoch_bound, fits, manifest_bound, next_drop, protected_full,
    worst,
};
use super::quarantine;
use super::sealer::{RETRY, Sealer, note_epoch};
use super::signature;
use super::store::StoreError;
use super::tables::Place;
use super::wear::{manifest, pages};

impl Sealer {
    /// After a seal: the reserve is taken back if there is room, and what streams must be refused is decided.
    pub(super) fn tidy(&mut self) -> Result<(), StoreError> {
        let used = self.used()?;
        let budget = self.budget(used)?;
        let reserve = self.shared.dir.join("reserve");
        let mut core = self.shared.lock();
        core.counters.disk_used = used;
        let facts = facts(&core);
        let raw_max = core.sizes.epoch_raw_bytes + core.sizes.group_bytes as u64;
        let blocks_max = raw_max / BLOCK_TARGET_BYTES as u64 + 64;
        let streams = core.streams.len() as u64;
        let index_max = 16_384 + 128 * (streams + core.cursors.len() as u64) + signature::bound(streams, blocks_max);
        let epoch_max = epoch_bound(raw_max, raw_max / 64, blocks_max, index_max);
        let full = protected_full(used, &facts, epoch_max, budget);
        if full && !core.disk_full {
            warn!("streams that discard nothing fill the disk; appends to them are refused");
        }
        core.disk_full = full;
        self.told_full &= full;
        let bytes = core.sizes.reserve_bytes;
        drop(core);
        if !reserve.exists() && fits(used, bytes + manifest_bound(facts.len() as u64 + 1), budget) {
            match disk::fill(&reserve, bytes).map_err(StoreError::from) {
                // Somebody else took the room meanwhile: a reserve that is not whole is none.
                Err(StoreError::Full) => self.release_reserve(),
                filled => {
                    filled?;
                    self.shared.wrote(bytes, 0);
                }
            }
        }
        Ok(())
    }

    fn used(&self) -> Result<u64, StoreError> {
        let files = self.shared.store.tables_dir();
        let other = disk::allocated(&self.shared.dir, Some(&files))?;
        let epochs: u64 = self.shared.lock().epochs.iter().map(|e| e.disk_bytes).sum();
        Ok(other + epochs)
    }

    fn budget(&self, used: u64) -> Result<u64, StoreError> {
        let available = disk::available(&self.shared.dir)?;
        Ok(effective_budget(self.shared.max_bytes, used, available, self.shared.min_free))
    }

    /// Drops epochs until `incoming` bytes fit; false if nothing more can be dropped. See `plan` for why this keeps the bound.
    pub(super) fn make_room(&self, incoming: u64, budget: Option<u64>) -> Result<bool, StoreError> {
        let budget = match budget {
            Some(budget) => budget,
            None => self.budget(self.used()?)?,
        };
        let mut stuck = HashSet::new();
        // What is carried on meanwhile is not looked at again, so that this ends.
        let end = self.shared.lock().next_epoch;
        loop {
            let used = self.used()?;
            let (mut facts, kept) = {
                let core = self.shared.lock();
                // Staging files grow into what they lack at the next open.
                (facts(&core), carry_reserve(&core) + self.shared.staging.owed())
            };
            let manifests = manifest_bound(facts.len() as u64 + 1);
            if fits(used, incoming + manifests + kept, budget) {
                return Ok(true);
            }
            // What nobody can read goes before what somebody can.
            if self.drop_quarantine()? {
                continue;
            }
            facts.retain(|f| f.number < end && !stuck.contains(&f.number));
            match next_drop(used, incoming + manifests + kept, budget, &facts) {
                Some(victim) => {
                    if !self.drop_epoch(victim, budget)? {
                        stuck.insert(victim.number);
                    }
                }
                // What is kept free is for the next time; now what counts is that it fits.
                None => return Ok(fits(used, incoming + manifests, budget)),
            }
        }
    }

    pub(super) fn drop_oldest(&self) -> Result<bool, StoreError> {
        let victim = worst(&facts(&self.shared.lock()));
        match victim {
            Some(victim) => self.drop_epoch(victim, self.shared.max_bytes),
            None => Ok(false),
        }
    }

    fn drop_quarantine(&self) -> Result<bool, StoreError> {
        let dropped = quarantine::drop_oldest(&self.shared.dir)?;
        if let Some(place) = &dropped {
            warn!(place = %place.display(), "quarantined data is deleted to make room");
        }
        Ok(dropped.is_some())
    }

    /// False if its table records must be carried and there is no room for that.
    fn drop_epoch(&self, victim: EpochFacts, budget: u64) -> Result<bool, StoreError> {
        // IMPORTANT: live table records are in a newer epoch, and that is on disk, before the old one goes.
        if victim.tables {
            match self.carry(victim.number, budget) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(StoreError::Full) => {
                    self.shared.store.remove_leftovers()?;
                    self.release_reserve();
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        // IMPORTANT: first out of the state, so that nobody looks for it any more; then noted; then off the disk.
        let note = self.shared.lock().forget_epoch(victim.number, self.shared.now());
        self.shared.drops.decide(note)?;
        {
            let mut core = self.shared.lock();
            core.noting = false;
            // The note, and the manifest of what goes.
            self.shared.wrote(pages(0, 1) + manifest(core.epochs.len() as u64), 0);
            core.counters.epochs_dropped += 1;
            self.shared.writer_wake.notify_all();
        }
        self.remove_epoch(victim.number)
    }

    /// Takes an epoch off the disk that the state knows no more. False if the log ends before there is room for that.
    pub(super) fn remove_epoch(&self, number: u32) -> Result<bool, StoreError> {
        // A drop needs a few blocks for its manifest. A filesystem that others filled may not have them: the reserve has.
        let mut told = false;
        while let Err(error) = self.shared.store.drop_epoch(number) {
            match error {
                StoreError::Full if self.shared.dir.join("reserve").exists() => self.release_reserve(),
                StoreError::Full => {
                    if !std::mem::replace(&mut told, true) {
                        error!(
                            "the filesystem is full to the last block; nothing further is accepted until there is room"
                        );
                    }
                    let mut core = self.shared.lock();
                    core.disk_full = true;
                    if core.writer_ended || core.failed {
                        return Ok(false);
                    }
                    drop(self.shared.sealer_wake.wait_timeout(core, RETRY));
                }
                error => return Err(error),
            }
        }
        Ok(true)
    }

    /// Gives the blocks of the reserve file to whatever needs them more.
    pub(super) fn release_reserve(&self) {
        let _absent = fs::remove_file(self.shared.dir.join("reserve"));
    }

    /// Writes the live table records of an epoch into a new one of their own.
    fn carry(&self, number: u32, budget: u64) -> Result<bool, StoreError> {
        let Some(index) = self.shared.epoch_index(number).unwrap_or_else(|error| {
            warn!(epoch = number, %error, "the tables in a damaged epoch are lost");
            None
        }) else {
            return Ok(true);
        };
        let oldest = self.shared.lock().epochs.front().is_some_and(|e| e.number == number);
        let mut writer = TableWriter::default();
        let mut packer = Packer::new(self.shared.codec);
        let mut raw_bytes = 0;
        for table in &index.tables {
            let mut first = 0;
            for step in &table.blocks {
                first += step;
                let value = self.shared.store.value(&key(number, TABLE_BASE + u32::from(table.table), first));
                let block = match value {
                    Ok(value) => value.and_then(|v| OpenBlock::open(first, &v)),
                    Err(StoreError::Damaged(_)) => None,
                    Err(error) => return Err(error),
                };
                let Some(block) = block else {
                    warn!(
                        epoch = number,
                        table = table.table,
                        "a block of table records cannot be read; its values are lost"
                    );
                    continue;
                };
                raw_bytes += self.carry_block(number, table.table, oldest, &block, &mut writer, &mut packer);
            }
        }
        if writer.is_empty() {
            return Ok(true);
        }
        let (epoch, snapshot, last_group, tables) = {
            let core = self.shared.lock();
            let tables = core.epochs.len() as u64;
            (core.next_epoch, core.encoded_snapshot(), core.last_sealed_group, tables)
        };
        let blocks = raw_bytes / BLOCK_TARGET_BYTES as u64 + 258;
        let bound = epoch_bound(raw_bytes, 0, blocks, snapshot.len() as u64 + 64 * 256 + 10 * blocks);
        if !fits(self.used()?, bound + manifest_bound(tables + 1), budget) {
            return Ok(false);
        }
        let mut contents = Contents::default();
        contents.index.last_group = last_group;
        self.shared.store.ingest(|put| {
            writer.finish(epoch, &mut packer, &mut contents, put)?;
            finish(epoch, &mut contents, &snapshot, self.shared.seed, put)
        })?;
        let disk_bytes = self.shared.store.epoch_bytes(epoch)?;
        let mut core = self.shared.lock();
        self.shared.wrote(disk_bytes + manifest(core.epochs.len() as u64 + 1), 0);
        core.next_epoch = epoch + 1;
        note_epoch(&mut core, epoch, disk_bytes, &contents);
        info!(from = number, to = epoch, records = contents.moved.len(), "table records were carried on");
        Ok(true)
    }

    /// Adds what is live in a block of table records; returns its bytes.
    fn carry_block(
        &self,
        epoch: u32,
        table: u8,
        oldest: bool,
        block: &OpenBlock,
        writer: &mut TableWriter,
        packer: &mut Packer,
    ) -> u64 {
        let mut bytes = 0;
        for message in block.messages().map_while(Result::ok) {
            let ordinal = u32::try_from(message.seq).unwrap_or(u32::MAX);
            let from = Place::Epoch { epoch, ordinal };
            let core = self.shared.lock();
            let hash = core.hash(message.subject);
            let live = core.tables.live(table, hash);
            drop(core);
            let value = match message.tag {
                TAG_PUT if live.is_some_and(|l| l.place == from) => Some(message.payload),
                // Removals are needed as long as an older epoch may hold a value.
                TAG_DELETE if !oldest && live.is_none() => None,
                _ => continue,
            };
            bytes += message.bytes() + 64;
            writer.push(packer, table, hash, from, message.subject, value);
        }
        bytes
    }
}

/// Room kept free so that live table records of the next victim can be carried.
fn carry_reserve(core: &Core) -> u64 {
    if core.tables.keys() == 0 {
        return 0;
    }
    let live = (core.tables.live_bytes() + 64 * core.tables.keys()).min(core.sizes.epoch_raw_bytes);
    epoch_bound(live, 0, 258, 32 << 10)
}
