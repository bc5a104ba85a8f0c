//! Every byte that the log writes to disk: names, keys, values, versions. Numbers here are never reused.
//!
//! Files in the data directory:
//!
//! | name | written by | content |
//! |---|---|---|
//! | `LOCK` | open | empty; held with `flock` while a process has the log open, its process id as text inside |
//! | `FORMAT` | first open | text: `headwater-log`, `version = N`, `seed = HEX` (16 digits, random, seeds all checksums and hashes), `check = HEX` (xxh3-64 of the text before it; missing in earlier builds) |
//! | `FORMAT.copy` | open | the same, if `FORMAT` is damaged; a later version changes it before `FORMAT` |
//! | `staging-0`, `staging-1` | writer | frames, see below; preallocated, overwritten in place |
//! | `ends` | writer | notes of how far every stream was durable, see `ends.rs`; preallocated, overwritten in place |
//! | `drops` | sealer | notes of the epoch being dropped and what that means for readers, see `drops.rs`; preallocated, overwritten in place |
//! | `reserve` | open, sealer | zeros; released when the filesystem is full, taken back later |
//! | `store/` | sealer | fjall database with one keyspace `epochs` |
//! | `store.salvaged/` | open | `store/` being made again from what is whole of it; takes its name |
//! | `quarantine/N/` | open | what was damaged and set aside; the oldest is deleted when its space is needed |
//! | `damaged-N/` | earlier builds | the same |
//!
//! Frame ([`FRAME_HEADER_BYTES`] of header, little endian, then the body; starts at a multiple of [`FRAME_ALIGN`]):
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic [`FRAME_MAGIC`] |
//! | 4 | 1 | version [`FRAME_VERSION`] |
//! | 5 | 1 | codec of the body: [`CODEC_STORED`] or [`CODEC_LZ4`] |
//! | 6 | 2 | zero |
//! | 8 | 4 | length of the body |
//! | 12 | 4 | length of the body uncompressed |
//! | 16 | 8 | group number: consecutive over the whole life of the log, from 1 |
//! | 24 | 8 | generation: how often a slot was started in this log; the same for all frames of a slot's life |
//! | 32 | 8 | monotonic time that the time deltas in the body count from, nanoseconds |
//! | 40 | 4 | boot number |
//! | 44 | 4 | records in the body |
//! | 48 | 8 | xxh3-64 of the body, seeded with the xxh3-64 of bytes 0..48, seeded with the seed in `FORMAT` |
//!
//! Body of a frame: records, each a kind byte and varints (LEB128) as written by `records.rs`:
//! [`KIND_MESSAGE`]: stream, sequence, time delta, tag (1 byte), then subject, headers, payload, each with its length before it.
//! [`KIND_PUT`]: table (1 byte), key, value. [`KIND_DELETE`]: table, key. [`KIND_META`]: length, then [`META_VERSION`] and a postcard [`Meta`].
//!
//! Behind a [`Meta::Boot`], a [`Meta::Snapshot`] and the [`Snapshot`] of an epoch stand the anchors of that boot or of all: postcard, a list of
//! [`AnchorRecord`]. Logs of 0.1 have nothing there, and their program does not look there.
//!
//! Note in `ends` (two places of [`ENDS_PLACE_BYTES`], written in turn): xxh3-64 of what follows the length, seeded with the seed in `FORMAT`;
//! its length (4 bytes, little endian); [`ENDS_VERSION`]; a postcard `Note`; a postcard `Volume` (`wear.rs`; missing in earlier builds). In `drops` the same with places of [`DROPS_PLACE_BYTES`],
//! [`DROPS_VERSION`] and a `DropNote`.
//!
//! Tables below 128 belong to those who use the log. [`LOSSES`]: key the number of an entry modulo the entries kept (8 bytes, big endian);
//! value [`LOSS_VERSION`] and a postcard [`LossRecord`].
//!
//! Keys of the keyspace `epochs` (16 bytes, big endian): epoch `u32`, stream `u32`, first sequence `u64`.
//!
//! | stream | sequence | value |
//! |---|---|---|
//! | a stream's number | first in the block | block: [`BLOCK_VERSION`], postcard [`BlockHeader`], body |
//! | [`TABLE_BASE`] + table | ordinal in the epoch | block of table records; tag 1 put, 2 delete; subject = key, payload = value |
//! | [`SIGNATURES_STREAM`] | 0 | [`SIGNATURES_VERSION`], xxh3-64 of what follows (8 bytes, little endian, seeded with the seed in `FORMAT`), postcard list of [`StreamSignatures`]; missing in epochs of earlier builds and without messages |
//! | [`INDEX_STREAM`] | 0 | [`INDEX_VERSION`], postcard [`EpochIndex`] |
//! | [`INDEX_STREAM`] | 1 | [`SNAPSHOT_VERSION`], postcard [`Snapshot`] |
//!
//! Body of a block: records without a kind byte: sequence minus the one before it (the first: minus the key's sequence), time minus the one
//! before it (the first: minus the header's base), tag, subject, headers, payload.

