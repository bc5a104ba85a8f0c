//! Numbers that 32 bits do not hold, on any machine: sequences, budgets, dates. `targets/check --units` runs these on 32 bits.

use super::*;
use crate::clock::{Clock, ManualClock, Monotonic, WallTime};

#[test]
fn sequences_go_on_past_32_bits_through_epochs_retention_and_a_restart() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let begin = (1_u64 << 32) - 300;
    let limits = StreamLimits { max_msgs: Some(500), ..StreamLimits::default() };
    let streams = || vec![limited("a", limits.clone())];
    let (log, _) = Log::open_sized(config(dir.path(), streams()), SMALL).expect("open");
    let a = log.stream("a").expect("configured");
    {
        // As if so many had been there before.
        let mut core = log.shared().lock();
        let stream = core.stream_mut(a);
        (stream.next, stream.durable_next, stream.held.first) = (begin, begin, begin);
    }
    for n in 0..800_u64 {
        let appended = append(&log, &[message(a, "s", &noise(n, 400))]).expect("accepted");
        assert_eq!(appended.last_seq, Some(Seq(begin + n)));
    }
    append_durably(&log, &[message(a, "s", b"last")]);
    let held: Vec<u64> = (begin + 301..=begin + 800).collect();
    assert!(held[0] > 1 << 32 && log.stats().epochs > 2);
    assert_eq!(seqs(&read_all(&log, a, 0)), held);
    assert_eq!(seqs(&read_all(&log, a, begin + 700)), held[399..]);
    log.close();
    drop(log);
    let (log, report) = Log::open_sized(config(dir.path(), streams()), SMALL).expect("open again");
    assert!(report.damaged.is_empty());
    assert_eq!(seqs(&read_all(&log, a, 0)), held);
    assert_eq!(append_durably(&log, &[message(a, "s", b"x")]).last_seq, Some(Seq(begin + 801)));
}

#[test]
fn budgets_past_4_gib_and_dates_past_2038_are_kept_exactly() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let new_year_2040 = WallTime(2_208_988_800 * 1_000_000_000);
    let clock = ManualClock::new(Monotonic(u64::from(u32::MAX) * 1_000_000_000), new_year_2040).in_boot("b");
    let clock = Arc::new(clock);
    let open = || {
        let limits = StreamLimits { max_bytes: Some(5 << 30), ..StreamLimits::default() };
        let clock: Arc<dyn Clock> = clock.clone();
        Log::open(LogConfig { max_bytes: 6 << 30, clock, ..config(dir.path(), vec![limited("a", limits)]) })
    };
    let (log, _) = open().expect("open");
    let a = log.stream("a").expect("configured");
    append_durably(&log, &[message(a, "s", b"x")]);
    log.close();
    drop(log);
    clock.advance(Duration::from_secs(365 * 86_400));
    let (log, _) = open().expect("open again");
    assert_eq!(log.stats().disk_max_bytes, 6 << 30);
    let items = read_all(&log, a, 0);
    let [Item::Message(first)] = &items[..] else { panic!("one message: {items:?}") };
    assert_eq!(log.time(first.stamp).wall, new_year_2040);
    assert_eq!(log.age(first.stamp), Duration::from_secs(365 * 86_400));
}
