//! G1 against SIGKILL: a child process appends and says what was acknowledged; it is killed at a random moment; then everything it
//! said must be there, in order, intact. `HEADWATER_KILL_ROUNDS` sets the number of rounds, `HEADWATER_KILL_SEED` repeats a run.

#![allow(missing_docs)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_broker::clock::SystemClock;
use headwater_broker::log::{
    AckPolicy, AppendError, BlockCodec, Entry, GapReason, Item, Log, LogConfig, NewMessage, Seq, Storage, StreamConfig,
    StreamId, StreamLimits, TableId,
};

const DIR: &str = "HEADWATER_KILL_DIR";
const ROUND: &str = "HEADWATER_KILL_ROUND";
const STREAMS: [&str; 3] = ["telemetry", "events", "limited"];
const TABLE: TableId = TableId(3);
const BUDGET: u64 = 32 << 20;

fn config(dir: &Path) -> LogConfig {
    let streams = STREAMS.iter().map(|name| StreamConfig {
        name: (*name).into(),
        limits: StreamLimits { max_bytes: (*name == "limited").then_some(200_000), ..StreamLimits::default() },
        storage: Storage::File,
    });
    LogConfig {
        dir: dir.to_owned(),
        max_bytes: BUDGET,
        min_free: 0,
        ack: AckPolicy::Synced,
        max_delay: Duration::ZERO,
        codec: BlockCodec::Zstd,
        streams: streams.collect(),
        clock: Arc::new(SystemClock),
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// What message `seq` of a stream says; half of it does not compress. The round is in it so that a reused sequence shows.
fn payload(stream: usize, seq: u64, round: u64) -> Vec<u8> {
    let mut random = Random((seq << 8 | stream as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let words = random.next() % if seq.is_multiple_of(50) { 4000 } else { 200 };
    let mut out = round.to_le_bytes().to_vec();
    for n in 0..words {
        out.extend_from_slice(&if n % 2 == 0 { random.next() } else { seq }.to_le_bytes());
    }
    out
}

/// Not a test by itself: the process that is killed. Ends at once when run as a test.
#[test]
fn the_process_that_is_killed() {
    let (Some(dir), Ok(round)) = (std::env::var_os(DIR), std::env::var(ROUND)) else { return };
    let round: u64 = round.parse().expect("a number");
    let (log, _) = Log::open(config(Path::new(&dir))).expect("open");
    let ids: Vec<StreamId> = STREAMS.iter().map(|s| log.stream(s).expect("configured")).collect();
    let mut next: Vec<u64> = ids.iter().map(|id| log.state(*id).last.0 + 1).collect();
    let cursor = log.cursor("reader", ids[1]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    let mut mark = log.durable();
    let mut out = std::io::stdout().lock();
    let mut waiting = std::collections::VecDeque::new();
    let mut random = Random(round.wrapping_mul(77) | 1);
    loop {
        // A few groups at a time, so that commits take several.
        for _ in 0..=random.next() % 20 {
            let payloads: Vec<(usize, Vec<u8>)> = (0..=random.next() % 6)
                .map(|_| {
                    let stream = usize::try_from(random.next() % 3).expect("small");
                    let seq = next[stream];
                    next[stream] += 1;
                    (stream, payload(stream, seq, round))
                })
                .collect();
            let value = next.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
            let mut group: Vec<Entry<'_>> = payloads
                .iter()
                .map(|(stream, payload)| {
                    Entry::Message(NewMessage { stream: ids[*stream], subject: b"s", headers: b"", payload, tag: 0 })
                })
                .collect();
            group.push(Entry::Put { table: TABLE, key: b"next", value: &value });
            let appended = loop {
                match log.append(&group) {
                    Ok(appended) => break appended,
                    Err(AppendError::Busy) => runtime.block_on(log.room()),
                    Err(other) => panic!("append: {other}"),
                }
            };
            waiting.push_back((appended.ticket, next.clone()));
        }
        cursor.advance(Seq(next[1].saturating_sub(100)));
        runtime.block_on(mark.changed()).expect("the log lives");
        let durable = *mark.borrow_and_update();
        assert!(!durable.failed);
        while waiting.front().is_some_and(|(ticket, _)| *ticket <= durable.ticket) {
            let (_, next) = waiting.pop_front().expect("there");
            writeln!(out, "\nack {} {} {}", next[0] - 1, next[1] - 1, next[2] - 1).expect("the parent reads");
        }
        out.flush().expect("the parent reads");
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

#[test]
fn every_acknowledged_message_survives_sigkill() {
    let rounds = number("HEADWATER_KILL_ROUNDS", 60);
    let seed = number("HEADWATER_KILL_SEED", u64::from(std::process::id()));
    eprintln!("HEADWATER_KILL_SEED={seed}");
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let dir = tempfile::tempdir().expect("temporary directory");
    // Up to where each round got: sequences below belong to it for ever.
    let mut ends: Vec<[u64; 3]> = Vec::new();
    let mut replayed = 0;
    for round in 0..rounds {
        let acked = run_and_kill(dir.path(), round, Duration::from_millis(20 + random.next() % 250));
        let (log, report) = Log::open(config(dir.path())).expect("opens after a kill");
        assert!(report.damaged.is_empty() && report.frames_lost == 0, "round {round}: {report:?}");
        assert!(report.disk_used_bytes <= BUDGET, "round {round}: {report:?}");
        replayed += report.frames_replayed;
        let mut end = [0; 3];
        for (at, name) in STREAMS.iter().enumerate() {
            let id = log.stream(name).expect("configured");
            let state = log.state(id);
            assert!(
                state.last.0 >= acked[at],
                "round {round}: {name} ends at {}, acknowledged {}",
                state.last,
                acked[at]
            );
            end[at] = state.last.0;
            // Everything now and then, else what is new and some before it.
            let from = if round % 10 == 9 || round + 1 == rounds { 1 } else { acked[at].saturating_sub(2000) };
            check_stream(&log, id, at, from, &ends, round);
        }
        ends.push(end);
        if acked.iter().any(|a| *a > 0) {
            let value = log.table_get(TABLE, b"next").expect("readable").expect("there");
            let saved: Vec<u64> =
                value.chunks(8).map(|c| u64::from_le_bytes(c.try_into().expect("eight bytes"))).collect();
            for at in 0..3 {
                assert_eq!(saved[at], end[at] + 1, "round {round}: the table goes with the messages of its group");
            }
        }
        let cursor = log.cursor("reader", log.stream("events").expect("configured"));
        assert!(cursor.floor().0 <= end[1]);
        if random.next().is_multiple_of(4) {
            log.close();
        }
    }
    eprintln!("{rounds} rounds, {replayed} frames replayed, streams end at {:?}", ends.last());
    assert!(replayed > 0, "a kill must have left something to replay");
}

fn run_and_kill(dir: &Path, round: u64, after: Duration) -> [u64; 3] {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "the_process_that_is_killed", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let lines = BufReader::new(child.stdout.take().expect("piped"));
    let (tell, told) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut acked = [0; 3];
        for line in lines.lines() {
            let Ok(line) = line else { break };
            let mut words = line.split(' ');
            if words.next() == Some("ack") {
                let numbers: Vec<u64> = words.map_while(|w| w.parse().ok()).collect();
                // The last line may be cut by the kill: then it was not said.
                if let Ok(numbers) = <[u64; 3]>::try_from(numbers) {
                    acked = numbers;
                    // Nobody listens after the first one.
                    let _ = tell.send(());
                }
            }
        }
        acked
    });
    // From the first acknowledgement on: a kill while opening is likely enough as it is.
    // Without one in that time the checks below still hold.
    let _ = told.recv_timeout(Duration::from_secs(20));
    let start = Instant::now();
    while start.elapsed() < after {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("killed");
    child.wait().expect("ended");
    reader.join().expect("reads")
}

fn check_stream(log: &Log, id: StreamId, at: usize, from: u64, ends: &[[u64; 3]], round: u64) {
    let state = log.state(id);
    let mut expected = from.max(1);
    let mut next = Seq(expected);
    loop {
        let batch = log.read(id, next, 500, 1 << 20).expect("readable");
        if batch.items.is_empty() {
            break;
        }
        next = batch.next;
        for item in batch.items {
            match item {
                Item::Gap { first, last, reason } => {
                    assert_eq!(reason, GapReason::Retention);
                    assert_eq!(first.0, expected);
                    assert_eq!(last.next(), state.first, "round {round}: only the beginning may be missing");
                    expected = last.0 + 1;
                }
                Item::Message(message) => {
                    assert_eq!(message.seq.0, expected, "round {round}: in order, none missing");
                    let wrote = ends.iter().position(|end| message.seq.0 <= end[at]).map_or(round, |r| r as u64);
                    let good = message.payload == payload(at, message.seq.0, wrote);
                    assert!(good, "round {round}: stream {at} sequence {} intact, of round {wrote}", message.seq);
                    expected += 1;
                }
            }
        }
    }
    assert_eq!(expected, state.last.0 + 1);
}
