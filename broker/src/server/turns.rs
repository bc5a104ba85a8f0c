//! Whose password is hashed next. Pure.
//!
//! One at a time: a hash takes megabytes and a processor for tens of milliseconds. Who waits is bounded by `max_waiting`; the order is that of
//! arrival, but an address that gave wrong passwords is taken as if it had come later, up to [`LONGEST_PENALTY`]: a flood of
//! wrong passwords waits behind everybody else. When all places are taken, the last in that order is refused, be it the newcomer or not.
//! Nobody waits for ever: who is last today is first when enough time has passed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::peer::Origin;
use crate::clock::Monotonic;

/// How much later an address is taken for each wrong password of late.
const PENALTY: Duration = Duration::from_millis(500);

/// Nearly as long as `connect_timeout` by default: whoever is behind everybody for so long has waited his time.
const LONGEST_PENALTY: Duration = Duration::from_secs(8);

/// Half of the wrong passwords of an address are forgotten after this time.
const FORGETS_HALF_IN: Duration = Duration::from_secs(60);

/// More count no further.
const MAX_FAILURES: u32 = 64;

/// Addresses whose wrong passwords are remembered, some 40 bytes each. Past that, the one with the fewest is forgotten.
const MAX_REMEMBERED: usize = 1024;

/// A place among those who wait; comes before others in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    due: Monotonic,
    number: u64,
}

/// How somebody came to wait.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Joined<H> {
    /// It is their turn at once; the handle is not needed.
    Now(Turn),
    /// They wait until their handle is given back by a change of turns.
    Waits(Turn),
    /// They wait, and this one has to leave: all places were taken, and it was the last.
    WaitsFor(Turn, H),
    /// All places are taken by others who come before.
    Refused,
}

/// See the module. `H` is what somebody is told by that it is their turn.
#[derive(Debug)]
pub(super) struct Turns<H> {
    max_waiting: usize,
    /// Whose turn it is.
    current: Option<Turn>,
    waiting: BTreeMap<Turn, H>,
    failures: BTreeMap<Origin, Failures>,
    next: u64,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    /// When half of them are forgotten.
    halves_at: Monotonic,
}

impl Failures {
    fn at(mut self, now: Monotonic) -> Failures {
        while self.count > 0 && self.halves_at <= now {
            self.count /= 2;
            self.halves_at = self.halves_at + FORGETS_HALF_IN;
        }
        self
    }
}

impl<H> Turns<H> {
    pub(super) fn new(max_waiting: usize) -> Self {
        Self { max_waiting, current: None, waiting: BTreeMap::new(), failures: BTreeMap::new(), next: 0 }
    }

    /// Somebody wants a turn. Unless refused, [`Turns::end`] follows, however it ends.
    pub(super) fn join(&mut self, now: Monotonic, origin: Option<Origin>, handle: H) -> Joined<H> {
        let turn = Turn { due: now + self.penalty(now, origin), number: self.next };
        self.next += 1;
        if self.current.is_none() {
            self.current = Some(turn);
            return Joined::Now(turn);
        }
        if self.waiting.len() < self.max_waiting {
            self.waiting.insert(turn, handle);
            return Joined::Waits(turn);
        }
        match self.waiting.last_entry() {
            Some(last) if *last.key() > turn => {
                let last = last.remove();
                self.waiting.insert(turn, handle);
                Joined::WaitsFor(turn, last)
            }
            _ => Joined::Refused,
        }
    }

    /// Somebody has had their turn, or does not want it any more. Returns whose turn it is now, if that changes.
    pub(super) fn end(&mut self, turn: Turn) -> Option<H> {
        if self.current != Some(turn) {
            self.waiting.remove(&turn);
            return None;
        }
        let (next, handle) = self.waiting.pop_first().unzip();
        self.current = next;
        handle
    }

