//! What the subjects in a block are, in a few bytes, so that who reads with a filter can skip the blocks that hold nothing for it. Pure.
//!
//! A signature is a Bloom filter (B. H. Bloom, CACM 13(7), 1970) over the beginnings of the subjects in a block: the first level, the
//! first two, and so on down to the whole subject. A filter that begins with literal levels asks for these. The answer is "perhaps" or
//! "no"; of blocks with up to 150 beginnings, one or two in a hundred are read in vain, of others more.
//!
//! Whoever cannot read the signatures of an epoch, as an earlier build wrote none or they are damaged, reads all its blocks: a wrong bit
//! must never hide a message, so they are trusted only with their checksum.

use std::collections::HashSet;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::filter::{SubjectFilter, beginnings};
use super::layout::{BlockSignature, SIGNATURES_VERSION, StreamSignatures};

/// Bits for each beginning, and how many of them it sets.
const BITS: usize = 10;
const PROBES: u64 = 4;

/// The most for one block: 0.8 % of the 24 KiB of a full one.
const MAX_BYTES: usize = 192;

/// What is asked of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted(u64);

impl Wanted {
    /// What a block must hold to be of interest; `None` if any may be.
    pub(super) fn of(filter: &SubjectFilter, seed: u64) -> Option<Wanted> {
        filter.beginning().map(|beginning| Wanted(xxh3_64_with_seed(beginning, seed)))
    }

    /// False if the block holds no subject with this beginning.
    pub(super) fn may_be_in(self, signature: &[u8]) -> bool {
        places(self.0, signature.len()).all(|(byte, bit)| signature[byte] & bit != 0)
    }
}

fn places(hash: u64, bytes: usize) -> impl Iterator<Item = (usize, u8)> {
    // Double hashing (Kirsch and Mitzenmacher, 2006).
    let (first, step) = (hash & 0xFFFF_FFFF, (hash >> 32) | 1);
    let bits = bytes as u64 * 8;
    (0..if bits == 0 { 0 } else { PROBES }).map(move |n| {
        let place = first.wrapping_add(n.wrapping_mul(step)) & 0xFFFF_FFFF;
        let bit = (place * bits) >> 32;
        (usize::try_from(bit / 8).expect("a signature lies in memory"), 1 << (bit % 8))
    })
}

/// The signatures of a stream in an epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Signatures {
    pub(super) stream: u32,
    /// Of every block, its first sequence and its signature.
    pub(super) blocks: Vec<(u64, Vec<u8>)>,
}

/// Collects the subjects of a block after the other.
#[derive(Debug)]
pub(super) struct Signer {
    seed: u64,
    found: HashSet<u64>,
    list: Signatures,
}

impl Signer {
    pub(super) fn new(stream: u32, seed: u64) -> Signer {
        Signer { seed, found: HashSet::new(), list: Signatures { stream, blocks: Vec::new() } }
    }

    /// A message in the block being collected has this subject.
    pub(super) fn add(&mut self, subject: &[u8]) {
        if self.found.insert(xxh3_64_with_seed(subject, self.seed)) {
            self.found.extend(beginnings(subject).map(|beginning| xxh3_64_with_seed(beginning, self.seed)));
        }
    }

    /// The block that begins at `first_seq` is complete.
    pub(super) fn end_block(&mut self, first_seq: u64) {
        let mut bits = vec![0; (self.found.len() * BITS).div_ceil(8).min(MAX_BYTES)];
        for hash in self.found.drain() {
            for (byte, bit) in places(hash, bits.len()) {
                bits[byte] |= bit;
            }
        }
        self.list.blocks.push((first_seq, bits));
    }

    /// Those of all blocks.
    pub(super) fn finish(self) -> Signatures {
        self.list
    }
}

/// The most that [`encode`] gives for so many streams and blocks, and its key.
pub(super) fn bound(streams: u64, blocks: u64) -> u64 {
    256 + 15 * streams + (MAX_BYTES as u64 + 12) * blocks
}

/// The value for all streams of an epoch.
pub(super) fn encode(streams: &[Signatures], seed: u64) -> Vec<u8> {
    let list = streams.iter().map(|of| {
        let mut last = 0;
        let blocks = of.blocks.iter().map(|(first, bits)| {
            let step = first - last;
            last = *first;
            BlockSignature { step, bits }
        });
        StreamSignatures { id: of.stream, blocks: blocks.collect() }
    });
    let list: Vec<StreamSignatures<'_>> = list.collect();
    let head = vec![SIGNATURES_VERSION; 9];
    let mut value = postcard::to_extend(&list, head).expect("a growing buffer takes every list of signatures");
    let sum = xxh3_64_with_seed(&value[9..], seed);
    value[1..9].copy_from_slice(&sum.to_le_bytes());
    value
}

