//! The log against a plain model in memory, under random operations.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::clock::{ManualClock, Monotonic, WallTime};

const NAMES: [&str; 5] = ["plain", "counted", "subjects", "new", "aged"];
const STREAMS: usize = NAMES.len();
/// Limited by age, by count and by subject at once.
const AGED: usize = 4;
const MAX_AGE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
enum Op {
    /// Messages (stream, subject, length) and table operations (key, length; `None` deletes) in one group.
    Append(Vec<(usize, u8, u16)>, Vec<(u8, Option<u8>)>),
    Purge(usize, u8),
    Advance(usize, u8),
    /// Seconds go by.
    Wait(u8),
    Reopen,
    /// As after SIGKILL: what is on disk now is opened elsewhere.
    Crash,
    Check,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let message = (0..STREAMS, 0u8..6, prop_oneof![0u16..300, 0u16..300, 3000u16..6000]);
    let table = (0u8..12, prop::option::weighted(0.8, any::<u8>()));
    let append = (prop::collection::vec(message, 0..6), prop::collection::vec(table, 0..3));
    let op = prop_oneof![
        30 => append.prop_map(|(m, t)| Op::Append(m, t)),
        2 => (0..STREAMS, any::<u8>()).prop_map(|(s, n)| Op::Purge(s, n)),
        3 => (0..STREAMS, any::<u8>()).prop_map(|(s, n)| Op::Advance(s, n)),
        3 => (1u8..40).prop_map(Op::Wait),
        1 => Just(Op::Reopen),
        1 => Just(Op::Crash),
        2 => Just(Op::Check),
    ];
    prop::collection::vec(op, 1..250)
}

#[derive(Clone)]
struct Stored {
    seq: u64,
    subject: String,
    payload: Vec<u8>,
    /// When it was stored.
    at: Duration,
}

#[derive(Default)]
struct Model {
    limits: StreamLimits,
    list: Vec<Stored>,
    last: u64,
    /// Up to here something was removed by a purge.
    purged: u64,
    /// Up to here a purge was asked for, if only of what was gone already.
    asked: u64,
    floor: u64,
    lost: u64,
}

fn size(stored: &Stored) -> u64 {
    (stored.subject.len() + 1 + stored.payload.len()) as u64
}

impl Model {
    fn refuses(&self, msgs: u64, bytes: u64) -> bool {
        self.limits.discard == Discard::New
            && (self.limits.max_msgs.is_some_and(|max| self.list.len() as u64 + msgs > max)
                || self.limits.max_bytes.is_some_and(|max| self.bytes() + bytes > max))
    }

    fn bytes(&self) -> u64 {
        self.list.iter().map(size).sum()
    }

    fn push(&mut self, subject: String, payload: Vec<u8>, at: Duration) {
        self.last += 1;
        self.list.push(Stored { seq: self.last, subject, payload, at });
    }

    fn enforce(&mut self, now: Duration) {
        if let Some(max) = self.limits.max_msgs_per_subject {
            let mut seen: BTreeMap<String, u32> = BTreeMap::new();
            let mut out = Vec::new();
            for message in self.list.iter().rev() {
                let n = seen.entry(message.subject.clone()).or_default();
                *n += 1;
                if *n > max {
                    out.push(message.seq);
                }
            }
            self.lost += out.iter().filter(|s| **s > self.floor).count() as u64;
            self.list.retain(|m| !out.contains(&m.seq));
        }
        if let Some(max) = self.limits.max_age {
            self.lost += self.list.iter().filter(|m| now - m.at > max && m.seq > self.floor).count() as u64;
            self.list.retain(|m| now - m.at <= max);
        }
        if self.limits.discard == Discard::New {
            return;
        }
        while self.limits.max_msgs.is_some_and(|max| self.list.len() as u64 > max)
            || self.limits.max_bytes.is_some_and(|max| self.bytes() > max)
        {
            let gone = self.list.remove(0);
            self.lost += u64::from(gone.seq > self.floor);
        }
    }
}

