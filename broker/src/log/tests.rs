//! Tests of the log as a whole, on real files.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::clock::SystemClock;

mod classes;
mod clocks;
mod drops;
mod model;
mod queries;
mod recovery;
mod retention;
mod wide;

/// Sizes that reach every edge with some hundred kilobytes.
const SMALL: plan::Sizes = plan::Sizes {
    slot_bytes: 64 << 10,
    epoch_raw_bytes: 48 << 10,
    group_bytes: 16 << 10,
    reserve_bytes: 4 << 10,
    table_bytes: 16 << 10,
};

/// A configuration with the smallest budget.
fn config(dir: &Path, streams: Vec<StreamConfig>) -> LogConfig {
    LogConfig {
        dir: dir.to_owned(),
        max_bytes: 32 << 20,
        min_free: 0,
        ack: AckPolicy::Synced,
        max_delay: Duration::ZERO,
        codec: BlockCodec::Lz4,
        streams,
        clock: Arc::new(SystemClock),
    }
}

fn stream(name: &str) -> StreamConfig {
    StreamConfig { name: name.into(), limits: StreamLimits::default(), storage: Storage::File }
}

fn limited(name: &str, limits: StreamLimits) -> StreamConfig {
    StreamConfig { limits, ..stream(name) }
}

fn message<'a>(stream: StreamId, subject: &'a str, payload: &'a [u8]) -> Entry<'a> {
    Entry::Message(NewMessage { stream, subject: subject.as_bytes(), headers: b"h", payload, tag: 5 })
}

/// Waits, without a runtime, until the ticket is durable.
fn wait(log: &Log, ticket: Ticket) {
    let mut mark = log.durable();
    loop {
        let now = *mark.borrow_and_update();
        assert!(!now.failed, "the log failed");
        if now.ticket >= ticket {
            return;
        }
        block_on(mark.changed()).expect("the log lives");
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("runtime").block_on(future)
}

/// Appends, again while the group being collected is full.
fn append(log: &Log, entries: &[Entry<'_>]) -> Result<Appended, AppendError> {
    loop {
        match log.append(entries) {
            Err(AppendError::Busy) => block_on(log.room()),
            other => return other,
        }
    }
}

fn append_durably(log: &Log, entries: &[Entry<'_>]) -> Appended {
    let appended = append(log, entries).expect("accepted");
    wait(log, appended.ticket);
    appended
}

/// Everything from `from` on, in small batches.
fn read_all(log: &Log, stream: StreamId, from: u64) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    let mut at = Seq(from);
    loop {
        let batch = log.read(stream, at, 37, 5000).expect("readable");
        if batch.items.is_empty() {
            return items;
        }
        assert!(batch.next > at);
        at = batch.next;
        for item in batch.items {
            match (items.last_mut(), &item) {
                (Some(Item::Gap { last, reason, .. }), Item::Gap { first, last: end, reason: same })
                    if last.next() == *first && reason == same =>
                {
                    *last = *end;
                }
                _ => items.push(item),
            }
        }
    }
}

fn seqs(items: &[Item]) -> Vec<u64> {
    let messages = items.iter().filter_map(|i| match i {
        Item::Message(m) => Some(m.seq.0),
        Item::Gap { .. } => None,
    });
    messages.collect()
}

fn gaps(items: &[Item]) -> Vec<(u64, u64, GapReason)> {
    let gaps = items.iter().filter_map(|i| match i {
        Item::Message(_) => None,
        Item::Gap { first, last, reason } => Some((first.0, last.0, *reason)),
    });
    gaps.collect()
}

/// Bytes that do not compress, the same for the same seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(len).collect()
}

#[test]
fn what_is_appended_is_read_back_before_and_after_a_restart() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (log, report) = Log::open(config(dir.path(), vec![stream("a"), stream("b")])).expect("open");
    assert!(report.created);
    let (a, b) = (log.stream("a").expect("configured"), log.stream("b").expect("configured"));
    let uid = log.stream_uid(a);
    for n in 0..500u32 {
        let text = format!("payload {n}");
        let group = [message(a, "s/1", text.as_bytes()), message(b, "s/2", b"x"), message(a, "s/3", b"")];
        let appended = append(&log, &group).expect("accepted");
        assert_eq!(appended.last_seq, Some(Seq(u64::from(n) * 2 + 2)));
    }
    append_durably(&log, &[message(b, "end", b"")]);
    let check = |log: &Log| {
        let items = read_all(log, a, 0);
        assert_eq!(seqs(&items), (1..=1000).collect::<Vec<_>>());
        let Item::Message(m) = &items[8] else { panic!("a message") };
        assert_eq!(
            (&m.subject[..], &m.headers[..], &m.payload[..], m.tag),
            (&b"s/1"[..], &b"h"[..], &b"payload 4"[..], 5)
        );
        assert_eq!(seqs(&read_all(log, b, 400)), (400..=501).collect::<Vec<_>>());
        assert_eq!(log.state(a).msgs, 1000);
        assert_eq!(log.state(b).last, Seq(501));
    };
    check(&log);
    log.close();
    assert_eq!(log.append(&[message(a, "", b"")]).map(|_| ()), Err(AppendError::Failed));
    drop(log);
    let (log, report) = Log::open(config(dir.path(), vec![stream("b"), stream("a")])).expect("open again");
    assert!(!report.created && report.damaged.is_empty());
    assert_eq!((log.stream("a"), log.stream_uid(a)), (Some(a), uid));
    check(&log);
    let appended = append_durably(&log, &[message(a, "s", b"later")]);
    assert_eq!(appended.last_seq, Some(Seq(1001)));
}

