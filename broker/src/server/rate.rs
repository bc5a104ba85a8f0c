//! A token bucket: how often something may happen. Pure: the time is passed in.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::clock::Monotonic;

/// A bucket holds what comes in this time, so that devices that come back together are let in together.
const HOLDS: Duration = Duration::from_secs(10);

/// So many per second, in the mean over [`HOLDS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    /// Between two of them.
    interval: Duration,
}

impl Rate {
    /// `None`: not limited.
    pub(super) fn per_second(count: u32) -> Option<Rate> {
        Some(Rate { interval: Duration::from_secs(1) / NonZeroU32::new(count)?.get() })
    }
}

/// How full the bucket is, kept as the time at which it is full again (the "generic cell rate algorithm" of ATM).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bucket {
    full_at: Monotonic,
}

impl Bucket {
    /// Takes one. `false`: there is none, and nothing changes.
    pub(super) fn take(&mut self, now: Monotonic, rate: Rate) -> bool {
        let full_at = self.full_at.max(now) + rate.interval;
        if full_at.since(now) > HOLDS {
            return false;
        }
        self.full_at = full_at;
        true
    }

    /// It is full: forgetting it changes nothing.
    pub(super) fn is_full(&self, now: Monotonic) -> bool {
        self.full_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_of_ten_seconds_is_let_in_and_then_the_rate() {
        let rate = Rate::per_second(5).expect("a limit");
        let (mut bucket, mut now) = (Bucket::default(), Monotonic(7_000_000_000));
        assert!(bucket.is_full(now));
        assert_eq!((0..100).filter(|_| bucket.take(now, rate)).count(), 50);
        now = now + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| bucket.take(now, rate)).count(), 5);
        assert!(!bucket.is_full(now));
        now = now + HOLDS;
        assert!(bucket.is_full(now));
        assert_eq!(Rate::per_second(0), None);
    }

    proptest! {
        #[test]
        fn no_window_lets_in_more_than_its_rate_and_one_bucket(
            per_second in 1_u32..2_000, pauses in prop::collection::vec(0_u64..300, 1..400),
        ) {
            let rate = Rate::per_second(per_second).expect("a limit");
            let mut bucket = Bucket::default();
            let mut now = Monotonic(0);
            let mut taken = Vec::new();
            for pause in pauses {
                now = now + Duration::from_millis(pause);
                if bucket.take(now, rate) {
                    taken.push(now);
                }
            }
            for (first, from) in taken.iter().enumerate() {
                for (last, to) in taken.iter().enumerate().skip(first) {
                    let allowed = u128::from(per_second) * (to.since(*from) + HOLDS).as_millis() / 1000 + 1;
                    prop_assert!((last - first) as u128 <= allowed);
                }
            }
        }
    }
}
