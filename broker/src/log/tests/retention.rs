//! Limits, the disk budget, tables, cursors, memory streams, time.

use super::model::quiesce;
use super::*;
use crate::clock::{ManualClock, Monotonic, WallTime};

fn manual(seconds: u64) -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Monotonic(seconds * 1_000_000_000), WallTime(seconds * 1_000_000_000)))
}

#[test]
fn table_values_live_on_when_their_epochs_are_dropped() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let small = || LogConfig { max_bytes: 900 << 10, ..config(dir.path(), vec![stream("a")]) };
    let (mut log, _) = Log::open_sized(small(), SMALL).expect("open");
    let a = log.stream("a").expect("configured");
    let table = TableId(0);
    for key in 0..40u8 {
        append_durably(&log, &[Entry::Put { table, key: &[key], value: &noise(u64::from(key), 100) }]);
    }
    for key in (0..40u8).step_by(2) {
        append_durably(&log, &[Entry::Delete { table, key: &[key] }]);
    }
    let mut dropped = 0;
    for round in 0..400u64 {
        append_durably(&log, &[message(a, "s", &noise(round, 10_000))]);
        // Some keys change now and then, so that they lie in many epochs.
        let key = [u8::try_from(round % 5 * 2 + 41).expect("small")];
        append_durably(&log, &[Entry::Put { table, key: &key, value: &round.to_le_bytes() }]);
        if round % 97 == 96 {
            dropped += log.stats().epochs_dropped;
            drop(log);
            log = Log::open_sized(small(), SMALL).expect("open again").0;
        }
        let used = disk::allocated(dir.path(), None).expect("measured");
        assert!(used <= 900 << 10, "{used}");
    }
    dropped += log.stats().epochs_dropped;
    assert!(dropped > 50, "{dropped}");
    let mut keys = Vec::new();
    log.table_scan(table, &mut |key, value| {
        keys.push(key[0]);
        if key[0] < 40 {
            assert_eq!(value, noise(u64::from(key[0]), 100));
        }
    })
    .expect("readable");
    keys.sort_unstable();
    let expected: Vec<u8> = (1..40).step_by(2).chain((41..51).step_by(2)).collect();
    assert_eq!(keys, expected, "neither lost nor come back");
    assert_eq!(log.table_get(table, &[2]), Ok(None));
    assert_eq!(log.table_get(table, &[49]).expect("readable").as_deref(), Some(&399u64.to_le_bytes()[..]));
}

#[test]
fn tables_have_a_bound() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (log, _) = Log::open_sized(config(dir.path(), vec![]), SMALL).expect("open");
    let mut refused = 0;
    for key in 0..40u8 {
        match append(&log, &[Entry::Put { table: TableId(1), key: &[key], value: &[0; 1000] }]) {
            Ok(appended) => wait(&log, appended.ticket),
            Err(AppendError::Full { limit: "tables", .. }) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(refused, 40 - 16);
    append_durably(&log, &[Entry::Delete { table: TableId(1), key: &[3] }]);
    append_durably(&log, &[Entry::Put { table: TableId(1), key: &[99], value: &[0; 1000] }]);
    assert_eq!(log.stats().refused, 24);
}

#[test]
fn a_refused_group_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let limits = StreamLimits { max_msgs: Some(2), discard: Discard::New, ..StreamLimits::default() };
    let streams = vec![stream("a"), limited("new", limits)];
    let (log, _) = Log::open_sized(config(dir.path(), streams), SMALL).expect("open");
    let (a, new) = (log.stream("a").expect("there"), log.stream("new").expect("there"));
    let three = [message(a, "x", b"1"), message(new, "x", b"1"), message(new, "x", b"2"), message(new, "x", b"3")];
    let full = AppendError::Full { stream: "new".into(), limit: "max_msgs" };
    assert_eq!(log.append(&three).map(|_| ()), Err(full.clone()));
    assert_eq!(append_durably(&log, &three[..3]).last_seq, Some(Seq(2)));
    assert_eq!(log.append(&three[1..2]).map(|_| ()), Err(full));
    assert_eq!(seqs(&read_all(&log, a, 0)), [1]);
    assert_eq!(log.state(new).msgs, 2);
    log.purge(new, Seq(1)).expect("accepted");
    assert_eq!(append_durably(&log, &three[1..2]).last_seq, Some(Seq(3)));
    assert_eq!(
        log.append(&[message(a, "x", &[0; 17_000])]).map(|_| ()).expect_err("too large").to_string(),
        "17044 bytes are more than the 16384 allowed"
    );
}

