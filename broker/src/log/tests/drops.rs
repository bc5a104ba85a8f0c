//! An epoch goes, and the process with it: what its readers lost is known all the same.

use std::fs;

use super::model::copy_dir;
use super::*;

const BUDGET: u64 = 900 << 10;

fn open(dir: &Path) -> Log {
    let keep = StreamLimits { discard: Discard::New, ..StreamLimits::default() };
    with(dir, limited("keep", keep))
}

fn with(dir: &Path, keep: StreamConfig) -> Log {
    let streams = vec![keep, stream("a")];
    Log::open_sized(LogConfig { max_bytes: BUDGET, ..config(dir, streams) }, SMALL).expect("open").0
}

/// Waits for the sealer, without a commit that would save something.
fn settle(log: &Log) {
    while log.shared().lock().tail.sealed().is_some() {
        std::thread::yield_now();
    }
}

/// What a person and a hub are told.
#[derive(Debug, PartialEq)]
struct Told {
    losses: Vec<LossEntry>,
    lost: u64,
    discarded: u64,
    held: StreamState,
    gaps: Vec<(u64, u64, GapReason)>,
}

fn told(log: &Log) -> Told {
    let a = log.stream("a").expect("there");
    loop {
        settle(log);
        let info = log.streams().into_iter().find(|s| s.name == "a").expect("there");
        let told = Told {
            losses: log.losses(),
            lost: log.cursor("slow", a).lost(),
            discarded: info.discarded_msgs,
            held: log.state(a),
            gaps: gaps(&read_all(log, a, 1)),
        };
        // Room may be made meanwhile (seen on a slow machine): then some of it is from before, and some from after.
        if log.losses() == told.losses {
            return told;
        }
    }
}

/// What is told after a kill is what was told before it. Opening may drop more, which is told, too: all that is missing is counted once.
fn check(found: &Told, before: &Told) {
    assert_eq!(found.losses[..before.losses.len()], before.losses[..]);
    let missing: u64 = found.gaps.iter().map(|gap| gap.1 - gap.0 + 1).sum();
    let ledger: u64 = found.losses.iter().map(|l| l.msgs).sum();
    assert_eq!((found.lost, ledger, found.discarded), (missing, missing, missing), "{found:?}");
    assert_eq!((found.held.last, found.held.msgs), (before.held.last, found.held.last.0 - missing));
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("temporary directory");
    copy_dir(from, to.path());
    to
}

#[test]
fn a_kill_after_a_drop_and_before_any_commit_hides_no_loss() {
    let dir = tempfile::tempdir().expect("temporary directory");
    // The first epoch holds what must stay, but only since it was written: the others are taken from behind it.
    let log = with(dir.path(), stream("keep"));
    let (keep, a) = (log.stream("keep").expect("there"), log.stream("a").expect("there"));
    append_durably(&log, &[message(keep, "s", b"x"), message(a, "s", b"x")]);
    log.cursor("slow", a).advance(Seq(1));
    for n in 0..20 {
        append_durably(&log, &[message(a, "s", &noise(n, 9000))]);
    }
    drop(log);
    let log = open(dir.path());
    let mut looked = 0;
    for n in 0..140 {
        let before = log.stats().epochs_dropped;
        let unsealed = copy(dir.path());
        append_durably(&log, &[message(a, "s", &noise(n, 9000))]);
        settle(&log);
        if log.stats().epochs_dropped == before {
            continue;
        }
        looked += 1;
        let before_kill = told(&log);
        assert!(before_kill.lost > 0);
        check(&before_kill, &before_kill);
        // Killed after the drop; and started more than once.
        let killed = copy(dir.path());
        for _ in 0..2 {
            check(&told(&open(killed.path())), &before_kill);
        }
        if log.stats().epochs_dropped > before + 1 {
            continue;
        }
        // Killed between the decision and the drop: the epoch is still there, and is not shown any more.
        let decided = copy(dir.path());
        fs::remove_dir_all(decided.path().join("store")).expect("there");
        copy_dir(&unsealed.path().join("store"), &decided.path().join("store"));
        let log = open(decided.path());
        check(&told(&log), &before_kill);
        let on_disk: u64 = log.shared().store.epochs().expect("readable").iter().map(|e| u64::from(e.0)).sum();
        let known: u64 = log.shared().lock().epochs.iter().map(|e| u64::from(e.number)).sum();
        assert_eq!(on_disk, known, "the epoch is gone");
        assert!(disk::allocated(decided.path(), None).expect("measured") <= BUDGET);
    }
    assert!(looked > 10, "{looked}");
}

