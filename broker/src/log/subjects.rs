//! `max_msgs_per_subject`: which messages of a subject are the last ones. Pure, in memory, rebuilt at open.

use std::collections::{HashMap, VecDeque};

/// Messages remembered per stream, over all subjects: at most about 12 MiB. A message of a subject that finds no place here is kept
/// until another limit takes it, and counted in [`Subjects::untracked`].
pub(super) const MAX_ENTRIES: usize = 65_536;

/// The last messages of every subject of a stream.
#[derive(Debug)]
pub(super) struct Subjects {
    limit: usize,
    map: HashMap<u128, VecDeque<(u64, u32)>>,
    entries: usize,
    /// Messages to come, while the table is full, before dead entries are looked for.
    until_sweep: usize,
    pub(super) untracked: u64,
}

impl Subjects {
    pub(super) fn new(limit: u32) -> Subjects {
        let limit = (limit.max(1) as usize).min(MAX_ENTRIES);
        Subjects { limit, map: HashMap::new(), entries: 0, until_sweep: 0, untracked: 0 }
    }

    /// Notes a message; returns the one that it pushes out: sequence and bytes. `first` is the first sequence that the stream holds.
    pub(super) fn push(&mut self, subject: u128, seq: u64, bytes: u32, first: u64) -> Option<(u64, u32)> {
        if self.entries >= MAX_ENTRIES {
            match self.until_sweep.checked_sub(1) {
                Some(left) => self.until_sweep = left,
                None => self.sweep(first),
            }
        }
        if self.entries >= MAX_ENTRIES && !self.map.contains_key(&subject) {
            self.untracked += 1;
            return None;
        }
        let list = self.map.entry(subject).or_default();
        list.push_back((seq, bytes));
        self.entries += 1;
        if list.len() <= self.limit && self.entries <= MAX_ENTRIES {
            return None;
        }
        self.entries -= 1;
        let out = list.pop_front()?;
        // At the bound a subject's list would grow: it keeps its length, and its oldest message loses its place, not its life.
        if list.len() < self.limit {
            self.untracked += 1;
            return None;
        }
        (out.0 >= first).then_some(out)
    }

    /// Whether the message is one of the last of its subject.
    pub(super) fn is_live(&self, subject: u128, seq: u64) -> bool {
        self.map.get(&subject).and_then(|list| list.front()).is_none_or(|&(oldest, _)| {
            // Only a full list can have pushed something out.
            seq >= oldest || self.map[&subject].len() < self.limit
        })
    }

    /// Forgets messages that the stream no longer holds.
    fn sweep(&mut self, first: u64) {
        self.map.retain(|_, list| {
            while list.front().is_some_and(|&(seq, _)| seq < first) {
                list.pop_front();
            }
            !list.is_empty()
        });
        self.entries = self.map.values().map(VecDeque::len).sum();
        // A sweep looks at every entry: its cost is spread over this many messages.
        self.until_sweep = MAX_ENTRIES / 16;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_a_subject_is_pushed_out() {
        let mut subjects = Subjects::new(2);
        assert_eq!(subjects.push(1, 10, 5, 1), None);
        assert_eq!(subjects.push(2, 11, 5, 1), None);
        assert_eq!(subjects.push(1, 12, 6, 1), None);
        assert_eq!(subjects.push(1, 13, 7, 1), Some((10, 5)));
        assert!(!subjects.is_live(1, 10));
        assert!(subjects.is_live(1, 12) && subjects.is_live(1, 13) && subjects.is_live(2, 11));
        assert!(subjects.is_live(3, 1), "an unknown subject is not limited");
    }

    #[test]
    fn one_that_the_stream_lost_already_is_not_pushed_out_again() {
        let mut subjects = Subjects::new(1);
        assert_eq!(subjects.push(1, 10, 5, 1), None);
        assert_eq!(subjects.push(1, 12, 5, 11), None);
    }

    #[test]
    fn the_table_is_bounded_and_says_so() {
        let mut subjects = Subjects::new(1);
        for n in 0..MAX_ENTRIES as u64 + 10 {
            assert_eq!(subjects.push(u128::from(n), n + 1, 1, 1), None);
        }
        assert_eq!((subjects.entries, subjects.untracked), (MAX_ENTRIES, 10));
        assert_eq!(subjects.push(5, 1 << 20, 1, 1), Some((6, 1)), "known subjects stay limited");
        for n in 0..MAX_ENTRIES as u64 / 8 {
            assert_eq!(subjects.push(1 << 40, (1 << 21) + n, 1, (1 << 21) + n), None);
        }
        assert!(subjects.entries < MAX_ENTRIES / 2, "what the stream lost made room");
    }
}