#[test]
fn many_epochs_stay_within_the_budget_and_the_newest_messages_stay() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (log, _) = Log::open(config(dir.path(), vec![stream("a"), stream("b")])).expect("open");
    let (a, b) = (log.stream("a").expect("configured"), log.stream("b").expect("configured"));
    let mut last = Seq(0);
    for n in 0..1200u64 {
        let payload = noise(n, 50_000);
        last =
            append_durably(&log, &[message(b, "b", b"small"), message(a, "a", &payload)]).last_seq.expect("a message");
        let used = disk::allocated(dir.path(), None).expect("measured");
        assert!(used <= 32 << 20, "{used} bytes after {n}");
    }
    let state = log.state(a);
    assert_eq!(state.last, last);
    assert!(state.first > Seq(1) && state.msgs > 300, "{state:?}");
    let check = |log: &Log| {
        let items = read_all(log, a, 1);
        let state = log.state(a);
        assert_eq!(gaps(&items), [(1, state.first.0 - 1, GapReason::Retention)]);
        assert_eq!(seqs(&items), (state.first.0..=state.last.0).collect::<Vec<_>>());
        for item in &items[1..] {
            let Item::Message(m) = item else { panic!("a message") };
            assert_eq!(m.payload, noise(m.seq.0 - 1, 50_000));
        }
        assert_eq!(state.msgs, state.last.0 + 1 - state.first.0);
    };
    check(&log);
    let before = (log.state(a), log.state(b));
    drop(log);
    let (log, _) = Log::open(config(dir.path(), vec![stream("a"), stream("b")])).expect("open again");
    assert_eq!((log.state(a), log.state(b)), before);
    check(&log);
}

#[test]
fn what_nobody_waits_for_becomes_durable_too_and_at_once_with_what_somebody_does() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (log, _) = Log::open(config(dir.path(), vec![stream("s")])).expect("a new log");
    let id = log.stream("s").expect("configured");
    let alone = log.append_unawaited(&[message(id, "a", b"alone")]).expect("room");
    wait(&log, alone.ticket);
    assert_eq!(log.state(id).last, Seq(1));
    let first = log.append_unawaited(&[message(id, "a", b"taken along")]).expect("room");
    let second = log.append(&[message(id, "a", b"waited for")]).expect("room");
    assert!(first.ticket < second.ticket);
    wait(&log, second.ticket);
    assert_eq!(seqs(&read_all(&log, id, 1)), [1, 2, 3]);
    log.append_unawaited(&[message(id, "a", b"at the end")]).expect("room");
    log.close();
    assert_eq!(log.state(id).last, Seq(4), "closing commits it");
}

#[test]
fn an_append_that_waits_for_its_commit_is_seen_to_wait() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let patient = LogConfig { max_delay: Duration::from_secs(3600), ..config(dir.path(), vec![stream("s")]) };
    let (log, _) = Log::open(patient).expect("a new log");
    // What opening has to save is on its way: an append would go along with it.
    while log.shared().lock().has_unsaved() {
        std::thread::yield_now();
    }
    assert_eq!(log.stats().oldest_unsynced, Duration::ZERO);
    let id = log.stream("s").expect("configured");
    log.append(&[message(id, "a", b"x")]).expect("room");
    let waited = log.stats().oldest_unsynced;
    assert!(waited > Duration::ZERO);
    assert!(log.stats().oldest_unsynced > waited, "it goes on waiting");
    log.close();
    assert_eq!(log.stats().oldest_unsynced, Duration::ZERO, "closing commits it");
}