#[test]
fn a_decision_about_a_store_that_was_lost_drops_nothing_of_the_next_one() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let log = open(dir.path());
    let a = log.stream("a").expect("there");
    let mut n = 0;
    while log.stats().epochs_dropped == 0 {
        append_durably(&log, &[message(a, "s", &noise(n, 9000))]);
        n += 1;
    }
    drop(log);
    fs::remove_dir_all(dir.path().join("store")).expect("there");
    let log = open(dir.path());
    let before = log.state(a).msgs;
    for n in 0..30 {
        append_durably(&log, &[message(a, "s", &noise(n, 9000))]);
    }
    settle(&log);
    let held = log.state(a);
    assert_eq!((held.msgs, log.stats().epochs_dropped), (before + 30, 0));
    drop(log);
    assert_eq!(open(dir.path()).state(a), held);
}

#[test]
fn what_was_dropped_from_the_middle_is_no_damage_after_a_restart() {
    let open = |dir: &Path| {
        let streams = vec![stream("a"), stream("b"), stream("c")];
        Log::open_sized(LogConfig { max_bytes: 2 << 20, ..config(dir, streams) }, SMALL).expect("open")
    };
    let dir = tempfile::tempdir().expect("temporary directory");
    let (log, _) = open(dir.path());
    let [a, b, c] = ["a", "b", "c"].map(|name| log.stream(name).expect("there"));
    let (of_a, of_b, of_c) = (log.cursor("r", a), log.cursor("r", b), log.cursor("r", c));
    let mut sealed = log.stats().epochs;
    let mut until_sealed = |streams: &[StreamId]| {
        while log.stats().epochs == sealed {
            for id in streams {
                append_durably(&log, &[message(*id, "s", &noise(7, 5000))]);
            }
            settle(&log);
        }
        sealed = log.stats().epochs;
    };
    // The reader of "c" needs the first epoch, that of "b" the last ones; nobody needs what lies between them.
    until_sealed(&[a, c]);
    until_sealed(&[a]);
    until_sealed(&[b]);
    until_sealed(&[b]);
    of_a.advance(log.state(a).last);
    of_b.advance(log.state(b).last);
    let last = log.state(a).last.0;
    let mut n = 0;
    while log.shared().lock().stream(a).held.pieces().any(|piece| piece.last == last) {
        append_durably(&log, &[message(b, "s", &noise(n, 5000))]);
        settle(&log);
        n += 1;
    }
    let told = gaps(&read_all(&log, a, 1));
    assert!(matches!(told[..], [(first, end, GapReason::Retention)] if first > 1 && end == last), "{told:?}");
    let check = |dir: &Path, last: u64| {
        for _ in 0..2 {
            let (log, report) = open(dir);
            assert!(report.damaged.is_empty(), "{report:?}");
            assert_eq!(log.state(a).last, Seq(last));
            assert!(gaps(&read_all(&log, a, 1)).iter().all(|gap| gap.2 == GapReason::Retention));
        }
    };
    check(copy(dir.path()).path(), last);
    append_durably(&log, &[message(a, "s", b"behind the hole")]);
    check(copy(dir.path()).path(), last + 1);
    drop((log, of_a, of_b, of_c));
    check(dir.path(), last + 1);
}
