//! Boots of the machine: what turns a stamp into wall time, and how old a message is at least. Pure.
//!
//! A boot's wall time is its monotonic time plus an offset. While the clock is known to be right, the offset is an *anchor*: it counts for
//! all of the boot up to the next anchor, and the first one for what was stored before it as well. What the clock shows at other times
//! changes nothing any more. A boot without an anchor has an *estimate*: what its clock showed last, moved to behind the boot before
//! and to before the boot after it, as far as those are known.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::layout::{AnchorRecord, BootRecord};
use super::record::Stamp;
use crate::clock::{ClockQuality, MessageTime, Monotonic, RELEASED, Reading, WallTime};

/// Boots remembered. The oldest ones go; their stamps are then taken as of the oldest boot known.
const MAX_BOOTS: usize = 256;

/// Anchors of a boot, each 24 bytes; a clock that is right is hardly ever set. Of more, the first and the latest stay.
const MAX_ANCHORS: usize = 4;

/// A wall clock that moved by less against the monotonic one was not set, it drifted.
const JUMP_NANOS: u64 = 50_000_000;

/// A look at the clocks that took longer says too little: it was interrupted.
const MAX_SPREAD: Duration = Duration::from_millis(10);

/// What a look at the clocks led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Learned {
    /// Nothing.
    Nothing,
    /// Another estimate.
    Estimate,
    /// The clock was set while it was right.
    Anchor,
    /// For the first time in this boot the clock is right.
    FirstAnchor,
}

/// A boot.
#[derive(Debug)]
struct Boot {
    record: BootRecord,
    /// In order of time.
    anchors: Vec<AnchorRecord>,
    /// Offset if there is no anchor: that of the record, within its bounds.
    estimate: i64,
    /// The boot began no earlier: follows from a boot with an anchor before it. `i64::MIN` if there is none.
    earliest: i64,
}

impl Boot {
    fn new(record: BootRecord) -> Boot {
        Boot { estimate: record.offset, record, anchors: Vec::new(), earliest: i64::MIN }
    }

    /// Wall time minus monotonic time for what was stored at `at`.
    fn offset(&self, at: u64) -> i64 {
        let behind = self.anchors.partition_point(|anchor| anchor.at < at);
        match self.anchors.get(behind.saturating_sub(1)) {
            Some(anchor) => anchor.offset,
            None => self.estimate,
        }
    }

    /// The monotonic times that count as `wall` or later: a clock that was set back makes more than one range of them.
    fn since(&self, wall: WallTime) -> impl Iterator<Item = RangeInclusive<u64>> {
        let parts = self.anchors.len().max(1);
        (0..parts).filter_map(move |part| {
            let begin = if part == 0 { 0 } else { self.anchors[part].at.checked_add(1)? };
            let end = self.anchors.get(part + 1).map_or(u64::MAX, |next| next.at);
            let offset = self.anchors.get(part).map_or(self.estimate, |anchor| anchor.offset);
            let reached = i128::from(wall.0) - i128::from(offset);
            let first = if wall.0 == 0 { 0 } else { u64::try_from(reached.max(0)).unwrap_or(u64::MAX) };
            let first = first.max(begin);
            (first <= end && self::wall(offset, first) >= wall).then_some(first..=end)
        })
    }

    fn end(&self) -> i64 {
        self.offset(self.record.last_at).saturating_add(nanos(self.record.last_at))
    }

    fn is_synced(&self) -> bool {
        !self.anchors.is_empty()
    }

    /// Takes over an anchor; twice is as good as once.
    fn anchor(&mut self, anchor: AnchorRecord) {
        match self.anchors.binary_search_by_key(&anchor.at, |a| a.at) {
            Ok(at) => self.anchors[at] = anchor,
            Err(at) => self.anchors.insert(at, anchor),
        }
        if self.anchors.len() > MAX_ANCHORS {
            self.anchors.remove(1);
        }
    }
}

/// All boots known, the last one being ours.
#[derive(Debug, Default)]
pub(super) struct Boots {
    list: Vec<Boot>,
}

