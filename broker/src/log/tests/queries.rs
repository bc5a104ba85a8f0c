//! Pages of queries against what reading everything finds.

use proptest::prelude::*;

use super::model::{cases, copy_dir, quiesce};
use super::*;
use crate::clock::{ManualClock, Monotonic, RELEASED, WallTime};
use crate::log::layout::{EpochIndex, INDEX_STREAM, INDEX_VERSION, SIGNATURES_STREAM, TABLE_BASE, decode, key};
use crate::log::store::Store;

fn filter(text: &str) -> Option<SubjectFilter> {
    Some(SubjectFilter::new(text.to_owned()).expect(text))
}

/// All pages of a query, one after the other; also how many blocks were read and skipped.
fn all_pages(log: &Log, id: StreamId, mut query: Query) -> (Vec<Item>, u64, u64) {
    let (mut items, mut read, mut skipped) = (Vec::new(), 0, 0);
    loop {
        let page = log.page(id, &query).expect("readable");
        assert!(page.items.len() <= query.max_msgs + 1, "a gap and no more beyond what was asked for");
        items.extend(page.items);
        (read, skipped) = (read + page.blocks_read, skipped + page.blocks_skipped);
        if !page.more {
            return (items, read, skipped);
        }
        match query.order {
            Order::Forward => {
                assert!(page.next > query.first, "it goes on");
                query.first = page.next;
            }
            Order::Backward => {
                assert!(query.last.is_none_or(|last| page.next < last), "it goes on");
                query.last = Some(page.next);
            }
        }
    }
}

type Plain = (u64, Stamp, Vec<u8>, Vec<u8>, Vec<u8>, u8);

fn plain(message: &StoredMessage) -> Plain {
    let StoredMessage { seq, stamp, subject, headers, payload, tag } = message;
    (seq.0, *stamp, subject.to_vec(), headers.to_vec(), payload.to_vec(), *tag)
}

fn messages(items: &[Item]) -> Vec<Plain> {
    let messages = items.iter().filter_map(|item| match item {
        Item::Message(message) => Some(plain(message)),
        Item::Gap { .. } => None,
    });
    messages.collect()
}

/// Every sequence that gaps name.
fn missing(items: &[Item]) -> Vec<u64> {
    let mut all: Vec<u64> = gaps(items).into_iter().flat_map(|(first, last, _)| first..=last).collect();
    all.sort_unstable();
    all
}

/// What a query should find, out of everything.
fn expected(all: &[Item], query: &Query) -> (Vec<Plain>, Vec<u64>) {
    let last = query.last.map_or(u64::MAX, |last| last.0);
    let range = query.first.0..=last;
    let taken = |subject: &[u8]| query.filter.as_ref().is_none_or(|filter| filter.matches(subject));
    let mut list: Vec<Plain> = messages(all).into_iter().filter(|m| range.contains(&m.0) && taken(&m.2)).collect();
    if query.order == Order::Backward {
        list.reverse();
    }
    let mut gone = missing(all);
    gone.retain(|seq| range.contains(seq) && query.filter.is_none());
    (list, gone)
}

#[derive(Clone, Debug)]
enum Op {
    /// Stream, subject, length; so many times.
    Append(usize, usize, u16, u8),
    Purge(usize, u8),
    Reopen,
}

const SUBJECTS: [&str; 8] = ["a/1", "a/2", "a/2/x", "a", "b/1/x", "/a", "$b/1", "rare/one"];
const FILTERS: [&str; 11] =
    ["a/1", "a/#", "a/+", "#", "+/1/#", "b/+/x", "rare/#", "none/at/all", "/+", "$b/#", "a/2/#"];
const NAMES: [&str; 3] = ["plain", "subjects", "memory"];

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let len = prop_oneof![4 => 0u16..400, 1 => 3000u16..6000];
    let op = prop_oneof![
        40 => (0usize..3, 0usize..SUBJECTS.len(), len, 1u8..12).prop_map(|(a, s, l, n)| Op::Append(a, s, l, n)),
        1 => (0usize..3, any::<u8>()).prop_map(|(a, n)| Op::Purge(a, n)),
        1 => Just(Op::Reopen),
    ];
    prop::collection::vec(op, 1..160)
}

/// Filter, backward, first, last, messages, bytes, reads.
type Asked = (Option<usize>, bool, u8, Option<u8>, usize, usize, usize);

