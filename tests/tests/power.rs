//! G1 and G6 under power cuts: whatever a disk keeps of what was not synced, the log opens, and every acknowledged message is there
//! exactly once, in order and intact; of the others, any may be there.
//!
//! The log runs on a disk of `powercut`. While it opens, appends, seals, drops and closes, copies of the disk are taken at operations
//! that the seed chooses; each copy loses power and becomes the disk of the next log, which is checked, written to and cut again. Every fifth is not cut but
//! left as it is, as by a kill: what the next log finds on it may not be durable yet.
//! `HEADWATER_POWER_CUTS` sets the number of cuts; `tests/power-cut` makes 20,000. The seed makes the same choices again; which
//! operation of the log's two threads comes first is up to the machine, so a failure may take several tries to come back.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use headwater_broker::clock::SystemClock;
use headwater_broker::log::{
    AckPolicy, AppendError, BlockCodec, Entry, GapReason, Item, Log, LogConfig, NewMessage, OpenReport, Seq, Storage,
    StreamConfig, StreamLimits, TableId, Ticket,
};
use headwater_tests::chance::Chance;
use headwater_tests::powercut::disk::Disk;
use headwater_tests::powercut::rig::{Rig, Verdict, Volume};

/// Room on the disk: the log keeps two or three epochs in it, so that it soon drops one for each that it writes.
const DISK_BYTES: usize = 8 << 20;
/// Every message of `large` comes with one of `few`, which keeps only so many, and a new value of one key of a table.
const FEW: u64 = 100;
const LARGEST: u64 = 60_000;
const TABLE: TableId = TableId(200);

fn cuts() -> u64 {
    match std::env::var("HEADWATER_POWER_CUTS") {
        Ok(text) => text.parse().unwrap_or_else(|e| panic!("HEADWATER_POWER_CUTS is not a number: {e}")),
        Err(_) => 500,
    }
}

/// Payloads that cannot be compressed, different for every number and every life of the log.
struct Payloads(Vec<u8>);

impl Payloads {
    fn new() -> Payloads {
        let mut chance = Chance::from_seed(1);
        Payloads((0..1 << 17).flat_map(|_| chance.number().to_le_bytes()).collect())
    }

    fn of(&self, life: u64, number: u64) -> Vec<u8> {
        let mut chance = Chance::from_seed(life << 32 | number);
        let len = if chance.below(4) == 0 { chance.below(200) } else { chance.below(LARGEST) };
        let len = usize::try_from(len).expect("small");
        let at = usize::try_from(chance.below(self.0.len() as u64 - LARGEST)).expect("small");
        let mut payload = [life.to_be_bytes(), number.to_be_bytes()].concat();
        payload.extend_from_slice(&self.0[at..at + len]);
        payload
    }
}

/// Which life of the log wrote which numbers: from the number on, until the next entry.
#[derive(Clone, Default)]
struct Written(Vec<(u64, u64)>);

impl Written {
    fn life(&self, number: u64) -> u64 {
        self.0.iter().rev().find(|(from, _)| *from <= number).expect("somebody wrote it").1
    }

    /// What was there beyond `from` was lost; `life` writes it anew.
    fn begin(&mut self, from: u64, life: u64) {
        self.0.retain(|(first, _)| *first < from);
        self.0.push((from, life));
    }
}

/// A disk whose power is about to be cut.
#[derive(Clone)]
struct Cut {
    disk: Disk,
    /// Every number up to this was acknowledged before.
    acknowledged: u64,
    written: Written,
    /// The lowest numbers of `large` and `few` that had to be there still.
    firsts: [u64; 2],
    what: String,
}

/// Says, if a test fails, where.
struct Place(String);

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

