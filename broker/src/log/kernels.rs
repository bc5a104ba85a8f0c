//! The block codec without a log around it, for measurements: what a block costs to pack and to open.

use super::BlockCodec;
use super::block::{Block, BlockBuilder, OpenBlock, Packer};
use super::records::RawMessage;

/// Packs messages into blocks as the sealer does, and opens them as a reader does.
pub struct BlockKernel {
    packer: Packer,
    builder: BlockBuilder,
}

/// A packed block.
pub struct PackedBlock(Block);

impl BlockKernel {
    /// A compressor with its memory.
    #[must_use]
    pub fn new(codec: BlockCodec) -> BlockKernel {
        BlockKernel { packer: Packer::new(codec), builder: BlockBuilder::default() }
    }

    /// Packs one message after the other; every block is handed to `done`.
    pub fn pack<'a>(
        &mut self,
        subject: &[u8],
        payloads: impl Iterator<Item = &'a [u8]>,
        done: &mut impl FnMut(PackedBlock),
    ) {
        for (seq, payload) in (1..).zip(payloads) {
            let message = RawMessage { seq, at: seq * 1_000, tag: 1, subject, headers: &[], payload };
            if let Some(block) = self.builder.push(&mut self.packer, 1, &message) {
                done(PackedBlock(block));
            }
        }
        if let Some(block) = self.builder.finish(&mut self.packer) {
            done(PackedBlock(block));
        }
    }
}

impl PackedBlock {
    /// Bytes on disk.
    #[must_use]
    pub fn packed_bytes(&self) -> usize {
        self.0.value.len()
    }

    /// Unpacks it and visits the payload of each message; `None` if it is not what was packed.
    #[must_use]
    pub fn open(&self, visit: &mut impl FnMut(&[u8])) -> Option<usize> {
        let open = OpenBlock::open(self.0.first_seq, &self.0.value)?;
        let mut count = 0;
        for message in open.messages() {
            visit(message.ok()?.payload);
            count += 1;
        }
        Some(count)
    }
}
