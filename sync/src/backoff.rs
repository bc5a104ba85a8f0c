//! Pauses between attempts: they double up to a limit and are spread by a jitter that is passed in.

use std::time::Duration;

/// A number that is uniform over its range, from outside: this crate's machines have no randomness of their own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Jitter(pub u32);

const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Counts attempts in a row that failed.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    failures: u32,
    longest: Duration,
}

impl Backoff {
    /// No failure so far; pauses never exceed `longest`.
    #[must_use]
    pub fn new(longest: Duration) -> Self {
        Self { failures: 0, longest }
    }

    /// Another failure: how long to wait now, between half and all of the doubled pause.
    pub fn pause(&mut self, jitter: Jitter) -> Duration {
        let full = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        let half = full / 2;
        half + half.mul_f64(f64::from(jitter.0) / f64::from(u32::MAX))
    }

    /// A sign of life: the next pause is short again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures in a row.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit_and_start_again_after_a_sign_of_life() {
        let mut backoff = Backoff::new(Duration::from_secs(30));
        let pauses: Vec<_> = (0..12).map(|_| backoff.pause(Jitter(u32::MAX)).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000, 30000]);
        backoff.reset();
        assert_eq!(backoff.pause(Jitter(u32::MAX)).as_millis(), 100);
    }

    #[test]
    fn jitter_spreads_over_the_upper_half() {
        assert_eq!(Backoff::new(Duration::from_secs(30)).pause(Jitter(0)).as_millis(), 50);
        let middle = Backoff::new(Duration::from_secs(30)).pause(Jitter(u32::MAX / 2)).as_millis();
        assert!((74..=75).contains(&middle));
    }

    #[test]
    fn any_number_of_failures_is_fine() {
        let mut backoff = Backoff { failures: u32::MAX - 1, longest: Duration::from_secs(5) };
        backoff.pause(Jitter(1));
        assert_eq!(backoff.pause(Jitter(u32::MAX)), Duration::from_secs(5));
    }
}