fn queries() -> impl Strategy<Value = Vec<Asked>> {
    let one = (
        prop::option::weighted(0.8, 0..FILTERS.len()),
        any::<bool>(),
        any::<u8>(),
        prop::option::of(any::<u8>()),
        1usize..60,
        prop_oneof![Just(1usize), Just(5_000), Just(1 << 20)],
        prop_oneof![Just(1usize), Just(3), Just(1000)],
    );
    prop::collection::vec(one, 12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pages_hold_what_a_full_scan_would_leave(ops in ops(), queries in queries(), small: bool) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let few = StreamLimits { max_msgs_per_subject: Some(9), ..StreamLimits::default() };
        let ring = StreamLimits { max_bytes: Some(40_000), ..StreamLimits::default() };
        let memory = StreamConfig { storage: Storage::Memory, ..limited("memory", ring) };
        let open = || {
            let streams = vec![stream("plain"), limited("subjects", few.clone()), memory.clone()];
            let max_bytes = if small { 900 << 10 } else { 32 << 20 };
            Log::open_sized(LogConfig { max_bytes, ..config(dir.path(), streams) }, SMALL).expect("open").0
        };
        let mut log = open();
        for op in &ops {
            let id = |at: &usize| log.stream(NAMES[*at]).expect("configured");
            match op {
                Op::Append(at, subject, len, times) => {
                    for n in 0..*times {
                        let payload = noise(u64::from(*len) * 7 + u64::from(n), usize::from(*len));
                        append(&log, &[message(id(at), SUBJECTS[*subject], &payload)]).expect("accepted");
                    }
                }
                Op::Purge(at, part) => {
                    let through = log.state(id(at)).last.0 * u64::from(*part) / 512;
                    log.purge(id(at), Seq(through)).expect("accepted");
                }
                Op::Reopen => {
                    drop(log);
                    log = open();
                }
            }
        }
        quiesce(&log);
        for name in NAMES {
            let id = log.stream(name).expect("configured");
            let all = read_all(&log, id, 1);
            let last = log.state(id).last.0;
            for (at, backward, first, end, max_msgs, max_bytes, max_reads) in &queries {
                let part = |part: u8| last * u64::from(part) / 200;
                let query = Query {
                    filter: at.and_then(|at| filter(FILTERS[at])),
                    first: Seq(part(first / 2)),
                    last: end.map(|end| Seq(part(end))),
                    order: if *backward { Order::Backward } else { Order::Forward },
                    max_msgs: *max_msgs,
                    max_bytes: *max_bytes,
                    max_reads: *max_reads,
                };
                let (items, _, _) = all_pages(&log, id, query.clone());
                let (list, gone) = expected(&all, &query);
                prop_assert_eq!(messages(&items), list, "{} {:?}", name, query);
                prop_assert_eq!(missing(&items), gone, "{} {:?}", name, query);
            }
            for text in FILTERS {
                let query = Query { filter: filter(text), ..Query::default() };
                let found = log.next(id, Seq(0), query.filter.clone()).expect("readable");
                prop_assert_eq!(found.as_ref().map(plain), expected(&all, &query).0.first().cloned());
                let found = log.last(id, query.filter.clone()).expect("readable");
                prop_assert_eq!(found.as_ref().map(plain), expected(&all, &query).0.last().cloned());
            }
        }
    }
}

/// Epochs of a stream in which every hundredth message has a rare subject.
fn filled(dir: &Path) -> (Log, StreamId) {
    let (log, _) = Log::open_sized(config(dir, vec![stream("a"), stream("b")]), SMALL).expect("open");
    let (a, b) = (log.stream("a").expect("configured"), log.stream("b").expect("configured"));
    for n in 1..=4_000u64 {
        let subject = if n % 400 == 0 { "alarm/press".to_owned() } else { format!("plant/press-{}/data", n % 7) };
        append(&log, &[message(a, &subject, &noise(n, 200)), message(b, "other", b"x")]).expect("accepted");
    }
    quiesce(&log);
    assert!(log.stats().epochs > 10, "{}", log.stats().epochs);
    (log, a)
}

fn rare() -> Query {
    Query { filter: filter("alarm/#"), max_msgs: 1_000, ..Query::default() }
}

fn rare_seqs() -> Vec<u64> {
    (400..=4_000).step_by(400).collect()
}

