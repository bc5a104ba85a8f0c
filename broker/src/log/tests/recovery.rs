//! Damage on purpose, and what must happen then.

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use super::model::{copy_dir, quiesce};
use super::*;

fn open(dir: &Path) -> (Log, OpenReport) {
    Log::open_sized(config(dir, vec![stream("a"), stream("b")]), SMALL).expect("open")
}

/// A log with epochs and with frames that are in none: 60 messages in `a`, one group each, values in a table.
fn filled() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (log, _) = open(dir.path());
    let a = log.stream("a").expect("there");
    for n in 1..=60u64 {
        let value = n.to_le_bytes();
        let put = Entry::Put { table: TableId(0), key: b"n", value: &value };
        append_durably(&log, &[message(a, "s", &noise(n, 3000)), put]);
    }
    quiesce(&log);
    assert!(log.stats().epochs >= 2 && log.stats().tail_bytes > 10_000, "{:?}", log.stats());
    dir
}

fn staging(dir: &Path) -> [std::path::PathBuf; 2] {
    [dir.join("staging-0"), dir.join("staging-1")]
}

/// Frames in both slots that no epoch contains, in order of group: file, offset, length.
fn live_frames(dir: &Path) -> Vec<(std::path::PathBuf, usize, usize)> {
    let (log, _) = open(dir);
    let (after, seed) = (log.shared().lock().last_sealed_group, log.shared().seed);
    drop(log);
    let mut found = Vec::new();
    for path in staging(dir) {
        let bytes = fs::read(&path).expect("there");
        for frame in staging::scan(&bytes, seed, after).frames {
            let len = frame::frame_len(frame.body.len());
            let at = usize::try_from(frame.end).expect("small") - len;
            found.push((frame.header.group, path.clone(), at, len));
        }
    }
    found.sort();
    found.into_iter().map(|(_, path, at, len)| (path, at, len)).collect()
}

fn flip(path: &Path, at: usize) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).expect("long enough");
    file.write_all_at(&[byte[0] ^ 0x10], at as u64).expect("written");
}

#[test]
fn a_frame_cut_short_at_any_place_loses_only_itself() {
    let dir = filled();
    let frames = live_frames(dir.path());
    let (path, at, len) = frames.iter().rev().find(|f| f.2 > 2500).expect("a frame with a message");
    let group_end = frames.last().expect("frames");
    for cut in [0, 3, 8, 40, 55, 56, 57, 300, len - 9] {
        let copy = tempfile::tempdir().expect("temporary directory");
        copy_dir(dir.path(), copy.path());
        // As if this had been the last write, and the machine stopped in it: nothing was noted yet.
        fs::remove_file(copy.path().join("ends")).expect("there");
        for (other, begin, length) in frames.iter().filter(|f| (&f.0, f.1) >= (path, *at) && f.0 == *path) {
            let file = fs::OpenOptions::new()
                .write(true)
                .open(copy.path().join(other.file_name().expect("named")))
                .expect("there");
            let keep = if *begin == *at { cut } else { 0 };
            file.write_all_at(&vec![0; length - keep], (begin + keep) as u64).expect("written");
        }
        assert_eq!(&group_end.0, path, "the last frames lie in one slot");
        let (log, report) = open(copy.path());
        assert!(report.damaged.is_empty() && report.frames_lost == 0, "cut at {cut}: {report:?}");
        let a = log.stream("a").expect("there");
        let items = read_all(&log, a, 1);
        let last = log.state(a).last.0;
        assert!((50..60).contains(&last), "cut at {cut}: {last}");
        assert_eq!(seqs(&items), (1..=last).collect::<Vec<_>>());
        let value = log.table_get(TableId(0), b"n").expect("readable").expect("there");
        assert_eq!(value, last.to_le_bytes().to_vec(), "a group is whole or absent");
        assert_eq!(append_durably(&log, &[message(a, "s", b"x")]).last_seq, Some(Seq(last + 1)));
    }
}