use serde::{Deserialize, Serialize};

use super::record::LossReason;

/// Version of the directory as a whole, in `FORMAT`.
pub(super) const FORMAT_VERSION: u32 = 1;
/// First bytes of a frame.
pub(super) const FRAME_MAGIC: [u8; 4] = *b"HwFr";
/// Version of the frame header and its records.
pub(super) const FRAME_VERSION: u8 = 1;
/// Bytes before the body.
pub(super) const FRAME_HEADER_BYTES: usize = 56;
/// Frames start at multiples of this, so that a scan after damage need not look at every byte.
pub(super) const FRAME_ALIGN: usize = 8;

/// Body as it is.
pub(super) const CODEC_STORED: u8 = 0;
/// LZ4 block format, no length prefix.
pub(super) const CODEC_LZ4: u8 = 1;
/// zstd frame.
pub(super) const CODEC_ZSTD: u8 = 2;

/// A message of a stream.
pub(super) const KIND_MESSAGE: u8 = 0;
/// A value set in a table.
pub(super) const KIND_PUT: u8 = 1;
/// A key removed from a table.
pub(super) const KIND_DELETE: u8 = 2;
/// The log's own state.
pub(super) const KIND_META: u8 = 3;

/// Version of [`Meta`].
pub(super) const META_VERSION: u8 = 1;
/// Version of [`BlockHeader`] and the records behind it.
pub(super) const BLOCK_VERSION: u8 = 1;
/// Version of [`EpochIndex`].
pub(super) const INDEX_VERSION: u8 = 1;
/// Version of [`Snapshot`].
pub(super) const SNAPSHOT_VERSION: u8 = 1;

/// Version of the list of [`StreamSignatures`].
pub(super) const SIGNATURES_VERSION: u8 = 1;

/// Version of a note in `ends`.
pub(super) const ENDS_VERSION: u8 = 1;
/// Each of the two places in `ends`.
pub(super) const ENDS_PLACE_BYTES: usize = 16 << 10;

/// Version of a note in `drops`.
pub(super) const DROPS_VERSION: u8 = 1;
/// Each of the two places in `drops`: room for some 400 readers.
pub(super) const DROPS_PLACE_BYTES: usize = 32 << 10;

/// The table of the ledger of losses.
pub(super) const LOSSES: u8 = 254;
/// Version of [`LossRecord`].
pub(super) const LOSS_VERSION: u8 = 1;

/// Tag of a table record that sets a value.
pub(super) const TAG_PUT: u8 = 1;
/// Tag of a table record that removes a key.
pub(super) const TAG_DELETE: u8 = 2;

/// Streams are numbered below this; tables use the numbers from here on.
pub(super) const TABLE_BASE: u32 = 0xFFFF_FE00;
/// Holds the signatures of the blocks of an epoch. In front of the index, so that most damage to the one leaves the other whole.
pub(super) const SIGNATURES_STREAM: u32 = u32::MAX - 1;
/// Holds the index and the snapshot of an epoch: the last keys of the epoch.
pub(super) const INDEX_STREAM: u32 = u32::MAX;

/// Key in the keyspace `epochs`.
pub(super) fn key(epoch: u32, stream: u32, seq: u64) -> [u8; 16] {
    let mut out = [0; 16];
    out[..4].copy_from_slice(&epoch.to_be_bytes());
    out[4..8].copy_from_slice(&stream.to_be_bytes());
    out[8..].copy_from_slice(&seq.to_be_bytes());
    out
}

