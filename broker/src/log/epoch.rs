//! The parts that an epoch is written from: blocks of streams and tables, the index, the snapshot. Keys go out in ascending order.

use std::collections::BTreeMap;

use super::block::{Block, BlockBuilder, Packer};
use super::layout::{
    EpochIndex, EpochStream, EpochTable, INDEX_STREAM, INDEX_VERSION, SIGNATURES_STREAM, TABLE_BASE, TAG_DELETE,
    TAG_PUT, encode, key,
};
use super::records::RawMessage;
use super::signature::{self, Signatures};
use super::store::StoreError;
use super::tables::Place;

/// A table record that came to lie in an epoch.
pub(super) struct Moved {
    pub(super) table: u8,
    pub(super) key: u128,
    pub(super) from: Place,
    pub(super) ordinal: u32,
}

/// What an epoch being written contains.
#[derive(Default)]
pub(super) struct Contents {
    pub(super) index: EpochIndex,
    pub(super) signatures: Vec<Signatures>,
    pub(super) moved: Vec<Moved>,
    pub(super) bytes: u64,
}

/// Table records on their way into an epoch, by table.
#[derive(Default)]
pub(super) struct TableWriter {
    tables: BTreeMap<u8, (EpochTable, BlockBuilder, Vec<Block>)>,
    pub(super) moved: Vec<Moved>,
}

impl TableWriter {
    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    pub(super) fn push(
        &mut self,
        packer: &mut Packer,
        table: u8,
        hash: u128,
        from: Place,
        key: &[u8],
        value: Option<&[u8]>,
    ) {
        let (entry, builder, done) = self
            .tables
            .entry(table)
            .or_insert_with(|| (EpochTable { table, ..EpochTable::default() }, BlockBuilder::default(), Vec::new()));
        let ordinal = entry.records;
        entry.records += 1;
        let tag = if value.is_some() { TAG_PUT } else { TAG_DELETE };
        entry.deletes += u64::from(value.is_none());
        let payload = value.unwrap_or_default();
        let record = RawMessage { seq: ordinal, at: 0, tag, subject: key, headers: &[], payload };
        done.extend(builder.push(packer, 0, &record));
        if value.is_some() {
            let ordinal = u32::try_from(ordinal).unwrap_or(u32::MAX);
            self.moved.push(Moved { table, key: hash, from, ordinal });
        }
    }

    pub(super) fn finish(
        mut self,
        epoch: u32,
        packer: &mut Packer,
        contents: &mut Contents,
        put: &mut dyn FnMut([u8; 16], Vec<u8>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        for (table, (mut entry, mut builder, mut done)) in std::mem::take(&mut self.tables) {
            done.extend(builder.finish(packer));
            let mut last = 0;
            for block in done {
                entry.blocks.push(block.first_seq - last);
                last = block.first_seq;
                contents.bytes += block.value.len() as u64;
                put(key(epoch, TABLE_BASE + u32::from(table), block.first_seq), block.value)?;
            }
            contents.index.tables.push(entry);
        }
        contents.moved.append(&mut self.moved);
        Ok(())
    }
}

pub(super) fn put_block(
    epoch: u32,
    entry: &mut EpochStream,
    block: Block,
    bytes: &mut u64,
    put: &mut dyn FnMut([u8; 16], Vec<u8>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let before: u64 = entry.blocks.iter().sum();
    entry.blocks.push(block.first_seq - before);
    *bytes += block.value.len() as u64;
    put(key(epoch, entry.id, block.first_seq), block.value)
}

/// The last keys of an epoch.
pub(super) fn finish(
    epoch: u32,
    contents: &mut Contents,
    snapshot: &[u8],
    seed: u64,
    put: &mut dyn FnMut([u8; 16], Vec<u8>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    if !contents.signatures.is_empty() {
        let signatures = signature::encode(&contents.signatures, seed);
        contents.bytes += signatures.len() as u64;
        put(key(epoch, SIGNATURES_STREAM, 0), signatures)?;
    }
    let index = encode(INDEX_VERSION, &contents.index);
    contents.bytes += (index.len() + snapshot.len()) as u64;
    put(key(epoch, INDEX_STREAM, 0), index)?;
    put(key(epoch, INDEX_STREAM, 1), snapshot.to_vec())
}