#[test]
fn a_rare_subject_costs_the_blocks_that_hold_it_and_no_others() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (log, a) = filled(dir.path());
    let (_, blocks, skipped) = all_pages(&log, a, Query { max_msgs: 10_000, max_bytes: 1 << 30, ..Query::default() });
    assert!(blocks > 30 && skipped == 0, "{blocks}");
    for text in ["alarm/#", "alarm/press", "alarm/+"] {
        for order in [Order::Forward, Order::Backward] {
            let (items, read, skipped) = all_pages(&log, a, Query { filter: filter(text), order, ..rare() });
            let mut found = seqs(&items);
            found.sort_unstable();
            assert_eq!(found, rare_seqs());
            // Ten blocks hold one; one or two may look as if they did.
            assert!(read <= 12, "{read} of {blocks} were read for {text}");
            assert_eq!(read + skipped, blocks, "{text}");
        }
    }
    let (items, read, skipped) = all_pages(&log, a, Query { filter: filter("none/#"), ..rare() });
    assert!(items.is_empty() && read <= 2 && read + skipped == blocks, "{read}");
    // What begins with a wildcard may be anywhere.
    let (items, read, skipped) = all_pages(&log, a, Query { filter: filter("+/press"), ..rare() });
    assert_eq!((seqs(&items), read, skipped), (rare_seqs(), blocks, 0));
}

#[test]
fn signatures_are_small_beside_what_they_stand_for() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (log, _) = filled(dir.path());
    let shared = log.shared();
    let epochs: Vec<u32> = shared.lock().epochs.iter().map(|epoch| epoch.number).collect();
    let value = |epoch| shared.store.value(&key(epoch, SIGNATURES_STREAM, 0)).expect("readable").map_or(0, |v| v.len());
    let bytes: usize = epochs.into_iter().map(value).sum();
    let held: u64 = log.streams().iter().map(|stream| stream.state.bytes).sum();
    assert!(bytes > 0 && (bytes as u64) * 100 < held, "{bytes} bytes for {held}");
}

#[test]
fn an_answer_ends_where_its_reads_do_and_goes_on_from_there() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (log, a) = filled(dir.path());
    let query = Query { filter: filter("+/press"), max_reads: 3, ..Query::default() };
    let page = log.page(a, &query).expect("readable");
    assert!(page.more && page.blocks_read == 3 && page.next > Seq(1), "{page:?}");
    assert_eq!(seqs(&all_pages(&log, a, query).0), rare_seqs());
}

/// Writes every epoch of a closed log again, with other signatures or none.
fn rewrite(dir: &Path, signatures: impl Fn(Vec<u8>) -> Option<Vec<u8>>) {
    let store = Store::open(&dir.join("store")).expect("open");
    for (epoch, _) in store.epochs().expect("listed") {
        let index = store.value(&key(epoch, INDEX_STREAM, 0)).expect("readable").expect("there");
        let (index, _) = decode::<EpochIndex>(INDEX_VERSION, &index).expect("an index");
        let streams = index.streams.iter().map(|s| (s.id, &s.blocks));
        let tables = index.tables.iter().map(|t| (TABLE_BASE + u32::from(t.table), &t.blocks));
        let mut keys = Vec::new();
        for (id, steps) in streams.chain(tables) {
            let mut first = 0;
            for step in steps {
                first += step;
                keys.push(key(epoch, id, first));
            }
        }
        keys.extend([key(epoch, SIGNATURES_STREAM, 0), key(epoch, INDEX_STREAM, 0), key(epoch, INDEX_STREAM, 1)]);
        let value = |key: [u8; 16]| (key, store.value(&key).expect("readable").expect("there"));
        let mut values: Vec<_> = keys.into_iter().map(value).collect();
        let at = values.len() - 3;
        match signatures(std::mem::take(&mut values[at].1)) {
            Some(changed) => values[at].1 = changed,
            None => drop(values.remove(at)),
        }
        store.drop_epoch(epoch).expect("dropped");
        store.ingest(|put| values.into_iter().try_for_each(|(key, value)| put(key, value))).expect("ingested");
    }
}

