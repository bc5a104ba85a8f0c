//! Time, passed in from outside so that tests and wrong clocks can be driven by hand.
//!
//! Two clocks with different jobs (G7): [`Clock::monotonic`] drives every timer and never jumps,
//! [`Clock::wall`] is only ever used to tell people and the hub when something happened. Whether it is right is a question of its own:
//! [`Clock::is_synced`], which [`TrustedClock`] answers as it is configured.

mod trust;

pub use trust::{ClockTrust, TrustedClock};

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Wall time in nanoseconds since 1970-01-01T00:00:00Z. 64 bits last until the year 2554, also where `time_t` has 32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(pub u64);

/// Monotonic time: nanoseconds since this machine booted, time asleep included (`CLOCK_BOOTTIME`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic(pub u64);

impl Monotonic {
    /// Time elapsed since `earlier`, zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Monotonic) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Monotonic {
    type Output = Monotonic;
    fn add(self, rhs: Duration) -> Monotonic {
        Monotonic(self.0.saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// 2026-11-01, before this program was released: a clock that shows less has not been set since the machine started. Also decides how
/// times stored long ago are judged, so it does not move with later releases.
pub const RELEASED: WallTime = WallTime(1_793_491_200_000_000_000);

/// How far a wall time can be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClockQuality {
    /// From a clock that nobody vouched for, within what is known of the boots before and after.
    #[default]
    Estimated,
    /// From a clock that was right.
    Synced,
}

impl ClockQuality {
    /// As in the header `Headwater-Clock`: `estimated` or `synced`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ClockQuality::Estimated => "estimated",
            ClockQuality::Synced => "synced",
        }
    }
}

/// When a message was stored, as far as is known now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageTime {
    /// The time.
    pub wall: WallTime,
    /// How far it can be trusted.
    pub quality: ClockQuality,
}

/// Both clocks, looked at together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The clock that never jumps.
    pub at: Monotonic,
    /// The clock that people read.
    pub wall: WallTime,
    /// Whether `wall` is right.
    pub quality: ClockQuality,
    /// How long the look took: `at` and `wall` belong together to within this.
    pub spread: Duration,
}

/// A source of both times.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Now, on the clock that never jumps.
    fn monotonic(&self) -> Monotonic;
    /// Now, on the clock that people read; may be wrong and may jump.
    fn wall(&self) -> WallTime;
    /// Whether the wall clock is known to be right. Not unless somebody vouches for it.
    fn is_synced(&self) -> bool {
        false
    }
    /// Both clocks at once.
    fn read(&self) -> Reading {
        // IMPORTANT: before the clock is read. One that was right stays right for these microseconds; one that is set right in between
        // would give a wrong time the name of a right one.
        let quality = if self.is_synced() { ClockQuality::Synced } else { ClockQuality::Estimated };
        let at = self.monotonic();
        let wall = self.wall();
        Reading { at, wall, quality, spread: self.monotonic().since(at) }
    }
    /// What tells this boot of the machine from every other one; `None` if nothing does.
    fn boot_id(&self) -> Option<String> {
        None
    }
}

/// The clocks of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn monotonic(&self) -> Monotonic {
        Monotonic(nanoseconds(rustix::time::clock_gettime(rustix::time::ClockId::Boottime)))
    }

    fn wall(&self) -> WallTime {
        WallTime(nanoseconds(rustix::time::clock_gettime(rustix::time::ClockId::Realtime)))
    }

    fn boot_id(&self) -> Option<String> {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned())
    }
}

fn nanoseconds(t: rustix::time::Timespec) -> u64 {
    // A clock before 1970 counts as 1970.
    let seconds = u64::try_from(t.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(t.tv_nsec).unwrap_or(0))
}

/// A clock moved by hand, for tests.
#[derive(Debug, Default)]
pub struct ManualClock {
    now: Mutex<(Monotonic, WallTime)>,
    synced: AtomicBool,
    boot_id: Option<String>,
}

impl ManualClock {
    /// A clock that stands at these times until it is moved.
    #[must_use]
    pub fn new(monotonic: Monotonic, wall: WallTime) -> Self {
        Self { now: Mutex::new((monotonic, wall)), ..Self::default() }
    }

    /// The same clock in a boot that can be told from others.
    #[must_use]
    pub fn in_boot(self, id: &str) -> Self {
        Self { boot_id: Some(id.to_owned()), ..self }
    }

    /// Lets both clocks run on by `by`.
    pub fn advance(&self, by: Duration) {
        let mut now = self.now.lock().expect("no holder of this lock panics");
        now.0 = now.0 + by;
        now.1.0 = now.1.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Sets the wall clock alone, as NTP or a person would.
    pub fn set_wall(&self, wall: WallTime) {
        self.now.lock().expect("no holder of this lock panics").1 = wall;
    }

    /// Vouches for the wall clock from now on, or no longer.
    pub fn set_synced(&self, synced: bool) {
        self.synced.store(synced, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn monotonic(&self) -> Monotonic {
        self.now.lock().expect("no holder of this lock panics").0
    }

    fn wall(&self) -> WallTime {
        self.now.lock().expect("no holder of this lock panics").1
    }

    fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Relaxed)
    }

    fn boot_id(&self) -> Option<String> {
        self.boot_id.clone()
    }
}
