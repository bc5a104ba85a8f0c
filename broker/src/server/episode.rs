//! What goes on for a while is worth one line in the log, not one for each time. Pure: the time is passed in.

use std::time::Duration;

use crate::clock::Monotonic;

/// An episode is over when nothing of its kind has happened for so long.
const QUIET: Duration = Duration::from_secs(60);

/// The episodes of `N` kinds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Episodes<const N: usize> {
    last: [Option<Monotonic>; N],
}

impl<const N: usize> Default for Episodes<N> {
    fn default() -> Self {
        Self { last: [None; N] }
    }
}

impl<const N: usize> Episodes<N> {
    /// It happened. `true`: an episode begins with it.
    pub(super) fn begins(&mut self, now: Monotonic, kind: usize) -> bool {
        let before = self.last[kind].replace(now);
        before.is_none_or(|before| now.since(before) >= QUIET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_episode_lasts_until_a_quiet_minute() {
        let mut episodes = Episodes::<2>::default();
        let at = |seconds: u64| Monotonic(seconds * 1_000_000_000);
        assert!(episodes.begins(at(5), 0));
        assert!(!episodes.begins(at(64), 0) && !episodes.begins(at(123), 0));
        assert!(episodes.begins(at(64), 1), "each kind has its own");
        assert!(episodes.begins(at(183), 0));
    }
}