fn config(volume: &Volume) -> LogConfig {
    let stream = |name: &str, limits| StreamConfig { name: name.into(), limits, storage: Storage::File };
    let few = StreamLimits { max_msgs: Some(FEW), ..StreamLimits::default() };
    LogConfig {
        // Made by the log: that its name survives is up to the log, too.
        dir: volume.path().join("data"),
        max_bytes: 32 << 20,
        min_free: 0,
        ack: AckPolicy::Synced,
        max_delay: Duration::ZERO,
        codec: BlockCodec::Lz4,
        streams: vec![stream("large", StreamLimits::default()), stream("few", few)],
        clock: Arc::new(SystemClock),
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

fn wait(log: &Log, ticket: Ticket) {
    let mut mark = log.durable();
    while mark.borrow_and_update().ticket < ticket {
        assert!(!mark.borrow().failed, "the log failed");
        block_on(mark.changed()).expect("the log lives");
    }
}

/// All of a stream: its first and last number; there is no hole between them, and nothing is damaged.
fn whole(log: &Log, name: &str, mut each: impl FnMut(u64, &[u8])) -> (u64, u64) {
    let stream = log.stream(name).expect("configured");
    let (mut first, mut next, mut from) = (None, 1, Seq(1));
    loop {
        let batch = log.read(stream, from, 1000, 4 << 20).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        for item in &batch.items {
            match item {
                Item::Gap { first: start, last, reason } => {
                    assert_eq!((start.0, *reason), (next, GapReason::Retention), "{name}: {item:?}");
                    // The sealer may be making room while this reads: what was read before is gone, too.
                    assert!(first.is_none() || log.stats().epochs_dropped > 0, "{name}: {item:?} behind {first:?}");
                    first = None;
                    next = last.0 + 1;
                }
                Item::Message(message) => {
                    assert_eq!(message.seq.0, next, "{name}");
                    first.get_or_insert(next);
                    each(next, &message.payload);
                    next += 1;
                }
            }
        }
        if batch.items.is_empty() {
            return (first.unwrap_or(next), next - 1);
        }
        from = batch.next;
    }
}

/// Everything acknowledged is there. Returns the last number.
fn check(log: &Log, report: &OpenReport, cut: &Cut, payloads: &Payloads) -> u64 {
    assert!(report.damaged.is_empty() && report.quarantined.is_none(), "{report:?}");
    assert_eq!((report.damaged_epochs, report.frames_lost), (0, 0), "{report:?}");
    let (first, last) = whole(log, "large", |number, payload| {
        let expected = payloads.of(cut.written.life(number), number);
        assert!(payload == expected, "number {number} is not what was written");
    });
    let (first_few, last_few) = whole(log, "few", |number, payload| {
        assert_eq!(payload, [cut.written.life(number), number].map(u64::to_be_bytes).concat());
    });
    assert!(last >= cut.acknowledged, "{} was acknowledged, {last} is the last: {report:?}", cut.acknowledged);
    assert_eq!(last_few, last, "half of a group is there");
    let value = log.table_get(TABLE, b"last").expect("readable").map(|v| v.to_vec());
    assert_eq!(value, (last > 0).then(|| last.to_be_bytes().to_vec()), "the value of the last group, {last}");
    // A log that makes room drops more.
    if log.stats().epochs_dropped == 0 {
        let firsts = [cut.firsts[0], cut.firsts[1].max(last.saturating_sub(FEW - 1))];
        assert!(first <= firsts[0] && first_few <= firsts[1], "from {first} and {first_few} on, not from {firsts:?}");
    }
    last
}

struct Loop<'a> {
    rig: &'a Rig,
    payloads: &'a Payloads,
    lives: u64,
    epochs: [u64; 2],
}

impl Loop<'_> {
    /// Power comes back, or the process alone was killed: the log opens, is checked and goes on. Returns cuts of it, at most `most`.
    fn live(&mut self, cut: &Cut, killed: bool, groups: u64, most: u64, spacing: u64, chance: &mut Chance) -> Vec<Cut> {
        self.lives += 1;
        let life = self.lives;
        let _place = Place(format!("life {life}, after a {} {}", if killed { "kill" } else { "cut" }, cut.what));
        let disk = if killed { cut.disk.clone().killed() } else { cut.disk.clone().cut(chance) };
        let volume = self.rig.add(disk);
        let acknowledged = Arc::new(AtomicU64::new(cut.acknowledged));
        let taken: Arc<Mutex<Vec<(u64, Disk, u64)>>> = Arc::default();
        {
            let (acknowledged, taken) = (Arc::clone(&acknowledged), Arc::clone(&taken));
            let mut chance = Chance::from_seed(chance.number());
            let mut at = 1 + chance.below(spacing);
            volume.watch(move |operation| {
                let mut taken = taken.lock().expect("nobody panics here");
                if operation.number >= at && (taken.len() as u64) < most {
                    // What is acknowledged now is in the disk as it is now.
                    taken.push((operation.number, operation.disk.clone(), acknowledged.load(Ordering::SeqCst)));
                    at = operation.number + 1 + chance.below(spacing);
                }
                Verdict::Happens
            });
        }
        let (log, report) = Log::open(config(&volume)).unwrap_or_else(|e| panic!("it does not open: {e}"));
        let last = check(&log, &report, cut, self.payloads);
        let mut written = cut.written.clone();
        written.begin(last + 1, life);
        acknowledged.store(last, Ordering::SeqCst);
        let [large, few] = ["large", "few"].map(|name| log.stream(name).expect("configured"));
        for number in last + 1..=last + groups {
            let payload = self.payloads.of(life, number);
            let small = [life, number].map(u64::to_be_bytes).concat();
            let message =
                |stream, payload| Entry::Message(NewMessage { stream, subject: b"a/b", headers: b"", payload, tag: 0 });
            let value = number.to_be_bytes();
            let group = [
                message(large, &payload),
                message(few, &small),
                Entry::Put { table: TABLE, key: b"last", value: &value },
            ];
            let appended = loop {
                match log.append(&group) {
                    Err(AppendError::Busy) => block_on(log.room()),
                    appended => break appended.expect("accepted"),
                }
            };
            assert_eq!(appended.last_seq, Some(Seq(number)));
            // Alone in its sync, or with what follows.
            if chance.below(3) != 0 || number == last + groups {
                wait(&log, appended.ticket);
                acknowledged.store(number, Ordering::SeqCst);
            }
        }
        let stats = log.stats();
        self.epochs = [self.epochs[0] + stats.epochs_written, self.epochs[1] + stats.epochs_dropped];
        log.close();
        // The sealer may have dropped something last.
        let firsts = [log.state(large).first.0, log.state(few).first.0];
        drop(log);
        volume.unwatch();
        let taken = std::mem::take(&mut *taken.lock().expect("nobody panics here"));
        let cuts = taken.into_iter().map(|(operation, disk, acknowledged)| Cut {
            disk,
            acknowledged,
            // Until the log was open, nothing new was written.
            written: written.clone(),
            firsts,
            what: format!("before operation {operation} of life {life}"),
        });
        cuts.collect()
    }
}