/// What [`encode`] wrote of a stream; of one that is not in the epoch, nothing. `None` if it is not what was written.
pub(super) fn decode(value: &[u8], seed: u64, stream: u32) -> Option<Signatures> {
    let (&version, rest) = value.split_first()?;
    let (sum, list) = rest.split_first_chunk::<8>()?;
    if version != SIGNATURES_VERSION || u64::from_le_bytes(*sum) != xxh3_64_with_seed(list, seed) {
        return None;
    }
    let streams: Vec<StreamSignatures<'_>> = postcard::from_bytes(list).ok()?;
    let found = streams.into_iter().find(|s| s.id == stream).unwrap_or_default();
    let mut first = 0_u64;
    let blocks = found.blocks.into_iter().map(|block| {
        first = first.saturating_add(block.step);
        (first, block.bits.to_vec())
    });
    Some(Signatures { stream, blocks: blocks.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wanted(text: &str) -> Wanted {
        let filter = SubjectFilter::new(text.to_owned()).expect(text);
        Wanted::of(&filter, 7).expect("begins with a literal level")
    }

    fn signed(blocks: &[&[String]]) -> Signatures {
        let mut signer = Signer::new(3, 7);
        for (first, subjects) in (10..).step_by(10).zip(blocks) {
            subjects.iter().for_each(|subject| signer.add(subject.as_bytes()));
            signer.end_block(first);
        }
        signer.finish()
    }

    #[test]
    fn a_block_is_known_by_its_subjects_and_their_beginnings() {
        let subjects: Vec<String> = (0..30).map(|n| format!("plant/line-{}/press-{n}", n % 3)).collect();
        let signatures = signed(&[&subjects]);
        let bits = &signatures.blocks[0].1;
        // plant, three lines, thirty presses.
        assert_eq!(bits.len(), 34 * BITS / 8 + 1);
        for subject in subjects.iter().map(String::as_str).chain(["plant/#", "plant/line-2/+", "plant/+/press-1"]) {
            assert!(wanted(subject).may_be_in(bits), "{subject}");
        }
        let others = (0..10_000).filter(|n| wanted(&format!("plant/line-1/other-{n}")).may_be_in(bits)).count();
        assert!(others < 250, "{others} of 10,000");
    }

    #[test]
    fn a_block_of_many_subjects_takes_no_more_than_the_bound() {
        let subjects: Vec<String> = (0..5_000).map(|n| format!("s/{n}")).collect();
        let signatures = signed(&[&subjects, &subjects[..1]]);
        assert_eq!(signatures.blocks[0].1.len(), MAX_BYTES);
        assert!(encode(&[signatures], 7).len() as u64 <= bound(1, 2));
    }

    #[test]
    fn no_wrong_bit_passes_for_a_signature() {
        let value = encode(&[signed(&[&["a/b".to_owned()], &["c".to_owned()]])], 7);
        let blocks = decode(&value, 7, 3).expect("as written").blocks;
        assert_eq!(blocks.iter().map(|b| b.0).collect::<Vec<_>>(), [10, 20]);
        assert!(wanted("a/#").may_be_in(&blocks[0].1) && !wanted("a/#").may_be_in(&blocks[1].1));
        assert!(decode(&value, 7, 4).expect("as written").blocks.is_empty());
        assert_eq!(decode(&value, 8, 3), None);
        for at in 0..value.len() {
            assert_eq!(decode(&value[..at], 7, 3), None);
            for bit in 0..8 {
                let mut wrong = value.clone();
                wrong[at] ^= 1 << bit;
                assert_eq!(decode(&wrong, 7, 3), None);
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_in_a_block_is_denied(
            subjects in prop::collection::vec(prop::collection::vec("[ab$]{0,2}", 1..6), 1..200),
        ) {
            let subjects: Vec<String> = subjects.into_iter().map(|levels| levels.join("/")).collect();
            let signatures = signed(&[&subjects]);
            for subject in &subjects {
                for beginning in beginnings(subject.as_bytes()) {
                    let wanted = Wanted(xxh3_64_with_seed(beginning, 7));
                    prop_assert!(wanted.may_be_in(&signatures.blocks[0].1));
                }
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>, hash: u64) {
            let _read = decode(&bytes, 0, 0);
            let _asked = Wanted(hash).may_be_in(&bytes);
        }
    }
}
