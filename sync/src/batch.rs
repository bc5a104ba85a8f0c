//! What was read and not yet sent, and how it is cut into batches.

use std::collections::VecDeque;

use headwater_broker::log::{GapReason, Seq};

use crate::encode::Outgoing;

/// Why the hub gets a gap notice instead of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// Discarded by a limit of the stream or the disk before the hub had them.
    Retention,
    /// Removed by a person.
    Purge,
    /// Unreadable.
    Damage,
    /// Larger than the hub takes, or with a subject longer than it takes.
    TooLarge,
}

impl Absence {
    /// As written in `Headwater-Gap-Reason`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Absence::Retention => "retention",
            Absence::Purge => "purge",
            Absence::Damage => "damage",
            Absence::TooLarge => "too-large",
        }
    }
}

impl From<GapReason> for Absence {
    fn from(reason: GapReason) -> Self {
        match reason {
            GapReason::Retention => Absence::Retention,
            GapReason::Purge => Absence::Purge,
            GapReason::Damage => Absence::Damage,
        }
    }
}

/// One thing to tell the hub, in order of sequence.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A message, ready to be sent.
    Message {
        /// Its sequence.
        seq: Seq,
        /// Its form towards the hub.
        outgoing: Outgoing,
    },
    /// `first..=last` will never come.
    Gap {
        /// First missing sequence.
        first: Seq,
        /// Last missing sequence.
        last: Seq,
        /// Why.
        reason: Absence,
    },
}

impl Entry {
    /// The sequence that is confirmed once the hub has this.
    #[must_use]
    pub fn last(&self) -> Seq {
        match self {
            Entry::Message { seq, .. } => *seq,
            Entry::Gap { last, .. } => *last,
        }
    }

    fn size(&self) -> usize {
        match self {
            Entry::Message { outgoing, .. } => outgoing.size(),
            Entry::Gap { .. } => GAP_BYTES,
        }
    }
}

/// A gap notice is some headers; the exact figure does not matter for cutting.
const GAP_BYTES: usize = 512;

/// How large a batch may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Messages.
    pub msgs: usize,
    /// Bytes of headers and payloads. One larger message still makes a batch of its own.
    pub bytes: usize,
}

