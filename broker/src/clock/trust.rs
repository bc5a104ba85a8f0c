//! Whose word on the wall clock counts.
//!
//! The kernel knows whether its clock is synchronised (`adjtimex`), but no safe wrapper of that call builds for all machines that
//! Headwater runs on. So the time daemon is asked: it touches a file whenever it has set or confirmed the clock.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use super::{Clock, Monotonic, RELEASED, WallTime};

/// The time daemon's word counts for this long. systemd-timesyncd confirms the clock at least every 2,048 s (`PollIntervalMaxSec=`). A
/// clock that leaps by more, in either direction, is not vouched for any longer.
const VALID: Duration = Duration::from_secs(3600);

/// When the wall clock counts as right; `[clock]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClockTrust {
    /// While the time daemon vouches for it.
    Daemon {
        /// What the daemon touches when it has set or confirmed the clock.
        synced_file: PathBuf,
    },
    /// As soon as it shows a time at which this program existed: for machines with a clock of their own that is kept right.
    Always,
    /// Never.
    Never,
}

/// A clock, and whether its wall time is to be trusted.
#[derive(Clone, Debug)]
pub struct TrustedClock {
    clock: Arc<dyn Clock>,
    trust: ClockTrust,
}

impl TrustedClock {
    /// Judges `clock` by `trust`; its own [`Clock::is_synced`] is not asked.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, trust: ClockTrust) -> Self {
        Self { clock, trust }
    }
}

impl Clock for TrustedClock {
    fn monotonic(&self) -> Monotonic {
        self.clock.monotonic()
    }

    fn wall(&self) -> WallTime {
        self.clock.wall()
    }

    fn is_synced(&self) -> bool {
        match &self.trust {
            ClockTrust::Never => false,
            ClockTrust::Always => self.wall() >= RELEASED,
            ClockTrust::Daemon { synced_file } => {
                touched(synced_file).is_some_and(|touched| vouches(touched, self.wall()))
            }
        }
    }

    fn boot_id(&self) -> Option<String> {
        self.clock.boot_id()
    }
}

/// When a file was last touched, on the wall clock; `None` if there is none.
fn touched(file: &Path) -> Option<WallTime> {
    let at = std::fs::metadata(file).ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(at.as_nanos()).ok().map(WallTime)
}

/// Whether a word given at `touched` still counts. In the future it was given on another clock than the one that is read now.
fn vouches(touched: WallTime, now: WallTime) -> bool {
    let age = now.0.checked_sub(touched.0).map(Duration::from_nanos);
    now >= RELEASED && touched >= RELEASED && age.is_some_and(|age| age <= VALID)
}

#[cfg(test)]
mod tests {
    use super::super::ManualClock;
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn later(by: Duration) -> WallTime {
        WallTime(RELEASED.0 + u64::try_from(by.as_nanos()).expect("a short time"))
    }

    #[test]
    fn a_daemons_word_counts_until_the_clock_leaps_in_either_direction() {
        let said = later(DAY);
        assert!(vouches(said, said) && vouches(said, later(DAY + VALID)));
        assert!(!vouches(said, later(DAY + VALID + Duration::from_nanos(1))));
        assert!(!vouches(said, later(DAY - Duration::from_nanos(1))), "set back");
        assert!(!vouches(said, later(2 * DAY)), "set forward");
        assert!(!vouches(WallTime(5), WallTime(6)), "1970");
        assert!(!vouches(WallTime(RELEASED.0 - 1), RELEASED));
    }

    #[test]
    fn a_clock_before_the_release_is_never_right() {
        let clock = Arc::new(ManualClock::new(Monotonic(0), WallTime(7)));
        let trusting = |trust| TrustedClock::new(Arc::<ManualClock>::clone(&clock), trust);
        let (always, never) = (trusting(ClockTrust::Always), trusting(ClockTrust::Never));
        clock.set_synced(true);
        assert!(!always.is_synced() && !never.is_synced());
        clock.set_wall(later(DAY));
        assert!(always.is_synced() && !never.is_synced());
    }

    #[test]
    fn the_file_of_the_daemon_is_looked_at_each_time() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let synced_file = dir.path().join("synchronized");
        let clock = Arc::new(ManualClock::new(Monotonic(0), later(DAY)));
        let trusted = TrustedClock::new(
            Arc::<ManualClock>::clone(&clock),
            ClockTrust::Daemon { synced_file: synced_file.clone() },
        );
        assert!(!trusted.is_synced(), "nobody has touched it");
        let file = std::fs::File::create(&synced_file).expect("a file");
        file.set_modified(UNIX_EPOCH + Duration::from_nanos(later(DAY).0)).expect("our file");
        assert!(trusted.is_synced());
        clock.set_wall(later(3 * DAY));
        assert!(!trusted.is_synced());
        file.set_modified(UNIX_EPOCH + Duration::from_nanos(later(3 * DAY).0)).expect("our file");
        assert!(trusted.is_synced());
    }
}
