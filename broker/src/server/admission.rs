//! Which connections are let in: limits in total, per listener and per address, and rates of the latter two. Pure.
//!
//! When all places are taken, in total or of a listener, a connection there that has not said CONNECT for a second gives its place to
//! a newcomer, the oldest first: who only opens connections keeps nobody out for longer. Bounds: at most `max_connections` connections and as many addresses
//! with one, and [`MAX_REMEMBERED`] addresses without; past that, those are forgotten and counted.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::peer::Origin;
use super::rate::{Bucket, Rate};
use super::stats::Refused;
use crate::clock::Monotonic;

/// How long a connection may be silent before another one may have its place. Far more than a device needs on any link that works,
/// so that a storm of devices does not throw out its own.
const MAY_BE_SILENT: Duration = Duration::from_secs(1);

/// Addresses remembered for their rate alone, some 40 bytes each.
const MAX_REMEMBERED: usize = 4096;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct AdmissionLimits {
    pub(super) max_connections: u32,
    /// 0: not limited.
    pub(super) max_per_address: u32,
    pub(super) rate_per_address: Option<Rate>,
    pub(super) listeners: Vec<ListenerLimits>,
}

/// Limits of one listener.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListenerLimits {
    pub(super) max_connections: u32,
    pub(super) rate: Option<Rate>,
}

/// A connection that has not said CONNECT yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SilentId {
    number: u64,
    listener: usize,
}

/// Counts who is there. `H` is what a silent connection is told by that it has to leave.
#[derive(Debug)]
pub(super) struct Admission<H> {
    limits: AdmissionLimits,
    connections: u32,
    /// By listener, in the order of the limits.
    listeners: Vec<Known>,
    origins: HashMap<Origin, Known>,
    /// By listener, in the order in which they came.
    silent: Vec<BTreeMap<u64, (Monotonic, H)>>,
    next: u64,
    forgotten: u64,
}

/// What is known of a listener or an address.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    connections: u32,
    bucket: Bucket,
}

/// A connection that was let in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entered<H> {
    pub(super) id: SilentId,
    /// Has to leave for it.
    pub(super) displaced: Option<H>,
}

impl<H> Admission<H> {
    pub(super) fn new(limits: AdmissionLimits) -> Self {
        let listeners = vec![Known::default(); limits.listeners.len()];
        let silent = limits.listeners.iter().map(|_| BTreeMap::new()).collect();
        Self { limits, connections: 0, listeners, origins: HashMap::new(), silent, next: 0, forgotten: 0 }
    }

    /// A connection has come to a listener. If it is let in, [`Admission::leave`] follows at its end.
    ///
    /// # Errors
    /// The limit that keeps it out; nothing has changed then.
    pub(super) fn enter(&mut self, now: Monotonic, listener: usize, handle: H) -> Result<Entered<H>, Refused> {
        let limits = self.limits.listeners[listener];
        let connections = self.listeners[listener].connections;
        let gives_place = if connections >= limits.max_connections {
            Some(self.silent_one(now, listener..listener + 1).ok_or(
                match connections >= self.limits.max_connections {
                    true => Refused::TooManyConnections,
                    false => Refused::ListenerFull,
                },
            )?)
        } else if self.connections >= self.limits.max_connections {
            Some(self.silent_one(now, 0..self.silent.len()).ok_or(Refused::TooManyConnections)?)
        } else {
            None
        };
        let door = &mut self.listeners[listener];
        if limits.rate.is_some_and(|rate| !door.bucket.take(now, rate)) {
            return Err(Refused::ListenerRate);
        }
        door.connections += 1;
        self.connections += 1;
        let displaced =
            gives_place.and_then(|id| self.silent[id.listener].remove(&id.number)).map(|(_, handle)| handle);
        let id = SilentId { number: self.next, listener };
        self.next += 1;
        self.silent[listener].insert(id.number, (now, handle));
        Ok(Entered { id, displaced })
    }

    /// The oldest connection of these listeners that has been silent for long enough to lose its place.
    fn silent_one(&self, now: Monotonic, listeners: std::ops::Range<usize>) -> Option<SilentId> {
        let oldest = listeners.filter_map(|listener| {
            let (number, (since, _)) = self.silent[listener].first_key_value()?;
            (now.since(*since) >= MAY_BE_SILENT).then_some(SilentId { number: *number, listener })
        });
        oldest.min()
    }