#[test]
fn epochs_without_signatures_or_with_damaged_ones_are_read_as_a_whole() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (log, a) = filled(dir.path());
    let (_, blocks, _) = all_pages(&log, a, Query { max_msgs: 10_000, max_bytes: 1 << 30, ..Query::default() });
    drop(log);
    let other = |what: &str, change: &dyn Fn(Vec<u8>) -> Option<Vec<u8>>| {
        let copy = tempfile::tempdir().expect("temporary directory");
        copy_dir(dir.path(), copy.path());
        rewrite(copy.path(), change);
        assert!(verify(copy.path()).expect("verified").is_sound(), "{what}");
        let (log, report) =
            Log::open_sized(config(copy.path(), vec![stream("a"), stream("b")]), SMALL).expect("open again");
        assert!(report.damaged.is_empty() && report.damaged_epochs == 0, "{what}: {report:?}");
        for order in [Order::Forward, Order::Backward] {
            let (items, read, skipped) = all_pages(&log, a, Query { order, ..rare() });
            let mut found = seqs(&items);
            found.sort_unstable();
            assert_eq!((found, read, skipped), (rare_seqs(), blocks, 0), "{what}");
            assert!(gaps(&items).is_empty(), "{what}");
        }
        // What is stored from now on has signatures.
        for n in 0..600 {
            append(&log, &[message(a, "plant/x", &noise(n, 200))]).expect("accepted");
        }
        quiesce(&log);
        assert!(all_pages(&log, a, rare()).2 > 0, "{what}");
    };
    other("as an earlier build wrote it", &|_| None);
    other("a bit flipped", &|mut value| {
        let middle = value.len() / 2;
        value[middle] ^= 4;
        Some(value)
    });
    other("cut", &|mut value| {
        value.truncate(20);
        Some(value)
    });
    other("of a later version", &|mut value| {
        value[0] = 2;
        Some(value)
    });
}

#[test]
fn a_block_that_cannot_be_read_shows_where_it_may_hold_what_is_asked_for() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (log, a) = filled(dir.path());
    let state = log.state(a);
    // A full block, which the table keeps apart from others and from the directory.
    let (victim, seq, end) = rare_seqs()
        .into_iter()
        .find_map(|seq| {
            let piece = log.shared().lock().stream(a).held.piece_at(seq)?;
            let held::Source::Epoch(epoch) = piece.source else { return None };
            Some((epoch, seq, log.shared().behind_block(epoch, a.0, seq)?))
        })
        .expect("a block that is not the last of its epoch");
    let (first, value) = log.shared().store.block_at(victim, a.0, seq).expect("readable").expect("there");
    drop(log);
    let store = Store::open(&dir.path().join("store")).expect("open");
    let tables = store.tables_dir();
    drop(store);
    let mut found = 0;
    for file in std::fs::read_dir(tables).expect("listed").map(|entry| entry.expect("listed").path()) {
        let mut bytes = std::fs::read(&file).expect("readable");
        if let Some(at) = bytes.windows(value.len()).position(|window| window == value) {
            bytes[at + value.len() / 2] ^= 1;
            std::fs::write(&file, bytes).expect("written");
            found += 1;
        }
    }
    assert_eq!(found, 1);
    let (log, _) = Log::open_sized(config(dir.path(), vec![stream("a"), stream("b")]), SMALL).expect("open again");
    // Whoever asks for what the block does not hold does not come across it.
    let (items, _, _) = all_pages(&log, a, Query { filter: filter("none/#"), ..rare() });
    assert!(items.is_empty());
    for order in [Order::Backward, Order::Forward] {
        let (items, _, _) = all_pages(&log, a, Query { order, ..rare() });
        let mut left = seqs(&items);
        left.sort_unstable();
        assert_eq!(left, rare_seqs().into_iter().filter(|left| *left != seq).collect::<Vec<_>>());
        let [(from, to, GapReason::Damage)] = gaps(&items)[..] else { panic!("one gap: {:?}", gaps(&items)) };
        assert_eq!((from, to + 1), (first, end));
        let (items, _, _) = all_pages(&log, a, Query { order, ..Query::default() });
        assert_eq!(missing(&items), (from..=to).collect::<Vec<_>>());
        assert_eq!(seqs(&items).len() as u64 + (to + 1 - from), state.last.0);
    }
    assert_eq!(log.streams()[0].damaged_msgs, log.stats().damaged_msgs);
}

#[test]
fn answers_are_right_while_epochs_are_written_and_dropped() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let tight = LogConfig { max_bytes: 900 << 10, ..config(dir.path(), vec![stream("a")]) };
    let (log, _) = Log::open_sized(tight, SMALL).expect("open");
    let a = log.stream("a").expect("configured");
    let look = |order, text: Option<&str>| {
        let (items, _, _) = all_pages(&log, a, Query { filter: text.and_then(filter), order, ..Query::default() });
        for (seq, _, subject, _, payload, _) in messages(&items) {
            assert_eq!(subject, format!("s/{}", seq % 5).into_bytes());
            assert_eq!(payload, noise(seq, 900));
        }
        assert!(gaps(&items).iter().all(|gap| gap.2 == GapReason::Retention), "{:?}", gaps(&items));
        let found = seqs(&items);
        assert!(found.is_sorted_by(|a, b| if order == Order::Forward { a < b } else { a > b }));
    };
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for n in 1..=3_000u64 {
                append(&log, &[message(a, &format!("s/{}", n % 5), &noise(n, 900))]).expect("accepted");
            }
            quiesce(&log);
        });
        while !writing.is_finished() {
            look(Order::Forward, Some("s/3"));
            look(Order::Backward, Some("s/+"));
            look(Order::Backward, None);
        }
    });
    assert!(log.stats().epochs_dropped > 20, "{}", log.stats().epochs_dropped);
}