impl Boots {
    /// Takes over what was saved; a later record of a boot replaces an earlier one.
    pub(super) fn restore(&mut self, record: BootRecord) {
        match self.list.binary_search_by_key(&record.number, |b| b.record.number) {
            Ok(at) => {
                let last_at = self.list[at].record.last_at.max(record.last_at);
                self.list[at].record = BootRecord { last_at, ..record };
            }
            Err(at) => self.list.insert(at, Boot::new(record)),
        }
        if self.list.len() > MAX_BOOTS {
            self.list.remove(0);
        }
    }

    /// Takes over a saved anchor of a boot that is known.
    pub(super) fn restore_anchor(&mut self, anchor: AnchorRecord) {
        if let Ok(at) = self.list.binary_search_by_key(&anchor.boot, |b| b.record.number) {
            self.list[at].anchor(anchor);
        }
    }

    /// Notes that a boot was alive at a time.
    pub(super) fn seen(&mut self, number: u32, at: u64) {
        if let Ok(found) = self.list.binary_search_by_key(&number, |b| b.record.number) {
            let record = &mut self.list[found].record;
            record.last_at = record.last_at.max(at);
        } else {
            self.restore(BootRecord { number, id: 0, offset: 0, last_at: at });
        }
    }

    /// Begins this run: goes on with the last boot if `id` says that it is still the same one, else with a new one.
    pub(super) fn begin(&mut self, id: u64, now: &Reading) -> u32 {
        let same = self.list.last().is_some_and(|b| b.record.id == id && id != 0 && b.record.last_at <= now.at.0);
        if !same {
            let number = self.list.last().map_or(1, |b| b.record.number + 1);
            self.restore(BootRecord { number, id, offset: offset(now), last_at: now.at.0 });
        }
        self.observe(now);
        self.settle();
        self.current()
    }

    /// Number of this boot.
    pub(super) fn current(&self) -> u32 {
        self.list.last().map_or(0, |b| b.record.number)
    }

    /// Whether the clock of this boot is known.
    pub(super) fn is_synced(&self) -> bool {
        self.list.last().is_some_and(Boot::is_synced)
    }

    /// Compares the clocks.
    pub(super) fn observe(&mut self, now: &Reading) -> Learned {
        let Some(boot) = self.list.last_mut() else { return Learned::Nothing };
        let since = boot.record.last_at;
        if now.at.0 < since {
            // Overtaken by a later look.
            return Learned::Nothing;
        }
        boot.record.last_at = now.at.0;
        if now.spread > MAX_SPREAD {
            return Learned::Nothing;
        }
        let offset = offset(now);
        let moved = |from: i64| from.abs_diff(offset) > JUMP_NANOS;
        let learned = match (now.quality, boot.anchors.last()) {
            (ClockQuality::Synced, Some(last)) if !moved(last.offset) => return Learned::Nothing,
            (ClockQuality::Synced, Some(_)) => Learned::Anchor,
            (ClockQuality::Synced, None) => Learned::FirstAnchor,
            (ClockQuality::Estimated, Some(_)) => return Learned::Nothing,
            (ClockQuality::Estimated, None) if !moved(boot.record.offset) => return Learned::Nothing,
            (ClockQuality::Estimated, None) => {
                let shown_before = wall(boot.record.offset, now.at.0);
                if now.wall < RELEASED && shown_before >= RELEASED {
                    // Back to a time that cannot be: what it showed before is the better guess.
                    return Learned::Nothing;
                }
                Learned::Estimate
            }
        };
        if moved(boot.record.offset) {
            boot.record.offset = offset;
        }
        if learned != Learned::Estimate {
            // From the look before on: the clock was set since then. An estimate that was right all along stays as it is to the nanosecond.
            boot.anchor(AnchorRecord { boot: boot.record.number, at: since, offset: boot.record.offset });
        }
        self.settle();
        learned
    }