struct World {
    dir: tempfile::TempDir,
    log: Option<Log>,
    small: bool,
    streams: Vec<Model>,
    table: BTreeMap<u8, Vec<u8>>,
    clock: Arc<ManualClock>,
    /// Since the clock began.
    now: Duration,
}

impl World {
    fn new(small: bool) -> World {
        let counted = StreamLimits { max_msgs: Some(40), max_bytes: Some(20_000), ..StreamLimits::default() };
        let limits = [
            StreamLimits::default(),
            // Where the disk discards too, what is counted off after that depends on when it did.
            if small { StreamLimits::default() } else { counted },
            StreamLimits { max_msgs_per_subject: Some(3), ..StreamLimits::default() },
            StreamLimits {
                max_msgs: Some(60),
                max_bytes: Some(30_000),
                discard: Discard::New,
                ..StreamLimits::default()
            },
            StreamLimits {
                max_age: Some(MAX_AGE),
                max_msgs_per_subject: Some(5),
                max_msgs: if small { None } else { Some(25) },
                ..StreamLimits::default()
            },
        ];
        let streams = limits.into_iter().map(|limits| Model { limits, ..Model::default() });
        let mut world = World {
            dir: tempfile::tempdir().expect("temporary directory"),
            log: None,
            small,
            streams: streams.collect(),
            table: BTreeMap::new(),
            clock: Arc::new(ManualClock::new(Monotonic(0), WallTime(0)).in_boot("model")),
            now: Duration::ZERO,
        };
        world.open();
        // From the beginning: only what is lost while a cursor exists is counted for it.
        for at in 0..STREAMS {
            assert_eq!(world.log().cursor("c", world.id(at)).floor(), Seq(0));
        }
        world
    }

    fn config(&self) -> LogConfig {
        let streams = NAMES.iter().zip(&self.streams).map(|(name, m)| limited(name, m.limits.clone()));
        // Just enough for the slots, fjall's own files and some epochs.
        let max_bytes = if self.small { 900 << 10 } else { 32 << 20 };
        let clock = Arc::<ManualClock>::clone(&self.clock);
        LogConfig { max_bytes, clock, ..config(self.dir.path(), streams.collect()) }
    }

    fn open(&mut self) {
        let (log, report) = Log::open_sized(self.config(), SMALL).expect("open");
        assert!(report.damaged.is_empty(), "{report:?}");
        self.log = Some(log);
    }

    fn log(&self) -> &Log {
        self.log.as_ref().expect("open between operations")
    }

