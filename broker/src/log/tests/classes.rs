//! Streams of different worth on one full disk.

use super::model::{copy_dir, quiesce};
use super::*;

const BUDGET: u64 = 2 << 20;

fn wanted(name: &str, priority: u8) -> StreamConfig {
    limited(name, StreamLimits { priority: Priority(priority), ..StreamLimits::default() })
}

fn open(dir: &Path, streams: Vec<StreamConfig>) -> Log {
    Log::open_sized(LogConfig { max_bytes: BUDGET, ..config(dir, streams) }, SMALL).expect("open").0
}

/// Appends to a stream that has much to say until it has overwritten itself some times; with each message `also`.
fn flood(log: &Log, noisy: StreamId, msgs: u64, mut also: impl FnMut(u64)) {
    let dir = log.shared().dir.clone();
    for n in 0..msgs {
        append_durably(log, &[message(noisy, "noise", &noise(n, 9000))]);
        also(n);
        assert!(disk::allocated(&dir, None).expect("measured") <= BUDGET);
    }
}

fn whole(log: &Log, stream: StreamId) -> bool {
    let items = read_all(log, stream, 1);
    gaps(&items).is_empty() && seqs(&items) == (1..=log.state(stream).last.0).collect::<Vec<_>>()
}

#[test]
fn the_lowest_priority_goes_first_however_young_it_is() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let streams = || vec![wanted("low", 1), wanted("plain", 5), wanted("high", 9)];
    let log = open(dir.path(), streams());
    let id = |log: &Log, name| log.stream(name).expect("there");
    let (low, plain, high) = (id(&log, "low"), id(&log, "plain"), id(&log, "high"));
    flood(&log, low, 400, |n| {
        if n % 4 == 0 {
            append_durably(&log, &[message(plain, "p", &noise(n, 500)), message(high, "h", &noise(n, 500))]);
        }
    });
    assert!(log.state(low).msgs < 400, "{:?}", log.state(low));
    assert!(whole(&log, plain) && whole(&log, high));
    // Now the one in the middle fills the disk: what is below it goes to the last epoch, what is above stays.
    flood(&log, plain, 400, |_| {});
    assert!(whole(&log, high));
    quiesce(&log);
    let left = log.state(low).msgs;
    assert!(left < 12, "{left} of the lowest are left");
    let held = [log.state(low), log.state(plain), log.state(high)];
    drop(log);
    let log = open(dir.path(), streams());
    assert_eq!([log.state(low), log.state(plain), log.state(high)], held);
    assert!(whole(&log, high));
}

#[test]
fn what_every_reader_confirmed_goes_before_what_one_still_needs() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let log = open(dir.path(), vec![wanted("sent", 9), wanted("needed", 0)]);
    let (sent, needed) = (log.stream("sent").expect("there"), log.stream("needed").expect("there"));
    let (done, other, behind) = (log.cursor("done", sent), log.cursor("other", sent), log.cursor("behind", needed));
    flood(&log, sent, 300, |n| {
        append_durably(&log, &[message(needed, "n", &noise(n, 2000))]);
        done.advance(log.state(sent).last);
        other.advance(log.state(sent).last);
    });
    assert!(log.state(sent).msgs < 300);
    assert_eq!((behind.lost(), done.lost(), other.lost()), (0, 0, 0));
    assert!(whole(&log, needed));
    assert_eq!(log.losses(), []);
}

#[test]
fn a_reserve_is_pushed_out_by_nobody_but_its_own_stream() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let reserve = 600 << 10;
    let reserved = StreamLimits { reserve: Some(reserve), priority: Priority(0), ..StreamLimits::default() };
    let log = open(dir.path(), vec![limited("r", reserved), wanted("noisy", 9)]);
    let (r, noisy) = (log.stream("r").expect("there"), log.stream("noisy").expect("there"));
    for n in 0..50 {
        append_durably(&log, &[message(r, "s", &noise(n, 9000))]);
    }
    flood(&log, noisy, 400, |_| {});
    assert!(whole(&log, r), "450,000 bytes are within the reserve");
    // Beyond its reserve it competes, and has the lowest priority.
    for n in 0..150 {
        append_durably(&log, &[message(r, "s", &noise(n, 9000)), message(noisy, "s", &noise(n, 900))]);
    }
    flood(&log, noisy, 200, |_| {});
    let held = log.state(r).bytes;
    assert!(held > reserve - (120 << 10) && held < reserve + (120 << 10), "{held} bytes of {reserve} reserved");
}