    /// Brings the estimates within their bounds.
    fn settle(&mut self) {
        // Where the boot before ended: at the earliest, and as far as is known.
        let (mut earliest, mut end) = (i64::MIN, i64::MIN);
        for boot in &mut self.list {
            boot.earliest = earliest;
            let shown = boot.record.offset;
            let cannot_be = shown < nanos(RELEASED.0);
            boot.estimate = shown.max(if cannot_be { earliest.max(end) } else { earliest });
            end = boot.end();
            earliest = match (boot.is_synced(), earliest) {
                (true, _) => end,
                (false, i64::MIN) => i64::MIN,
                (false, earliest) => earliest.saturating_add(nanos(boot.record.last_at)),
            };
        }
        let mut latest = i64::MAX;
        for boot in self.list.iter_mut().rev() {
            if let Some(first) = boot.anchors.first() {
                latest = first.offset;
            } else if latest < i64::MAX {
                latest = latest.saturating_sub(nanos(boot.record.last_at));
                boot.estimate = boot.estimate.min(latest).max(boot.earliest);
            }
        }
    }

    /// Wall time of a stamp, as far as is known now.
    pub(super) fn time(&self, stamp: Stamp) -> MessageTime {
        let at = self.list.partition_point(|b| b.record.number < stamp.boot).min(self.list.len().saturating_sub(1));
        let Some(boot) = self.list.get(at) else {
            return MessageTime { wall: WallTime(stamp.at.0), quality: ClockQuality::Estimated };
        };
        let known = boot.record.number == stamp.boot && boot.is_synced();
        MessageTime {
            wall: wall(boot.offset(stamp.at.0), stamp.at.0),
            quality: if known { ClockQuality::Synced } else { ClockQuality::Estimated },
        }
    }

    /// The stamps that count as `wall` or later, in order. Those of a boot that is not known are taken as of the one behind it, which they
    /// came before: they count where all of that one does.
    pub(super) fn spans_since(&self, wall: WallTime) -> Vec<RangeInclusive<Stamp>> {
        let stamp = |boot, at| Stamp { boot, at: Monotonic(at) };
        let (mut spans, mut next) = (Vec::new(), 0);
        for boot in &self.list {
            let number = boot.record.number;
            if number > next && self.time(stamp(number, 0)).wall >= wall {
                spans.push(stamp(next, 0)..=stamp(number - 1, u64::MAX));
            }
            next = number.saturating_add(1);
            spans.extend(boot.since(wall).map(|at| stamp(number, *at.start())..=stamp(number, *at.end())));
        }
        spans
    }

    /// At least this much time has passed since `stamp`: time that the machine was off counts as none.
    pub(super) fn age(&self, stamp: Stamp, now: Monotonic) -> Duration {
        if stamp.boot >= self.current() {
            return now.since(stamp.at);
        }
        let mut age = Duration::ZERO;
        for boot in self.list.iter().map(|b| &b.record) {
            if boot.number == stamp.boot {
                age += Monotonic(boot.last_at).since(stamp.at);
            } else if boot.number > stamp.boot && boot.number < self.current() {
                age += Duration::from_nanos(boot.last_at);
            }
        }
        age + Duration::from_nanos(now.0)
    }

    /// What is saved of all boots.
    pub(super) fn records(&self) -> Vec<BootRecord> {
        self.list.iter().map(|boot| boot.record.clone()).collect()
    }

    /// The record of this boot.
    pub(super) fn record(&self) -> Option<BootRecord> {
        self.list.last().map(|boot| boot.record.clone())
    }

    /// Anchors of all boots, or of one.
    pub(super) fn anchors(&self, of: Option<u32>) -> Vec<AnchorRecord> {
        let wanted = self.list.iter().filter(|boot| of.is_none_or(|number| boot.record.number == number));
        wanted.flat_map(|boot| &boot.anchors).copied().collect()
    }
}

fn offset(now: &Reading) -> i64 {
    let offset = i128::from(now.wall.0) - i128::from(now.at.0);
    i64::try_from(offset).unwrap_or(if offset > 0 { i64::MAX } else { i64::MIN })
}

fn wall(offset: i64, at: u64) -> WallTime {
    WallTime(at.saturating_add_signed(offset))
}