    fn id(&self, at: usize) -> StreamId {
        self.log().stream(NAMES[at]).expect("configured")
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Append(messages, tables) => self.append(messages, tables),
            Op::Purge(at, part) => {
                let through = self.streams[*at].last * u64::from(*part) / 255;
                self.log().purge(self.id(*at), Seq(through)).expect("accepted");
                let model = &mut self.streams[*at];
                if model.list.first().is_some_and(|m| m.seq <= through) {
                    model.purged = model.purged.max(through);
                }
                model.asked = model.asked.max(through);
                model.list.retain(|m| m.seq > through);
            }
            Op::Advance(at, part) => {
                let floor = self.streams[*at].last * u64::from(*part) / 255;
                self.log().cursor("c", self.id(*at)).advance(Seq(floor));
                self.streams[*at].floor = self.streams[*at].floor.max(floor);
            }
            Op::Wait(seconds) => {
                let seconds = Duration::from_secs(u64::from(*seconds));
                self.clock.advance(seconds);
                self.now += seconds;
                self.log().apply_limits();
                for model in &mut self.streams {
                    model.enforce(self.now);
                }
            }
            Op::Reopen => {
                self.log = None;
                self.open();
                self.check(true);
            }
            Op::Crash => {
                let copy = tempfile::tempdir().expect("temporary directory");
                quiesce(self.log());
                copy_dir(self.dir.path(), copy.path());
                self.log = None;
                self.dir = copy;
                self.open();
                // Cursors may have fallen back to what was last committed.
                for at in 0..STREAMS {
                    let floor = self.log().cursor("c", self.id(at)).floor().0;
                    assert!(floor <= self.streams[at].floor);
                    let lost = self.log().cursor("c", self.id(at)).lost();
                    assert!(lost <= self.streams[at].lost || self.small || at == AGED);
                    self.streams[at].floor = floor;
                    self.streams[at].lost = lost;
                }
                self.check(false);
            }
            Op::Check => self.check(true),
        }
        let used = disk::allocated(self.dir.path(), None).expect("measured");
        assert!(used <= self.config().max_bytes, "{used} bytes allocated");
    }

    fn append(&mut self, messages: &[(usize, u8, u16)], tables: &[(u8, Option<u8>)]) {
        let list: Vec<(usize, String, Vec<u8>)> = messages
            .iter()
            .map(|(at, subject, len)| {
                (*at, format!("s/{subject}"), noise(u64::from(*len) + u64::from(*subject), usize::from(*len)))
            })
            .collect();
        let ids: Vec<StreamId> = (0..STREAMS).map(|at| self.id(at)).collect();
        let keys: Vec<(Vec<u8>, Option<Vec<u8>>)> = tables
            .iter()
            .map(|(key, value)| (vec![*key; 20], value.map(|v| noise(u64::from(v), usize::from(v) * 2))))
            .collect();
        let mut group: Vec<Entry<'_>> = list.iter().map(|(at, s, p)| message(ids[*at], s, p)).collect();
        for (key, value) in &keys {
            group.push(match value {
                Some(value) => Entry::Put { table: TableId(2), key, value },
                None => Entry::Delete { table: TableId(2), key },
            });
        }
        let mut extra = [(0, 0); STREAMS];
        for (at, subject, payload) in &list {
            extra[*at].0 += 1;
            extra[*at].1 += (subject.len() + 1 + payload.len()) as u64;
        }
        let refused = (0..STREAMS).any(|at| extra[at].0 > 0 && self.streams[at].refuses(extra[at].0, extra[at].1));
        let disk_full = self.log().stats().disk_full;
        match append(self.log(), &group) {
            Ok(appended) => {
                assert!(!refused, "the model refuses");
                wait(self.log(), appended.ticket);
            }
            Err(AppendError::Full { limit: "tables", .. }) => return,
            Err(AppendError::Full { limit: "disk", .. }) => {
                assert!(self.small && (disk_full || self.log().stats().disk_full));
                return;
            }
            Err(AppendError::Full { stream, limit }) => {
                assert!(refused, "{stream}: {limit}");
                return;
            }
            Err(AppendError::TooLarge { .. }) => return,
            Err(other) => panic!("{other}"),
        }
        for (at, subject, payload) in list {
            self.streams[at].push(subject, payload, self.now);
        }
        for (key, value) in tables {
            match value {
                Some(v) => self.table.insert(*key, noise(u64::from(*v), usize::from(*v) * 2)),
                None => self.table.remove(key),
            };
        }
        for model in &mut self.streams {
            model.enforce(self.now);
        }
    }

    fn check(&mut self, exact_cursors: bool) {
        // Nothing is dropped between one look and the next.
        quiesce(self.log());
        for (at, name) in NAMES.iter().enumerate() {
            let id = self.id(at);
            let state = self.log().state(id);
            if self.small {
                // The disk budget may have discarded any part of the past.
                let items = read_all(self.log(), id, 1);
                let held = seqs(&items);
                let model = &mut self.streams[at];
                let gone: Vec<u64> = model.list.iter().map(|m| m.seq).filter(|s| !held.contains(s)).collect();
                assert!(at != 3 || gone.is_empty(), "what must not be discarded is there");
                model.lost += gone.iter().filter(|s| **s > model.floor).count() as u64;
                model.list.retain(|m| !gone.contains(&m.seq));
            }
            let model = &self.streams[at];
            assert_eq!(state.last.0, model.last, "{}", name);
            assert_eq!((state.msgs, state.bytes), (model.list.len() as u64, model.bytes()), "{}", name);
            let first = model.list.first().map_or(model.last + 1, |m| m.seq);
            if model.list.is_empty() {
                assert_eq!(state.first.0, first);
            } else {
                assert!(state.first.0 <= first);
            }
            let items = read_all(self.log(), id, 1);
            let mut expected = 1;
            let mut found: Vec<(u64, &[u8], &[u8])> = Vec::new();
            for item in &items {
                match item {
                    Item::Message(m) => {
                        assert_eq!(m.seq.0, expected);
                        assert_eq!(&m.headers[..], b"h");
                        found.push((m.seq.0, &m.subject, &m.payload));
                        expected += 1;
                    }
                    Item::Gap { first, last, reason } => {
                        assert_eq!(first.0, expected);
                        assert_ne!(*reason, GapReason::Damage);
                        let purge = *reason == GapReason::Purge;
                        assert!(!purge || first.0 <= model.asked, "{}: {item:?}", name);
                        // What the disk discarded first is not purged again.
                        assert!(purge || first.0 > model.purged || self.small, "{}: {item:?}", name);
                        expected = last.0 + 1;
                    }
                }
            }
            assert_eq!(expected, model.last + 1, "{}", name);
            let wanted: Vec<(u64, &[u8], &[u8])> =
                model.list.iter().map(|m| (m.seq, m.subject.as_bytes(), &m.payload[..])).collect();
            let numbers = || model.list.iter().map(|m| m.seq).collect::<Vec<_>>();
            assert!(found == wanted, "{}: found {:?}, expected {:?}", name, seqs(&items), numbers());
            let cursor = self.log().cursor("c", id);
            if exact_cursors && !self.small {
                assert_eq!(cursor.floor().0, model.floor, "{}", name);
                // Pieces with holes go whole there: of one that a reader is within, the most is counted that it can have lost.
                let counted = if at == AGED { cursor.lost() >= model.lost } else { cursor.lost() == model.lost };
                assert!(counted, "{name}: {} lost instead of {}", cursor.lost(), model.lost);
            }
        }
        let mut found = BTreeMap::new();
        self.log()
            .table_scan(TableId(2), &mut |key, value| {
                found.insert(key[0], value.to_vec());
            })
            .expect("readable");
        assert!(found == self.table, "table: {:?} instead of {:?}", found.keys(), self.table.keys());
        for (key, value) in &self.table {
            let got = self.log().table_get(TableId(2), &[*key; 20]).expect("readable");
            assert_eq!(got.as_deref(), Some(&value[..]));
        }
    }
}

