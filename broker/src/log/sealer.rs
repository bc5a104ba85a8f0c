//! The sealer thread: turns a full slot into an epoch, and makes room for it first.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use super::block::{Block, BlockBuilder, OpenBlock, Packer};
use super::core::{Core, EpochCore};
use super::disk;
use super::epoch::{Contents, TableWriter, finish, put_block};
use super::frame::unpack;
use super::held::Source;
use super::layout::{EpochStream, SNAPSHOT_VERSION, TABLE_BASE, TAG_DELETE, TAG_PUT, encode, key};
use super::plan::{
    BLOCK_TARGET_BYTES, EpochFacts, effective_budget, epoch_bound, fits, manifest_bound, next_drop, protected_full,
};
use super::quarantine;
use super::records::{FrameRecords, RawMessage, Record};
use super::shared::Shared;
use super::staging::SlotId;
use super::store::StoreError;
use super::stream::Discard;
use super::tables::Place;
use super::tail::TailFrame;
use super::wear::manifest;

/// Streams are regrouped in rounds of about this much, so that sealing needs little memory.
const ROUND_BYTES: u64 = 512 << 10;

/// While nothing can be dropped to make room, this passes before looking again.
const RETRY: Duration = Duration::from_secs(1);

/// A full slot, as it was when the sealer looked.
struct Job {
    slot: SlotId,
    frames: Arc<Vec<TailFrame>>,
    last_group: u64,
    /// Streams with live messages in it: number, first live sequence, bytes of the records at most.
    streams: Vec<(u32, u64, u64)>,
    has_tables: bool,
    snapshot: Vec<u8>,
    bound: u64,
}

/// State of the thread.
pub(super) struct Sealer {
    shared: Arc<Shared>,
    told_full: bool,
}

impl Sealer {
    pub(super) fn new(shared: Arc<Shared>) -> Sealer {
        Sealer { shared, told_full: false }
    }

    /// Runs until the log is closed or fails.
    pub(super) fn run(mut self) {
        // The budget may be smaller than it was.
        if let Err(error) = self.make_room(0, None).and_then(|_| self.tidy()) {
            self.shared.fail(&format!("making room: {error}"));
            return;
        }
        while let Some(slot) = self.wait() {
            match self.seal(slot) {
                Ok(true) => {}
                Ok(false) => self.pause(),
                Err(error) => {
                    self.shared.fail(&format!("sealing an epoch: {error}"));
                    return;
                }
            }
        }
    }

    fn wait(&self) -> Option<SlotId> {
        let mut core = self.shared.lock();
        loop {
            if core.failed || core.writer_ended {
                return None;
            }
            if let Some(slot) = core.tail.sealed() {
                return Some(slot);
            }
            core = self.shared.sealer_wake.wait(core).expect("nobody panics while holding the state");
        }
    }

    fn pause(&mut self) {
        if !self.told_full {
            self.told_full = true;
            error!("the disk is full of what must not be discarded; nothing further is accepted until there is room");
        }
        let mut core = self.shared.lock();
        core.disk_full = true;
        if !core.writer_ended && !core.failed {
            // Woken by the end only; room is made by readers, purges, or other programs.
            drop(self.shared.sealer_wake.wait_timeout(core, RETRY));
        }
    }

    /// False if there is no room now.
    fn seal(&mut self, slot: SlotId) -> Result<bool, StoreError> {
        let job = self.job(slot);
        if !self.make_room(job.bound, None)? {
            return Ok(false);
        }
        let mut attempts = 0;
        let (epoch, contents) = loop {
            let epoch = self.shared.lock().next_epoch;
            let mut packer = Packer::new(self.shared.codec);
            let mut contents = Contents::default();
            let done = self.shared.store.ingest(|put| self.write(&job, epoch, &mut packer, &mut contents, put));
            match done {
                Ok(()) => break (epoch, contents),
                Err(StoreError::Full) => {
                    // Somebody else filled the filesystem between the check and the write: give it the reserve, and more of the past.
                    attempts += 1;
                    self.shared.store.remove_leftovers()?;
                    self.release_reserve();
                    if !self.drop_oldest()? || attempts > 64 {
                        return Ok(false);
                    }
                }
                Err(error) => return Err(error),
            }
        };
        self.install(&job, epoch, &contents)?;
        self.tidy()?;
        Ok(true)
    }