    /// A password of this address was wrong. `true`: the first one of late.
    pub(super) fn failed(&mut self, now: Monotonic, origin: Option<Origin>) -> bool {
        let Some(origin) = origin else { return true };
        if self.failures.len() >= MAX_REMEMBERED && !self.failures.contains_key(&origin) {
            let fewest = self.failures.iter().min_by_key(|(_, failures)| failures.at(now).count);
            if let Some((&fewest, _)) = fewest {
                self.failures.remove(&fewest);
            }
        }
        let before = self.failures.get(&origin).map_or(0, |failures| failures.at(now).count);
        let count = (before + 1).min(MAX_FAILURES);
        self.failures.insert(origin, Failures { count, halves_at: now + FORGETS_HALF_IN });
        before == 0
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn penalty(&self, now: Monotonic, origin: Option<Origin>) -> Duration {
        let failures = origin.and_then(|origin| self.failures.get(&origin));
        failures.map_or(Duration::ZERO, |failures| (PENALTY * failures.at(now).count).min(LONGEST_PENALTY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: Option<Origin> = Some(Origin::V4([192, 0, 2, 1]));
    const BAD: Option<Origin> = Some(Origin::V4([192, 0, 2, 2]));

    fn at(milliseconds: u64) -> Monotonic {
        Monotonic(milliseconds * 1_000_000)
    }

    fn waits<H: std::fmt::Debug>(joined: Joined<H>) -> Turn {
        match joined {
            Joined::Waits(turn) | Joined::WaitsFor(turn, _) => turn,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn turns_go_round_in_the_order_of_arrival() {
        let mut turns = Turns::new(2);
        let Joined::Now(first) = turns.join(at(0), GOOD, 'a') else { panic!("nobody is there") };
        let second = waits(turns.join(at(1), GOOD, 'b'));
        let third = waits(turns.join(at(1), BAD, 'c'));
        assert_eq!(turns.join(at(2), GOOD, 'd'), Joined::Refused);
        assert_eq!(turns.end(first), Some('b'));
        assert_eq!(turns.end(third), None, "left while waiting");
        assert_eq!(turns.end(second), None);
        assert!(matches!(turns.join(at(3), GOOD, 'e'), Joined::Now(_)));
    }

    #[test]
    fn who_gives_wrong_passwords_comes_behind_the_others_and_gives_its_place_to_them() {
        let mut turns = Turns::new(2);
        assert!(turns.failed(at(0), BAD) && !turns.failed(at(0), BAD));
        let Joined::Now(first) = turns.join(at(0), GOOD, 'a') else { panic!("nobody is there") };
        let _bad = waits(turns.join(at(1), BAD, 'b'));
        let good = waits(turns.join(at(500), GOOD, 'c'));
        assert_eq!(turns.end(first), Some('c'));
        let _bad = waits(turns.join(at(600), BAD, 'd'));
        assert!(matches!(turns.join(at(700), GOOD, 'e'), Joined::WaitsFor(_, 'd')));
        assert_eq!(turns.join(at(800), BAD, 'f'), Joined::Refused);
        assert_eq!(turns.end(good), Some('e'));
    }

    #[test]
    fn who_waits_long_enough_comes_before_newcomers() {
        let mut turns = Turns::new(9);
        for _ in 0..1_000 {
            turns.failed(at(0), BAD);
        }
        let Joined::Now(mut current) = turns.join(at(0), GOOD, 'a') else { panic!("nobody is there") };
        let bad = waits(turns.join(at(0), BAD, 'b'));
        let mut now = 0;
        loop {
            now += 100;
            let next = waits(turns.join(at(now), GOOD, 'c'));
            if turns.end(current) == Some('b') {
                break;
            }
            current = next;
        }
        assert_eq!(now, 8_000, "{bad:?}");
    }

    #[test]
    fn wrong_passwords_are_forgotten_with_time_and_their_table_is_bounded() {
        let mut turns = Turns::<()>::new(1);
        for _ in 0..4 {
            turns.failed(at(0), BAD);
        }
        assert_eq!(turns.penalty(at(59_999), BAD), PENALTY * 4);
        assert_eq!(turns.penalty(at(60_000), BAD), PENALTY * 2);
        assert_eq!(turns.penalty(at(180_000), BAD), Duration::ZERO);
        for n in 0_u32..5_000 {
            turns.failed(at(0), Some(Origin::V4(n.to_be_bytes())));
        }
        assert_eq!(turns.failures.len(), MAX_REMEMBERED);
        assert_eq!(turns.penalty(at(0), BAD), PENALTY * 4, "the worst are remembered longest");
    }

    proptest! {
        /// Clients come, leave while they wait, and are done, in any order: there is one turn at a time, and none is lost.
        #[test]
        fn there_is_one_turn_at_a_time_and_it_always_goes_on(
            steps in prop::collection::vec((0_u8..3, 0_usize..8, 0_u64..900, any::<bool>()), 0..300),
        ) {
            let mut turns = Turns::new(5);
            let (mut now, mut number) = (at(0), 0);
            // By handle, whoever is in.
            let mut present: BTreeMap<u32, Turn> = BTreeMap::new();
            let mut holder: Option<u32> = None;
            for (step, which, pause, bad) in steps {
                now = now + Duration::from_millis(pause);
                let origin = if bad { BAD } else { GOOD };
                if step == 0 {
                    number += 1;
                    match turns.join(now, origin, number) {
                        Joined::Now(turn) => {
                            prop_assert_eq!(holder, None);
                            holder = Some(number);
                            present.insert(number, turn);
                        }
                        Joined::Waits(turn) => {
                            present.insert(number, turn);
                        }
                        Joined::WaitsFor(turn, other) => {
                            prop_assert!(holder != Some(other) && present.remove(&other).is_some());
                            present.insert(number, turn);
                        }
                        Joined::Refused => prop_assert_eq!(turns.waiting(), 5),
                    }
                } else {
                    if bad {
                        turns.failed(now, origin);
                    }
                    let Some((&handle, &turn)) = present.iter().nth(which) else { continue };
                    present.remove(&handle);
                    let next = turns.end(turn);
                    if holder == Some(handle) {
                        prop_assert_eq!(next.is_some(), !present.is_empty());
                        prop_assert!(next.is_none_or(|next| present.contains_key(&next)));
                        holder = next;
                    } else {
                        prop_assert_eq!(next, None);
                    }
                }
                prop_assert!(turns.waiting() <= 5);
                prop_assert_eq!(turns.waiting(), present.len() - usize::from(holder.is_some()));
            }
        }
    }
}
