//! Frames of the staging log: one per group commit, written by one `pwrite`. Pure.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::layout::{CODEC_LZ4, CODEC_STORED, FRAME_ALIGN, FRAME_HEADER_BYTES, FRAME_MAGIC, FRAME_VERSION};
use super::plan::MAX_RAW_BYTES;

/// Header of a frame, without what can be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) codec: u8,
    pub(super) body_len: u32,
    pub(super) raw_len: u32,
    pub(super) group: u64,
    pub(super) generation: u64,
    pub(super) base_at: u64,
    pub(super) boot: u32,
    pub(super) records: u32,
}

/// What identifies a new frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameIdentity {
    pub(super) group: u64,
    pub(super) generation: u64,
    pub(super) base_at: u64,
    pub(super) boot: u32,
    pub(super) records: u32,
}

/// Bytes that a frame with this body takes in a slot.
pub(super) fn frame_len(body_len: usize) -> usize {
    (FRAME_HEADER_BYTES + body_len).next_multiple_of(FRAME_ALIGN)
}

/// Encodes a frame into `out` (cleared first), the body compressed if that makes it smaller. `raw` is at most `u32::MAX` long.
pub(super) fn encode_frame(out: &mut Vec<u8>, seed: u64, identity: FrameIdentity, raw: &[u8]) -> FrameHeader {
    out.clear();
    let worst = FRAME_HEADER_BYTES + lz4_flex::block::get_maximum_output_size(raw.len()) + FRAME_ALIGN;
    out.resize(worst, 0);
    let packed = lz4_flex::block::compress_into(raw, &mut out[FRAME_HEADER_BYTES..]).ok().filter(|&n| n < raw.len());
    let (codec, body_len) = match packed {
        Some(len) => (CODEC_LZ4, len),
        None => {
            out[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + raw.len()].copy_from_slice(raw);
            (CODEC_STORED, raw.len())
        }
    };
    let end = FRAME_HEADER_BYTES + body_len;
    out.truncate(end);
    out.resize(frame_len(body_len), 0);
    let header = FrameHeader {
        codec,
        body_len: u32::try_from(body_len).expect("a group is bounded far below 4 GiB"),
        raw_len: u32::try_from(raw.len()).expect("a group is bounded far below 4 GiB"),
        group: identity.group,
        generation: identity.generation,
        base_at: identity.base_at,
        boot: identity.boot,
        records: identity.records,
    };
    let (head, body) = out.split_at_mut(FRAME_HEADER_BYTES);
    head[..4].copy_from_slice(&FRAME_MAGIC);
    head[4] = FRAME_VERSION;
    head[5] = header.codec;
    head[6..8].fill(0);
    head[8..12].copy_from_slice(&header.body_len.to_le_bytes());
    head[12..16].copy_from_slice(&header.raw_len.to_le_bytes());
    head[16..24].copy_from_slice(&header.group.to_le_bytes());
    head[24..32].copy_from_slice(&header.generation.to_le_bytes());
    head[32..40].copy_from_slice(&header.base_at.to_le_bytes());
    head[40..44].copy_from_slice(&header.boot.to_le_bytes());
    head[44..48].copy_from_slice(&header.records.to_le_bytes());
    let sum = checksum(seed, &head[..48], &body[..body_len]);
    head[48..56].copy_from_slice(&sum.to_le_bytes());
    header
}

fn checksum(seed: u64, head: &[u8], body: &[u8]) -> u64 {
    xxh3_64_with_seed(body, xxh3_64_with_seed(head, seed))
}

/// Whether a frame may begin here; cheap.
pub(super) fn looks_like_frame(bytes: &[u8]) -> bool {
    bytes.len() >= FRAME_HEADER_BYTES && bytes[..4] == FRAME_MAGIC && bytes[4] == FRAME_VERSION
}

/// The header at the start of `bytes`, read without proof.
pub(super) fn read_header(bytes: &[u8]) -> Option<FrameHeader> {
    if !looks_like_frame(bytes) {
        return None;
    }
    let u32_at = |at: usize| bytes[at..at + 4].try_into().map(u32::from_le_bytes).ok();
    let u64_at = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).ok();
    Some(FrameHeader {
        codec: bytes[5],
        body_len: u32_at(8)?,
        raw_len: u32_at(12)?,
        group: u64_at(16)?,
        generation: u64_at(24)?,
        base_at: u64_at(32)?,
        boot: u32_at(40)?,
        records: u32_at(44)?,
    })
}

/// The frame at the start of `bytes` if it is whole: header and body.
pub(super) fn decode_frame(seed: u64, bytes: &[u8]) -> Option<(FrameHeader, &[u8])> {
    let header = read_header(bytes)?;
    let body = bytes.get(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES.checked_add(header.body_len as usize)?)?;
    let expected = u64::from_le_bytes(bytes[48..56].try_into().ok()?);
    (checksum(seed, &bytes[..48], body) == expected).then_some((header, body))
}

/// Undoes the compression of a body, into `out` (cleared first). False if the body is not what was written.
pub(super) fn unpack(codec: u8, body: &[u8], raw_len: u32, out: &mut Vec<u8>) -> bool {
    out.clear();
    if raw_len > MAX_RAW_BYTES {
        return false;
    }
    match codec {
        CODEC_STORED => {
            out.extend_from_slice(body);
            body.len() == raw_len as usize
        }
        CODEC_LZ4 => {
            out.resize(raw_len as usize, 0);
            lz4_flex::block::decompress_into(body, out).is_ok_and(|n| n == raw_len as usize)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const IDENTITY: FrameIdentity = FrameIdentity { group: 7, generation: 3, base_at: 99, boot: 2, records: 1 };

    proptest! {
        #[test]
        fn frames_come_back(raw in proptest::collection::vec(0u8..4, 0..5000)) {
            let mut out = Vec::new();
            let header = encode_frame(&mut out, 5, IDENTITY, &raw);
            prop_assert_eq!(out.len() % FRAME_ALIGN, 0);
            let (found, body) = decode_frame(5, &out).expect("whole");
            prop_assert_eq!(found, header);
            let mut back = Vec::new();
            prop_assert!(unpack(found.codec, body, found.raw_len, &mut back));
            prop_assert_eq!(back, raw);
        }

        #[test]
        fn a_flipped_bit_is_noticed(raw in proptest::collection::vec(any::<u8>(), 1..300), at: prop::sample::Index, bit in 0u8..8) {
            let mut out = Vec::new();
            let header = encode_frame(&mut out, 5, IDENTITY, &raw);
            let at = at.index(FRAME_HEADER_BYTES + header.body_len as usize);
            out[at] ^= 1 << bit;
            prop_assert!(decode_frame(5, &out).is_none());
        }
    }

    #[test]
    fn another_seed_is_another_log() {
        let mut out = Vec::new();
        encode_frame(&mut out, 5, IDENTITY, b"hello");
        assert!(decode_frame(6, &out).is_none());
    }
}