#[test]
fn a_full_disk_refuses_what_must_not_be_discarded_and_goes_on_with_the_rest() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let limits = StreamLimits { discard: Discard::New, ..StreamLimits::default() };
    let streams = vec![stream("old"), limited("new", limits)];
    let small = LogConfig { max_bytes: 1100 << 10, ..config(dir.path(), streams) };
    let (log, _) = Log::open_sized(small, SMALL).expect("open");
    let (old, new) = (log.stream("old").expect("there"), log.stream("new").expect("there"));
    let mut accepted = 0;
    loop {
        match append(&log, &[message(new, "s", &noise(accepted, 5000))]) {
            Ok(appended) => wait(&log, appended.ticket),
            Err(AppendError::Full { limit, stream }) => {
                assert_eq!((limit, &stream[..]), ("disk", "new"));
                break;
            }
            Err(other) => panic!("{other}"),
        }
        accepted += 1;
        assert!(accepted < 1000, "must be full some time");
    }
    assert!(accepted > 30, "{accepted}");
    for n in 0..300 {
        append_durably(&log, &[message(old, "s", &noise(n, 5000))]);
        assert!(disk::allocated(dir.path(), None).expect("measured") <= 1100 << 10);
    }
    // The first ones may share an epoch with what must stay.
    assert!((1..300).contains(&log.state(old).msgs));
    assert_eq!(seqs(&read_all(&log, new, 1)), (1..=accepted).collect::<Vec<_>>());
    // Room that a person makes is used again.
    log.purge(new, Seq(accepted)).expect("accepted");
    for n in 0..60 {
        append_durably(&log, &[message(old, "s", &noise(n, 5000))]);
    }
    append_durably(&log, &[message(new, "s", b"again")]);
}

#[test]
fn messages_too_old_go_and_never_earlier() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let limits = StreamLimits { max_age: Some(Duration::from_secs(60)), ..StreamLimits::default() };
    let clock = manual(1000);
    let with = |clock: &Arc<ManualClock>| LogConfig {
        clock: Arc::<ManualClock>::clone(clock),
        ..config(dir.path(), vec![limited("aged", limits.clone())])
    };
    let (log, _) = Log::open_sized(with(&clock), SMALL).expect("open");
    let id = log.stream("aged").expect("there");
    for n in 0..40u64 {
        append_durably(&log, &[message(id, "s", &noise(n, 4000))]);
        clock.advance(Duration::from_secs(1));
    }
    // A clock set by a person or by NTP expires nothing.
    clock.set_wall(WallTime(u64::MAX / 2));
    log.apply_limits();
    assert_eq!(log.state(id).msgs, 40);
    clock.advance(Duration::from_secs(20));
    log.apply_limits();
    assert_eq!(log.state(id).msgs, 40, "the first is exactly 60 s old");
    clock.advance(Duration::from_millis(9500));
    log.apply_limits();
    assert_eq!((log.state(id).first, log.state(id).msgs), (Seq(11), 30));
    drop(log);
    // Another boot, its clock begins anew: what passed meanwhile is not known, so it counts as nothing.
    let clock = manual(0);
    let (log, _) = Log::open_sized(with(&clock), SMALL).expect("open again");
    assert_eq!((log.state(id).first, log.state(id).msgs), (Seq(11), 30));
    clock.advance(Duration::from_secs(3600));
    log.apply_limits();
    assert_eq!((log.state(id).first, log.state(id).msgs), (Seq(41), 0));
}

#[test]
fn a_waiting_message_expires_by_itself() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let limits = StreamLimits { max_age: Some(Duration::from_millis(80)), ..StreamLimits::default() };
    let memory = StreamConfig { storage: Storage::Memory, ..limited("memory", limits.clone()) };
    let (log, _) = Log::open(config(dir.path(), vec![limited("aged", limits), memory])).expect("open");
    let (aged, memory) = (log.stream("aged").expect("there"), log.stream("memory").expect("there"));
    append_durably(&log, &[message(aged, "s", b"x")]);
    append_durably(&log, &[message(memory, "s", b"x")]);
    let start = std::time::Instant::now();
    while log.state(aged).msgs + log.state(memory).msgs > 0 {
        assert!(start.elapsed() < Duration::from_secs(10), "must go without another append");
        std::thread::yield_now();
    }
    assert!(start.elapsed() > Duration::from_millis(60), "not earlier");
}

