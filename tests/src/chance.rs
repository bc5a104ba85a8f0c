//! Random choices that can be made again: every test that uses them prints its seed when it fails.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// How many rounds a loop of random rounds makes: `HEADWATER_KILL_ROUNDS`, or the `usual` number.
///
/// # Panics
/// If `HEADWATER_KILL_ROUNDS` is set to something else than a number.
#[must_use]
pub fn rounds(usual: u64) -> u64 {
    match std::env::var("HEADWATER_KILL_ROUNDS") {
        Ok(text) => text.parse().unwrap_or_else(|e| panic!("HEADWATER_KILL_ROUNDS is not a number: {e}")),
        Err(_) => usual,
    }
}

/// A seeded source of choices. `HEADWATER_SEED` sets the seed, to repeat a run that failed.
#[derive(Debug)]
pub struct Chance {
    seed: u64,
    state: u64,
}

impl Default for Chance {
    fn default() -> Self {
        Chance::new()
    }
}

impl Chance {
    /// Takes the seed from the environment, or a fresh one.
    ///
    /// # Panics
    /// If `HEADWATER_SEED` is set to something else than a number.
    #[must_use]
    pub fn new() -> Chance {
        let seed = match std::env::var("HEADWATER_SEED") {
            Ok(text) => text.parse().unwrap_or_else(|e| panic!("HEADWATER_SEED is not a number: {e}")),
            // The standard library seeds every hasher from the system's randomness.
            Err(_) => RandomState::new().build_hasher().finish(),
        };
        Chance::from_seed(seed)
    }

    /// Makes the choices of that seed, whatever the environment says.
    #[must_use]
    pub fn from_seed(seed: u64) -> Chance {
        Chance { seed, state: seed }
    }

    /// The next number (splitmix64).
    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }

    /// A time up to `longest`, to the microsecond.
    pub fn moment(&mut self, longest: Duration) -> Duration {
        let micros = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.below(micros.max(1)))
    }
}

impl Drop for Chance {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("HEADWATER_SEED={} makes the same choices again", self.seed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_choices() {
        let choices = |seed| {
            let mut chance = Chance { seed, state: seed };
            [chance.number(), chance.below(10), chance.number()]
        };
        assert_eq!(choices(7), choices(7));
        assert_ne!(choices(7), choices(8));
    }
}
