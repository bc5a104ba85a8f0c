//! Boots of the machine: what turns a stamp into wall time, and how old a message is at least. Pure.

use std::time::Duration;

use super::layout::BootRecord;
use super::record::Stamp;
use crate::clock::{Monotonic, WallTime};

/// Boots remembered. The oldest ones go; their stamps are then taken as of the oldest boot known.
const MAX_BOOTS: usize = 256;

/// A wall clock that moved by less against the monotonic one was not set, it drifted.
const JUMP_NANOS: u64 = 50_000_000;

/// All boots known, the last one being ours.
#[derive(Debug, Default)]
pub(super) struct Boots {
    list: Vec<BootRecord>,
}

impl Boots {
    /// Takes over what was saved; a later record of a boot replaces an earlier one.
    pub(super) fn restore(&mut self, record: BootRecord) {
        match self.list.binary_search_by_key(&record.number, |b| b.number) {
            Ok(at) => {
                let last_at = self.list[at].last_at.max(record.last_at);
                self.list[at] = BootRecord { last_at, ..record };
            }
            Err(at) => self.list.insert(at, record),
        }
        if self.list.len() > MAX_BOOTS {
            self.list.remove(0);
        }
    }

    /// Notes that a boot was alive at a time.
    pub(super) fn seen(&mut self, number: u32, at: u64) {
        if let Ok(found) = self.list.binary_search_by_key(&number, |b| b.number) {
            self.list[found].last_at = self.list[found].last_at.max(at);
        } else {
            self.restore(BootRecord { number, id: 0, offset: 0, last_at: at });
        }
    }

    /// Begins this run: goes on with the last boot if `id` says that it is still the same one, else with a new one.
    pub(super) fn begin(&mut self, id: u64, now: Monotonic, wall: WallTime) -> u32 {
        let same = self.list.last().is_some_and(|b| b.id == id && id != 0 && b.last_at <= now.0);
        if same {
            self.set_offset(now, wall);
        } else {
            let number = self.list.last().map_or(1, |b| b.number + 1);
            self.restore(BootRecord { number, id, offset: offset(now, wall), last_at: now.0 });
        }
        self.current()
    }

    /// Number of this boot.
    pub(super) fn current(&self) -> u32 {
        self.list.last().map_or(0, |b| b.number)
    }

    /// Compares the clocks; the new record if the wall clock was set.
    pub(super) fn observe(&mut self, now: Monotonic, wall: WallTime) -> Option<BootRecord> {
        let last = self.list.last_mut()?;
        last.last_at = last.last_at.max(now.0);
        if last.offset.abs_diff(offset(now, wall)) <= JUMP_NANOS {
            return None;
        }
        self.set_offset(now, wall);
        self.list.last().cloned()
    }

    fn set_offset(&mut self, now: Monotonic, wall: WallTime) {
        if let Some(last) = self.list.last_mut() {
            last.offset = offset(now, wall);
        }
    }

    /// Wall time of a stamp, as far as is known now.
    pub(super) fn wall(&self, stamp: Stamp) -> WallTime {
        let at = self.list.partition_point(|b| b.number < stamp.boot).min(self.list.len().saturating_sub(1));
        let offset = self.list.get(at).map_or(0, |b| b.offset);
        WallTime(stamp.at.0.saturating_add_signed(offset))
    }

    /// At least this much time has passed since `stamp`: time that the machine was off counts as none.
    pub(super) fn age(&self, stamp: Stamp, now: Monotonic) -> Duration {
        if stamp.boot >= self.current() {
            return now.since(stamp.at);
        }
        let mut age = Duration::ZERO;
        for boot in &self.list {
            if boot.number == stamp.boot {
                age += Monotonic(boot.last_at).since(stamp.at);
            } else if boot.number > stamp.boot && boot.number < self.current() {
                age += Duration::from_nanos(boot.last_at);
            }
        }
        age + Duration::from_nanos(now.0)
    }

    pub(super) fn records(&self) -> &[BootRecord] {
        &self.list
    }
}

fn offset(now: Monotonic, wall: WallTime) -> i64 {
    i64::try_from(i128::from(wall.0) - i128::from(now.0)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn stamp(boot: u32, seconds: u64) -> Stamp {
        Stamp { boot, at: Monotonic(seconds * SECOND) }
    }

    #[test]
    fn a_clock_set_later_corrects_earlier_stamps_of_its_boot() {
        let mut boots = Boots::default();
        assert_eq!(boots.begin(0, Monotonic(5 * SECOND), WallTime(5 * SECOND)), 1);
        assert_eq!(boots.wall(stamp(1, 6)), WallTime(6 * SECOND));
        assert!(boots.observe(Monotonic(7 * SECOND), WallTime(7 * SECOND + 1000)).is_none());
        assert!(boots.observe(Monotonic(9 * SECOND), WallTime(1_000_009 * SECOND)).is_some());
        assert_eq!(boots.wall(stamp(1, 6)), WallTime(1_000_006 * SECOND));
    }

    #[test]
    fn a_boot_goes_on_only_with_its_own_id() {
        let mut boots = Boots::default();
        assert_eq!(boots.begin(77, Monotonic(1), WallTime(0)), 1);
        assert_eq!(boots.begin(77, Monotonic(2), WallTime(0)), 1);
        assert_eq!(boots.begin(78, Monotonic(3), WallTime(0)), 2);
        assert_eq!(boots.begin(0, Monotonic(4), WallTime(0)), 3);
        assert_eq!(boots.begin(0, Monotonic(5), WallTime(0)), 4);
    }

    #[test]
    fn age_is_a_lower_bound_across_boots() {
        let mut boots = Boots::default();
        boots.begin(0, Monotonic(10 * SECOND), WallTime(0));
        boots.seen(1, 100 * SECOND);
        boots.begin(0, Monotonic(3 * SECOND), WallTime(0));
        boots.seen(2, 50 * SECOND);
        boots.begin(0, Monotonic(2 * SECOND), WallTime(0));
        let age = boots.age(stamp(1, 40), Monotonic(7 * SECOND));
        assert_eq!(age, Duration::from_secs(60 + 50 + 7));
        assert_eq!(boots.age(stamp(3, 5), Monotonic(7 * SECOND)), Duration::from_secs(2));
    }
}