/// Entries that are read and wait for their batch. The reader is asked for no more than [`Queue::room`], so this holds
/// at most one batch (and one message above its bytes).
#[derive(Debug, Default)]
pub struct Queue {
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Queue {
    /// Adds an entry; adjacent gaps of one reason become one.
    pub fn push(&mut self, entry: Entry) {
        if let (
            Some(Entry::Gap { last, reason, .. }),
            Entry::Gap { first: next_first, last: next_last, reason: next_reason },
        ) = (self.entries.back_mut(), &entry)
            && *reason == *next_reason
            && last.next() == *next_first
        {
            *last = *next_last;
            return;
        }
        self.bytes += entry.size();
        self.entries.push_back(entry);
    }

    /// Takes the next batch: at least one entry if there is one, never more than `limits` and nothing behind `through`
    /// otherwise.
    pub fn cut(&mut self, limits: Limits, through: Seq) -> Vec<Entry> {
        let mut batch = Vec::with_capacity(self.entries.len().min(limits.msgs));
        let mut bytes = 0;
        while let Some(entry) = self.entries.front() {
            let size = entry.size();
            let full = batch.len() >= limits.msgs || bytes + size > limits.bytes || entry.last() > through;
            if !batch.is_empty() && full {
                break;
            }
            bytes += size;
            self.bytes -= size;
            batch.extend(self.entries.pop_front());
        }
        batch
    }

    /// What may still be read for the batch being prepared; `None` once it is full.
    #[must_use]
    pub fn room(&self, limits: Limits) -> Option<Limits> {
        let msgs = limits.msgs.saturating_sub(self.entries.len());
        let bytes = limits.bytes.saturating_sub(self.bytes);
        (msgs > 0 && bytes > 0).then_some(Limits { msgs, bytes })
    }

    /// Nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const NO_END: Seq = Seq(u64::MAX);

    fn message(seq: u64, payload_bytes: usize) -> Entry {
        let outgoing = Outgoing::new("s".into(), Vec::new(), Bytes::from(vec![0; payload_bytes]));
        Entry::Message { seq: Seq(seq), outgoing }
    }

    fn gap(first: u64, last: u64, reason: Absence) -> Entry {
        Entry::Gap { first: Seq(first), last: Seq(last), reason }
    }

    fn lasts(entries: &[Entry]) -> Vec<u64> {
        entries.iter().map(|e| e.last().0).collect()
    }

    #[test]
    fn cuts_by_count() {
        let mut queue = Queue::default();
        (1..=5).for_each(|seq| queue.push(message(seq, 1)));
        let limits = Limits { msgs: 2, bytes: 1 << 20 };
        assert_eq!(lasts(&queue.cut(limits, NO_END)), [1, 2]);
        assert_eq!(lasts(&queue.cut(limits, NO_END)), [3, 4]);
        assert_eq!(lasts(&queue.cut(limits, NO_END)), [5]);
        assert!(queue.cut(limits, NO_END).is_empty() && queue.is_empty() && queue.bytes == 0);
    }

    #[test]
    fn cuts_by_bytes_but_takes_at_least_one() {
        let mut queue = Queue::default();
        [5000, 400, 400, 400].iter().zip(1..).for_each(|(bytes, seq)| queue.push(message(seq, *bytes)));
        let limits = Limits { msgs: 100, bytes: 1000 };
        assert!(queue.room(limits).is_none());
        assert_eq!(lasts(&queue.cut(limits, NO_END)), [1]);
        assert_eq!(lasts(&queue.cut(limits, NO_END)), [2, 3]);
        assert_eq!(lasts(&queue.cut(limits, NO_END)), [4]);
    }

    #[test]
    fn cuts_before_an_entry_that_reaches_too_far_but_takes_at_least_one() {
        let mut queue = Queue::default();
        queue.push(message(5, 1));
        queue.push(gap(6, 8, Absence::Retention));
        queue.push(message(9, 1));
        let limits = Limits { msgs: 100, bytes: 1 << 20 };
        assert_eq!(lasts(&queue.cut(limits, Seq(7))), [5]);
        assert_eq!(lasts(&queue.cut(limits, Seq(7))), [8]);
        assert_eq!(lasts(&queue.cut(limits, Seq(9))), [9]);
    }

    #[test]
    fn room_shrinks_with_what_waits() {
        let mut queue = Queue::default();
        let limits = Limits { msgs: 3, bytes: 1000 };
        assert_eq!(queue.room(limits), Some(limits));
        queue.push(message(1, 100));
        let room = queue.room(limits).expect("one small message does not fill the queue");
        assert!(room.msgs == 2 && room.bytes < 900);
        queue.push(message(2, 100));
        queue.push(message(3, 100));
        assert_eq!(queue.room(limits), None);
    }

    #[test]
    fn adjacent_gaps_of_one_reason_are_one() {
        let mut queue = Queue::default();
        queue.push(gap(1, 4, Absence::Retention));
        queue.push(gap(5, 9, Absence::Retention));
        queue.push(gap(10, 10, Absence::Damage));
        queue.push(gap(11, 12, Absence::Damage));
        queue.push(message(13, 1));
        queue.push(gap(14, 14, Absence::Damage));
        queue.push(gap(16, 16, Absence::Damage));
        let all = queue.cut(Limits { msgs: 100, bytes: 1 << 20 }, NO_END);
        assert_eq!(lasts(&all), [9, 12, 13, 14, 16]);
        assert!(matches!(all[0], Entry::Gap { first: Seq(1), last: Seq(9), reason: Absence::Retention }));
        assert!(matches!(all[1], Entry::Gap { first: Seq(10), last: Seq(12), reason: Absence::Damage }));
        assert_eq!(queue.bytes, 0);
    }
}