#[test]
fn the_last_frames_are_damaged_and_not_unfinished_once_they_are_noted() {
    let dir = filled();
    let frames = live_frames(dir.path());
    let at = frames.iter().rposition(|f| f.2 > 2500).expect("a frame with a message");
    // Behind it is only what looking for the frames added: nothing with a message says that it was there.
    let (path, at, len) = &frames[at];
    let name = path.file_name().expect("named");
    type Harm<'a> = (&'a str, &'a dyn Fn(&Path));
    let harms: [Harm<'_>; 4] = [
        ("a bit flipped", &|file| flip(file, at + len / 2)),
        ("all zeroed from there", &|file| {
            let end = fs::read(file).expect("there").len();
            let file = fs::OpenOptions::new().write(true).open(file).expect("there");
            file.write_all_at(&vec![0; end - at], *at as u64).expect("written");
        }),
        ("the file shortened", &|file| {
            let file = fs::OpenOptions::new().write(true).open(file).expect("there");
            file.set_len(*at as u64).expect("shortened");
        }),
        ("the file removed", &|file| fs::remove_file(file).expect("there")),
    ];
    for (harm, damage) in harms {
        let copy = tempfile::tempdir().expect("temporary directory");
        copy_dir(dir.path(), copy.path());
        damage(&copy.path().join(name));
        let (log, report) = open(copy.path());
        let a = log.stream("a").expect("there");
        let items = read_all(&log, a, 1);
        let [(first, last, GapReason::Damage)] = gaps(&items)[..] else { panic!("{harm}: {:?}", gaps(&items)) };
        assert_eq!(last, 60, "{harm}");
        assert_eq!(seqs(&items), (1..first).collect::<Vec<_>>(), "{harm}");
        assert_eq!(report.damaged.len(), 1, "{harm}: {report:?}");
        assert!(report.frames_lost >= 1, "{harm}: {report:?}");
        assert_eq!(append_durably(&log, &[message(a, "s", b"x")]).last_seq, Some(Seq(61)), "{harm}: no sequence twice");
        drop(log);
        // Once said, it is known: not found again, and still a gap.
        let (log, report) = open(copy.path());
        assert!(report.damaged.is_empty(), "{harm}: {report:?}");
        assert_eq!(gaps(&read_all(&log, a, 1)), [(first, 60, GapReason::Damage)], "{harm}");
    }
}

#[test]
fn a_running_log_notes_how_far_it_is_durable() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (log, _) = open(dir.path());
    let a = log.stream("a").expect("there");
    append_durably(&log, &[message(a, "s", b"x"), message(a, "s", b"y")]);
    let group = log.shared().lock().next_group - 1;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (_, note) = ends::Ends::open(dir.path(), log.shared().seed).expect("readable");
        if note.group == group {
            assert_eq!(note.ends, [(a.0, 3)]);
            break;
        }
        assert!(note.group < group && Instant::now() < deadline, "{note:?}");
        std::thread::yield_now();
    }
}

#[test]
fn what_was_written_is_counted_across_restarts_and_costs_no_sync() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (log, _) = open(dir.path());
    let a = log.stream("a").expect("there");
    let before = log.stats().wear;
    for n in 0..20 {
        append_durably(&log, &[message(a, "s", &noise(n, 3000))]);
    }
    quiesce(&log);
    let wear = log.stats().wear;
    let stats = log.stats();
    assert_eq!(wear.payload_bytes - before.payload_bytes, 20 * 3002);
    // Every commit its pages, and what was sealed once more.
    assert!(stats.epochs >= 1);
    assert!(wear.written_bytes - before.written_bytes >= 20 * 4096 + stats.ingested_bytes, "{wear:?} {stats:?}");
    assert_eq!((wear.day_written_bytes, wear.day_payload_bytes), (wear.written_bytes, wear.payload_bytes));
    log.close();
    let last = log.stats().wear;
    drop(log);
    let (log, _) = open(dir.path());
    let again = log.stats().wear;
    assert_eq!(again.payload_bytes, last.payload_bytes);
    assert!(again.written_bytes >= last.written_bytes, "{again:?} {last:?}");
    assert!(again.day_written_bytes < wear.day_written_bytes, "since start: {again:?}");
}