#[test]
fn a_quiet_stream_that_discards_nothing_does_not_pin_the_others() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let keep = StreamLimits { discard: Discard::New, ..StreamLimits::default() };
    let log = open(dir.path(), vec![limited("keep", keep), stream("noisy")]);
    let (keep, noisy) = (log.stream("keep").expect("there"), log.stream("noisy").expect("there"));
    // In every slot a few of the one and many of the other: were they stored together, nothing could ever be dropped.
    flood(&log, noisy, 600, |n| {
        append_durably(&log, &[message(keep, "k", &noise(n, 60))]);
    });
    assert!(whole(&log, keep));
    let state = log.state(noisy);
    assert!(state.first > Seq(300) && state.msgs > 80, "{state:?}");
    assert!(!log.stats().disk_full);
    // What a class has in many slots comes together in few epochs.
    let epochs = log.shared().lock().epochs.iter().filter(|e| e.disk_bytes < 12 << 10).count();
    assert!(epochs < 40, "{epochs} small epochs");
}

/// Three classes; a slot has just been sealed as three epochs, and the staging files hold its frames still.
fn sealed() -> (tempfile::TempDir, tempfile::TempDir, Vec<u32>) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let log = open(dir.path(), three());
    let [a, b, c] = ["a", "b", "c"].map(|name| log.stream(name).expect("there"));
    let epochs = |log: &Log| log.shared().lock().epochs.iter().map(|e| e.number).collect::<Vec<_>>();
    let (mut before, mut unsealed) = (Vec::new(), None);
    for n in 0.. {
        let (large, small) = (noise(n, 3000), noise(n, 40));
        append_durably(&log, &[message(a, "s", &small), message(b, "s", &large), message(c, "s", &small)]);
        while log.shared().lock().tail.sealed().is_some() {
            std::thread::yield_now();
        }
        let now = epochs(&log);
        if now != before && now.len() > 6 {
            drop(log);
            let new = now.into_iter().filter(|number| !before.contains(number)).collect();
            return (unsealed.expect("the first slot was not the last"), dir, new);
        }
        before = now;
        unsealed = Some(copy(dir.path()));
    }
    unreachable!("slots become full")
}

fn three() -> Vec<StreamConfig> {
    vec![wanted("a", 1), wanted("b", 2), wanted("c", 3)]
}

fn check_three(dir: &Path, what: &str) {
    let log = open(dir, three());
    quiesce(&log);
    let ids = ["a", "b", "c"].map(|name| log.stream(name).expect("there"));
    for id in ids {
        assert!(whole(&log, id), "{what}: {:?}", log.state(id));
        assert_eq!(log.state(id).msgs, log.state(id).last.0, "{what}: counted once");
        append_durably(&log, &[message(id, "s", b"goes on")]);
    }
    assert_eq!(log.state(ids[0]).last, log.state(ids[2]).last, "{what}");
}

/// Copies an epoch of one store into another.
fn put_epoch(from: &store::Store, to: &store::Store, number: u32) {
    let value = |stream, seq| from.value(&layout::key(number, stream, seq)).expect("readable").expect("there");
    let index = value(layout::INDEX_STREAM, 0);
    let (decoded, _) = layout::decode::<layout::EpochIndex>(layout::INDEX_VERSION, &index).expect("whole");
    assert!(decoded.tables.is_empty());
    let done = to.ingest(|put| {
        for entry in &decoded.streams {
            let mut first = 0;
            for step in &entry.blocks {
                first += step;
                put(layout::key(number, entry.id, first), value(entry.id, first))?;
            }
        }
        put(layout::key(number, layout::INDEX_STREAM, 0), index.clone())?;
        put(layout::key(number, layout::INDEX_STREAM, 1), value(layout::INDEX_STREAM, 1))
    });
    done.expect("put");
}

#[test]
fn a_kill_between_the_epochs_of_a_slot_loses_nothing_and_doubles_nothing() {
    let (unsealed, dir, new) = sealed();
    assert_eq!(new.len(), 3, "one epoch per class");
    let store = |dir: &Path| store::Store::open(&dir.join("store")).expect("open");
    let numbers = |dir: &Path| store(dir).epochs().expect("readable").into_iter().map(|e| e.0).collect::<Vec<_>>();
    let left = numbers(dir.path());
    let absorbed: Vec<u32> = numbers(unsealed.path()).into_iter().filter(|number| !left.contains(number)).collect();
    assert_eq!(absorbed.len(), 2, "those of both quiet classes: {left:?}");
    check_three(copy(dir.path()).path(), "not killed");
    for kept in 0..=3 {
        // What each new epoch absorbed is still there: it goes after the new one is on disk.
        let killed = copy(dir.path());
        std::fs::remove_dir_all(killed.path().join("store")).expect("there");
        copy_dir(&unsealed.path().join("store"), &killed.path().join("store"));
        let (from, to) = (store(dir.path()), store(killed.path()));
        new[..kept].iter().for_each(|number| put_epoch(&from, &to, *number));
        drop((from, to));
        check_three(killed.path(), &format!("killed after {kept} epochs of the slot"));
    }
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("temporary directory");
    copy_dir(from, to.path());
    to
}