    /// Where a connection that was let in comes from is known.
    ///
    /// # Errors
    /// The limit of its address that it is past. It is not counted for the address then.
    pub(super) fn comes_from(&mut self, now: Monotonic, origin: Origin) -> Result<(), Refused> {
        let AdmissionLimits { max_per_address, rate_per_address, .. } = self.limits;
        if max_per_address == 0 && rate_per_address.is_none() {
            return Ok(());
        }
        self.forget(now, origin);
        let known = self.origins.entry(origin).or_default();
        if max_per_address > 0 && known.connections >= max_per_address {
            return Err(Refused::AddressFull);
        }
        if rate_per_address.is_some_and(|rate| !known.bucket.take(now, rate)) {
            return Err(Refused::AddressRate);
        }
        known.connections += 1;
        Ok(())
    }

    /// It has said CONNECT, and keeps its place. `false`: it had to give it to another one before.
    pub(super) fn spoke(&mut self, id: SilentId) -> bool {
        self.silent[id.listener].remove(&id.number).is_some()
    }

    /// A connection has ended; `origin`, if [`Admission::comes_from`] let it in.
    pub(super) fn leave(&mut self, now: Monotonic, listener: usize, origin: Option<Origin>) {
        self.connections -= 1;
        self.listeners[listener].connections -= 1;
        let Some(origin) = origin else { return };
        // Not there where addresses are not limited.
        if let Some(known) = self.origins.get_mut(&origin) {
            known.connections -= 1;
            if known.connections == 0 && known.bucket.is_full(now) {
                self.origins.remove(&origin);
            }
        }
    }