#[test]
fn a_damaged_frame_between_whole_ones_is_one_reported_gap() {
    let dir = filled();
    let frames = live_frames(dir.path());
    let whole: Vec<_> = frames.iter().filter(|f| f.2 > 2500).collect();
    assert!(whole.len() > 3);
    for offset in [1, 10, 20, 60, 2000] {
        let copy = tempfile::tempdir().expect("temporary directory");
        copy_dir(dir.path(), copy.path());
        let (path, at, _) = whole[1];
        flip(&copy.path().join(path.file_name().expect("named")), at + offset);
        let (log, report) = open(copy.path());
        assert_eq!(report.frames_lost, 1);
        let [place] = &report.damaged[..] else { panic!("one place: {report:?}") };
        assert_eq!((&place.stream[..], place.first), ("a", place.last));
        let a = log.stream("a").expect("there");
        let items = read_all(&log, a, 1);
        assert_eq!(gaps(&items), [(place.first.0, place.last.0, GapReason::Damage)]);
        assert_eq!(items.len(), 60);
        assert_eq!(log.stats().damaged_msgs, 1);
        quiesce(&log);
        drop(log);
        let (log, report) = open(copy.path());
        assert!(report.damaged.len() <= 1, "reported until it is in an epoch");
        assert_eq!(gaps(&read_all(&log, a, 1)), [(place.first.0, place.last.0, GapReason::Damage)], "and remembered");
    }
}

#[test]
fn any_flipped_byte_in_the_staging_files_is_survived() {
    let dir = filled();
    for n in 0..60usize {
        let copy = tempfile::tempdir().expect("temporary directory");
        copy_dir(dir.path(), copy.path());
        flip(&staging(copy.path())[n % 2], (n * 7919) % (64 << 10));
        let (log, report) = open(copy.path());
        let a = log.stream("a").expect("there");
        let items = read_all(&log, a, 1);
        let state = log.state(a);
        let missing = 60 - seqs(&items).len();
        assert!(missing <= 1, "byte {n}: {report:?}");
        assert!(
            gaps(&items).iter().all(|g| g.2 == GapReason::Damage),
            "byte {n}: {:?} {report:?} {state:?}",
            gaps(&items)
        );
        assert_eq!(append_durably(&log, &[message(a, "s", b"x")]).last_seq, Some(state.last.next()));
    }
}

#[test]
fn lost_staging_files_are_a_gap_where_epochs_knew_better_and_no_sequence_comes_twice() {
    let dir = filled();
    for path in staging(dir.path()) {
        fs::write(&path, vec![0; 64 << 10]).expect("written");
    }
    fs::remove_file(dir.path().join("ends")).expect("there");
    let known = {
        let store = store::Store::open(&dir.path().join("store")).expect("open");
        let newest = store.epochs().expect("listed").last().expect("one").0;
        let value = store.value(&layout::key(newest, layout::INDEX_STREAM, 1)).expect("read").expect("there");
        let (snapshot, _) = layout::decode::<layout::Snapshot>(layout::SNAPSHOT_VERSION, &value).expect("ours");
        snapshot.streams[0].next
    };
    let (log, _) = open(dir.path());
    let a = log.stream("a").expect("there");
    let items = read_all(&log, a, 1);
    assert_eq!(log.state(a).last.next(), Seq(known));
    assert_eq!(seqs(&items).len() as u64 + gaps(&items).iter().map(|g| g.1 - g.0 + 1).sum::<u64>(), known - 1);
    assert!(gaps(&items).iter().all(|g| g.2 == GapReason::Damage), "{:?}", gaps(&items));
    assert_eq!(append_durably(&log, &[message(a, "s", b"x")]).last_seq, Some(Seq(known)));
}