/// Sequence of a key.
pub(super) fn key_seq(key: &[u8]) -> Option<u64> {
    key.get(8..16)?.try_into().ok().map(u64::from_be_bytes)
}

/// State of the log itself, inside frames. Applying one twice, or an older one after a newer one, changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Meta {
    /// A stream was made.
    Stream { id: u32, name: String, uid: u64 },
    /// The stream begins at `first`; up to `purged` a person removed it.
    Trim { stream: u32, first: u64, purged: u64 },
    /// Sequences below `upto` of a memory stream may have been used.
    Reserve { stream: u32, upto: u64 },
    /// A cursor as it is now.
    Cursor(CursorRecord),
    /// A cursor was removed.
    CursorGone { stream: u32, name: String },
    /// A boot as it is known now.
    Boot(BootRecord),
    /// `first..=last` could not be read.
    Damage { stream: u32, first: u64, last: u64 },
    /// Everything above at once; first record of a slot, so that a lost store does not lose it.
    Snapshot(Snapshot),
}

/// A cursor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CursorRecord {
    pub(super) stream: u32,
    pub(super) name: String,
    /// Last sequence confirmed.
    pub(super) floor: u64,
    /// Messages discarded before they were confirmed.
    pub(super) lost: u64,
}

/// An entry of the ledger of losses. Ranges contain both ends; other messages in them may be held or were confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LossRecord {
    /// Entries are numbered from 1.
    pub(super) number: u64,
    pub(super) stream: u32,
    /// Name of the cursor.
    pub(super) reader: String,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) msgs: u64,
    pub(super) bytes: u64,
    /// Boot and monotonic nanoseconds of the first and the last loss.
    pub(super) since: (u32, u64),
    pub(super) until: (u32, u64),
    pub(super) reason: LossReason,
    /// The episode goes on; not saved.
    #[serde(skip)]
    pub(super) open: bool,
}

/// A boot of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BootRecord {
    pub(super) number: u32,
    /// Hash of the kernel's boot id; 0 if unknown.
    pub(super) id: u64,
    /// Wall time minus monotonic time, nanoseconds.
    pub(super) offset: i64,
    /// Latest monotonic time seen in it.
    pub(super) last_at: u64,
}

/// The clock of a boot was right. Stands behind a [`Meta::Boot`] or a [`Snapshot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AnchorRecord {
    pub(super) boot: u32,
    /// Counts for stamps behind this monotonic time; the first of a boot for those before it, too.
    pub(super) at: u64,
    /// Wall time minus monotonic time, nanoseconds.
    pub(super) offset: i64,
}

/// What the log must know besides messages and tables. In every epoch, and at the start of every slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Snapshot {
    pub(super) streams: Vec<StreamRecord>,
    pub(super) cursors: Vec<CursorRecord>,
    pub(super) boots: Vec<BootRecord>,
}

/// A stream in a [`Snapshot`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StreamRecord {
    pub(super) id: u32,
    pub(super) name: String,
    pub(super) uid: u64,
    /// Next sequence; for a memory stream the end of the reservation.
    pub(super) next: u64,
    pub(super) first: u64,
    pub(super) purged: u64,
    pub(super) discarded_msgs: u64,
    /// Unreadable ranges, both ends included, at most `MAX_DAMAGE` of them.
    pub(super) damage: Vec<(u64, u64)>,
}

/// Directory of an epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EpochIndex {
    /// Always 0: which streams share an epoch follows from the configuration.
    pub(super) class: u8,
    /// Last group contained: frames up to it need no replay. Unchanged in an epoch of carried table records.
    pub(super) last_group: u64,
    pub(super) streams: Vec<EpochStream>,
    pub(super) tables: Vec<EpochTable>,
}

/// A stream within an epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EpochStream {
    pub(super) id: u32,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) msgs: u64,
    pub(super) bytes: u64,
    /// First sequence of each block, as differences: where to go on behind a damaged block.
    pub(super) blocks: Vec<u64>,
}

/// A table within an epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EpochTable {
    pub(super) table: u8,
    pub(super) records: u64,
    pub(super) deletes: u64,
    /// First ordinal of each block, as differences.
    pub(super) blocks: Vec<u64>,
}

