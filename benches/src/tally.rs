//! What a subscriber got of what was published: complete, lost, twice, and how long each message took. Pure.
//!
//! Every message carries when it was due, who published it and its number, so that loss is counted message by message and a
//! latency counts from when the message was due.

use std::time::Duration;

use crate::histogram::Histogram;

/// Bytes at the start of a payload that belong to the tally.
pub const MARK_BYTES: usize = 16;

/// Identity of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// When it was due, since a start that both sides know.
    pub due: Duration,
    /// Number of its publisher.
    pub publisher: u32,
    /// Its number with that publisher, from 0.
    pub count: u32,
}

impl Mark {
    /// Writes it over the first [`MARK_BYTES`] of `payload`.
    ///
    /// # Panics
    /// When the payload is shorter than that.
    pub fn put(self, payload: &mut [u8]) {
        let nanoseconds = u64::try_from(self.due.as_nanos()).unwrap_or(u64::MAX);
        payload[..8].copy_from_slice(&nanoseconds.to_be_bytes());
        payload[8..12].copy_from_slice(&self.publisher.to_be_bytes());
        payload[12..16].copy_from_slice(&self.count.to_be_bytes());
    }

    /// Reads it back; `None` from a payload that is too short.
    #[must_use]
    pub fn of(payload: &[u8]) -> Option<Self> {
        let mark: &[u8; MARK_BYTES] = payload.first_chunk()?;
        let word = |at: usize| u32::from_be_bytes([mark[at], mark[at + 1], mark[at + 2], mark[at + 3]]);
        let due = u64::from(word(0)) << 32 | u64::from(word(4));
        Some(Self { due: Duration::from_nanos(due), publisher: word(8), count: word(12) })
    }
}

/// Counts what one subscriber got. Memory: one bit per message expected.
#[derive(Clone, Debug)]
pub struct Tally {
    /// One bit per message, by publisher.
    seen: Vec<Vec<u64>>,
    each: u32,
    distinct: u64,
    duplicates: u64,
    latency: Histogram,
}

impl Tally {
    /// Expects `each` messages from each of `publishers`.
    #[must_use]
    pub fn new(publishers: usize, each: u32) -> Self {
        let words = (each as usize).div_ceil(64);
        Self { seen: vec![vec![0; words]; publishers], each, distinct: 0, duplicates: 0, latency: Histogram::default() }
    }

    /// Counts a message that came at `now`. False if it is none of those expected.
    #[must_use]
    pub fn take(&mut self, mark: Mark, now: Duration) -> bool {
        let (word, bit) = (mark.count as usize / 64, 1 << (mark.count % 64));
        let Some(seen) = self.seen.get_mut(mark.publisher as usize).filter(|_| mark.count < self.each) else {
            return false;
        };
        if seen[word] & bit != 0 {
            self.duplicates += 1;
        } else {
            seen[word] |= bit;
            self.distinct += 1;
            self.latency.record(now.saturating_sub(mark.due), 1);
        }
        true
    }

    /// Everything expected has come.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.lost() == 0
    }

    /// Different messages that came.
    #[must_use]
    pub fn distinct(&self) -> u64 {
        self.distinct
    }

    /// Messages that did not come.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.seen.len() as u64 * u64::from(self.each) - self.distinct
    }

    /// Messages that came again.
    #[must_use]
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// From when a message was due until it came for the first time.
    #[must_use]
    pub fn latency(&self) -> &Histogram {
        &self.latency
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_comes_back_from_a_payload() {
        let mark = Mark { due: Duration::from_nanos(u64::from(u32::MAX) + 5), publisher: 3, count: 70_000 };
        let mut payload = [0xff; 20];
        mark.put(&mut payload);
        assert_eq!(Mark::of(&payload), Some(mark));
        assert_eq!(Mark::of(&payload[..15]), None);
    }

    #[test]
    fn what_is_missing_and_what_came_twice_is_told_apart() {
        let mut tally = Tally::new(2, 65);
        let mark = |publisher, count| Mark { due: Duration::from_millis(1), publisher, count };
        for (publisher, count) in [(0, 0), (0, 64), (1, 3), (0, 64)] {
            assert!(tally.take(mark(publisher, count), Duration::from_millis(3)));
        }
        assert!(!tally.take(mark(2, 0), Duration::ZERO) && !tally.take(mark(0, 65), Duration::ZERO));
        assert_eq!((tally.distinct(), tally.lost(), tally.duplicates()), (3, 127, 1));
        assert!(!tally.is_complete());
        assert_eq!(tally.latency().total(), 3);
    }
}