#[test]
fn a_damaged_block_is_a_gap_and_the_stream_goes_on() {
    let dir = filled();
    let tables = dir.path().join("store/keyspaces/1/tables");
    let mut files: Vec<_> = fs::read_dir(&tables).expect("there").map(|e| e.expect("entry").path()).collect();
    files.sort();
    let clean = {
        let (log, _) = open(dir.path());
        read_all(&log, log.stream("a").expect("there"), 1).len()
    };
    assert_eq!(clean, 60);
    flip(&files[0], 9000);
    let (log, _) = open(dir.path());
    let a = log.stream("a").expect("there");
    let items = read_all(&log, a, 1);
    let [(first, last, GapReason::Damage)] = gaps(&items)[..] else { panic!("one gap: {:?}", gaps(&items)) };
    assert!(last - first < 15, "one block: {first}..={last}");
    let expected: Vec<u64> = (1..=60).filter(|s| !(first..=last).contains(s)).collect();
    assert_eq!(seqs(&items), expected);
    assert_eq!(log.stats().damaged_msgs, last - first + 1);
    assert_eq!(log.table_get(TableId(0), b"n").expect("readable").expect("there"), 60u64.to_le_bytes().to_vec());
}

#[test]
fn of_a_store_that_does_not_open_what_is_whole_is_kept() {
    for (spoil, gone) in [
        ("keyspaces/1/current", 0..=0),
        ("keyspaces/1/tables", 1..=25),
        ("version", 0..=0),
        ("keyspaces/0/current", 0..=0),
    ] {
        let dir = filled();
        let uid = {
            let (log, _) = open(dir.path());
            log.stream_uid(log.stream("a").expect("there"))
        };
        let path = dir.path().join("store").join(spoil);
        if path.is_dir() {
            let mut tables: Vec<_> = fs::read_dir(&path).expect("there").map(|e| e.expect("entry").path()).collect();
            tables.sort();
            fs::remove_file(&tables[0]).expect("removed");
        } else {
            fs::write(&path, b"??").expect("written");
        }
        let (log, report) = open(dir.path());
        assert_eq!(report.quarantined, Some(dir.path().join("quarantine/1/store")), "{spoil}: {report:?}");
        assert!(dir.path().join("quarantine/1/store").exists());
        let a = log.stream("a").expect("there");
        assert_eq!(log.stream_uid(a), uid);
        let items = read_all(&log, a, 1);
        assert_eq!(log.state(a).last, Seq(60), "{spoil}");
        let gaps = gaps(&items);
        assert!(gaps.len() <= 1 && gaps.iter().all(|g| g.2 == GapReason::Damage), "{spoil}: {gaps:?}");
        let missing: u64 = gaps.iter().map(|g| g.1 - g.0 + 1).sum();
        assert!(gone.contains(&missing), "{spoil}: {gaps:?}");
        assert_eq!(seqs(&items).len() as u64 + missing, 60, "{spoil}");
        assert_eq!(append_durably(&log, &[message(a, "s", b"x")]).last_seq, Some(Seq(61)));
        drop(log);
        let (log, report) = open(dir.path());
        assert!(report.quarantined.is_none());
        assert_eq!(log.state(a).last, Seq(61));
        assert_eq!(read_all(&log, a, 1).len(), items.len() + 1, "{spoil}");
    }
}

