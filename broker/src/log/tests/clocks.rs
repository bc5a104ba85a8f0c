//! Clocks that are wrong, leap, and are set right, through the log as a whole (G7).

use super::*;
use crate::clock::{ClockQuality, ManualClock, MessageTime, Monotonic, RELEASED, WallTime};

const SECOND: u64 = 1_000_000_000;
const DAY: u64 = 86_400 * SECOND;
const YEAR: u64 = 365 * DAY;
/// A right time, when the machine started.
const TODAY: u64 = RELEASED.0 + 100 * DAY;

/// A machine that starts, its clock showing `wall`.
fn machine(id: &str, wall: u64) -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Monotonic(0), WallTime(wall)).in_boot(id))
}

fn open(dir: &Path, clock: &Arc<ManualClock>, streams: Vec<StreamConfig>) -> (Log, StreamId) {
    let clock = Arc::<ManualClock>::clone(clock);
    let (log, _) = Log::open_sized(LogConfig { clock, ..config(dir, streams) }, SMALL).expect("open");
    let id = log.stream("a").expect("configured");
    (log, id)
}

/// What is on disk now, as after a power cut.
fn cut(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("temporary directory");
    fn copy_all(from: &Path, to: &Path) {
        for entry in std::fs::read_dir(from).expect("readable").map(|entry| entry.expect("readable")) {
            let to = to.join(entry.file_name());
            match entry.file_type().expect("known").is_dir() {
                true => {
                    std::fs::create_dir(&to).expect("a new folder");
                    copy_all(&entry.path(), &to);
                }
                false => drop(std::fs::copy(entry.path(), &to).expect("copied")),
            }
        }
    }
    copy_all(dir, copy.path());
    copy
}

fn times(log: &Log, id: StreamId) -> Vec<MessageTime> {
    let times = read_all(log, id, 0).into_iter().filter_map(|item| match item {
        Item::Message(message) => Some(log.time(message.stamp)),
        Item::Gap { .. } => None,
    });
    times.collect()
}

fn all(quality: ClockQuality, walls: impl IntoIterator<Item = u64>) -> Vec<MessageTime> {
    walls.into_iter().map(|wall| MessageTime { wall: WallTime(wall), quality }).collect()
}

fn synced(walls: impl IntoIterator<Item = u64>) -> Vec<MessageTime> {
    all(ClockQuality::Synced, walls)
}

fn estimated(walls: impl IntoIterator<Item = u64>) -> Vec<MessageTime> {
    all(ClockQuality::Estimated, walls)
}

/// Appends one message a second.
fn ingest(log: &Log, id: StreamId, clock: &ManualClock, seconds: u64) {
    for n in 0..seconds {
        append_durably(log, &[message(id, "s", &noise(n, 200))]);
        clock.advance(Duration::from_secs(1));
    }
}

#[test]
fn what_was_stored_in_1970_is_corrected_when_the_clock_is_set_right() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let clock = machine("one", 0);
    let (log, id) = open(dir.path(), &clock, vec![stream("a")]);
    ingest(&log, id, &clock, 5);
    assert_eq!(times(&log, id), estimated((0..5).map(|n| n * SECOND)));
    assert_eq!(log.now().quality, ClockQuality::Estimated);
    clock.set_wall(WallTime(TODAY + 5 * SECOND));
    clock.set_synced(true);
    ingest(&log, id, &clock, 5);
    let right = synced((0..10).map(|n| TODAY + n * SECOND));
    assert_eq!(times(&log, id), right);
    assert_eq!(log.now(), synced([TODAY + 10 * SECOND])[0]);
    // Also for whoever starts after a power cut, with the clock in 1970 again.
    let after = cut(dir.path());
    let (log, id) = open(after.path(), &machine("two", 0), vec![stream("a")]);
    assert_eq!(times(&log, id), right);
}

#[test]
fn an_idle_log_keeps_what_it_learns_from_a_reader_or_a_pulse() {
    let read = |log: &Log, id| assert_eq!(times(log, id), synced([TODAY]));
    let pulse = |log: &Log, _| block_on(log.pulse());
    for look in [&read as &dyn Fn(&Log, StreamId), &pulse] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let clock = machine("one", 0);
        let (log, id) = open(dir.path(), &clock, vec![stream("a")]);
        append_durably(&log, &[message(id, "s", b"x")]);
        clock.set_wall(WallTime(TODAY));
        clock.set_synced(true);
        look(&log, id);
        // The loop answers before it commits: once it has come round twice, the commit is done that the look asked for.
        block_on(log.pulse());
        block_on(log.pulse());
        let commits = log.stats().commits;
        let after = cut(dir.path());
        let (cut, id) = open(after.path(), &machine("two", 0), vec![stream("a")]);
        assert_eq!(times(&cut, id), synced([TODAY]));
        // And that was all: further ones change nothing.
        look(&log, id);
        block_on(log.pulse());
        block_on(log.pulse());
        assert_eq!(log.stats().commits, commits);
    }
}