#[test]
fn a_power_cut_at_any_moment_loses_no_acknowledged_message_in_many_cuts() {
    let cuts = cuts();
    let rig = Rig::mount();
    let payloads = Payloads::new();
    let mut chance = Chance::new();
    let mut disk = Disk::default();
    disk.set_capacity(DISK_BYTES);
    let fresh =
        Cut { disk, acknowledged: 0, written: Written::default(), firsts: [1, 1], what: "of an empty disk".into() };
    let mut run = Loop { rig: &rig, payloads: &payloads, lives: 0, epochs: [0, 0] };
    let mut made = 0;
    let mut base = fresh.clone();
    let killed = |chance: &mut Chance, made: &mut u64| {
        let killed = chance.below(5) == 0;
        *made += u64::from(!killed);
        killed
    };
    for round in 1.. {
        if made >= cuts {
            break;
        }
        let how = killed(&mut chance, &mut made);
        // Long enough for an epoch or two.
        let taken = run.live(&base, how, 70, 20, 25, &mut chance);
        for cut in &taken {
            let (how, groups, more) = (killed(&mut chance, &mut made), chance.below(3), chance.below(2));
            for again in run.live(cut, how, groups, more, 60, &mut chance) {
                let how = killed(&mut chance, &mut made);
                run.live(&again, how, 0, 0, 1, &mut chance);
            }
        }
        // A new disk now and then: nothing is sure yet of what an older one has long made durable.
        base = match taken.last() {
            Some(last) if round % 10 != 0 => last.clone(),
            _ => fresh.clone(),
        };
    }
    eprintln!("{made} cuts, {} epochs written, {} dropped", run.epochs[0], run.epochs[1]);
    // Some hundred cuts are a few disks, each long enough to become full.
    assert!(
        cuts < 500 || run.epochs[0] > cuts / 40 && run.epochs[1] > cuts / 150,
        "too little happened: {:?}",
        run.epochs
    );
}

/// What opening removes must not go before what a kill left undone is durable.
#[test]
fn a_power_cut_while_a_killed_log_opens_again_loses_no_acknowledged_message() {
    let rig = Rig::mount();
    let payloads = Payloads::new();
    let mut chance = Chance::new();
    let mut disk = Disk::default();
    disk.set_capacity(DISK_BYTES);
    let mut base =
        Cut { disk, acknowledged: 0, written: Written::default(), firsts: [1, 1], what: "of an empty disk".into() };
    let mut run = Loop { rig: &rig, payloads: &payloads, lives: 0, epochs: [0, 0] };
    // First while it is made, then while it seals and drops.
    for (groups, most, spacing) in [(0, 12, 20), (150, 12, 50)] {
        let taken = run.live(&base, false, groups, most, spacing, &mut chance);
        for cut in &taken {
            for again in run.live(cut, true, 0, 15, 2, &mut chance) {
                run.live(&again, false, 0, 0, 1, &mut chance);
            }
        }
        base = taken.last().expect("an operation is seen").clone();
    }
    assert!(run.epochs[0] > 0, "nothing was sealed");
}

#[test]
fn a_disk_that_is_full_to_the_last_byte_keeps_no_log_from_opening() {
    let rig = Rig::mount();
    let mut disk = Disk::default();
    disk.set_capacity(DISK_BYTES);
    let volume = rig.add(disk);
    {
        let (log, _) = Log::open(config(&volume)).expect("a new log opens");
        let stream = log.stream("few").expect("configured");
        let message = NewMessage { stream, subject: b"a/b", headers: b"", payload: b"x", tag: 0 };
        let appended = log.append(&[Entry::Message(message)]).expect("accepted");
        wait(&log, appended.ticket);
        log.close();
    }
    // As a power cut leaves it that took what was not synced, which nobody needs.
    std::fs::File::options().write(true).open(volume.path().join("data/LOCK")).expect("there").set_len(0).expect("cut");
    let mut ballast = std::fs::File::create(volume.path().join("ballast")).expect("made");
    let full = loop {
        // A page at a time, to the last one.
        if let Err(error) = ballast.write_all(&[1; 4096]) {
            break error;
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let (log, _) = Log::open(config(&volume)).unwrap_or_else(|e| panic!("it does not open: {e}"));
    assert_eq!(whole(&log, "few", |_, _| {}), (1, 1));
}