/// Every file below `dir`, by its path there.
fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(folder).expect("there") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.push(path.strip_prefix(dir).expect("below").to_owned());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn any_one_file_gone_cut_zeroed_or_flipped_costs_one_gap_that_verifying_finds() {
    let whole = filled();
    // Opened once more, so that both files that say what the directory is are there, and all is noted.
    drop(open(whole.path()));
    type Harm<'a> = (&'a str, &'a dyn Fn(&Path));
    let bytes = |path: &Path| fs::read(path).expect("there");
    let harms: [Harm<'_>; 4] = [
        ("removed", &|path| fs::remove_file(path).expect("removed")),
        ("cut", &|path| fs::write(path, &bytes(path)[..bytes(path).len() / 2]).expect("written")),
        ("zeroed", &|path| fs::write(path, vec![0; bytes(path).len()]).expect("written")),
        ("flipped", &|path| {
            let mut bytes = bytes(path);
            let middle = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(middle) {
                *byte ^= 4;
            }
            fs::write(path, bytes).expect("written");
        }),
    ];
    for name in files(whole.path()) {
        for (harm, damage) in harms {
            let what = format!("{} {harm}", name.display());
            let dir = tempfile::tempdir().expect("temporary directory");
            copy_dir(whole.path(), dir.path());
            damage(&dir.path().join(&name));
            let verified = verify(dir.path()).unwrap_or_else(|e| panic!("{what}: {e}"));
            let (log, report) = open(dir.path());
            let a = log.stream("a").unwrap_or_else(|| panic!("{what}: the stream is gone"));
            let items = read_all(&log, a, 1);
            let gaps = gaps(&items);
            let missing: u64 = gaps.iter().map(|g| g.1 - g.0 + 1).sum();
            assert!(gaps.len() <= 1 && gaps.iter().all(|g| g.2 == GapReason::Damage), "{what}: {gaps:?}");
            // An epoch or a slot at most.
            assert!(missing <= 25, "{what}: {gaps:?}");
            assert_eq!((log.state(a).last, seqs(&items).len() as u64 + missing), (Seq(60), 60), "{what}: {report:?}");
            let found = verified.streams.iter().find(|s| s.name == "a").unwrap_or_else(|| panic!("{what}: not found"));
            assert_eq!(found.msgs, seqs(&items).len() as u64, "{what}: {verified:?}");
            assert_eq!(
                verified.is_sound(),
                verified.opened.damaged.is_empty()
                    && report.quarantined.is_none()
                    && !report.format_damaged
                    && gaps.is_empty(),
                "{what}: {verified:?}"
            );
            // A copy that is not there may not have been made yet.
            if name.starts_with("FORMAT") || (name.starts_with("FORMAT.copy") && harm != "removed") {
                assert!(!verified.is_sound() && missing == 0, "{what}");
            }
            assert_eq!(append_durably(&log, &[message(a, "s", b"x")]).last_seq, Some(Seq(61)), "{what}");
            drop(log);
            let (log, again) = open(dir.path());
            assert!(
                again.quarantined.is_none() && !again.format_damaged && again.damaged.is_empty(),
                "{what}: {again:?}"
            );
            assert_eq!(read_all(&log, a, 1).len(), items.len() + 1, "{what}");
        }
    }
}

#[test]
fn without_format_and_its_copy_the_epochs_are_kept_and_no_sequence_comes_twice() {
    let dir = filled();
    for name in ["FORMAT", "FORMAT.copy"] {
        fs::remove_file(dir.path().join(name)).expect("there");
    }
    assert!(!verify(dir.path()).expect("readable").is_sound());
    let (log, report) = open(dir.path());
    assert!(report.format_damaged && report.quarantined.is_none(), "{report:?}");
    let a = log.stream("a").expect("there");
    let items = read_all(&log, a, 1);
    let [(first, 60, GapReason::Damage)] = gaps(&items)[..] else { panic!("{:?} {report:?}", gaps(&items)) };
    assert_eq!(seqs(&items), (1..first).collect::<Vec<_>>());
    assert!(first > 30, "{first}");
    assert_eq!(append_durably(&log, &[message(a, "s", b"x")]).last_seq, Some(Seq(61)));
}

#[test]
fn a_file_of_the_store_cut_short_is_survived() {
    fn files(dir: &Path) -> Vec<std::path::PathBuf> {
        let paths = fs::read_dir(dir).expect("there").map(|entry| entry.expect("entry").path());
        paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
    }
    let whole = filled();
    let store = whole.path().join("store");
    for file in files(&store) {
        let length = fs::metadata(&file).expect("there").len();
        for keep in [8, length / 2] {
            let dir = filled();
            let cut = dir.path().join("store").join(file.strip_prefix(&store).expect("below it"));
            // Names of files differ from one filled store to the next only if it was filled otherwise.
            fs::OpenOptions::new().write(true).open(&cut).expect("there").set_len(keep.min(length)).expect("cut");
            let (log, _) = open(dir.path());
            let a = log.stream("a").expect("its name was in the staging file");
            assert_eq!(log.state(a).last, Seq(60), "{} cut to {keep}", cut.display());
        }
    }
}