    /// Addresses that were forgotten before their time, since start.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Keeps the table within its bound before `origin` is added to it.
    fn forget(&mut self, now: Monotonic, origin: Origin) {
        let bound = usize::try_from(self.connections).unwrap_or(usize::MAX).saturating_add(MAX_REMEMBERED);
        if self.origins.len() < bound || self.origins.contains_key(&origin) {
            return;
        }
        self.origins.retain(|_, known| known.connections > 0 || !known.bucket.is_full(now));
        // Looking through all of them again for each newcomer would be the attack.
        if self.origins.len() > bound - MAX_REMEMBERED / 2 {
            let before = self.origins.len();
            self.origins.retain(|_, known| known.connections > 0);
            self.forgotten += (before - self.origins.len()) as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits(max: u32, per_address: u32, rate: u32) -> AdmissionLimits {
        let listener = ListenerLimits { max_connections: max, rate: None };
        AdmissionLimits {
            max_connections: max,
            max_per_address: per_address,
            rate_per_address: Rate::per_second(rate),
            listeners: vec![listener, ListenerLimits { max_connections: 2, rate: Rate::per_second(1) }],
        }
    }

    fn at(milliseconds: u64) -> Monotonic {
        Monotonic(milliseconds * 1_000_000)
    }

    const HERE: Origin = Origin::V4([192, 0, 2, 1]);
    const THERE: Origin = Origin::V4([192, 0, 2, 2]);

    #[test]
    fn each_limit_is_its_own() {
        let mut admission = Admission::new(limits(100, 2, 0));
        for _ in 0..2 {
            admission.enter(at(0), 1, ()).expect("room");
        }
        assert_eq!(admission.enter(at(0), 1, ()), Err(Refused::ListenerFull));
        for _ in 0..8 {
            admission.leave(at(0), 1, None);
            admission.enter(at(0), 1, ()).expect("a burst of ten");
        }
        admission.leave(at(0), 1, None);
        assert_eq!(admission.enter(at(0), 1, ()), Err(Refused::ListenerRate));
        assert!(admission.enter(at(1_000), 1, ()).is_ok());
        assert!(admission.enter(at(1_000), 0, ()).is_ok(), "another listener");
        assert_eq!(admission.comes_from(at(0), HERE), Ok(()));
        assert_eq!(admission.comes_from(at(0), HERE), Ok(()));
        assert_eq!(admission.comes_from(at(0), HERE), Err(Refused::AddressFull));
        assert_eq!(admission.comes_from(at(0), THERE), Ok(()));
        admission.leave(at(0), 0, Some(HERE));
        assert_eq!(admission.comes_from(at(0), HERE), Ok(()));
    }

    #[test]
    fn an_address_is_remembered_until_its_bucket_is_full_again() {
        let mut admission = Admission::new(limits(100, 0, 1));
        for _ in 0..10 {
            admission.enter(at(0), 0, ()).expect("room");
            admission.comes_from(at(0), HERE).expect("a burst of ten");
            admission.leave(at(0), 0, Some(HERE));
        }
        assert_eq!(admission.comes_from(at(0), HERE), Err(Refused::AddressRate));
        assert_eq!(admission.comes_from(at(0), THERE), Ok(()));
        assert_eq!(admission.comes_from(at(1_000), HERE), Ok(()));
    }

    #[test]
    fn a_silent_connection_gives_its_place_to_a_newcomer_and_a_client_keeps_it() {
        let mut admission = Admission::new(limits(2, 0, 0));
        let client = admission.enter(at(0), 0, "client").expect("room").id;
        assert!(admission.spoke(client));
        let silent = admission.enter(at(100), 0, "silent").expect("room").id;
        assert_eq!(admission.enter(at(1_099), 0, "too early"), Err(Refused::TooManyConnections));
        let entered = admission.enter(at(1_100), 0, "newcomer").expect("the silent one leaves");
        assert_eq!(entered.displaced, Some("silent"));
        assert!(!admission.spoke(silent));
        assert!(admission.spoke(entered.id));
        assert_eq!(admission.enter(at(9_000), 0, "x"), Err(Refused::TooManyConnections), "all are clients");
    }

    #[test]
    fn the_place_that_is_given_is_one_of_the_limit_that_is_reached() {
        let mut admission = Admission::new(limits(3, 0, 0));
        admission.enter(at(0), 0, "a").expect("room");
        admission.enter(at(1), 1, "b").expect("room");
        admission.enter(at(2), 1, "c").expect("room");
        assert_eq!(admission.enter(at(3), 1, "x"), Err(Refused::ListenerFull));
        // The second listener has its two: the older of those leaves, and not the oldest of all.
        assert_eq!(admission.enter(at(5_000), 1, "d").expect("a place").displaced, Some("b"));
        assert_eq!(admission.enter(at(5_000), 0, "e").expect("a place").displaced, Some("a"));
    }

    #[test]
    fn a_flood_of_addresses_does_not_grow_the_table() {
        let mut admission = Admission::new(limits(10, 0, 1));
        for n in 0_u32..100_000 {
            admission.enter(at(0), 0, ()).expect("room");
            let origin = Origin::V4(n.to_be_bytes());
            admission.comes_from(at(0), origin).expect("the first of its address");
            admission.leave(at(0), 0, Some(origin));
            assert!(admission.origins.len() <= MAX_REMEMBERED + 1);
        }
        assert!(admission.forgotten() > 90_000);
    }

    proptest! {
        #[test]
        fn what_is_counted_is_what_is_there(steps in prop::collection::vec((0_u8..4, 0_u8..4, 0_u64..700), 0..300)) {
            let mut admission = Admission::new(limits(6, 3, 2));
            let (mut now, mut there) = (at(0), Vec::<(usize, usize, Option<Origin>, SilentId)>::new());
            for (number, (step, which, pause)) in steps.into_iter().enumerate() {
                now = now + Duration::from_millis(pause);
                if step < 2 {
                    let listener = usize::from(step);
                    if let Ok(entered) = admission.enter(now, listener, number) {
                        if let Some(displaced) = entered.displaced {
                            let at = there.iter().position(|(n, ..)| *n == displaced).expect("it is there");
                            let (_, listener, origin, _) = there.remove(at);
                            admission.leave(now, listener, origin);
                        }
                        let origin = Origin::V4([which; 4]);
                        let counted = admission.comes_from(now, origin).is_ok().then_some(origin);
                        if which == 0 {
                            prop_assert!(admission.spoke(entered.id));
                        }
                        there.push((number, listener, counted, entered.id));
                    }
                } else if !there.is_empty() {
                    let (_, listener, origin, id) = there.remove(usize::from(which) % there.len());
                    admission.spoke(id);
                    admission.leave(now, listener, origin);
                }
                let of = |listener| there.iter().filter(|(_, l, ..)| *l == listener).count();
                prop_assert_eq!(admission.connections as usize, there.len());
                prop_assert_eq!(admission.listeners[0].connections as usize, of(0));
                prop_assert_eq!(admission.listeners[1].connections as usize, of(1));
                prop_assert!(of(1) <= 2);
                for n in 0..4 {
                    let origin = Origin::V4([n; 4]);
                    let count = there.iter().filter(|(_, _, o, _)| *o == Some(origin)).count();
                    prop_assert!(count <= 3);
                    prop_assert_eq!(admission.origins.get(&origin).map_or(0, |k| k.connections as usize), count);
                }
            }
        }
    }
}