    fn job(&self, slot: SlotId) -> Job {
        let core = self.shared.lock();
        let tail = core.tail.slot(slot);
        let frames = Arc::clone(&tail.frames);
        let groups = frames.first().map_or(0, |f| f.header.group)..=frames.last().map_or(0, |f| f.header.group);
        let last_group = *groups.end();
        let mut streams = Vec::new();
        for (id, stream) in (0u32..).zip(&core.streams) {
            let inside = |s: Source| matches!(s, Source::Frame(group) if groups.contains(&group));
            // Newest last: those of this slot are near the end.
            let behind = |s: Source| matches!(s, Source::Frame(group) if group > last_group);
            let pieces = stream.held.pieces().rev().skip_while(|p| behind(p.source)).take_while(|p| inside(p.source));
            let (mut first, mut raw, mut any) = (u64::MAX, 0, false);
            for piece in pieces {
                first = first.min(piece.first);
                raw += piece.bytes + 40 * piece.msgs;
                any = true;
            }
            if any {
                streams.push((id, first.max(stream.held.first), raw));
            }
        }
        let snapshot = encode(SNAPSHOT_VERSION, &core.snapshot());
        let raw_bytes = tail.raw_bytes;
        // A block also ends where the boot changes.
        let cuts = frames
            .windows(2)
            .filter(|w| w[0].header.boot != w[1].header.boot || w[0].header.base_at > w[1].header.base_at);
        let cuts = cuts.count() as u64 + 1;
        let tables = if tail.table_records > 0 { 256 } else { 0 };
        let blocks = raw_bytes / BLOCK_TARGET_BYTES as u64 + cuts * (streams.len() as u64 + tables) + 2;
        let index_bytes = snapshot.len() as u64 + 64 * (streams.len() as u64 + tables) + 10 * blocks;
        let bound = epoch_bound(raw_bytes, tail.records, blocks, index_bytes);
        Job { slot, last_group, streams, has_tables: tail.table_records > 0, snapshot, bound, frames }
    }