#[test]
fn quarantine_goes_when_its_room_is_needed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    for place in ["damaged-1", "quarantine/1"] {
        fs::create_dir_all(dir.path().join(place)).expect("made");
        fs::write(dir.path().join(place).join("table"), noise(1, 200_000)).expect("written");
    }
    let small = LogConfig { max_bytes: 1 << 20, ..config(dir.path(), vec![stream("a")]) };
    let (log, _) = Log::open_sized(small, SMALL).expect("open");
    let a = log.stream("a").expect("there");
    for n in 0..200 {
        append_durably(&log, &[message(a, "s", &noise(n, 5000))]);
        assert!(disk::allocated(dir.path(), None).expect("measured") <= 1 << 20);
    }
    assert!(!dir.path().join("damaged-1").exists() && !dir.path().join("quarantine/1").exists());
}

#[test]
fn a_directory_that_is_not_ours_is_left_alone() {
    let try_open = |dir: &Path| Log::open(config(dir, vec![stream("a")])).map(|_| ()).expect_err("refused");
    let dir = tempfile::tempdir().expect("temporary directory");
    let (log, _) = Log::open(config(dir.path(), vec![stream("a")])).expect("open");
    let locked = try_open(dir.path());
    assert_eq!(locked, OpenError::Locked { dir: dir.path().to_owned(), pid: Some(std::process::id()) });
    drop(log);

    fs::write(dir.path().join("FORMAT"), "headwater-log\nversion = 2\nseed = 0\n").expect("written");
    let newer = try_open(dir.path());
    assert!(newer.to_string().contains("format version 2, written by a newer program"), "{newer}");
    let other = tempfile::tempdir().expect("temporary directory");
    fs::create_dir(other.path().join("store")).expect("made");
    assert!(matches!(try_open(other.path()), OpenError::NotALog { .. }));
    fs::write(other.path().join("FORMAT"), "something else").expect("written");
    assert!(matches!(try_open(other.path()), OpenError::NotALog { .. }));

    let file = dir.path().join("LOCK");
    assert!(matches!(try_open(&file), OpenError::NotWritable { .. }));
    let small = LogConfig { max_bytes: 1 << 20, ..config(dir.path(), vec![]) };
    let told = Log::open(small).map(|_| ()).expect_err("refused").to_string();
    assert_eq!(told, "disk budget of 1048576 bytes is too small: at least 33554432 are needed");
    let twice = Log::open(config(dir.path(), vec![stream("a"), stream("a")])).map(|_| ()).expect_err("refused");
    assert_eq!(twice.to_string(), "stream \"a\" is configured twice");
    let name = Log::open(config(dir.path(), vec![stream("a b")])).map(|_| ()).expect_err("refused");
    assert!(name.to_string().starts_with("stream name \"a b\""), "{name}");
}

#[test]
fn an_unfinished_creation_is_finished() {
    let harms: [fn(&Path); 2] = [
        |marker| fs::remove_file(marker).expect("removed"),
        // Made and not written yet.
        |marker| fs::write(marker, "").expect("emptied"),
    ];
    for harm in harms {
        let dir = tempfile::tempdir().expect("temporary directory");
        drop(open(dir.path()));
        harm(&dir.path().join("store/version"));
        fs::OpenOptions::new()
            .write(true)
            .open(dir.path().join("staging-1"))
            .expect("there")
            .set_len(5000)
            .expect("cut");
        let (log, report) = open(dir.path());
        assert!(report.quarantined.is_none());
        let a = log.stream("a").expect("there");
        append_durably(&log, &[message(a, "s", b"x")]);
    }
}
