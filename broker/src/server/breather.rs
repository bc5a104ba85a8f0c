//! Gathers packets under load: a worker of the runtime that is out of work rests for a moment before it waits for the sockets again.
//!
//! Woken for every packet, it would spend more on waking (its thread, the look at the sockets, the write to each subscriber) than on
//! the packet: of 40,000 messages in a second each comes alone. After a rest one wake serves all that have gathered. All workers rest
//! together, as one that waited for the sockets meanwhile would be woken by them.
//!
//! Only messages count that are not acknowledged (QoS 0): who sends them does not wait for us. Those that are acknowledged gather by
//! themselves while the log syncs, and their senders would only send later. Beside a flood of the former, an acknowledgement may come
//! one [`BREATH`] later. An idle broker never rests here: it sleeps until something comes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Monotonic, SystemClock};

/// How long a rest takes: the most that it adds to a latency. Half as long saves much less, twice as long little more, as a wake costs
/// some 10 us and a message as much.
const BREATH: Duration = Duration::from_micros(400);

/// The rate of messages is measured over this at least; so long after they have ended a worker may still rest.
const WINDOW: Duration = Duration::from_millis(1);

/// Messages that a rest must be expected to gather: with fewer, it delays more than it saves.
const GATHERED_MSGS: u32 = 4;

/// The workers' common rhythm. Pure.
#[derive(Debug, Default)]
struct Rhythm {
    /// When the window began, and how many messages had come until then.
    since: Monotonic,
    msgs: u64,
    /// They came fast enough in the window before.
    fast: bool,
    /// All rest until then.
    until: Monotonic,
}

impl Rhythm {
    /// How long a worker that is out of work is to rest now; `msgs` have come since the start. `None`: not at all.
    fn breath(&mut self, now: Monotonic, msgs: u64) -> Option<Duration> {
        if now < self.until {
            return Some(self.until.since(now));
        }
        let window = now.since(self.since);
        if window >= WINDOW {
            let came = u32::try_from(msgs.saturating_sub(self.msgs)).unwrap_or(u32::MAX);
            self.fast = BREATH.saturating_mul(came) >= window.saturating_mul(GATHERED_MSGS);
            self.since = now;
            self.msgs = msgs;
        }
        self.fast.then(|| {
            self.until = now + BREATH;
            BREATH
        })
    }
}

/// Lets the workers of a runtime rest while many messages come; see the module. Cheap to clone, all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Breather(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    msgs: AtomicU64,
    rhythm: Mutex<Rhythm>,
}

impl Breather {
    /// Messages have come that nobody waits to be acknowledged.
    pub(super) fn count(&self, msgs: usize) {
        if msgs > 0 {
            self.0.msgs.fetch_add(msgs as u64, Relaxed);
        }
    }

    /// For every worker, whenever it is out of work (`on_thread_park` of tokio's builder). Blocks for 0.4 ms at most, and mostly not at all.
    pub fn breathe(&self) {
        let Shared { msgs, rhythm } = &*self.0;
        // Nothing in there panics half-way.
        let mut rhythm = rhythm.lock().unwrap_or_else(PoisonError::into_inner);
        let breath = rhythm.breath(SystemClock.monotonic(), msgs.load(Relaxed));
        drop(rhythm);
        if let Some(breath) = breath {
            std::thread::sleep(breath);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Monotonic = Monotonic(9_000_000_000);

    /// At least so many messages in a second make it rest.
    const PAYS: u64 = 10_000;

    /// Looks 100 times, 1 ms apart, while messages come at this rate; how often it rested.
    fn rests(per_second: u64) -> usize {
        let mut rhythm = Rhythm::default();
        rhythm.breath(START, 0);
        (1..=100).filter(|ms| rhythm.breath(START + WINDOW * *ms, per_second * u64::from(*ms) / 1000).is_some()).count()
    }

    #[test]
    fn it_rests_only_while_messages_come_faster_than_that_pays() {
        assert_eq!([0, 2_000, PAYS - 1_000].map(rests), [0, 0, 0]);
        assert_eq!([PAYS, 40_000].map(rests), [100, 100]);
    }

    #[test]
    fn all_workers_rest_until_the_same_time() {
        let mut rhythm = Rhythm::default();
        let now = START + WINDOW;
        rhythm.breath(START, 0);
        assert_eq!(rhythm.breath(now, 1_000), Some(BREATH));
        assert_eq!(rhythm.breath(now + BREATH / 4, 1_000), Some(BREATH * 3 / 4));
        assert_eq!(rhythm.breath(now + BREATH, 1_000), Some(BREATH), "the window is not over");
    }

    #[test]
    fn it_comes_to_rest_for_good_when_no_more_messages_come() {
        let mut rhythm = Rhythm::default();
        rhythm.breath(START, 0);
        assert!(rhythm.breath(START + WINDOW, 1_000).is_some());
        assert_eq!(rhythm.breath(START + WINDOW * 2, 1_000), None);
        assert_eq!(rhythm.breath(START + Duration::from_secs(60), 1_001), None, "one after a pause is no flood");
    }

    proptest! {
        #[test]
        fn no_rest_is_longer_than_a_breath_whatever_the_clock_and_the_counter_do(
            looks in prop::collection::vec((any::<u64>(), any::<u64>()), 1..50),
        ) {
            let mut rhythm = Rhythm::default();
            let mut at = Monotonic(0);
            for (step, msgs) in looks {
                at = Monotonic(at.0.saturating_add(step % 3_000_000));
                prop_assert!(rhythm.breath(at, msgs).is_none_or(|breath| breath <= BREATH));
            }
        }
    }
}