#[test]
fn what_retention_takes_from_a_cursor_is_counted_once() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let limits = StreamLimits { max_msgs: Some(10), ..StreamLimits::default() };
    let open = || Log::open_sized(config(dir.path(), vec![limited("a", limits.clone())]), SMALL).expect("open").0;
    let log = open();
    let id = log.stream("a").expect("there");
    let (early, late) = (log.cursor("early", id), log.cursor("late", id));
    for _ in 0..25 {
        append_durably(&log, &[message(id, "s", b"x")]);
        late.advance(log.state(id).last);
    }
    assert_eq!((early.lost(), late.lost()), (15, 0));
    early.advance(Seq(20));
    for _ in 0..10 {
        append_durably(&log, &[message(id, "s", b"x")]);
    }
    assert_eq!((early.lost(), early.floor()), (20, Seq(20)));
    log.purge(id, Seq(35)).expect("accepted");
    assert_eq!(early.lost(), 20, "what a person removes is no loss");
    drop((log, early, late));
    let log = open();
    let (early, late) = (log.cursor("early", id), log.cursor("late", id));
    assert_eq!((early.lost(), early.floor(), late.lost(), late.floor()), (20, Seq(20), 0, Seq(25)));
    log.remove_cursor("late", id);
    assert_eq!(late.floor(), Seq(0));
    log.close();
    drop((log, early, late));
    assert_eq!(open().cursor("late", id).floor(), Seq(0));
}

#[test]
fn the_ledger_says_what_a_reader_lost_and_why() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let limits = StreamLimits { max_msgs: Some(10), ..StreamLimits::default() };
    let small =
        || LogConfig { max_bytes: 900 << 10, ..config(dir.path(), vec![limited("a", limits.clone()), stream("b")]) };
    let log = Log::open_sized(small(), SMALL).expect("open").0;
    let (a, b) = (log.stream("a").expect("there"), log.stream("b").expect("there"));
    let (slow, other, quick) = (log.cursor("slow", a), log.cursor("slow", b), log.cursor("quick", a));
    for _ in 0..15 {
        append_durably(&log, &[message(a, "s", b"12345")]);
        quick.advance(log.state(a).last);
    }
    let told = |log: &Log| -> Vec<(String, String, u64, u64, u64, u64, LossReason)> {
        let of = |e: LossEntry| (e.stream, e.reader, e.first.0, e.last.0, e.msgs, e.bytes, e.reason);
        log.losses().into_iter().map(of).collect()
    };
    // Subject, header and payload of each: 1 + 1 + 5 bytes.
    assert_eq!(told(&log), [("a".into(), "slow".into(), 1, 5, 5, 35, LossReason::MaxMsgs)]);
    // The reader catches up: what it loses after that is another episode.
    slow.advance(Seq(15));
    for _ in 0..11 {
        append_durably(&log, &[message(a, "s", b"12345")]);
        quick.advance(log.state(a).last);
    }
    assert_eq!(told(&log)[1], ("a".into(), "slow".into(), 16, 16, 1, 7, LossReason::MaxMsgs));
    for n in 0..200 {
        append_durably(&log, &[message(b, "s", &noise(n, 9000))]);
    }
    quiesce(&log);
    let before = told(&log);
    let lost = log.state(b).first.0 - 1;
    assert!(lost > 20);
    // The rest of `a` went with the first epochs.
    assert_eq!(before[2], ("a".into(), "slow".into(), 17, 26, 10, 70, LossReason::Disk));
    assert_eq!(before[3], ("b".into(), "slow".into(), 1, lost, lost, lost * 9002, LossReason::Disk));
    assert_eq!(other.lost(), lost);
    drop((slow, other, quick, log));
    let log = Log::open_sized(small(), SMALL).expect("open again").0;
    assert_eq!(told(&log), before);
}

