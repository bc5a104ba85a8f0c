//! The sealer thread: turns a full slot into an epoch, and makes room for it first.

use std::sync::Arc;
use std::time::Duration;

use tracing::error;

use super::block::{Block, BlockBuilder, OpenBlock, Packer};
use super::core::{Core, EpochCore};
use super::epoch::{Contents, TableWriter, finish, put_block};
use super::frame::unpack;
use super::job::{Job, MAX_ABSORBED_BLOCKS, Part, Staged};
use super::layout::{EpochStream, key};
use super::records::{FrameRecords, RawMessage, Record};
use super::shared::Shared;
use super::signature::Signer;
use super::staging::SlotId;
use super::store::StoreError;
use super::stream::StreamId;
use super::tables::Place;
use super::wear::manifest;

/// Streams are regrouped in rounds of about this much, so that sealing needs little memory.
const ROUND_BYTES: u64 = 512 << 10;

/// While nothing can be dropped to make room, this passes before looking again.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// What an earlier epoch holds and the next one of its class takes over.
struct Absorbed {
    epoch: u32,
    /// In order of number.
    streams: Vec<(Staged, Vec<OpenBlock>)>,
}

/// An epoch to be written.
struct Writing<'a> {
    epoch: u32,
    job: &'a Job,
    part: &'a Part,
    absorbed: Option<Absorbed>,
}

type Put<'a> = &'a mut dyn FnMut([u8; 16], Vec<u8>) -> Result<(), StoreError>;

/// State of the thread.
pub(super) struct Sealer {
    pub(super) shared: Arc<Shared>,
    pub(super) told_full: bool,
}

impl Sealer {
    pub(super) fn new(shared: Arc<Shared>) -> Sealer {
        Sealer { shared, told_full: false }
    }

