//! A latency histogram: fixed memory, a relative error below 1.6 %, no floating point where values are recorded.
//!
//! As in HdrHistogram, a bucket is a power of two cut into equal parts. The crate of that name was left out: of it, these two
//! functions would be used.

use std::time::Duration;

/// Buckets per power of two.
const PARTS: u64 = 64;
/// 64 exact values, and 64 buckets for each of the 58 powers of two above them: enough for every `u64` of nanoseconds.
const BUCKETS: usize = 64 * 59;

/// Counts of durations by size.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }
}

impl Histogram {
    /// Counts `times` messages that took `latency`. What is longer than 584 years counts as that.
    pub fn record(&mut self, latency: Duration, times: u64) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanoseconds)] += times;
        self.total += times;
    }

    /// Adds what `other` has counted.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
    }

    /// How many were counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The smallest duration that `share` (0 to 1) of all counted do not exceed, rounded up to the end of its bucket. Zero if
    /// nothing was counted.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Duration {
        let wanted = share * self.total as f64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen as f64 >= wanted {
                return Duration::from_nanos(last(index));
            }
        }
        Duration::ZERO
    }
}

fn bucket(value: u64) -> usize {
    if value < PARTS {
        return usize::try_from(value).expect("below 64");
    }
    let power = value.ilog2() - PARTS.ilog2();
    let part = (value >> power) - PARTS;
    usize::try_from(u64::from(power + 1) * PARTS + part).expect("below 60 times 64")
}

/// The largest value of a bucket.
fn last(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < PARTS {
        return bucket;
    }
    let power = bucket / PARTS - 1;
    let first = (PARTS + bucket % PARTS) << power;
    first + ((1 << power) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_a_bucket_whose_end_is_close() {
        for value in
            (0..64).map(|bits| 1_u64 << bits).flat_map(|power| [power - 1, power, power + power / 3]).chain([u64::MAX])
        {
            let end = last(bucket(value));
            assert!(end >= value && (end - value) as f64 <= value as f64 / 64.0, "{value} ends at {end}");
        }
    }

    #[test]
    fn quantiles_are_those_of_what_was_counted() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), Duration::ZERO);
        histogram.record(Duration::from_micros(10), 90);
        let mut slow = Histogram::default();
        slow.record(Duration::from_millis(5), 10);
        histogram.merge(&slow);
        assert_eq!(histogram.total(), 100);
        let near = |share: f64, wanted: f64| (histogram.quantile(share).as_secs_f64() / wanted - 1.0).abs() < 0.016;
        assert!(
            near(0.5, 10e-6) && near(0.9, 10e-6) && near(0.91, 5e-3) && near(1.0, 5e-3),
            "{:?}",
            histogram.quantile(0.5)
        );
    }
}