#[test]
fn a_memory_stream_keeps_its_bound_and_never_reuses_a_sequence() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let limits = StreamLimits { max_bytes: Some(10_000), ..StreamLimits::default() };
    let memory = StreamConfig { storage: Storage::Memory, ..limited("m", limits) };
    let open = || Log::open_sized(config(dir.path(), vec![memory.clone(), stream("f")]), SMALL).expect("open").0;
    let mut seen = 0;
    for _ in 0..3 {
        let log = open();
        let (m, f) = (log.stream("m").expect("there"), log.stream("f").expect("there"));
        let cursor = log.cursor("c", m);
        let before = cursor.lost();
        for n in 0..100u64 {
            let appended = append(&log, &[message(m, "s", &noise(n, 500))]).expect("accepted");
            assert!(log.durable().borrow().ticket >= appended.ticket, "durable at once");
            let seq = appended.last_seq.expect("a message").0;
            assert!(seq > seen, "{seq} after {seen}");
            seen = seq;
        }
        let state = log.state(m);
        assert!(state.bytes <= 10_000 && state.msgs > 15, "{state:?}");
        assert_eq!(seqs(&read_all(&log, m, 0)), (state.first.0..=state.last.0).collect::<Vec<_>>());
        assert_eq!(cursor.lost() - before, 100 - state.msgs);
        append_durably(&log, &[message(f, "s", b"x"), message(m, "s", b"x")]);
        seen += 1;
    }
}

#[test]
fn stamps_become_wall_time_when_the_clock_of_their_boot_is_known() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let with = |clock: &Arc<ManualClock>| LogConfig {
        clock: Arc::<ManualClock>::clone(clock),
        ..config(dir.path(), vec![stream("a")])
    };
    let boot = |id: &str, seconds: u64| {
        Arc::new(ManualClock::new(Monotonic(seconds * 1_000_000_000), WallTime(0)).in_boot(id))
    };
    let stamp =
        |log: &Log, seq| match &log.read(log.stream("a").expect("there"), Seq(seq), 1, 1).expect("read").items[0] {
            Item::Message(m) => m.stamp,
            Item::Gap { .. } => panic!("a message"),
        };
    let clock = boot("one", 100);
    let (log, report) = Log::open_sized(with(&clock), SMALL).expect("open");
    assert_eq!(report.boot, 1);
    let id = log.stream("a").expect("there");
    append_durably(&log, &[message(id, "s", b"x")]);
    assert_eq!(log.time(stamp(&log, 1)).wall, WallTime(0));
    clock.advance(Duration::from_secs(7));
    clock.set_wall(WallTime(1_700_000_007_000_000_000));
    append_durably(&log, &[message(id, "s", b"x")]);
    let first = WallTime(1_700_000_000_000_000_000);
    assert_eq!(log.time(stamp(&log, 1)).wall, first);
    drop(log);
    let (log, report) = Log::open_sized(with(&boot("two", 1)), SMALL).expect("open again");
    assert_eq!(report.boot, 2);
    append_durably(&log, &[message(id, "s", b"x")]);
    assert_eq!(log.time(stamp(&log, 1)).wall, first);
    assert_eq!(stamp(&log, 3).boot, 2);
}

#[test]
fn a_stream_no_longer_configured_stays_readable() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (log, _) = Log::open_sized(config(dir.path(), vec![stream("a"), stream("b")]), SMALL).expect("open");
    let a = log.stream("a").expect("there");
    let uid = log.stream_uid(a);
    append_durably(&log, &[message(a, "s", b"x")]);
    drop(log);
    let (log, _) = Log::open_sized(config(dir.path(), vec![stream("b")]), SMALL).expect("open again");
    assert_eq!(seqs(&read_all(&log, a, 0)), [1]);
    assert!(log.streams()[a.0 as usize].config.is_none());
    drop(log);
    let (log, _) = Log::open_sized(config(dir.path(), vec![stream("c"), stream("a")]), SMALL).expect("open again");
    assert_eq!((log.stream("a"), log.stream_uid(a)), (Some(a), uid));
    assert_eq!(append_durably(&log, &[message(a, "s", b"x")]).last_seq, Some(Seq(2)));
}

#[test]
fn relaxed_acknowledgement_is_at_once_and_the_sync_follows() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let ack = AckPolicy::Interval(Duration::from_millis(20));
    let (log, _) = Log::open_sized(LogConfig { ack, ..config(dir.path(), vec![stream("a")]) }, SMALL).expect("open");
    let a = log.stream("a").expect("there");
    for n in 0..200 {
        append_durably(&log, &[message(a, "s", &noise(n, 1000))]);
    }
    drop(log);
    let (log, _) = Log::open_sized(config(dir.path(), vec![stream("a")]), SMALL).expect("open again");
    assert_eq!(log.state(a).msgs, 200);
}