    /// Writes the epoch, keys in ascending order.
    fn write(
        &self,
        job: &Job,
        epoch: u32,
        packer: &mut Packer,
        contents: &mut Contents,
        put: &mut dyn FnMut([u8; 16], Vec<u8>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        contents.index.last_group = job.last_group;
        let mut rest = &job.streams[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let fitting = rest.iter().take_while(|s| {
                bytes += s.2;
                bytes <= ROUND_BYTES
            });
            let (round, later) = rest.split_at(fitting.count().max(1));
            rest = later;
            self.write_round(job, epoch, round, packer, contents, put)?;
        }
        if job.has_tables {
            self.write_tables(job, epoch, packer, contents, put)?;
        }
        finish(epoch, contents, &job.snapshot, put)
    }

    fn write_round(
        &self,
        job: &Job,
        epoch: u32,
        round: &[(u32, u64, u64)],
        packer: &mut Packer,
        contents: &mut Contents,
        put: &mut dyn FnMut([u8; 16], Vec<u8>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut builders: Vec<(EpochStream, BlockBuilder, Vec<Block>)> = round
            .iter()
            .map(|&(id, ..)| (EpochStream { id, ..EpochStream::default() }, BlockBuilder::default(), Vec::new()))
            .collect();
        let alone = round.len() == 1;
        let mut raw = Vec::new();
        for frame in job.frames.iter() {
            let header = &frame.header;
            if !unpack(header.codec, &frame.body, header.raw_len, &mut raw) {
                return Err(StoreError::Io("a frame in memory cannot be unpacked".into()));
            }
            for record in FrameRecords::new(&raw) {
                let Ok(Record::Message { stream, message }) = record else { continue };
                let Ok(at) = round.binary_search_by_key(&stream, |s| s.0) else { continue };
                if message.seq < round[at].1 {
                    continue;
                }
                let message = RawMessage { at: header.base_at.saturating_add(message.at), ..message };
                let (entry, builder, done) = &mut builders[at];
                if entry.msgs == 0 {
                    entry.first = message.seq;
                }
                entry.last = message.seq;
                entry.msgs += 1;
                entry.bytes += message.bytes();
                if let Some(block) = builder.push(packer, header.boot, &message) {
                    if alone {
                        put_block(epoch, entry, block, &mut contents.bytes, put)?;
                    } else {
                        done.push(block);
                    }
                }
            }
        }
        for (mut entry, mut builder, mut done) in builders {
            done.extend(builder.finish(packer));
            for block in done {
                put_block(epoch, &mut entry, block, &mut contents.bytes, put)?;
            }
            if entry.msgs > 0 {
                contents.index.streams.push(entry);
            }
        }
        Ok(())
    }

    fn write_tables(
        &self,
        job: &Job,
        epoch: u32,
        packer: &mut Packer,
        contents: &mut Contents,
        put: &mut dyn FnMut([u8; 16], Vec<u8>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut writer = TableWriter::default();
        let mut raw = Vec::new();
        for frame in job.frames.iter() {
            let header = &frame.header;
            if !unpack(header.codec, &frame.body, header.raw_len, &mut raw) {
                return Err(StoreError::Io("a frame in memory cannot be unpacked".into()));
            }
            let records = (0u32..).zip(FrameRecords::new(&raw).map_while(Result::ok));
            let records: Vec<_> =
                records.filter(|(_, r)| matches!(r, Record::Put { .. } | Record::Delete { .. })).collect();
            if records.is_empty() {
                continue;
            }
            let core = self.shared.lock();
            let live: Vec<_> = records
                .iter()
                .filter_map(|&(index, record)| {
                    let from = Place::Tail { group: header.group, index };
                    match record {
                        // An older value of a key: the newer one is durable, or this would still be the live one.
                        Record::Put { table, key, value } => {
                            let hash = core.hash(key);
                            let live = core.tables.live(table, hash).is_some_and(|l| l.place == from);
                            live.then_some((table, hash, from, key, Some(value)))
                        }
                        Record::Delete { table, key } => {
                            let hash = core.hash(key);
                            core.tables.live(table, hash).is_none().then_some((table, hash, from, key, None))
                        }
                        Record::Message { .. } | Record::Meta(_) => None,
                    }
                })
                .collect();
            drop(core);
            for (table, hash, from, key, value) in live {
                writer.push(packer, table, hash, from, key, value);
            }
        }
        writer.finish(epoch, packer, contents, put)
    }

    /// The epoch is on disk: the state follows, and the slot is free.
    fn install(&self, job: &Job, epoch: u32, contents: &Contents) -> Result<(), StoreError> {
        let disk_bytes = self.shared.store.epoch_bytes(epoch)?;
        let mut core = self.shared.lock();
        self.shared.wrote(disk_bytes + manifest(core.epochs.len() as u64 + 1), 0);
        let core = &mut *core;
        core.next_epoch = epoch + 1;
        for stream in &mut core.streams {
            stream.held.sealed(epoch, job.last_group);
        }
        note_epoch(core, epoch, disk_bytes, contents);
        // IMPORTANT: only now may the writer overwrite the slot.
        core.tail.free(job.slot);
        self.shared.writer_wake.notify_all();
        Ok(())
    }

    /// After a seal: the reserve is taken back if there is room, and what streams must be refused is decided.
    fn tidy(&mut self) -> Result<(), StoreError> {
        let used = self.used()?;
        let budget = self.budget(used)?;
        let reserve = self.shared.dir.join("reserve");
        let mut core = self.shared.lock();
        core.counters.disk_used = used;
        let facts = facts(&core);
        let raw_max = core.sizes.epoch_raw_bytes + core.sizes.group_bytes as u64;
        let index_max = 16_384 + 128 * (core.streams.len() + core.cursors.len()) as u64;
        let epoch_max = epoch_bound(raw_max, raw_max / 64, raw_max / BLOCK_TARGET_BYTES as u64 + 64, index_max);
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
    fn make_room(&self, incoming: u64, budget: Option<u64>) -> Result<bool, StoreError> {
        let budget = match budget {
            Some(budget) => budget,
            None => self.budget(self.used()?)?,
        };
        let mut stuck = HashSet::new();
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
            facts.retain(|f| !stuck.contains(&f.number));
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

    fn drop_oldest(&self) -> Result<bool, StoreError> {
        let victim = facts(&self.shared.lock()).into_iter().find(|f| !f.protected);
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
        {
            // IMPORTANT: first out of the state, so that nobody looks for it any more, then off the disk.
            let mut core = self.shared.lock();
            core.forget_epoch(victim.number);
            self.shared.wrote(manifest(core.epochs.len() as u64), 0);
            core.counters.epochs_dropped += 1;
        }
        // A drop needs a few blocks for its manifest. A filesystem that others filled may not have them: the reserve has.
        let mut told = false;
        while let Err(error) = self.shared.store.drop_epoch(victim.number) {
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
    fn release_reserve(&self) {
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
            (core.next_epoch, encode(SNAPSHOT_VERSION, &core.snapshot()), core.last_sealed_group, tables)
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
            finish(epoch, &mut contents, &snapshot, put)
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

fn note_epoch(core: &mut Core, epoch: u32, disk_bytes: u64, contents: &Contents) {
    for moved in &contents.moved {
        let to = Place::Epoch { epoch, ordinal: moved.ordinal };
        core.tables.moved(moved.table, moved.key, moved.from, to);
    }
    let table_records = contents.index.tables.iter().map(|t| t.records).sum();
    core.epochs.push_back(EpochCore { number: epoch, disk_bytes, table_records });
    core.counters.epochs_written += 1;
    core.counters.ingested_bytes += contents.bytes;
    core.last_sealed_group = contents.index.last_group;
}

/// Room kept free so that live table records of the next victim can be carried.
fn carry_reserve(core: &Core) -> u64 {
    if core.tables.keys() == 0 {
        return 0;
    }
    let live = (core.tables.live_bytes() + 64 * core.tables.keys()).min(core.sizes.epoch_raw_bytes);
    epoch_bound(live, 0, 258, 32 << 10)
}

fn facts(core: &Core) -> Vec<EpochFacts> {
    let mut protected = HashSet::new();
    for stream in &core.streams {
        if stream.limits().is_some_and(|l| l.discard == Discard::New) {
            for piece in stream.held.pieces().filter(|p| p.msgs > 0) {
                if let Source::Epoch(number) = piece.source {
                    protected.insert(number);
                }
            }
        }
    }
    // The newest epoch says where the log continues.
    protected.extend(core.epochs.back().map(|e| e.number));
    let facts = core.epochs.iter().map(|e| EpochFacts {
        number: e.number,
        disk_bytes: e.disk_bytes,
        protected: protected.contains(&e.number),
        tables: e.table_records > 0,
    });
    facts.collect()
}
