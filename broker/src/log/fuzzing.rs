//! What must hold for any bytes found on disk: frames, records, blocks. For `tests/fuzz`; not part of any build that is shipped.

use super::block::OpenBlock;
use super::frame::{FrameIdentity, decode_frame, encode_frame, unpack};
use super::layout::{
    BootRecord, CursorRecord, EpochIndex, INDEX_VERSION, META_VERSION, Meta, SNAPSHOT_VERSION, Snapshot, decode, encode,
};
use super::records::{BlockMessages, FrameRecords, Record, put_delete, put_message, put_meta, put_put};
use super::staging::scan;

const SEED: u64 = 5;

/// By the first byte: the body of a frame, the body of a block, a packed block, state of the log, or a staging file.
///
/// # Panics
/// If something does not hold.
pub fn check(data: &[u8]) {
    let Some((mode, bytes)) = data.split_first() else { return };
    match mode % 5 {
        0 => records(bytes),
        1 => messages(BlockMessages::new(bytes, u64::from(bytes.first().copied().unwrap_or(0)), 5)),
        2 => {
            if let Some(block) = OpenBlock::open(7, bytes) {
                messages(block.messages());
            }
        }
        3 => state(bytes),
        _ => staging(bytes),
    }
}

/// Records that were read are read again from what is written of them.
fn records(body: &[u8]) {
    let read: Vec<_> = FrameRecords::new(body).collect();
    assert!(read.iter().rev().skip(1).all(Result::is_ok), "reading ends with the first error");
    let records: Vec<Record<'_>> = read.into_iter().filter_map(Result::ok).collect();
    let mut out = Vec::new();
    for record in &records {
        match record {
            Record::Message { stream, message } => put_message(&mut out, *stream, message),
            Record::Put { table, key, value } => put_put(&mut out, *table, key, value),
            Record::Delete { table, key } => put_delete(&mut out, *table, key),
            Record::Meta(meta) => put_meta(&mut out, meta),
        }
    }
    assert!(out.len() <= body.len(), "nothing is written shorter than by us");
    let again: Vec<_> = FrameRecords::new(&out).map_while(Result::ok).collect();
    assert_eq!(again, records);
}

fn messages(messages: BlockMessages<'_>) {
    let mut last = (0, 0);
    for message in messages.map_while(Result::ok) {
        assert!((message.seq, message.at) >= last || message.at >= last.1, "neither goes back");
        assert!(message.seq >= last.0);
        last = (message.seq, message.at);
    }
}

fn state(bytes: &[u8]) {
    fn again<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(
        version: u8,
        bytes: &[u8],
    ) {
        let Some((value, _)) = decode::<T>(version, bytes) else { return };
        let written = encode(version, &value);
        assert_eq!(decode::<T>(version, &written).map(|(value, rest)| (value, rest.len())), Some((value, 0)));
    }
    again::<Meta>(META_VERSION, bytes);
    again::<EpochIndex>(INDEX_VERSION, bytes);
    again::<Snapshot>(SNAPSHOT_VERSION, bytes);
    again::<CursorRecord>(1, bytes);
    again::<BootRecord>(1, bytes);
}

/// Frames, each with the group, the generation and the length of a body that two bytes say, with a byte put over them here and there:
/// what is found was written, and is unpacked as it was.
fn staging(bytes: &[u8]) {
    let (plan, damage) = bytes.split_at(bytes.len() / 2);
    let (mut slot, mut frame) = (Vec::new(), Vec::new());
    for pair in plan.chunks_exact(2).take(40) {
        let (group, generation) = (u64::from(pair[0] & 0x1f), u64::from(pair[0] >> 6));
        let body: Vec<u8> = (0..pair[1]).map(|n| n / 7).collect();
        encode_frame(&mut frame, SEED, FrameIdentity { group, generation, base_at: 0, boot: 1, records: 1 }, &body);
        slot.extend_from_slice(&frame);
    }
    for place in damage.chunks_exact(3).take(8) {
        let at = usize::from(u16::from_be_bytes([place[0], place[1]]));
        if let Some(byte) = slot.get_mut(at) {
            *byte = place[2];
        }
    }
    let after = u64::from(bytes.first().copied().unwrap_or(0) & 7);
    let found = scan(&slot, SEED, after);
    assert!(found.cut_bytes <= slot.len() as u64);
    let (mut end, mut raw) = (0, Vec::new());
    for frame in &found.frames {
        assert!(frame.header.group > after && frame.end > end && frame.end <= slot.len().next_multiple_of(8) as u64);
        assert_eq!(frame.header.generation, found.frames[0].header.generation);
        assert!(unpack(frame.header.codec, frame.body, frame.header.raw_len, &mut raw), "what is whole is unpacked");
        assert!((0..).zip(&raw).all(|(n, byte): (usize, _)| usize::from(*byte) == n / 7), "and as it was written");
        end = frame.end;
    }
    // As bytes of a staging file, too, though nearly nothing of them has a checksum that fits.
    assert!(decode_frame(SEED, bytes).is_none() || bytes.len() >= 56);
    let _ = scan(bytes, SEED, 0); // only that it does not panic
}