/// What the subjects in the blocks of a stream are, see `signature.rs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StreamSignatures<'a> {
    pub(super) id: u32,
    #[serde(borrow)]
    pub(super) blocks: Vec<BlockSignature<'a>>,
}

/// One of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BlockSignature<'a> {
    /// First sequence of the block, minus that of the block before.
    pub(super) step: u64,
    pub(super) bits: &'a [u8],
}

/// Before the body of a block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BlockHeader {
    pub(super) codec: u8,
    pub(super) raw_len: u32,
    pub(super) count: u32,
    pub(super) last_seq: u64,
    pub(super) boot: u32,
    pub(super) base_at: u64,
}

/// A version byte and a postcard value.
pub(super) fn encode<T: Serialize>(version: u8, value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![version]).expect("a growing buffer takes every value of these types")
}

/// Appends anchors to what [`encode`] wrote.
pub(super) fn append_anchors(bytes: Vec<u8>, anchors: &[AnchorRecord]) -> Vec<u8> {
    postcard::to_extend(anchors, bytes).expect("a growing buffer takes every list of anchors")
}

/// The anchors behind a value; none where an earlier program wrote it.
pub(super) fn decode_anchors(rest: &[u8]) -> Vec<AnchorRecord> {
    postcard::from_bytes(rest).unwrap_or_default()
}

/// Reads what [`encode`] wrote; also the bytes behind it. `None` if version or content are not ours.
pub(super) fn decode<'a, T: Deserialize<'a>>(version: u8, bytes: &'a [u8]) -> Option<(T, &'a [u8])> {
    let (&found, rest) = bytes.split_first()?;
    if found != version {
        return None;
    }
    postcard::take_from_bytes(rest).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_by_epoch_then_stream_then_sequence() {
        assert!(key(1, u32::MAX, u64::MAX) < key(2, 0, 0));
        assert!(key(1, 2, u64::MAX) < key(1, 3, 0));
        assert!(key(1, 2, 255) < key(1, 2, 256));
        assert_eq!(key_seq(&key(1, 2, 77)), Some(77));
    }

    #[test]
    fn the_postcard_bytes_of_version_1_stay_readable() {
        let meta = Meta::Trim { stream: 3, first: 300, purged: 7 };
        assert_eq!(encode(META_VERSION, &meta), [1, 1, 3, 0xAC, 2, 7]);
        let (back, rest) = decode::<Meta>(META_VERSION, &[1, 1, 3, 0xAC, 2, 7, 9]).expect("valid");
        assert_eq!((back, rest), (meta, &[9u8][..]));
        assert!(decode::<Meta>(META_VERSION, &[2, 1, 3, 0xAC, 2, 7]).is_none());
        assert!(decode::<Meta>(META_VERSION, &[]).is_none());
    }

    #[test]
    fn anchors_stand_where_version_1_does_not_look() {
        let record = BootRecord { number: 3, id: 9, offset: -2, last_at: 300 };
        // As 0.1 wrote them.
        let boot = [1, 5, 3, 9, 3, 0xAC, 2];
        let snapshot = [1, 0, 0, 1, 3, 9, 3, 0xAC, 2];
        assert_eq!(encode(META_VERSION, &Meta::Boot(record.clone())), boot);
        let (back, rest) = decode::<Meta>(META_VERSION, &boot).expect("valid");
        assert_eq!((back, decode_anchors(rest)), (Meta::Boot(record.clone()), Vec::new()));
        let (back, rest) = decode::<Snapshot>(SNAPSHOT_VERSION, &snapshot).expect("valid");
        assert_eq!((back.boots, decode_anchors(rest)), (vec![record.clone()], Vec::new()));

        let anchors = [AnchorRecord { boot: 3, at: 200, offset: -1 }];
        let bytes = append_anchors(boot.to_vec(), &anchors);
        assert_eq!(bytes[boot.len()..], [1, 3, 0xC8, 1, 1]);
        // What 0.1 does with it.
        let (back, rest) = decode::<Meta>(META_VERSION, &bytes).expect("valid");
        assert_eq!((back, decode_anchors(rest)), (Meta::Boot(record), anchors.to_vec()));
    }
}