#[test]
fn leaps_during_ingest_change_nothing_once_the_clock_was_right() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let clock = machine("one", TODAY);
    clock.set_synced(true);
    let (log, id) = open(dir.path(), &clock, vec![stream("a")]);
    ingest(&log, id, &clock, 3);
    clock.set_synced(false);
    for (seconds, leap) in [(3, TODAY + DAY), (6, TODAY - DAY), (9, TODAY + 40 * YEAR), (12, 7), (15, u64::MAX)] {
        clock.set_wall(WallTime(leap));
        ingest(&log, id, &clock, 3);
        assert_eq!(log.now(), synced([TODAY + (seconds + 3) * SECOND])[0]);
    }
    let right = synced((0..18).map(|n| TODAY + n * SECOND));
    assert_eq!(times(&log, id), right);
    drop(log);
    // The process starts again in the same boot, the clock still wrong.
    let (log, id) = open(dir.path(), &clock, vec![stream("a")]);
    assert_eq!(times(&log, id), right);
}

#[test]
fn a_clock_that_is_never_right_gives_estimates_in_the_order_of_the_boots() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let clock = machine("one", TODAY);
    let (log, id) = open(dir.path(), &clock, vec![stream("a")]);
    ingest(&log, id, &clock, 5);
    // Somebody sets it by a day, to and fro, and its battery fails.
    for wall in [TODAY + DAY, TODAY + 5 * SECOND, 0] {
        clock.set_wall(WallTime(wall));
        append_durably(&log, &[message(id, "s", b"x")]);
    }
    drop(log);
    let mut expected: Vec<u64> = (0..5).chain([5, 5, 5]).map(|n| TODAY + n * SECOND).collect();
    for boot in ["two", "three"] {
        let begin = expected.last().copied().expect("not empty");
        let clock = machine(boot, 0);
        let (log, id) = open(dir.path(), &clock, vec![stream("a")]);
        ingest(&log, id, &clock, 5);
        append_durably(&log, &[message(id, "s", b"x")]);
        expected.extend((0..=5).map(|n| begin + n * SECOND));
        assert_eq!(times(&log, id), estimated(expected.iter().copied()));
    }
}

#[test]
fn max_age_is_exact_whatever_the_clock_shows() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let limits = StreamLimits { max_age: Some(Duration::from_secs(60)), ..StreamLimits::default() };
    let streams = || vec![limited("a", limits.clone())];
    let clock = machine("one", 0);
    let (log, id) = open(dir.path(), &clock, streams());
    ingest(&log, id, &clock, 10);
    for (wall, right) in [(TODAY, true), (TODAY + DAY, true), (TODAY + 40 * YEAR, false), (3, false), (TODAY, true)] {
        clock.set_wall(WallTime(wall));
        clock.set_synced(right);
        ingest(&log, id, &clock, 10);
        log.apply_limits();
        assert_eq!(log.state(id).first, Seq(1), "nothing is 60 s old");
    }
    assert_eq!(log.state(id).msgs, 60);
    clock.advance(Duration::from_secs(1));
    log.apply_limits();
    // 61 s have passed: the first is 61 s old, the second exactly 60.
    assert_eq!(log.state(id).first, Seq(2));
}

#[test]
fn anchors_outlive_the_frames_they_came_in() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let limits = StreamLimits { max_msgs: Some(2_000), ..StreamLimits::default() };
    let streams = || vec![limited("a", limits.clone())];
    let clock = machine("one", TODAY);
    clock.set_synced(true);
    let (log, id) = open(dir.path(), &clock, streams());
    append_durably(&log, &[message(id, "s", b"first")]);
    clock.set_synced(false);
    clock.set_wall(WallTime(0));
    let mut n = 0;
    while log.stats().epochs_written < 3 {
        n += 1;
        append_durably(&log, &[message(id, "s", &noise(n, 4000))]);
    }
    let count = log.state(id).msgs;
    assert_eq!(times(&log, id), synced((0..count).map(|_| TODAY)));
    log.close();
    drop(log);
    // From the slots, and from the epochs alone.
    for without_slots in [false, true] {
        let after = cut(dir.path());
        for slot in ["staging-0", "staging-1", "ends"].iter().filter(|_| without_slots) {
            std::fs::remove_file(after.path().join(slot)).expect("there");
        }
        let (log, id) = open(after.path(), &machine("two", 0), streams());
        let found = times(&log, id);
        assert!(found.len() > 10 && found.iter().all(|time| *time == synced([TODAY])[0]), "{found:?}");
    }
}