#[test]
fn memory_streams_answer_as_others_do_and_hold_what_their_budget_allows() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let limits = StreamLimits { max_bytes: Some(1 << 20), ..StreamLimits::default() };
    let memory = StreamConfig { storage: Storage::Memory, ..limited("m", limits) };
    let (log, _) = Log::open_sized(config(dir.path(), vec![memory]), SMALL).expect("open");
    let m = log.stream("m").expect("configured");
    for n in 1..=20_000u64 {
        let subject = if n % 1_900 == 0 { "alarm/x" } else { "data" };
        append(&log, &[message(m, subject, &noise(n, 200))]).expect("accepted");
    }
    let state = log.state(m);
    assert!(state.bytes <= 1 << 20 && state.first > Seq(10_000) && state.msgs > 3_000, "{state:?}");
    let held: Vec<u64> = (1..=10).map(|n| n * 1_900).filter(|seq| *seq >= state.first.0).collect();
    for order in [Order::Forward, Order::Backward] {
        let (items, read, skipped) = all_pages(&log, m, Query { order, max_msgs: 2, ..rare() });
        let mut found = seqs(&items);
        found.sort_unstable();
        assert_eq!((found, read, skipped), (held.clone(), 0, 0));
    }
    let (items, _, _) = all_pages(&log, m, Query { order: Order::Backward, ..Query::default() });
    assert_eq!(gaps(&items), [(1, state.first.0 - 1, GapReason::Retention)]);
    assert_eq!(seqs(&items), (state.first.0..=20_000).rev().collect::<Vec<_>>());
    assert_eq!(log.last(m, filter("alarm/#")).expect("readable").map(|m| m.seq.0), held.last().copied());
    assert_eq!(log.next(m, Seq(0), None).expect("readable").map(|m| m.seq), Some(state.first));
}

#[test]
fn the_first_message_since_a_time_is_found_over_boots_and_clocks_that_were_set() {
    const SECOND: u64 = 1_000_000_000;
    let dir = tempfile::tempdir().expect("temporary directory");
    let today = RELEASED.0 + 100 * 86_400 * SECOND;
    // Boots after another: the second began with a clock an hour behind, which was set right later; the third is never right.
    for (boot, wall) in [("1", today), ("2", today + 1_000 * SECOND), ("3", today + 9_000 * SECOND)] {
        let clock = Arc::new(ManualClock::new(Monotonic(SECOND), WallTime(wall)).in_boot(boot));
        clock.set_synced(boot != "3");
        let shared: Arc<dyn Clock> = clock.clone();
        let limits = StreamLimits { max_msgs: Some(1_500), ..StreamLimits::default() };
        let memory = StreamConfig { storage: Storage::Memory, ..stream("m") };
        let streams = vec![limited("a", limits), memory];
        let (log, _) =
            Log::open_sized(LogConfig { clock: shared, ..config(dir.path(), streams) }, SMALL).expect("open");
        let (a, m) = (log.stream("a").expect("configured"), log.stream("m").expect("configured"));
        for n in 0..600u64 {
            if n == 300 && boot == "2" {
                clock.set_wall(WallTime(today + 500 * SECOND));
            }
            append_durably(&log, &[message(a, "s", &noise(n, 200)), message(m, "s", b"x")]);
            clock.advance(Duration::from_secs(1));
        }
        append_durably(&log, &[message(a, "s", b"last")]);
        let mut starts = vec![0, today, today + 10 * SECOND, u64::MAX];
        starts.extend((0..40).map(|n| today + n * 250 * SECOND + 1));
        for id in [a, m] {
            let all: Vec<(Seq, WallTime)> = read_all(&log, id, 0)
                .into_iter()
                .filter_map(|item| match item {
                    Item::Message(m) => Some((m.seq, log.time(m.stamp).wall)),
                    Item::Gap { .. } => None,
                })
                .collect();
            for start in &starts {
                let expected = all.iter().find(|(_, time)| time.0 >= *start).map(|(seq, _)| *seq);
                assert_eq!(log.first_at(id, WallTime(*start)), Ok(expected), "boot {boot}, {start}");
            }
        }
    }
}