/// Monotonic and plausible wall times are far below 2^63.
fn nanos(time: u64) -> i64 {
    i64::try_from(time).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const DAY: u64 = 86_400 * SECOND;
    /// A right time, in seconds after which the tests count.
    const TODAY: u64 = RELEASED.0 + 100 * DAY;

    fn stamp(boot: u32, seconds: u64) -> Stamp {
        Stamp { boot, at: Monotonic(seconds * SECOND) }
    }

    fn shows(seconds: u64, wall: u64) -> Reading {
        let at = Monotonic(seconds * SECOND);
        Reading { at, wall: WallTime(wall), quality: ClockQuality::Estimated, spread: Duration::ZERO }
    }

    fn right(seconds: u64, wall: u64) -> Reading {
        Reading { quality: ClockQuality::Synced, ..shows(seconds, wall) }
    }

    fn estimated(wall: u64) -> MessageTime {
        MessageTime { wall: WallTime(wall), quality: ClockQuality::Estimated }
    }

    fn synced(wall: u64) -> MessageTime {
        MessageTime { wall: WallTime(wall), quality: ClockQuality::Synced }
    }

    #[test]
    fn a_clock_set_later_corrects_earlier_stamps_of_its_boot() {
        let mut boots = Boots::default();
        assert_eq!(boots.begin(0, &shows(5, 5 * SECOND)), 1);
        assert_eq!(boots.time(stamp(1, 6)), estimated(6 * SECOND));
        assert_eq!(boots.observe(&shows(7, 7 * SECOND + 1000)), Learned::Nothing);
        assert_eq!(boots.observe(&shows(9, TODAY + 9 * SECOND)), Learned::Estimate);
        assert_eq!(boots.time(stamp(1, 6)), estimated(TODAY + 6 * SECOND));
        assert_eq!(boots.observe(&right(12, TODAY + DAY + 12 * SECOND)), Learned::FirstAnchor);
        assert_eq!(boots.time(stamp(1, 6)), synced(TODAY + DAY + 6 * SECOND));
    }

    #[test]
    fn once_known_only_a_right_clock_counts_and_only_from_then_on() {
        let mut boots = Boots::default();
        boots.begin(0, &right(10, TODAY));
        let known = synced(TODAY + 10 * SECOND);
        for leap in [TODAY + DAY, TODAY - DAY, 5, u64::MAX] {
            assert_eq!(boots.observe(&shows(30, leap)), Learned::Nothing);
            assert_eq!(boots.time(stamp(1, 20)), known);
        }
        assert_eq!(boots.observe(&right(31, TODAY + 21 * SECOND + 1000)), Learned::Nothing);
        // Right, and set by a second: what came before the look that still showed the other time keeps it.
        assert_eq!(boots.observe(&right(40, TODAY + 31 * SECOND)), Learned::Anchor);
        assert_eq!(boots.time(stamp(1, 20)), known);
        assert_eq!(boots.time(stamp(1, 31)), synced(TODAY + 21 * SECOND));
        assert_eq!(boots.time(stamp(1, 32)), synced(TODAY + 23 * SECOND));
    }

    #[test]
    fn an_estimate_that_was_right_stays_to_the_nanosecond() {
        let mut boots = Boots::default();
        boots.begin(0, &shows(10, TODAY));
        assert_eq!(boots.observe(&right(20, TODAY + 10 * SECOND + 900)), Learned::FirstAnchor);
        assert_eq!(boots.time(stamp(1, 10)), synced(TODAY));
    }

    #[test]
    fn a_look_that_was_interrupted_or_overtaken_says_nothing() {
        let mut boots = Boots::default();
        boots.begin(0, &shows(10, 0));
        let slow = Reading { spread: Duration::from_millis(11), ..right(11, TODAY) };
        assert_eq!(boots.observe(&slow), Learned::Nothing);
        assert_eq!(boots.observe(&right(9, TODAY)), Learned::Nothing);
        assert!(!boots.is_synced());
    }

    #[test]
    fn a_clock_that_goes_back_to_1970_takes_no_time_away() {
        let mut boots = Boots::default();
        boots.begin(0, &shows(10, TODAY));
        assert_eq!(boots.observe(&shows(20, 5)), Learned::Nothing);
        assert_eq!(boots.time(stamp(1, 20)), estimated(TODAY + 10 * SECOND));
    }

    #[test]
    fn boots_in_1970_lie_behind_the_one_before() {
        let mut boots = Boots::default();
        boots.begin(0, &right(0, TODAY));
        boots.observe(&right(100, TODAY + 100 * SECOND));
        for (boot, before) in [(2, 100), (3, 150)] {
            boots.begin(0, &shows(1, SECOND));
            boots.observe(&shows(50, 50 * SECOND));
            assert_eq!(boots.time(stamp(boot, 7)), estimated(TODAY + (before + 7) * SECOND));
        }
        // An estimate bounds what cannot be, and not what may be.
        let mut boots = Boots::default();
        boots.begin(0, &shows(0, TODAY + 900 * DAY));
        boots.begin(0, &shows(1, SECOND));
        assert_eq!(boots.time(stamp(2, 0)), estimated(TODAY + 900 * DAY));
        boots.observe(&shows(2, TODAY));
        assert_eq!(boots.time(stamp(2, 2)), estimated(TODAY));
    }

    #[test]
    fn boots_that_were_never_known_lie_between_those_that_were() {
        let mut boots = Boots::default();
        boots.begin(0, &right(0, TODAY));
        // Years ahead, years back, and in between.
        for wall in [TODAY + 900 * DAY, TODAY - 50 * DAY, TODAY + DAY] {
            boots.begin(0, &shows(0, wall));
            boots.observe(&shows(100, wall + 100 * SECOND));
        }
        assert_eq!(boots.time(stamp(2, 0)), estimated(TODAY + 900 * DAY));
        assert_eq!(boots.time(stamp(3, 5)), estimated(TODAY + 105 * SECOND), "behind the 100 s of the second");
        boots.begin(0, &right(0, TODAY + 2 * DAY));
        assert_eq!(boots.time(stamp(2, 7)), estimated(TODAY + 2 * DAY - 293 * SECOND), "before 3 times 100 s");
        assert_eq!(boots.time(stamp(3, 5)), estimated(TODAY + 105 * SECOND));
        assert_eq!(boots.time(stamp(4, 0)), estimated(TODAY + DAY));
        assert_eq!(boots.time(stamp(5, 0)), synced(TODAY + 2 * DAY));
    }

    #[test]
    fn what_is_saved_brings_everything_back_in_any_order_and_twice() {
        let mut boots = Boots::default();
        boots.begin(7, &right(0, TODAY));
        boots.begin(8, &shows(0, 0));
        for n in 1..=6 {
            boots.observe(&right(10 * n, TODAY + (10 * n + n) * SECOND));
        }
        let (records, anchors) = (boots.records(), boots.anchors(None));
        assert_eq!(anchors.len(), 1 + MAX_ANCHORS);
        let mut again = Boots::default();
        for record in records.iter().chain(&records) {
            again.restore(record.clone());
        }
        for anchor in anchors.iter().chain(anchors.iter().rev()) {
            again.restore_anchor(*anchor);
        }
        assert_eq!(again.begin(8, &shows(70, 0)), 2, "the same boot");
        let times =
            |boots: &Boots| (0..70).map(|s| (boots.time(stamp(1, s)), boots.time(stamp(2, s)))).collect::<Vec<_>>();
        assert_eq!(times(&boots), times(&again));
        assert_eq!(boots.time(stamp(2, 1)), synced(TODAY + 2 * SECOND));
        assert_eq!(boots.time(stamp(2, 61)), synced(TODAY + 67 * SECOND));
    }

    #[test]
    fn stamps_of_a_boot_that_is_forgotten_are_estimates() {
        let mut boots = Boots::default();
        boots.restore(BootRecord { number: 5, id: 0, offset: 0, last_at: 9 });
        boots.restore_anchor(AnchorRecord { boot: 5, at: 0, offset: nanos(TODAY) });
        boots.restore_anchor(AnchorRecord { boot: 4, at: 0, offset: 3 });
        assert_eq!(boots.time(stamp(4, 1)), estimated(TODAY + SECOND));
        assert_eq!(boots.time(stamp(5, 1)), synced(TODAY + SECOND));
        assert_eq!(Boots::default().time(stamp(1, 1)), estimated(SECOND));
    }

    #[test]
    fn a_boot_goes_on_only_with_its_own_id() {
        let mut boots = Boots::default();
        let at = |nanos| Reading { at: Monotonic(nanos), ..shows(0, 0) };
        assert_eq!(boots.begin(77, &at(1)), 1);
        assert_eq!(boots.begin(77, &at(2)), 1);
        assert_eq!(boots.begin(78, &at(3)), 2);
        assert_eq!(boots.begin(0, &at(4)), 3);
        assert_eq!(boots.begin(0, &at(5)), 4);
    }

    #[test]
    fn age_is_a_lower_bound_across_boots() {
        let mut boots = Boots::default();
        boots.begin(0, &shows(10, 0));
        boots.seen(1, 100 * SECOND);
        boots.begin(0, &shows(3, 0));
        boots.seen(2, 50 * SECOND);
        boots.begin(0, &shows(2, 0));
        let age = boots.age(stamp(1, 40), Monotonic(7 * SECOND));
        assert_eq!(age, Duration::from_secs(60 + 50 + 7));
        assert_eq!(boots.age(stamp(3, 5), Monotonic(7 * SECOND)), Duration::from_secs(2));
    }

    /// One look at the clocks: time that has passed since the one before, what the wall clock shows (`None`: it is right, and somebody says
    /// so), and whether the machine was switched off meanwhile.
    fn looks() -> impl Strategy<Value = Vec<(u64, Option<u64>, bool)>> {
        let shown = prop_oneof![
            2 => Just(None),
            1 => (0..4000 * DAY).prop_map(Some),
            1 => (TODAY - 400 * DAY..TODAY + 4000 * DAY).prop_map(Some),
        ];
        proptest::collection::vec((0..3 * DAY, shown, proptest::bool::weighted(0.2)), 1..60)
    }

    proptest! {
        #[test]
        fn whatever_wrong_clocks_show_known_boots_are_exact_and_others_lie_between_them(looks in looks()) {
            let (mut boots, mut truth, mut up) = (Boots::default(), TODAY, 0);
            let mut stamps: Vec<(Stamp, u64)> = Vec::new();
            for (at, (passed, shown, off)) in looks.into_iter().enumerate() {
                truth += passed;
                let begins = off || at == 0;
                up = if begins { 0 } else { up + passed };
                let quality = if shown.is_none() { ClockQuality::Synced } else { ClockQuality::Estimated };
                let wall = WallTime(shown.unwrap_or(truth));
                let reading = Reading { at: Monotonic(up), wall, quality, spread: Duration::ZERO };
                if begins { boots.begin(0, &reading); } else { boots.observe(&reading); }
                stamps.push((Stamp { boot: boots.current(), at: Monotonic(up) }, truth));
                for (stamp, stored) in &stamps {
                    prop_assert!(boots.age(*stamp, Monotonic(up)) <= Duration::from_nanos(truth - stored), "never older than it is");
                }
            }
            let known = |stamp: Stamp| boots.time(stamp).quality == ClockQuality::Synced;
            for (at, (stamp, stored)) in stamps.iter().enumerate() {
                let time = boots.time(*stamp).wall.0;
                if known(*stamp) {
                    prop_assert_eq!(time, *stored);
                    continue;
                }
                if let Some((_, before)) = stamps[..at].iter().rev().find(|(stamp, _)| known(*stamp)) {
                    prop_assert!(time >= *before);
                }
                if let Some((_, after)) = stamps[at..].iter().find(|(stamp, _)| known(*stamp)) {
                    prop_assert!(time <= *after);
                }
            }
            for wall in stamps.iter().step_by(5).flat_map(|(stamp, stored)| [boots.time(*stamp).wall.0, stored + 1]) {
                let spans = boots.spans_since(WallTime(wall));
                prop_assert!(spans.windows(2).all(|pair| pair[0].end() < pair[1].start()));
                for (stamp, _) in &stamps {
                    let counts = spans.iter().any(|span| span.contains(stamp));
                    prop_assert_eq!(counts, boots.time(*stamp).wall.0 >= wall, "{:?} since {}", stamp, wall);
                }
            }
        }
    }
}
