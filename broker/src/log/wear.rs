//! What the log makes the flash take: bytes that it hands to its files, since install and in the last 24 hours. Pure.
//!
//! This is the log's own count: pages of the staging files that commits overwrite, whole epochs, manifests. What the filesystem adds for
//! its journal, and the card for its erase blocks, nobody can see from here; `benches/` measures the former. The sum since install is kept
//! in the notes of `ends`, so it costs no write and no sync of its own: a power cut takes what came after the last note that reached the
//! disk (half a minute or so), and who loses that file begins at zero. The last 24 hours are counted by the clock that never jumps, since
//! start at most, because a gateway without a battery does not know when a day begins.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Monotonic;

/// What a filesystem writes at least.
const PAGE_BYTES: u64 = 4096;
/// The last day is counted in these, and the current one.
const HOUR: Duration = Duration::from_secs(3600);
const HOURS: u64 = 24;

/// Bytes written for bytes stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Volume {
    pub(super) written: u64,
    /// Subject, headers and payload of messages in file streams.
    pub(super) payload: u64,
}

impl Volume {
    fn add(&mut self, other: Volume) {
        self.written = self.written.saturating_add(other.written);
        self.payload = self.payload.saturating_add(other.payload);
    }
}

/// For status and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wear {
    /// Bytes that the log wrote into its files since it was made, give or take what a power cut took of this count.
    pub written_bytes: u64,
    /// Bytes of messages (subject, headers, payload) that it stored for that.
    pub payload_bytes: u64,
    /// Bytes written in the last `day`.
    pub day_written_bytes: u64,
    /// Bytes of messages stored in the last `day`.
    pub day_payload_bytes: u64,
    /// What the last two cover: 23 to 24 hours, less if the log has not been open for so long.
    pub day: Duration,
}

/// The count.
#[derive(Debug)]
pub(super) struct Meter {
    total: Volume,
    begun: Monotonic,
    /// Number of the hour, and what was written in it; at most [`HOURS`], those in which nothing was left out.
    hours: VecDeque<(u64, Volume)>,
}

impl Meter {
    /// Goes on from what was counted before.
    pub(super) fn new(total: Volume, now: Monotonic) -> Meter {
        Meter { total, begun: now, hours: VecDeque::new() }
    }

    /// Bytes written, and bytes of messages stored with them.
    pub(super) fn add(&mut self, now: Monotonic, written: u64, payload: u64) {
        let volume = Volume { written, payload };
        self.total.add(volume);
        let hour = hour(now);
        match self.hours.back_mut() {
            Some((last, sum)) if *last >= hour => sum.add(volume),
            _ => self.hours.push_back((hour, volume)),
        }
        while self.hours.front().is_some_and(|(first, _)| first + HOURS <= hour) {
            self.hours.pop_front();
        }
    }

    /// All of it, to be kept.
    pub(super) fn total(&self) -> Volume {
        self.total
    }

    pub(super) fn wear(&self, now: Monotonic) -> Wear {
        let first = (hour(now) + 1).saturating_sub(HOURS);
        let mut day = Volume::default();
        self.hours.iter().filter(|(hour, _)| *hour >= first).for_each(|(_, volume)| day.add(*volume));
        let since = Monotonic(first.saturating_mul(nanos(HOUR))).max(self.begun);
        Wear {
            written_bytes: self.total.written,
            payload_bytes: self.total.payload,
            day_written_bytes: day.written,
            day_payload_bytes: day.payload,
            day: now.since(since),
        }
    }
}

fn hour(at: Monotonic) -> u64 {
    at.0 / nanos(HOUR)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Bytes of the pages that `len` bytes at `at` lie in.
pub(super) fn pages(at: u64, len: u64) -> u64 {
    (at + len).next_multiple_of(PAGE_BYTES) - at / PAGE_BYTES * PAGE_BYTES
}

/// A new manifest and the pointer to it: 33 bytes for a table, and what lies around them.
pub(super) fn manifest(tables: u64) -> u64 {
    pages(0, 33 * tables + 512) + PAGE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: u64, seconds: u64) -> Monotonic {
        Monotonic(0) + HOUR * u32::try_from(hours).expect("few") + Duration::from_secs(seconds)
    }

    #[test]
    fn a_frame_takes_every_page_that_it_touches() {
        assert_eq!((pages(0, 1), pages(4095, 1), pages(4095, 2), pages(4096, 4096)), (4096, 4096, 8192, 4096));
        assert_eq!((manifest(0), manifest(200)), (8192, 12288));
    }

    #[test]
    fn the_last_day_forgets_and_the_sum_does_not() {
        let mut meter = Meter::new(Volume { written: 1000, payload: 100 }, at(5, 0));
        meter.add(at(5, 10), 50, 5);
        meter.add(at(6, 0), 20, 2);
        let wear = meter.wear(at(6, 60));
        assert_eq!((wear.written_bytes, wear.payload_bytes), (1070, 107));
        assert_eq!((wear.day_written_bytes, wear.day_payload_bytes, wear.day), (70, 7, HOUR + Duration::from_secs(60)));
        // 23 hours and a minute later the first hour is out of it, whether or not something came meanwhile.
        let wear = meter.wear(at(29, 60));
        assert_eq!((wear.day_written_bytes, wear.day), (20, HOUR * 23 + Duration::from_secs(60)));
        assert_eq!(meter.wear(at(300, 0)).day_written_bytes, 0);
        for hour in 6..200 {
            meter.add(at(hour, 1), 1, 0);
        }
        assert!(meter.hours.len() <= 24);
        assert_eq!((meter.wear(at(199, 2)).day_written_bytes, meter.total().written), (24, 1070 + 194));
    }
}