#[test]
fn a_commit_waits_for_company_when_asked() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let max_delay = Duration::from_millis(50);
    let (log, _) =
        Log::open_sized(LogConfig { max_delay, ..config(dir.path(), vec![stream("a")]) }, SMALL).expect("open");
    let a = log.stream("a").expect("there");
    let before = log.stats().commits;
    let mut last = None;
    for _ in 0..20 {
        last = append(&log, &[message(a, "s", b"x")]).ok();
    }
    wait(&log, last.expect("accepted").ticket);
    assert!(log.stats().commits - before <= 3, "{}", log.stats().commits);
}

#[test]
fn slots_of_a_smaller_budget_grow_once_there_is_room_and_never_beyond_the_budget() {
    const BUDGET: u64 = 1 << 20;
    let dir = tempfile::tempdir().expect("temporary directory");
    let larger = plan::Sizes { slot_bytes: 160 << 10, group_bytes: 112 << 10, ..SMALL };
    let open = |sizes| {
        let config = LogConfig { max_bytes: BUDGET, ..config(dir.path(), vec![stream("a")]) };
        let (log, _) = Log::open_sized(config, sizes).expect("open");
        assert!(disk::allocated(dir.path(), None).expect("measured") <= BUDGET);
        log
    };
    let slot = || std::fs::metadata(dir.path().join("staging-1")).expect("there").len();
    let fill = |log: &Log, bytes| {
        let a = log.stream("a").expect("there");
        for n in 0..150 {
            append_durably(log, &[message(a, "s", &noise(n, bytes))]);
            assert!(disk::allocated(dir.path(), None).expect("measured") <= BUDGET);
        }
        super::model::quiesce(log);
    };
    let log = open(SMALL);
    fill(&log, 10_000);
    // Less free than the slots would take.
    assert!(disk::allocated(dir.path(), None).expect("measured") + (192 << 10) > BUDGET);
    drop(log);

    let log = open(larger);
    assert_eq!((slot(), log.shared().staging.slot_bytes()), (64 << 10, 64 << 10));
    assert_eq!(log.shared().staging.owed(), 192 << 10);
    fill(&log, 10_000);
    drop(log);
    let log = open(larger);
    assert_eq!((slot(), log.shared().staging.owed()), (160 << 10, 0));
    fill(&log, 10_000);
    drop(log);
    // And back: what no frame lies in is given back.
    let log = open(SMALL);
    let a = log.stream("a").expect("there");
    let items = read_all(&log, a, 1);
    assert_eq!(log.state(a).last, Seq(450));
    assert!(items.iter().all(|i| !matches!(i, Item::Gap { reason: GapReason::Damage, .. })));
    fill(&log, 10_000);
    drop(log);
    drop(open(SMALL));
    assert_eq!(slot(), 64 << 10);
}

#[test]
fn setting_a_damaged_store_aside_stays_within_a_full_budget() {
    const BUDGET: u64 = 1 << 20;
    let dir = tempfile::tempdir().expect("temporary directory");
    let open = || {
        let config = LogConfig { max_bytes: BUDGET, ..config(dir.path(), vec![stream("a")]) };
        let (log, report) = Log::open_sized(config, SMALL).expect("open");
        assert!(disk::allocated(dir.path(), None).expect("measured") <= BUDGET, "{report:?}");
        (log, report)
    };
    for round in 1u64..=3 {
        let (log, _) = open();
        let a = log.stream("a").expect("there");
        for n in 0..150 {
            append_durably(&log, &[message(a, "s", &noise(round * 1000 + n, 10_000))]);
            assert!(disk::allocated(dir.path(), None).expect("measured") <= BUDGET);
        }
        super::model::quiesce(&log);
        let before = read_all(&log, a, 1);
        drop(log);
        std::fs::write(dir.path().join("store/keyspaces/1/current"), b"??").expect("written");
        let (log, report) = open();
        assert!(report.quarantined.is_some() && report.damaged.is_empty(), "{report:?}");
        assert_eq!(seqs(&read_all(&log, a, 1)), seqs(&before));
    }
}
