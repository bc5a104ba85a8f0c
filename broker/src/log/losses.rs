//! The ledger of losses: what retention took from a reader before it had confirmed it (G3). Kept in a table of the log itself, so that it
//! survives with everything else. Pure.
//!
//! An entry is one episode of one reader and one reason: from the first message lost until the reader has caught up with what is held. It
//! grows while the episode lasts, and is saved along with the next commit. [`MAX_LOSSES`] entries are kept; the oldest go.

use std::collections::VecDeque;

use super::held::Loss;
use super::layout::{LOSS_VERSION, LossRecord, decode, encode};
use super::record::Stamp;

/// Entries kept at most: some 100 bytes each, on disk and in memory.
pub(super) const MAX_LOSSES: u64 = 256;

#[derive(Debug)]
struct Entry {
    record: LossRecord,
    /// Changed since it was last taken for saving.
    dirty: bool,
    /// The group it was last taken into; on disk once that is.
    taken: u64,
}

/// The ledger.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// In order of number, without holes at the end.
    entries: VecDeque<Entry>,
}

impl Losses {
    /// Notes a loss of a reader; `ongoing` if its episode had begun before.
    pub(super) fn add(&mut self, stream: u32, reader: &str, loss: &Loss, at: Stamp, ongoing: bool) {
        let same = |r: &LossRecord| r.stream == stream && r.reason == loss.reason && r.reader == reader;
        let open = self.entries.iter_mut().rev().find(|e| same(&e.record)).filter(|e| ongoing && e.record.open);
        if let Some(entry) = open {
            let record = &mut entry.record;
            record.first = record.first.min(loss.first);
            record.last = record.last.max(loss.last);
            record.msgs += loss.msgs;
            record.bytes += loss.bytes;
            record.until = (at.boot, at.at.0);
            entry.dirty = true;
            return;
        }
        let record = LossRecord {
            number: self.entries.back().map_or(1, |e| e.record.number + 1),
            stream,
            reader: reader.to_owned(),
            first: loss.first,
            last: loss.last,
            msgs: loss.msgs,
            bytes: loss.bytes,
            since: (at.boot, at.at.0),
            until: (at.boot, at.at.0),
            reason: loss.reason,
            open: true,
        };
        self.push(Entry { record, dirty: true, taken: 0 });
    }

    /// Takes over what was saved, an older or a newer state of an entry; `saved` unless it is in no frame or epoch yet.
    pub(super) fn restore(&mut self, record: LossRecord, saved: bool) {
        let entry = Entry { record, dirty: !saved, taken: 0 };
        match self.entries.binary_search_by_key(&entry.record.number, |e| e.record.number) {
            Ok(at) if self.entries[at].record.msgs < entry.record.msgs => self.entries[at] = entry,
            Ok(_) => {}
            Err(at) => self.entries.insert(at, entry),
        }
        self.shorten();
    }

    /// Takes over the value of a table record.
    pub(super) fn restore_value(&mut self, value: &[u8]) {
        if let Some((record, _)) = decode::<LossRecord>(LOSS_VERSION, value) {
            self.restore(record, true);
        }
    }

    fn push(&mut self, entry: Entry) {
        self.entries.push_back(entry);
        self.shorten();
    }

    fn shorten(&mut self) {
        while self.entries.len() as u64 > MAX_LOSSES {
            self.entries.pop_front();
        }
    }

    pub(super) fn has_unsaved(&self) -> bool {
        self.entries.iter().any(|e| e.dirty)
    }

    /// The next entry to save with `group`: key and value of its table record.
    pub(super) fn take(&mut self, group: u64) -> Option<([u8; 8], Vec<u8>)> {
        let entry = self.entries.iter_mut().find(|e| e.dirty)?;
        entry.dirty = false;
        entry.taken = group;
        // The numbers go round, so that the table has a bound.
        Some(((entry.record.number % MAX_LOSSES).to_be_bytes(), encode(LOSS_VERSION, &entry.record)))
    }

    /// Entries that are not on disk while the groups before `next_group` are.
    pub(super) fn unsaved(&self, next_group: u64) -> impl Iterator<Item = &LossRecord> {
        self.entries.iter().filter(move |e| e.dirty || e.taken >= next_group).map(|e| &e.record)
    }

    /// All entries, oldest first.
    pub(super) fn records(&self) -> impl Iterator<Item = &LossRecord> {
        self.entries.iter().map(|e| &e.record)
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::LossReason;
    use super::*;
    use crate::clock::Monotonic;

    fn loss(first: u64, last: u64, reason: LossReason) -> Loss {
        Loss { first, last, msgs: last - first + 1, bytes: 10 * (last - first + 1), reason }
    }

    fn stamp(at: u64) -> Stamp {
        Stamp { boot: 1, at: Monotonic(at) }
    }

    #[test]
    fn an_episode_is_one_entry_per_reason() {
        let mut losses = Losses::default();
        losses.add(0, "hub", &loss(1, 10, LossReason::Disk), stamp(5), false);
        losses.add(0, "hub", &loss(11, 20, LossReason::Disk), stamp(9), true);
        losses.add(0, "hub", &loss(21, 21, LossReason::MaxAge), stamp(10), true);
        losses.add(0, "hub", &loss(22, 30, LossReason::Disk), stamp(11), true);
        losses.add(0, "other", &loss(1, 1, LossReason::Disk), stamp(11), false);
        losses.add(0, "hub", &loss(50, 50, LossReason::Disk), stamp(20), false);
        let seen: Vec<_> =
            losses.records().map(|r| (r.number, &r.reader[..], r.first, r.last, r.msgs, r.until.1)).collect();
        assert_eq!(
            seen,
            [
                (1, "hub", 1, 30, 29, 11),
                (2, "hub", 21, 21, 1, 10),
                (3, "other", 1, 1, 1, 11),
                (4, "hub", 50, 50, 1, 20)
            ]
        );
    }

    #[test]
    fn an_entry_is_unsaved_until_its_group_is_on_disk() {
        let mut losses = Losses::default();
        losses.add(0, "hub", &loss(1, 10, LossReason::Disk), stamp(5), false);
        assert_eq!(losses.unsaved(7).count(), 1);
        let (key, value) = losses.take(7).expect("dirty");
        assert_eq!(key, 1u64.to_be_bytes());
        assert!(losses.take(7).is_none() && !losses.has_unsaved());
        assert_eq!(losses.unsaved(7).count(), 1, "its frame is being written");
        assert_eq!(losses.unsaved(8).count(), 0);
        let mut again = Losses::default();
        again.restore_value(&value);
        again.restore_value(&value[..3]);
        assert_eq!(again.records().count(), 1);
        again.add(0, "hub", &loss(11, 12, LossReason::Disk), stamp(6), true);
        assert_eq!(again.records().count(), 2, "a restart begins an episode");
    }

    #[test]
    fn the_ledger_has_a_bound_and_keeps_the_newest() {
        let mut losses = Losses::default();
        for n in 0..MAX_LOSSES + 5 {
            losses.add(0, "hub", &loss(n, n, LossReason::Disk), stamp(n), false);
        }
        assert_eq!(losses.records().count() as u64, MAX_LOSSES);
        assert_eq!(losses.records().next().map(|r| r.number), Some(6));
        let newest = losses.records().next().expect("there").clone();
        losses.restore(LossRecord { number: 2, ..newest }, true);
        assert_eq!(losses.records().next().map(|r| r.number), Some(6), "older than what is kept");
    }
}