    /// Runs until the log is closed or fails.
    pub(super) fn run(mut self) {
        let condemned = self.shared.lock().condemned.take();
        let finished = condemned.map_or(Ok(true), |number| self.remove_epoch(number));
        // The budget may be smaller than it was.
        if let Err(error) = finished.and_then(|_| self.make_room(0, None)).and_then(|_| self.tidy()) {
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
        let job = Job::new(&self.shared.lock(), slot);
        for part in &job.parts {
            if !self.seal_part(&job, part)? {
                return Ok(false);
            }
        }
        let mut core = self.shared.lock();
        // IMPORTANT: only now may the writer overwrite the slot.
        core.tail.free(job.slot);
        self.shared.writer_wake.notify_all();
        drop(core);
        self.tidy()?;
        Ok(true)
    }

    /// Writes the epoch of a part. A slot of which some parts are sealed goes on with the others after a restart, too.
    fn seal_part(&mut self, job: &Job, part: &Part) -> Result<bool, StoreError> {
        if !self.make_room(job.bound, None)? {
            return Ok(false);
        }
        let mut attempts = 0;
        let (writing, contents) = loop {
            let epoch = self.shared.lock().next_epoch;
            let writing = Writing { epoch, job, part, absorbed: self.absorb(job, part)? };
            let mut contents = Contents::default();
            match self.shared.store.ingest(|put| self.write(&writing, &mut contents, put)) {
                Ok(()) => break (writing, contents),
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
        self.install(&writing, &contents)
    }

    /// Reads what the part goes together with. Nothing if any of it cannot be read: then it stays where it is.
    fn absorb(&self, job: &Job, part: &Part) -> Result<Option<Absorbed>, StoreError> {
        let found = job.absorbable(&self.shared.lock(), part);
        let Some((epoch, live)) = found else { return Ok(None) };
        let index = match self.shared.epoch_index(epoch) {
            Ok(Some(index)) => index,
            Ok(None) | Err(StoreError::Damaged(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let blocks: usize = index.streams.iter().map(|entry| entry.blocks.len()).sum();
        if blocks > MAX_ABSORBED_BLOCKS {
            return Ok(None);
        }
        let mut streams = Vec::new();
        for staged in live {
            let Some(entry) = index.streams.iter().find(|entry| entry.id == staged.id) else { return Ok(None) };
            let (mut first, mut blocks) = (0, Vec::new());
            for step in &entry.blocks {
                first += step;
                let value = match self.shared.store.value(&key(epoch, entry.id, first)) {
                    Ok(value) => value,
                    Err(StoreError::Damaged(_)) => return Ok(None),
                    Err(error) => return Err(error),
                };
                let Some(block) = value.and_then(|value| OpenBlock::open(first, &value)) else { return Ok(None) };
                blocks.push(block);
            }
            streams.push((staged, blocks));
        }
        Ok(Some(Absorbed { epoch, streams }))
    }

    /// Writes the epoch, keys in ascending order.
    fn write(&self, what: &Writing<'_>, contents: &mut Contents, put: Put<'_>) -> Result<(), StoreError> {
        let (job, part) = (what.job, what.part);
        contents.index.last_group = if part.last { job.last_group } else { self.shared.lock().last_sealed_group };
        let mut packer = Packer::new(self.shared.codec);
        let mut streams = part.streams.clone();
        for (taken, _) in what.absorbed.iter().flat_map(|a| &a.streams) {
            match streams.binary_search_by_key(&taken.id, |s| s.id) {
                Ok(at) => {
                    streams[at].first = taken.first;
                    streams[at].raw_bytes += taken.raw_bytes;
                }
                Err(at) => streams.insert(at, *taken),
            }
        }
        let mut rest = &streams[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let fitting = rest.iter().take_while(|s| {
                bytes += s.raw_bytes;
                bytes <= ROUND_BYTES
            });
            let (round, later) = rest.split_at(fitting.count().max(1));
            rest = later;
            self.write_round(what, round, &mut packer, contents, put)?;
        }
        if part.has_tables {
            self.write_tables(job, what.epoch, &mut packer, contents, put)?;
        }
        finish(what.epoch, contents, &job.snapshot, self.shared.seed, put)
    }

    fn write_round(
        &self,
        what: &Writing<'_>,
        round: &[Staged],
        packer: &mut Packer,
        contents: &mut Contents,
        put: Put<'_>,
    ) -> Result<(), StoreError> {
        let epoch = what.epoch;
        let mut builders: Vec<Building> = round.iter().map(|s| Building::new(s.id, self.shared.seed)).collect();
        let alone = round.len() == 1;
        for (taken, blocks) in what.absorbed.iter().flat_map(|a| &a.streams) {
            let Ok(at) = round.binary_search_by_key(&taken.id, |s| s.id) else { continue };
            for block in blocks {
                for message in block.messages().map_while(Result::ok).filter(|m| m.seq >= taken.first) {
                    builders[at].push(packer, block.boot, &message);
                }
            }
        }
        let mut raw = Vec::new();
        for frame in what.job.frames.iter() {
            let header = &frame.header;
            if !unpack(header.codec, &frame.body, header.raw_len, &mut raw) {
                return Err(StoreError::Io("a frame in memory cannot be unpacked".into()));
            }
            for record in FrameRecords::new(&raw) {
                let Ok(Record::Message { stream, message }) = record else { continue };
                let Ok(at) = round.binary_search_by_key(&stream, |s| s.id) else { continue };
                if message.seq < round[at].first {
                    continue;
                }
                let message = RawMessage { at: header.base_at.saturating_add(message.at), ..message };
                builders[at].push(packer, header.boot, &message);
                if alone {
                    builders[at].put(epoch, contents, put)?;
                }
            }
        }
        for mut building in builders {
            let last = building.builder.finish(packer);
            building.complete(last);
            building.put(epoch, contents, put)?;
            if building.entry.msgs > 0 {
                contents.index.streams.push(building.entry);
                contents.signatures.push(building.signer.finish());
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
        put: Put<'_>,
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

    /// The epoch is on disk: the state follows. False if the log ends before what was absorbed is off the disk.
    fn install(&self, what: &Writing<'_>, contents: &Contents) -> Result<bool, StoreError> {
        let disk_bytes = self.shared.store.epoch_bytes(what.epoch)?;
        let absorbed = what.absorbed.as_ref().map(|a| a.epoch);
        let taken = what.absorbed.iter().flat_map(|a| a.streams.iter().map(|(taken, _)| taken.id));
        {
            let mut core = self.shared.lock();
            self.shared.wrote(disk_bytes + manifest(core.epochs.len() as u64 + 1), 0);
            let core = &mut *core;
            core.next_epoch = what.epoch + 1;
            for id in what.part.streams.iter().map(|s| s.id).chain(taken) {
                core.stream_mut(StreamId(id)).held.sealed(what.epoch, what.job.last_group, absorbed);
            }
            core.epochs.retain(|e| Some(e.number) != absorbed);
            note_epoch(core, what.epoch, disk_bytes, contents);
        }
        // All that it held is in the new one: nothing is lost with it, and nothing to be noted.
        absorbed.map_or(Ok(true), |number| self.remove_epoch(number))
    }
}

/// A stream on its way into an epoch.
struct Building {
    entry: EpochStream,
    builder: BlockBuilder,
    signer: Signer,
    done: Vec<Block>,
}

impl Building {
    fn new(id: u32, seed: u64) -> Building {
        let entry = EpochStream { id, ..EpochStream::default() };
        Building { entry, builder: BlockBuilder::default(), signer: Signer::new(id, seed), done: Vec::new() }
    }

    fn push(&mut self, packer: &mut Packer, boot: u32, message: &RawMessage<'_>) {
        let entry = &mut self.entry;
        if entry.msgs == 0 {
            entry.first = message.seq;
        }
        entry.last = message.seq;
        entry.msgs += 1;
        entry.bytes += message.bytes();
        let before = self.builder.push(packer, boot, message);
        self.complete(before);
        self.signer.add(message.subject);
    }

    fn complete(&mut self, block: Option<Block>) {
        if let Some(block) = &block {
            self.signer.end_block(block.first_seq);
        }
        self.done.extend(block);
    }

    /// Puts the blocks that are complete.
    fn put(&mut self, epoch: u32, contents: &mut Contents, put: Put<'_>) -> Result<(), StoreError> {
        for block in self.done.drain(..) {
            put_block(epoch, &mut self.entry, block, &mut contents.bytes, put)?;
        }
        Ok(())
    }
}

pub(super) fn note_epoch(core: &mut Core, epoch: u32, disk_bytes: u64, contents: &Contents) {
    for moved in &contents.moved {
        let to = Place::Epoch { epoch, ordinal: moved.ordinal };
        core.tables.moved(moved.table, moved.key, moved.from, to);
    }
    let table_records = contents.index.tables.iter().map(|t| t.records).sum();
    core.epochs.push_back(EpochCore {
        number: epoch,
        disk_bytes,
        last_group: contents.index.last_group,
        table_records,
    });
    core.counters.epochs_written += 1;
    core.counters.ingested_bytes += contents.bytes;
    core.last_sealed_group = contents.index.last_group;
}