/// Returns when everything asked for so far is durable and no epoch is being written: only then do files copied one after the other
/// belong together, as they would after a crash.
pub(super) fn quiesce(log: &Log) {
    append_durably(log, &[Entry::Delete { table: TableId(9), key: b"none" }]);
    while log.shared().lock().tail.sealed().is_some() {
        std::thread::yield_now();
    }
}

pub(super) fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("listed") {
        let entry = entry.expect("listed");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("known").is_dir() {
            copy_dir(&entry.path(), &target);
        } else if let Err(error) = std::fs::copy(entry.path(), &target) {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "dropped while this copied");
        }
    }
}

/// Few by default, because each one syncs files hundreds of times; `HEADWATER_MODEL_CASES` asks for more.
pub(super) fn cases() -> u32 {
    std::env::var("HEADWATER_MODEL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(16)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_log_does_what_the_model_does(ops in ops()) {
        let mut world = World::new(false);
        for op in &ops {
            world.apply(op);
        }
        world.check(true);
    }

    #[test]
    fn a_full_disk_discards_only_the_past_and_keeps_tables(ops in ops()) {
        let mut world = World::new(true);
        for op in &ops {
            // Copying a directory that is being sealed is no crash: files are copied one after the other.
            if !matches!(op, Op::Crash) {
                world.apply(op);
            }
        }
        world.check(false);
    }
}
