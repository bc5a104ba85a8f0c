//! Blocks: runs of one stream's messages as they lie in epochs. Pure but for the compressor's state.

use bytes::Bytes;

use super::BlockCodec;
use super::layout::{BLOCK_VERSION, BlockHeader, CODEC_LZ4, CODEC_STORED, CODEC_ZSTD, decode, encode};
use super::plan::{BLOCK_TARGET_BYTES, MAX_RAW_BYTES};
use super::records::{BlockMessages, RawMessage, put_block_message};

/// A finished block and where it belongs.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) first_seq: u64,
    pub(super) value: Vec<u8>,
}

/// Collects messages of one stream, in order, into blocks.
#[derive(Debug, Default)]
pub(super) struct BlockBuilder {
    raw: Vec<u8>,
    first_seq: u64,
    last_seq: u64,
    base_at: u64,
    last_at: u64,
    boot: u32,
    count: u32,
}

impl BlockBuilder {
    /// Adds a message (times absolute). Returns the block before it if that is complete.
    pub(super) fn push(&mut self, packer: &mut Packer, boot: u32, message: &RawMessage<'_>) -> Option<Block> {
        let full = self.raw.len() >= BLOCK_TARGET_BYTES;
        let done = if full || (self.count > 0 && (boot != self.boot || message.at < self.last_at)) {
            self.finish(packer)
        } else {
            None
        };
        if self.count == 0 {
            self.first_seq = message.seq;
            self.last_seq = message.seq;
            self.base_at = message.at;
            self.last_at = message.at;
            self.boot = boot;
        }
        put_block_message(&mut self.raw, message.seq - self.last_seq, message.at - self.last_at, message);
        self.last_seq = message.seq;
        self.last_at = message.at;
        self.count += 1;
        done
    }

    /// What was collected since the last complete block.
    pub(super) fn finish(&mut self, packer: &mut Packer) -> Option<Block> {
        if self.count == 0 {
            return None;
        }
        let value = packer.pack(self);
        self.raw.clear();
        self.count = 0;
        Some(Block { first_seq: self.first_seq, value })
    }
}

/// Compresses blocks.
pub(super) struct Packer {
    zstd: Option<zstd::bulk::Compressor<'static>>,
    out: Vec<u8>,
}

impl Packer {
    pub(super) fn new(codec: BlockCodec) -> Packer {
        let zstd = match codec {
            // Without memory for its context, LZ4 does. Another level needs what targets/lib.sh leaves out of zstd.
            BlockCodec::Zstd => zstd::bulk::Compressor::new(3).ok(),
            BlockCodec::Lz4 => None,
        };
        Packer { zstd, out: Vec::new() }
    }

    fn pack(&mut self, block: &BlockBuilder) -> Vec<u8> {
        let raw = &block.raw;
        let (tried, len) = match &mut self.zstd {
            Some(zstd) => {
                self.out.resize(zstd::zstd_safe::compress_bound(raw.len()), 0);
                (CODEC_ZSTD, zstd.compress_to_buffer(raw, &mut self.out[..]).ok())
            }
            None => {
                self.out.resize(lz4_flex::block::get_maximum_output_size(raw.len()), 0);
                (CODEC_LZ4, lz4_flex::block::compress_into(raw, &mut self.out).ok())
            }
        };
        let (codec, body) = match len.filter(|&n| n < raw.len()) {
            Some(n) => (tried, &self.out[..n]),
            None => (CODEC_STORED, &raw[..]),
        };
        let header = BlockHeader {
            codec,
            raw_len: u32::try_from(raw.len()).expect("a block is bounded by the size of a group"),
            count: block.count,
            last_seq: block.last_seq,
            boot: block.boot,
            base_at: block.base_at,
        };
        let mut value = encode(BLOCK_VERSION, &header);
        value.extend_from_slice(body);
        value
    }
}

/// A block read back, unpacked. Clones share the bytes.
#[derive(Clone, Debug)]
pub(super) struct OpenBlock {
    pub(super) first_seq: u64,
    pub(super) last_seq: u64,
    pub(super) boot: u32,
    base_at: u64,
    pub(super) body: Bytes,
}

impl OpenBlock {
    /// Unpacks the value of a block. `None` if it is not what was written.
    pub(super) fn open(first_seq: u64, value: &[u8]) -> Option<OpenBlock> {
        let (header, packed) = decode::<BlockHeader>(BLOCK_VERSION, value)?;
        if header.raw_len > MAX_RAW_BYTES {
            return None;
        }
        let raw_len = header.raw_len as usize;
        let body = match header.codec {
            CODEC_STORED => (packed.len() == raw_len).then(|| packed.to_vec())?,
            CODEC_LZ4 => lz4_flex::block::decompress(packed, raw_len).ok().filter(|b| b.len() == raw_len)?,
            CODEC_ZSTD => zstd::bulk::decompress(packed, raw_len).ok().filter(|b| b.len() == raw_len)?,
            _ => return None,
        };
        Some(OpenBlock {
            first_seq,
            last_seq: header.last_seq,
            boot: header.boot,
            base_at: header.base_at,
            body: Bytes::from(body),
        })
    }

    pub(super) fn messages(&self) -> BlockMessages<'_> {
        BlockMessages::new(&self.body, self.first_seq, self.base_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn messages_come_back_from_blocks(
            list in proptest::collection::vec((1u64..5, 0u64..9, 0usize..3000, any::<u8>()), 1..60), zstd: bool,
        ) {
            let codec = if zstd { BlockCodec::Zstd } else { BlockCodec::Lz4 };
            let mut packer = Packer::new(codec);
            let mut builder = BlockBuilder::default();
            let (mut seq, mut at, mut blocks, mut sent) = (0, 100, Vec::new(), Vec::new());
            for (gap, later, len, fill) in list {
                seq += gap;
                at += later;
                let payload = vec![fill; len];
                let message = RawMessage { seq, at, tag: fill, subject: b"s/1", headers: b"", payload: &payload };
                blocks.extend(builder.push(&mut packer, 1 + u32::from(fill > 200), &message));
                sent.push((seq, at, payload));
            }
            blocks.extend(builder.finish(&mut packer));
            let mut got = Vec::new();
            for block in &blocks {
                let open = OpenBlock::open(block.first_seq, &block.value).expect("as written");
                for message in open.messages() {
                    let message = message.expect("as written");
                    prop_assert!((open.first_seq..=open.last_seq).contains(&message.seq));
                    got.push((message.seq, message.at, message.payload.to_vec()));
                }
            }
            prop_assert_eq!(got, sent);
        }
    }
}
